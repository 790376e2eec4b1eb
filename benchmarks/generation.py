"""Measure tokens and CVs per second of every engine, beside plain transformers: a naive loop and the best batch.

    python benchmarks/generation.py --json FILE    # 15 M and 135 M parameters; --quick: 15 M, one round, fewer engines

The models have Llama's shape and random weights. Prompts have 256 tokens and share those of the template; 128 new
tokens are sampled. Each word is one token, so texts can be compared token by token. All contenders take turns in one
process on one thread, and the median of three rounds counts. On a machine with other work, `--cpu-time` counts the CPU
seconds of this process, which is about the time an idle machine needs. Trust the ratios more than the rates.

`share_of_limit` compares with the tokens per second that reading weights and cache from memory would allow, at a
bandwidth measured here. `agreement` compares greedy texts with the reference: the share of tokens before the first
difference, and the share of identical texts. `same_text` compares sampled texts in batches of 32 with those of a fresh
engine in batches of 8 and another order. `job_*` rows are the whole of `girl materialize`: read, generate, encode,
write, publish online. They need an idle machine: generating and encoding overlap, so they count wall-clock seconds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import takewhile
from operator import eq
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import numpy as np
import polars as pl
import torch
from measuring import describe, made_up_contract, made_up_encoder, write_json
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from girl_features.batch.local import local_chunks
from girl_features.batch.run import run_batch
from girl_features.config import GirlConfig
from girl_features.contract import SamplingContract
from girl_features.generator import Generator
from girl_features.generator.engines import open_engine
from girl_features.generator.opening import load_models
from girl_features.generator.prompts import PLAIN, encode_prompt
from girl_features.schema import GeneratedText

NEW_TOKENS, CV_TOKENS = 128, 200
TEMPERATURE, TOP_P = 0.7, 0.95
PLAIN_BATCHES = (8, 32)
LETTERS = str.maketrans("0123456789", "abcdefghij")
BATCH, ROUNDS, QUICK_ROUNDS = 32, 3, 1
ENGINES = ("transformers", "openvino", "openvino-float32")
SHAPES = {  # arguments of LlamaConfig
    "15m": {
        "vocab_size": 8192,
        "hidden_size": 384,
        "intermediate_size": 1024,
        "num_hidden_layers": 7,
        "num_attention_heads": 6,
        "num_key_value_heads": 6,
    },
    "135m": {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    },
}

Clock = Callable[[], float]  # seconds
Write = Callable[[list[str]], int]  # CVs to number of new tokens


class Contender(NamedTuple):
    """One way to write JDs."""

    name: str
    write: Write
    n_cvs: int  # in each round
    engine: str
    batch: int  # JDs generated at once


def make_model(size: str, folder: Path) -> Path:
    """Write a model with random weights and its tokenizer, and return the folder."""
    shape = SHAPES[size]
    words = ["<pad>", "<unk>", "<end>"]
    splitter = pre_tokenizers.Whitespace()
    words += sorted({piece for piece, _ in splitter.pre_tokenize_str(f"{PLAIN.before_cv} {PLAIN.after_cv}")})
    words += [f"w{i}" for i in range(shape["vocab_size"] - len(words))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = splitter
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "<end>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    config = LlamaConfig(
        **shape,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=2,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        # Logits as far apart as a trained model's make sampling cost as much as there. Larger layer outputs keep the
        # model from repeating the last token, which the tied embeddings of an untrained model favour.
        model.model.norm.weight.mul_(3 / (0.02 * shape["hidden_size"] ** 0.5))
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.mul_(4)
            layer.mlp.down_proj.weight.mul_(4)
    model.save_pretrained(folder)
    return folder


def random_cvs(n: int, seed: int) -> list[str]:
    """Return n CVs of CV_TOKENS random words."""
    rng = np.random.default_rng(seed)
    return [" ".join(f"w{i}" for i in rng.integers(0, 4000, CV_TOKENS)) for _ in range(n)]


def plain_loop(model: Any, tokenizer: Any, batch: int) -> Write:
    """Return the loop that a user would write: transformers' own sampling, in batches."""
    limits = {"do_sample": True, "temperature": TEMPERATURE, "top_p": TOP_P, "max_new_tokens": NEW_TOKENS}

    @torch.inference_mode()
    def write(cvs: list[str]) -> int:
        n_tokens = 0
        for start in range(0, len(cvs), batch):
            texts = [f"{PLAIN.before_cv}{cv}{PLAIN.after_cv}" for cv in cvs[start : start + batch]]
            inputs = tokenizer(texts, return_tensors="pt", padding=True)
            new = model.generate(**inputs, **limits)[:, inputs["input_ids"].shape[1] :]
            n_tokens += int((new != 0).sum())
        return n_tokens

    return write


def open_generator(engine: str, folder: Path, temperature: float = TEMPERATURE, batch: int = BATCH) -> Generator:
    """Open the model in `folder` on an engine."""
    contract = made_up_contract(
        folder.name,
        made_up_encoder(dimension=1),
        prompt_version=PLAIN.version,
        max_cv_tokens=CV_TOKENS,
        sampling=SamplingContract(n=1, temperature=temperature, top_p=TOP_P, max_new_tokens=NEW_TOKENS, seed=0),
        engine=None if engine == "transformers" else engine,
    )
    return open_engine(contract, folder, batch_size=batch, threads=1, exports=folder.parent / "exports")


def engine_loop(generator: Generator, n: int) -> Write:
    """Return a function that writes n JDs per CV."""

    def write(cvs: list[str]) -> int:
        seeds = [[i * n + sample for sample in range(n)] for i in range(len(cvs))]
        return sum(text.n_new_tokens for cv_texts in generator.generate(cvs, seeds) for text in cv_texts)

    return write


def median_rates(contenders: list[Contender], rounds: int, clock: Clock) -> np.ndarray:
    """Return the median tokens and CVs per second of n contenders that take turns on new CVs, as (n, 2) floats."""
    for contender in contenders:
        contender.write(random_cvs(1, seed=0))  # engines compile at their first use
    rates = np.empty((rounds, len(contenders), 2))
    for round_number in range(rounds):
        for i, contender in enumerate(contenders):
            cvs = random_cvs(contender.n_cvs, seed=1000 * round_number + len(contender.name))
            start = clock()
            n_tokens = contender.write(cvs)
            rates[round_number, i] = np.array([n_tokens, contender.n_cvs]) / (clock() - start)
            print(f"  round {round_number} {contender.name}: {rates[round_number, i]}", file=sys.stderr, flush=True)
    return np.median(rates, axis=0)


def read_bandwidth(n_bytes: int) -> float:
    """Return the bytes per second that a sum over `n_bytes` reads, best of five.

    Weights that fit into a cache are read from there, and so is this array.
    """
    array = torch.ones(n_bytes // 4)
    best = float("inf")
    for _ in range(5):
        started = time.process_time()
        array.sum()
        best = min(best, time.process_time() - started)
    return n_bytes / best


def limit_tokens_per_s(folder: Path, engine: str, batch: int) -> float:
    """Return tokens per second if a step took only the time to read the weights once and the cache of every row."""
    config = LlamaConfig.from_pretrained(folder)
    n_weights = sum(path.stat().st_size for path in folder.glob("*.safetensors")) // 4
    head = config.hidden_size // config.num_attention_heads
    bytes_per_value = 4 if engine == "transformers" else 2
    values_per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * head
    row_bytes = (256 + NEW_TOKENS // 2) * values_per_token * bytes_per_value
    n_bytes = n_weights * (1 if engine == "openvino" else 4) + batch * row_bytes
    return batch * read_bandwidth(n_bytes) / n_bytes


def words_of(generator: Generator, cvs: list[str], seeds: Sequence[int]) -> list[list[str]]:
    """Return the words of one JD per CV."""
    texts = generator.generate(cvs, [[seed] for seed in seeds])
    return [cv_texts[0].text.split() for cv_texts in texts]


def agreement(texts: list[list[str]], reference: list[list[str]]) -> dict[str, float]:
    """Return the mean share of words before the first difference, and the share of identical texts."""
    pairs = list(zip(texts, reference, strict=True))
    n_same = [sum(takewhile(bool, map(eq, words, reference_words))) for words, reference_words in pairs]
    shares = [n / max(len(reference_words), 1) for n, (_, reference_words) in zip(n_same, pairs, strict=True)]
    identical = [words == reference_words for words, reference_words in pairs]
    return {"tokens": statistics.fmean(shares), "texts": statistics.fmean(identical)}


def measure(size: str, folder: Path, quick: bool, clock: Clock) -> list[dict[str, Any]]:
    """Return the rows of all contenders for one model size."""
    n_slow, n_fast = (2, 32) if quick or size == "135m" else (4, 64)
    engines = ENGINES[1:] if quick else ENGINES
    batches = PLAIN_BATCHES[-1:] if quick else PLAIN_BATCHES
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    generators = {engine: open_generator(engine, folder) for engine in engines}
    naive = Contender(f"naive_{size}", plain_loop(model, tokenizer, 1), n_slow, "transformers", 1)
    plain = [
        Contender(f"plain_batch{batch}_{size}", plain_loop(model, tokenizer, batch), batch, "transformers", batch)
        for batch in batches
    ]
    contenders = [naive, *plain]
    contenders += [Contender(f"{e}_{size}", engine_loop(g, 1), n_fast, e, BATCH) for e, g in generators.items()]
    contenders += [Contender(f"{e}_{size}_n4", engine_loop(g, 4), n_fast // 4, e, BATCH) for e, g in generators.items()]
    rates = median_rates(contenders, QUICK_ROUNDS if quick else ROUNDS, clock).tolist()
    naive_rate = rates[0][0]
    best_rate = max(tokens_per_s for tokens_per_s, _ in rates[1 : 1 + len(plain)])
    rows: list[dict[str, Any]] = []
    for contender, (tokens_per_s, cvs_per_s) in zip(contenders, rates, strict=True):
        rows.append(
            {
                "name": contender.name,
                "tokens_per_s": tokens_per_s,
                "cvs_per_s": cvs_per_s,
                "over_naive": tokens_per_s / naive_rate,
                "over_best_transformers": tokens_per_s / best_rate,
                "share_of_limit": tokens_per_s / limit_tokens_per_s(folder, contender.engine, contender.batch),
            }
        )
    return rows + stability(size, folder, engines, 8 if quick else 16)


def stability(size: str, folder: Path, engines: Sequence[str], n: int) -> list[dict[str, Any]]:
    """Compare greedy texts with the reference, and sampled texts with those of other batches."""
    cvs, seeds = random_cvs(n, seed=7), range(n)
    reference = words_of(open_generator("transformers", folder, temperature=0.0), cvs, seeds)
    rows = []
    for engine in engines:
        greedy = agreement(words_of(open_generator(engine, folder, temperature=0.0), cvs, seeds), reference)
        together = words_of(open_generator(engine, folder), cvs, seeds)
        reversed_texts = words_of(open_generator(engine, folder, batch=8), cvs[::-1], seeds[::-1])
        same = agreement(reversed_texts[::-1], together)
        rows.append({"name": f"agreement_{engine}_{size}", "greedy_with_reference": greedy, "same_text": same})
        print(f"  {rows[-1]}", file=sys.stderr, flush=True)
    return rows


class WellFormedGenerator:
    """Gives the texts of random weights an end, letters and changing words, as a trained generator writes them.

    Otherwise the quality gate would refuse all of them: nothing would be encoded, and each would be drawn twice.
    """

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self.prompt_version = generator.prompt_version

    def generate(self, cvs: Sequence[str], seeds: Sequence[Sequence[int]]) -> list[list[GeneratedText]]:
        drawn = self._generator.generate(cvs, seeds)
        return [[_well_formed(text) for text in cv_texts] for cv_texts in drawn]


def _well_formed(text: GeneratedText) -> GeneratedText:
    words = [f"{word}{place}" for place, word in enumerate(text.text.split())]
    return text._replace(text=" ".join(words).translate(LETTERS), finish_reason="stop")


def job(size: str, folder: Path, workspace: Path, n: int) -> dict[str, Any]:
    """Run the whole batch job over n CVs and compare it with the engine alone, in wall-clock seconds."""
    config = job_config(folder, workspace, n)
    models = load_models(config)
    models = models._replace(generator=WellFormedGenerator(models.generator))
    write = engine_loop(models.generator, 1)
    write(random_cvs(4, seed=1))  # warms the engine up
    start = time.perf_counter()
    engine_tokens_per_s = write(random_cvs(n, seed=99)) / (time.perf_counter() - start)  # the job would cache its CVs
    start = time.perf_counter()
    report = run_batch(config, models.contract, local_chunks(models))
    seconds = time.perf_counter() - start
    assert report.n_failed == 0, report.failures
    tokens_per_s = report.n_new_tokens / seconds
    row = {"name": f"job_{size}", "tokens_per_s": tokens_per_s, "cvs_per_s": n / seconds}
    return {**row, "share_of_engine": tokens_per_s / engine_tokens_per_s}


def job_config(folder: Path, workspace: Path, n: int) -> GirlConfig:
    """Write tables of n CVs and return a config for them."""
    workspace.mkdir()
    start, next_day = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 2, tzinfo=UTC)
    seekers = [f"s{i}" for i in range(n)]
    tables = {
        "job_seekers": {"job_seeker_id": seekers, "cv": random_cvs(n, seed=5), "updated_at": [start] * n},
        "jobs": {"job_id": ["j"], "jd": ["a cook for our kitchen"], "posted_at": [start]},
        "interactions": {"job_seeker_id": ["s0"], "job_id": ["j"], "matched": [True], "decided_at": [next_day]},
    }
    for name, columns in tables.items():
        pl.DataFrame(columns).write_parquet(workspace / f"{name}.parquet")
    generator = {
        "base": str(folder),
        "trained_until": datetime(2020, 1, 1, tzinfo=UTC),
        "engine": "openvino",
        "max_cv_tokens": CV_TOKENS,
        "threads": 1,
    }
    return GirlConfig.model_validate(
        {
            "workspace": workspace / "girl",
            "tables": {name: {"path": str(workspace / f"{name}.parquet")} for name in tables},
            "generator": generator,
            "sampling": {"max_new_tokens": NEW_TOKENS, "temperature": TEMPERATURE, "top_p": TOP_P},
            "chunk_size": 64,
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="15 M parameters, one round, fewer engines")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--cpu-time", action="store_true", help="count CPU seconds of this process")
    parser.add_argument("--size", choices=[*SHAPES], action="append", help="this size only; repeatable")
    arguments = parser.parse_args()
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    torch.set_num_threads(1)
    sizes = arguments.size or (["15m"] if arguments.quick else [*SHAPES])
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for size in sizes:
            folder = make_model(size, Path(temporary) / size)
            prompt = encode_prompt(AutoTokenizer.from_pretrained(folder), PLAIN, random_cvs(1, 0)[0], CV_TOKENS)
            print(f"{size}: prompts of {len(prompt.ids)} tokens", file=sys.stderr, flush=True)
            rows += measure(size, folder, arguments.quick, clock)
            n = 64 if arguments.quick or size == "135m" else 256
            rows.append(job(size, folder, Path(temporary) / f"job-{size}", n))
            print(f"  {rows[-1]}", file=sys.stderr, flush=True)
    for row in rows:
        print(describe(row))
    write_json(arguments.json, rows)


if __name__ == "__main__":
    main()
