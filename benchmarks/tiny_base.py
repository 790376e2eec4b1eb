"""Which small generator learns most from a user's own tables in a few minutes of one core: variants of `tiny`.

    OMP_NUM_THREADS=1 python benchmarks/tiny_base.py --json tiny.json   # --quick: the sample market, 10 s each

Each variant gets the same CPU seconds of one thread, 40 % of them before stage 1 (plain language modelling of the CVs
and JDs known before the SFT window ends) and 60 % in it, and is measured on seekers that neither has seen. Perplexities
a token do not compare between tokenizers; bits a character and perplexity a word do, between tokenizers that keep
capitals, and between those that do not. Similarity: cosine by all-MiniLM-L6-v2 of the generated JD to the matched JD
and to those of other seekers; AUC: how often the matched one is nearer. Lines stand for what needs no generator: the CV
itself, the JD of the training pair with the nearest CV, any training JD.

Results are added to the JSON file as they come; a run that was stopped leaves out what is there.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import numpy as np
import polars as pl
import torch
from tokenizers import Tokenizer, decoders, models
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModel,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessorList,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
)

from girl_features.config import GirlConfig, TinyConfig
from girl_features.encoder import SentenceTransformerEncoder, find_encoder_folder
from girl_features.generator.gate import defect
from girl_features.generator.prompts import CV_TOKEN, JD_TOKEN, plain_text_ids
from girl_features.generator.sampling import SeededSampling
from girl_features.input.splits import cut_windows, sft_pairs
from girl_features.input.tables import open_tables
from girl_features.sample.tables import write_sample
from girl_features.store.files import write_whole
from girl_features.trainers.pretrain import split_text, warm_up_then_down, weight_decay_groups
from girl_features.trainers.tiny import END_TOKEN, PAD_TOKEN, new_decoder, piece_ids, train_tokenizer
from girl_features.trainers.training_data import hold_out_seekers, whole_sentences, window_texts

ENCODER = "all-MiniLM-L6-v2"
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
CORPUS = DATA / "jd_corpus" / "jds.parquet"
CORPUS_CHARACTERS = 6_000_000
CV_TOKENS, JD_TOKENS = 160, 160
JUDGED_CHARACTERS = 500  # of each held-out JD: the same text for every tokenizer
JUDGED_CVS, JUDGED_TOKENS = 128, 96
PRETRAINING = 0.4  # of the budget
ROW, ROWS, PAIRS = 256, 8, 8  # tokens a row, rows and pairs a step


class Variant(NamedTuple):
    """One way to make a generator."""

    tokenizer: str = "bpe"  # or "lower": BPE of lower-cased text; or "wordpiece": MiniLM's own, also lower case
    vocabulary: int = 4096
    width: int = 128
    layers: int = 4
    embeddings: str | None = ENCODER  # None: random
    parts: bool = True  # texts shown as CV and JD before stage 1; else whole
    pretraining: float = PRETRAINING
    corpus: bool = False  # also other people's advertisements
    copying: float = 0.0  # values and outputs of attention begin as this share of the identity
    trunk: str = "llama"  # or "minilm", "minilm shape": MiniLM's layers as a causal decoder, or as large and random
    rate: float = 3e-3  # of learning, half of it in stage 1


VARIANTS: dict[str, Variant] = {
    "128x4": Variant(),
    "128x4, random vectors": Variant(embeddings=None),
    "128x4, random vectors, whole texts": Variant(embeddings=None, parts=False),
    "128x4, copying": Variant(copying=0.1),
    "128x4, MiniLM's WordPiece": Variant(tokenizer="wordpiece"),
    "128x4, lower case": Variant(tokenizer="lower"),
    "128x4, 8k tokens": Variant(vocabulary=8192),
    "128x4, 2k tokens": Variant(vocabulary=2048),
    "128x4, 8k tokens, copying": Variant(vocabulary=8192, copying=0.1),
    "128x4, no pretraining": Variant(pretraining=0),
    "128x4, 70 % pretraining": Variant(pretraining=0.7),
    "128x4, other advertisements": Variant(corpus=True),
    "128x2": Variant(layers=2),
    "64x4": Variant(width=64),
    "192x4": Variant(width=192, rate=2e-3),
    "256x4": Variant(width=256, rate=1.5e-3),
    "MiniLM, 3 layers": Variant(width=384, layers=3, trunk="minilm", rate=7e-4),
    "MiniLM's shape, random, 3 layers": Variant(width=384, layers=3, trunk="minilm shape", rate=7e-4),
    "MiniLM, 6 layers": Variant(width=384, layers=6, trunk="minilm", rate=5e-4),
    "MiniLM's shape, random, 6 layers": Variant(width=384, layers=6, trunk="minilm shape", rate=5e-4),
}


class Texts(NamedTuple):
    """What a study learns from, and what it is judged on."""

    before: pl.DataFrame  # `marker`, `text`: what may be read before stage 1
    train: pl.DataFrame  # pairs: `cv`, `jd`
    held_out: pl.DataFrame  # pairs of other seekers


def read_texts(data: Path) -> Texts:
    """The SFT window of the tables in `data`, its seekers in two."""
    tables = {name: {"path": str(data / f"{name}.parquet")} for name in ("job_seekers", "jobs", "interactions")}
    config = GirlConfig.model_validate({"tables": tables})
    with open_tables(config) as opened:
        windows = cut_windows(opened, config.windows)
        train, held_out = hold_out_seekers(sft_pairs(opened, windows), 0.15, 7)
        return Texts(window_texts(opened, windows, train, held_out), train, held_out)


def advertisements() -> pl.DataFrame:
    """Job texts of others, as many as CORPUS_CHARACTERS allows."""
    rows = pl.read_parquet(CORPUS).filter(pl.col("source") != "usajobs_questionnaires_2025")
    rows = rows.sample(fraction=1.0, shuffle=True, seed=0).select(text=pl.col("text").str.slice(0, 4000))
    return rows.filter(pl.col("text").str.len_chars().cum_sum() <= CORPUS_CHARACTERS).select(
        marker=pl.lit(JD_TOKEN), text="text"
    )


def tokenizer_of(variant: Variant, texts: pl.Series) -> Any:
    if variant.tokenizer == "bpe":
        return train_tokenizer(texts, variant.vocabulary)
    if variant.tokenizer == "lower":
        return train_tokenizer(texts.str.to_lowercase(), variant.vocabulary)
    theirs = AutoTokenizer.from_pretrained(str(find_encoder_folder(ENCODER)))
    backend, vocabulary = theirs.backend_tokenizer, theirs.get_vocab()
    used = {piece for text in texts for piece in backend.encode(text, add_special_tokens=False).tokens}
    used |= {piece for piece in vocabulary if len(piece.removeprefix("##")) == 1}
    special = [PAD_TOKEN, END_TOKEN, CV_TOKEN, JD_TOKEN, "[UNK]"]
    pieces = special + sorted(used - set(special), key=vocabulary.__getitem__)
    own = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    own.normalizer, own.pre_tokenizer, own.decoder = backend.normalizer, backend.pre_tokenizer, decoders.WordPiece()
    return PreTrainedTokenizerFast(
        tokenizer_object=own,
        pad_token=PAD_TOKEN,
        eos_token=END_TOKEN,
        unk_token="[UNK]",
        extra_special_tokens=[CV_TOKEN, JD_TOKEN],
    )


def model_of(variant: Variant, tokenizer: Any, seed: int) -> Any:
    torch.manual_seed(seed)
    if variant.trunk != "llama":
        return minilm_decoder(variant, tokenizer)
    shape = TinyConfig(
        hidden_size=variant.width,
        n_layers=variant.layers,
        n_heads=variant.width // 32,
        embeddings_from=variant.embeddings,
    )
    model = new_decoder(tokenizer, shape, CV_TOKENS + JD_TOKENS + 8, seed)
    with torch.no_grad():
        for layer in model.model.layers if variant.copying else ():
            for weight in (layer.self_attn.v_proj.weight, layer.self_attn.o_proj.weight):
                weight += variant.copying**0.5 * torch.eye(variant.width)
    return model


def minilm_decoder(variant: Variant, tokenizer: Any) -> Any:
    """A causal decoder of MiniLM's shape: OPT's layers, normalised after, are BERT's."""
    config = OPTConfig(
        vocab_size=len(tokenizer),
        hidden_size=384,
        word_embed_proj_dim=384,
        ffn_dim=1536,
        num_hidden_layers=variant.layers,
        num_attention_heads=12,
        max_position_embeddings=512,
        do_layer_norm_before=False,
        activation_function="gelu",
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        tie_word_embeddings=True,
    )
    model = OPTForCausalLM(config)
    if variant.trunk == "minilm":
        source = AutoModel.from_pretrained(str(find_encoder_folder(ENCODER)))
        with torch.no_grad():
            copy_minilm(source, model.model.decoder, tokenizer, range(0, 6, 6 // variant.layers))
    return model


def copy_minilm(source: Any, decoder: Any, tokenizer: Any, layers: range) -> None:
    """MiniLM's weights into an OPT decoder; its first normalisation, which OPT lacks, goes into the vectors."""
    theirs, first = AutoTokenizer.from_pretrained(str(find_encoder_folder(ENCODER))), source.embeddings
    words, places = first.word_embeddings.weight, first.position_embeddings.weight
    ids = [piece_ids(theirs, tokenizer.decode([token])) for token in range(len(tokenizer))]
    known = torch.tensor([bool(found) for found in ids])
    vectors = torch.zeros(len(tokenizer), words.shape[1])
    vectors[known] = torch.stack([words[found].mean(0) for found in ids if found])
    spread = vectors[known].std()
    vectors[~known] = vectors[known].mean(0) + 0.5 * spread * torch.randn(int((~known).sum()), words.shape[1])
    vectors += 0.1 * spread * torch.randn_like(vectors)
    vectors = vectors + places.mean(0) + first.token_type_embeddings.weight[0]
    mean, deviation = vectors.mean(1, keepdim=True), vectors.std(1, keepdim=True, unbiased=False)
    decoder.embed_tokens.weight.copy_(first.LayerNorm.weight * (vectors - mean) / deviation + first.LayerNorm.bias)
    places = places - places.mean(0)
    places = first.LayerNorm.weight * (places - places.mean(1, keepdim=True)) / deviation.mean()
    decoder.embed_positions.weight[2 : 2 + len(places)].copy_(places)  # OPT's first two are for padding
    for own, number in zip(decoder.layers, layers, strict=True):
        layer = source.encoder.layer[number]
        attention, mixer = layer.attention, own.self_attn
        for to, of in (
            (mixer.q_proj, attention.self.query),
            (mixer.k_proj, attention.self.key),
            (mixer.v_proj, attention.self.value),
            (mixer.out_proj, attention.output.dense),
            (own.self_attn_layer_norm, attention.output.LayerNorm),
            (own.fc1, layer.intermediate.dense),
            (own.fc2, layer.output.dense),
            (own.final_layer_norm, layer.output.LayerNorm),
        ):
            to.load_state_dict(of.state_dict())
    for parameter in decoder.layers[-1].final_layer_norm.parameters():
        parameter.mul_(0.2)  # the logits of tied vectors as large as these would begin far too sure


class Row(NamedTuple):
    """One sequence; the loss counts `counted` tokens."""

    ids: list[int]
    counted: list[int]


class Rows:
    """Makes sequences of texts."""

    def __init__(self, tokenizer: Any, lower: bool) -> None:
        self.tokenizer, self._lower = tokenizer, lower
        self.cv, self.jd = (tokenizer.convert_tokens_to_ids(token) for token in (CV_TOKEN, JD_TOKEN))

    def ids(self, text: str) -> list[int]:
        return plain_text_ids(self.tokenizer, text.lower() if self._lower else text)

    def prompt(self, cv: str) -> list[int]:
        return [self.cv, *self.ids(cv)[:CV_TOKENS], self.jd]

    def pair(self, cv: str, jd: str, limit: int = JD_TOKENS) -> Row:
        prompt, ids = self.prompt(cv), self.ids(jd)
        if len(ids) > limit:
            ids = self.ids(whole_sentences(self.tokenizer.decode(ids[:limit])))[:limit]
        completion = [*ids, self.tokenizer.eos_token_id]
        return Row(prompt + completion, [0] * len(prompt) + [1] * len(completion))

    def text(self, marker: str, text: str, in_parts: bool, rng: random.Random) -> list[int]:
        halves = split_text(text, rng) if in_parts and rng.random() < 0.8 else None
        if halves:
            return self.pair(*halves).ids
        ids = self.ids(text)[: CV_TOKENS + JD_TOKENS]
        return [self.tokenizer.convert_tokens_to_ids(marker), *ids, self.tokenizer.eos_token_id]


def packed(rows: Rows, texts: pl.DataFrame, in_parts: bool, seed: int) -> Iterator[list[Row]]:
    """Endless batches of full rows, documents one after the other."""
    rng, ids, documents = random.Random(seed), list[int](), texts.select("marker", "text").rows()
    while True:
        rng.shuffle(documents)
        for marker, text in documents:
            ids += rows.text(marker, text, in_parts, rng)
            while len(ids) >= ROW * ROWS:
                yield [Row(ids[i * ROW : (i + 1) * ROW], [1] * ROW) for i in range(ROWS)]
                ids = ids[ROW * ROWS :]


def batches(rows: list[Row], seed: int) -> Iterator[list[Row]]:
    """Endless shuffled batches of pairs, each of similar lengths."""
    rng = random.Random(seed)
    while True:
        order = rng.sample(rows, len(rows))
        near = [r for i in range(0, len(order), 128) for r in sorted(order[i : i + 128], key=lambda r: len(r.ids))]
        whole = [near[i : i + PAIRS] for i in range(0, len(near), PAIRS)]
        yield from rng.sample(whole, len(whole))


def loss_of(model: Any, batch: list[Row]) -> Tensor:
    """Mean NLL in nats of the counted tokens; logits are made for those alone."""
    width, pad = max(len(row.ids) for row in batch), model.config.pad_token_id
    ids = torch.tensor([row.ids + [pad] * (width - len(row.ids)) for row in batch])  # (b, t)
    mask = torch.tensor([[1] * len(row.ids) + [0] * (width - len(row.ids)) for row in batch])
    counted = torch.tensor([row.counted + [0] * (width - len(row.ids)) for row in batch]).bool()[:, 1:]
    hidden = model.model(input_ids=ids, attention_mask=mask).last_hidden_state[:, :-1]
    return cross_entropy(model.lm_head(hidden[counted]), ids[:, 1:][counted])


def train(model: Any, feed: Iterator[list[Row]], seconds: float, rate: float) -> dict[str, float]:
    """Train for `seconds` of CPU time."""
    optimizer = torch.optim.AdamW(weight_decay_groups(model), lr=rate, betas=(0.9, 0.98))
    started, steps, tokens, done = time.process_time(), 0, 0, 0.0
    model.train()
    while done < 1:
        batch = next(feed)
        for group in optimizer.param_groups:
            group["lr"] = rate * warm_up_then_down(done)
        loss_of(model, batch).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        steps, tokens = steps + 1, tokens + sum(len(row.ids) for row in batch)
        done = (time.process_time() - started) / seconds
    model.eval()
    return {"steps": float(steps), "tokens": float(tokens)}


def perplexities(model: Any, rows: Rows, pairs: pl.DataFrame) -> dict[str, float]:
    """What the held-out JDs cost; and how much more they cost beside the CV of another pair, in bits a character."""
    jds = [first_part(jd) for jd in pairs["jd"]]
    n_characters = sum(map(len, jds))
    nats, n_tokens = nats_of(model, rows, pairs["cv"].to_list(), jds)
    others = pairs["cv"].to_list()[len(jds) // 2 :] + pairs["cv"].to_list()[: len(jds) // 2]
    nats_beside_others, _ = nats_of(model, rows, others, jds)
    return {
        "perplexity_token": math.exp(nats / n_tokens),
        "perplexity_word": math.exp(nats / sum(len(jd.split()) for jd in jds)),
        "bits_per_character": nats / math.log(2) / n_characters,
        "bits_from_cv": (nats_beside_others - nats) / math.log(2) / n_characters,
    }


@torch.inference_mode()
def nats_of(model: Any, rows: Rows, cvs: list[str], jds: list[str]) -> tuple[float, int]:
    """Summed NLL of the JDs, and their tokens."""
    judged = sorted((rows.pair(cv, jd, 10**6) for cv, jd in zip(cvs, jds, strict=True)), key=lambda row: len(row.ids))
    nats, n_tokens = 0.0, 0
    for start in range(0, len(judged), 16):
        batch = judged[start : start + 16]
        n = sum(sum(row.counted) for row in batch)
        nats, n_tokens = nats + float(loss_of(model, batch)) * n, n_tokens + n
    return nats, n_tokens


def first_part(jd: str) -> str:
    return whole_sentences(jd[:JUDGED_CHARACTERS]) if len(jd) > JUDGED_CHARACTERS else jd


@torch.inference_mode()
def write(model: Any, rows: Rows, cvs: list[str], temperature: float) -> tuple[list[str], list[bool]]:
    """One JD a CV, and which of them came to their end."""
    tokenizer = rows.tokenizer
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    model.generation_config = GenerationConfig(
        do_sample=False, max_new_tokens=JUDGED_TOKENS, eos_token_id=end, pad_token_id=pad
    )
    prompts = [rows.prompt(cv) for cv in cvs]
    order = sorted(range(len(cvs)), key=lambda i: len(prompts[i]))
    texts, finished = [""] * len(cvs), [False] * len(cvs)
    for start in range(0, len(order), 64):
        chosen = order[start : start + 64]
        width = max(len(prompts[i]) for i in chosen)
        ids = torch.tensor([[pad] * (width - len(prompts[i])) + prompts[i] for i in chosen])
        mask = torch.tensor([[0] * (width - len(prompts[i])) + [1] * len(prompts[i]) for i in chosen])
        processors = LogitsProcessorList()
        if temperature:
            processors.append(SeededSampling([1000 + i for i in chosen], JUDGED_TOKENS, temperature, 0.95))
        output = model.generate(input_ids=ids, attention_mask=mask, logits_processor=processors)[:, width:].tolist()
        for i, new in zip(chosen, output, strict=True):
            finished[i] = end in new
            texts[i] = tokenizer.decode(new[: new.index(end)] if finished[i] else new, skip_special_tokens=True).strip()
    return texts, finished


class Judge:
    """Compares texts with the JDs that the seekers matched."""

    def __init__(self, pairs: pl.DataFrame) -> None:
        self.pairs = pairs.unique("cv", keep="first", maintain_order=True).head(JUDGED_CVS)
        self._encoder = SentenceTransformerEncoder(ENCODER)
        self._jds = self.vectors(self.pairs["jd"].to_list())
        seekers = self.pairs["job_seeker_id"].to_numpy()
        self._others = seekers[:, None] != seekers[None, :]

    def vectors(self, texts: list[str]) -> np.ndarray:
        return self._encoder.encode([text or "." for text in texts]).vectors

    def similarity(self, texts: list[str]) -> dict[str, float]:
        cosines = self.vectors(texts) @ self._jds.T
        own = np.diag(cosines)[:, None]
        nearer = (cosines < own) + 0.5 * (cosines == own)
        return {
            "similarity_matched": float(own.mean()),
            "similarity_random": float(cosines[self._others].mean()),
            "auc": float(np.mean([row[others].mean() for row, others in zip(nearer, self._others, strict=True)])),
        }

    def lines(self, train: pl.DataFrame) -> dict[str, dict[str, float]]:
        """What needs no generator."""
        cvs, jds = self.pairs["cv"].to_list(), train["jd"].to_list()
        nearest = (self.vectors(cvs) @ self.vectors(train["cv"].to_list()).T).argmax(1)
        drawn = random.Random(0)
        return {
            "the CV itself": self.similarity(cvs),
            "JD of the nearest training CV": self.similarity([jds[i] for i in nearest]),
            "a random training JD": self.similarity([drawn.choice(jds) for _ in cvs]),
        }


def form(texts: list[str], finished: list[bool]) -> dict[str, float]:
    words = [text.lower().split() for text in texts]
    twos = [pair for own in words for pair in pairwise(own)]
    return {
        "format_rate": float(np.mean([f and defect(t) is None for t, f in zip(texts, finished, strict=True)])),
        "words": float(np.mean([len(own) for own in words])),
        "distinct_2": len(set(twos)) / max(1, len(twos)),
        "distinct_texts": len(set(texts)) / len(texts),
    }


def study(variant: Variant, texts: Texts, judge: Judge, budget: float, seed: int) -> dict[str, float]:
    """Train one variant and measure it."""
    lower = variant.tokenizer != "bpe"
    tokenizer = tokenizer_of(variant, texts.before["text"])
    model, rows = model_of(variant, tokenizer, seed), Rows(tokenizer, lower)
    before = pl.concat([texts.before.select("marker", "text"), advertisements()]) if variant.corpus else texts.before
    found: dict[str, float] = {"parameters": float(model.num_parameters()), "vocabulary": float(len(tokenizer))}
    if variant.pretraining:
        feed = packed(rows, before, variant.parts, seed)
        spent = train(model, feed, budget * variant.pretraining, variant.rate)
        found |= {f"pretraining_{name}": value for name, value in spent.items()}
    pairs = [rows.pair(cv, jd) for cv, jd in texts.train.select("cv", "jd").iter_rows()]
    spent = train(model, batches(pairs, seed), budget * (1 - variant.pretraining), variant.rate / 2)
    found |= {f"sft_{name}": value for name, value in spent.items()}
    found |= {"sft_epochs": spent["steps"] * PAIRS / len(pairs)} | perplexities(model, rows, texts.held_out)
    for label, temperature in (("greedy", 0.0), ("sampled", 0.7)):
        written, finished = write(model, rows, judge.pairs["cv"].to_list(), temperature)
        print(f"  {label}: {written[0]!r}", file=sys.stderr)
        figures = judge.similarity(written) | form(written, finished)
        found |= {f"{label}_{name}": value for name, value in figures.items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the sample market, three variants, 10 s each")
    parser.add_argument("--json", type=Path, help="rows of data, variant, budget, seed and figures; added to")
    parser.add_argument("--data", default="careers", help="a folder of ../shared/data, or `sample` (simulation)")
    parser.add_argument("--variants", nargs="*", choices=list(VARIANTS), help="all, unless named")
    parser.add_argument("--budget", type=float, default=150, help="CPU seconds of one thread, each")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    names = arguments.variants or list(VARIANTS)
    if arguments.quick:
        arguments.data, arguments.budget = "sample", 10
        names = ["128x4", "128x4, random vectors", "MiniLM, 3 layers"]
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        data = DATA / arguments.data
        if arguments.data == "sample":
            data = Path(folder)
            write_sample(data, n_seekers=800, seed=0)
        texts = read_texts(data)
    judge = Judge(texts.held_out)
    common = {"data": arguments.data, "budget": arguments.budget, "seed": arguments.seed}
    results = Results(arguments.json, common)
    if not results.has("the CV itself"):
        for line, figures in judge.lines(texts.train).items():
            results.add(line, {f"greedy_{name}": value for name, value in figures.items()})
    for name in names:
        if not results.has(name):
            print(name, file=sys.stderr)
            results.add(name, study(VARIANTS[name], texts, judge, arguments.budget, arguments.seed))
    results.show()


class Results:
    """Rows in a JSON file, written whole each time; several processes may add to it in turn."""

    def __init__(self, path: Path | None, common: dict[str, Any]) -> None:
        self._path, self._common = path, common
        self._rows: list[dict[str, Any]] = []
        self._read()

    def _read(self) -> None:
        if self._path is not None and self._path.is_file():
            self._rows = json.loads(self._path.read_text(encoding="utf-8"))

    def has(self, name: str) -> bool:
        self._read()
        return any(row["variant"] == name and row.items() >= self._common.items() for row in self._rows)

    def add(self, name: str, figures: dict[str, float]) -> None:
        self._read()
        self._rows.append({"variant": name, **self._common, **{k: round(v, 4) for k, v in figures.items()}})
        if self._path is not None:
            write_whole(self._path, (json.dumps(self._rows, indent=1) + "\n").encode())

    def show(self) -> None:
        columns = [
            "variant",
            "parameters",
            "perplexity_token",
            "perplexity_word",
            "bits_per_character",
            "bits_from_cv",
            *(
                f"{label}_{name}"
                for label in ("greedy", "sampled")
                for name in ("auc", "similarity_matched", "format_rate")
            ),
        ]
        rows = [row for row in self._rows if row.items() >= self._common.items()]
        with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_hide_dataframe_shape=True, tbl_hide_column_data_types=True):
            print(pl.DataFrame([{name: row.get(name) for name in columns} for row in rows]))


if __name__ == "__main__":
    main()
