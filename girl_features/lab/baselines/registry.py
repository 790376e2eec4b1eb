"""Baselines of the journal paper's table, by name. BERT is not here: it is predictor `mlp-plain` on row `base`."""

from __future__ import annotations

from pathlib import Path

from girl_features.errors import ConfigError, require
from girl_features.lab.text_vectors import VectorTable
from girl_features.ranker import TextRanker


def make_baseline(name: str, seed: int, language_model: Path, table: VectorTable) -> TextRanker:
    """Return an untrained baseline.

    Args:
        name: one of `experiment.config.BASELINES`.
        seed: seed of its weights, if it has any.
        language_model: folder of a trained generator, which FT-LLM tunes further.
        table: vectors of all real and generated JDs by that generator, for BIGRec.

    Raises:
        ConfigError: no such baseline.
        MissingExtraError: torch is not installed.
    """
    require("torch", "rank")
    if name in ("ncf", "pjfnn", "apjfnn"):
        from girl_features.lab.baselines.text_rankers import NeuralTextRanker

        return NeuralTextRanker(name, seed)
    if name == "ft-llm":
        from girl_features.lab.baselines.language_model import YesNoRanker

        return YesNoRanker(language_model, seed)
    from girl_features.lab.baselines.bigrec import BIGRecMLPRanker, BIGRecRanker

    if name == "bigrec-mlp":
        return BIGRecMLPRanker(table, seed)
    if name in ("bigrec", "bigrec-popularity"):
        return BIGRecRanker(table, popularity=name == "bigrec-popularity")
    raise ConfigError(
        f"no baseline {name!r}; choose ncf, pjfnn, apjfnn, ft-llm, bigrec, bigrec-popularity or bigrec-mlp"
    )
