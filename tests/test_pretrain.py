"""The embedded base: its first vectors, how texts are parted and packed, what is cached, and what stops a run."""

from __future__ import annotations

import random
from pathlib import Path

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from girl_features.config import TinyConfig
from girl_features.errors import TrainingError
from girl_features.generator.prompts import CV_TOKEN, JD_TOKEN
from girl_features.generator.transformers_engine import load_causal_lm
from girl_features.trainers.pretrain import (
    MIN_PART,
    ROW_TOKENS,
    BaseRecipe,
    base_metrics,
    packed_rows,
    pretrained_base,
    split_text,
)
from girl_features.trainers.tiny import new_decoder, train_tokenizer

SENTENCE = "The nurse and the physician work in a hospital. The carpenter builds a roof with a hammer.\n"
TEXTS = pl.DataFrame({"marker": [CV_TOKEN, JD_TOKEN] * 4, "text": [SENTENCE * (1 + i) for i in range(8)]})
SHAPE = TinyConfig(vocab_size=400, hidden_size=32, n_layers=1, n_heads=2, pretrain_epochs=2)
RECIPE = BaseRecipe(SHAPE, max_cv_tokens=40, max_jd_tokens=40, max_tokens=90, seed=0)


def _cosine(model: torch.nn.Module, tokenizer: object, one: str, other: str) -> float:
    vectors = model.get_input_embeddings().weight.detach()  # type: ignore[operator]
    first, second = (vectors[tokenizer.convert_tokens_to_ids(t)] for t in (one, other))  # type: ignore[attr-defined]
    return float(torch.cosine_similarity(first, second, dim=0))


def test_token_vectors_begin_as_the_encoders_and_spellings_of_a_word_near_each_other() -> None:
    tokenizer = train_tokenizer([SENTENCE, "Nurse Hospital nurses"] * 5, 500)
    shape = SHAPE.model_copy(update={"hidden_size": 96})
    warm = new_decoder(tokenizer, shape, 64, seed=0)
    assert _cosine(warm, tokenizer, "Ġnurse", "Ġhospital") > _cosine(warm, tokenizer, "Ġnurse", "Ġroof") + 0.1
    assert _cosine(warm, tokenizer, "Ġnurse", "Nurse") > 0.8
    assert not torch.equal(*warm.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids(["Ġnurse", "Nurse"])])
    cold = new_decoder(tokenizer, shape.model_copy(update={"embeddings_from": None}), 64, seed=0)
    assert abs(_cosine(cold, tokenizer, "Ġnurse", "Nurse")) < 0.5
    spreads = [float(m.get_input_embeddings().weight.std()) for m in (warm, cold)]
    assert spreads[0] == pytest.approx(spreads[1], rel=0.1)
    again = new_decoder(tokenizer, shape, 64, seed=0)
    assert torch.equal(again.get_input_embeddings().weight, warm.get_input_embeddings().weight)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text(alphabet="ab c", min_size=1, max_size=60), min_size=1, max_size=6), st.integers(0, 9), st.data()
)
def test_parts_are_all_of_a_text_and_neither_is_a_scrap(sentences: list[str], seed: int, data: st.DataObject) -> None:
    text = "".join(s + data.draw(st.sampled_from([". ", "; ", "\n", ".\n"])) for s in sentences)
    found = split_text(text, random.Random(seed))
    if found is None:
        return
    assert min(map(len, found)) >= MIN_PART
    letters = ["".join(part.split()) for part in found]
    assert "".join(text.split()) in ("".join(letters), "".join(letters[::-1]))


def test_a_text_without_an_inner_end_is_left_whole() -> None:
    assert split_text("word " * 50, random.Random(0)) is None
    assert split_text("Short. " * 5, random.Random(0)) is None


def test_rows_hold_every_document_once_and_differ_by_epoch() -> None:
    tokenizer = train_tokenizer(TEXTS["text"], 400)
    first, second = (packed_rows(tokenizer, TEXTS, RECIPE, epoch) for epoch in (0, 1))
    assert first.shape[1] == ROW_TOKENS
    assert not torch.equal(first[:1], second[:1])
    assert torch.equal(first, packed_rows(tokenizer, TEXTS, RECIPE, 0))
    longest = RECIPE.max_cv_tokens + RECIPE.max_jd_tokens + 3  # the two markers and the end token
    n_ends = int((first == tokenizer.eos_token_id).sum())
    assert TEXTS.height - ROW_TOKENS / 10 <= n_ends <= TEXTS.height  # the last, unfilled row is left out
    assert first.numel() <= TEXTS.height * longest


def test_a_base_is_made_once_and_again_where_it_is_damaged(tmp_path: Path) -> None:
    folder = pretrained_base(TEXTS, RECIPE, tmp_path)
    weights = folder / "model.safetensors"
    before, made_at = weights.read_bytes(), weights.stat().st_mtime_ns
    assert base_metrics(folder)["pretrain_texts"] == TEXTS.height
    assert pretrained_base(TEXTS, RECIPE, tmp_path) == folder
    assert weights.stat().st_mtime_ns == made_at
    weights.write_bytes(before[:-1])
    assert pretrained_base(TEXTS, RECIPE, tmp_path) == folder
    assert weights.read_bytes() == before
    assert pretrained_base(TEXTS, RECIPE._replace(seed=1), tmp_path) != folder
    assert not list(tmp_path.glob(".*")), "work folders are gone"


def test_pretraining_teaches(tmp_path: Path) -> None:
    shape = SHAPE.model_copy(update={"pretrain_epochs": 40})
    loss = base_metrics(pretrained_base(TEXTS, RECIPE._replace(shape=shape), tmp_path))["pretrain_loss"]
    assert loss < 4.0 < torch.log(torch.tensor(400.0))  # nats; guessing among 400 tokens is 6.0


def test_no_pretraining_leaves_the_first_vectors(tmp_path: Path) -> None:
    folder = pretrained_base(TEXTS, RECIPE._replace(shape=SHAPE.model_copy(update={"pretrain_epochs": 0})), tmp_path)
    model, tokenizer = load_causal_lm(folder)
    expected = new_decoder(tokenizer, SHAPE, RECIPE.max_tokens, seed=0)
    assert torch.equal(model.get_input_embeddings().weight, expected.get_input_embeddings().weight)


def test_a_loss_that_is_no_number_stops_pretraining(tmp_path: Path) -> None:
    wild = SHAPE.model_copy(update={"pretrain_learning_rate": 1e30, "pretrain_epochs": 9})
    with pytest.raises(TrainingError, match=r"Lower `generator\.tiny\.pretrain_learning_rate`"):
        pretrained_base(TEXTS, RECIPE._replace(shape=wild), tmp_path)
    assert not list(tmp_path.glob("tiny-*"))
