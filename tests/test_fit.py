"""Fit of CV and JD: equal to reading each pair alone, whatever the batch, for the families that people use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from girl_features.errors import CheckpointError, ShapeError
from girl_features.generator.fit import FitScorer, fit_of
from girl_features.generator.prompts import encode_jd, encode_prompt, template_for
from girl_features.generator.transformers_engine import load_causal_lm
from girl_features.schema import FIT_COLUMNS
from tests.small_bases import CHATML, save_base, small_tokenizer

CVS = ["cook in a kitchen, soups", "nurse on a ward", "cook in a kitchen, soups", "", "cook in a kitchen, soups"]
JDS = ["nurse on a ward, night shifts", "driver of a lorry", "driver of a lorry", "cook", ""]
LIMITS = {"max_cv_tokens": 12, "max_jd_tokens": 20}


def read_alone(folder: Path, cv: str, jd: str) -> np.ndarray:
    """log p of each token of the JD behind the CV, without a cache, a batch or padding."""
    model, tokenizer = load_causal_lm(folder)
    prompt = encode_prompt(tokenizer, template_for(tokenizer), cv, LIMITS["max_cv_tokens"]).ids
    ids = encode_jd(tokenizer, jd, LIMITS["max_jd_tokens"]).ids
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *ids]]), use_cache=False).logits[0]
    log_p = torch.log_softmax(logits, dim=-1)
    return np.array([log_p[len(prompt) - 1 + i, token].item() for i, token in enumerate(ids)])


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3", "gpt2", "phi"])
@pytest.mark.parametrize("batch_size", [1, 8])
def test_a_fit_is_that_of_reading_the_pair_alone(tmp_path: Path, family: str, batch_size: int) -> None:
    folder = save_base(tmp_path / "base", small_tokenizer(CHATML), family=family)
    done: list[int] = []
    fits = FitScorer(folder, **LIMITS, batch_size=batch_size).score(CVS, JDS, done.append)
    assert fits.shape == (5, len(FIT_COLUMNS)) and sum(done) == 5
    for cv, jd, fit in zip(CVS, JDS, fits, strict=True):
        np.testing.assert_allclose(fit, fit_of(read_alone(folder, cv, jd), read_alone(folder, "", jd)), atol=2e-4)
    np.testing.assert_allclose(fits[3, :6], 0, atol=1e-5, err_msg="an empty CV helps no JD")


def test_sliding_windows_and_start_tokens_change_nothing(tmp_path: Path) -> None:
    long = ["cook in a kitchen, soups and sauces, nurse on a ward"] * 2
    jds = ["driver of a lorry, parcels and night shifts on a ward", "cook"]
    layers = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4}
    sliding = save_base(tmp_path / "sliding", family="gemma3", **layers)
    starting = save_base(tmp_path / "starting", small_tokenizer(adds_bos=True))
    for folder in (sliding, starting):
        for cv, jd, fit in zip(long, jds, FitScorer(folder, **LIMITS).score(long, jds), strict=True):
            np.testing.assert_allclose(fit, fit_of(read_alone(folder, cv, jd), read_alone(folder, "", jd)), atol=2e-4)


def test_a_jd_is_read_once_behind_an_empty_cv(tmp_path: Path) -> None:
    scorer = FitScorer(save_base(tmp_path / "base"), **LIMITS)
    together = scorer.score(CVS, JDS)
    single = [scorer.score([cv], [jd])[0] for cv, jd in zip(CVS, JDS, strict=True)]
    np.testing.assert_allclose(single, together, atol=1e-4)


def test_half_precision_weights_are_read_in_float32(tmp_path: Path) -> None:
    folder = save_base(tmp_path / "base")
    model, tokenizer = load_causal_lm(folder)
    half = tmp_path / "half"
    model.to(torch.bfloat16).save_pretrained(half)
    tokenizer.save_pretrained(half)
    model.float().save_pretrained(tmp_path / "rounded")
    tokenizer.save_pretrained(tmp_path / "rounded")
    fits = [FitScorer(path, **LIMITS).score(CVS, JDS) for path in (half, tmp_path / "rounded")]
    np.testing.assert_allclose(*fits, atol=1e-5)


def test_the_columns_by_hand() -> None:
    given, alone = np.full(10, -1.0), np.array([-4, -3, -1, -1, -1, -1, -1, -1, -2.5, 0.0])
    # gains: 3, 2, six times 0, 1.5, -1; a fifth of ten is two
    wanted = {
        "fit_sum": 5.5,
        "fit_mean": 0.55,
        "fit_top": 2.5,  # (3 + 2) / 2
        "fit_bottom": -0.5,  # (-1 + 0) / 2
        "fit_first": 5.0,  # the first eight
        "fit_helped": 0.3,
        "fit_logp_given_cv": -1.0,
        "fit_logp": -1.55,
        "fit_tokens": 10.0,
    }
    assert tuple(wanted) == FIT_COLUMNS
    np.testing.assert_allclose(fit_of(given, alone), list(wanted.values()), rtol=1e-6)


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    folder = save_base(tmp_path / "base")
    with pytest.raises(ShapeError, match="2 CVs came with 1 JDs"):
        FitScorer(folder, **LIMITS).score(["a", "b"], ["c"])
    with pytest.raises(CheckpointError, match=r"reads 512 at once; lower .* or `sft.max_jd_tokens`"):
        FitScorer(folder, max_cv_tokens=500, max_jd_tokens=20)
    assert FitScorer(folder, **LIMITS).score([], []).shape == (0, len(FIT_COLUMNS))
