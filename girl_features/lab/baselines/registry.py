"""The journal table's baselines by name. BERT is not among them: it is the base row of predictor `mlp-plain`."""

from __future__ import annotations

from pathlib import Path

from girl_features.errors import ConfigError
from girl_features.lab.text_vectors import VectorTable
from girl_features.ranker import TextRanker


def make_baseline(name: str, seed: int, language_model: Path, table: VectorTable) -> TextRanker:
    """A fresh baseline.

    Args:
        name: one of `experiment_config.BASELINES`.
        seed: of its weights; `bigrec` has none.
        language_model: folder of the tuned generator, which FT-LLM goes on from.
        table: that model's vectors of every generated and real JD, for BIGRec.

    Raises:
        ConfigError: no such baseline.
        MissingExtraError: torch is not installed.
    """
    if name in ("ncf", "pjfnn", "apjfnn"):
        from girl_features.lab.baselines.text_rankers import NeuralTextRanker

        return NeuralTextRanker(name, seed)
    if name == "ft-llm":
        from girl_features.lab.baselines.yes_no_ranker import YesNoRanker

        return YesNoRanker(language_model, seed)
    from girl_features.lab.baselines.bigrec import BIGRecMLPRanker, BIGRecRanker

    if name == "bigrec-mlp":
        return BIGRecMLPRanker(table, seed)
    if name in ("bigrec", "bigrec-popularity"):
        return BIGRecRanker(table, popularity=name == "bigrec-popularity")
    raise ConfigError(f"no baseline {name!r}")
