"""Tokens and CVs a second of every engine, beside the loop a user would write and the best plain transformers batch.

    python benchmarks/generation.py --json FILE    # 15 M and 135 M parameters; --quick: 15 M, one round, fewer engines

Random weights of Llama's shape; prompts of 256 tokens, of which the template's are shared; 128 new tokens, sampled.
A word is a token, so texts can be compared token by token. All contenders take turns, three times, in one process
on `--threads` threads (default 1), and the median counts. On a machine that others load, `--cpu-time` counts the
process's own seconds: with one thread, about what an idle machine would take. Ratios hold better than rates.

`share_of_limit` is of the tokens a second that reading weights and cache from memory would allow, at a bandwidth
measured here. `agreement` is greedy text against the reference: the share of tokens before the first difference, and of
identical texts. `same_text` is sampled text, in batches of 32 and, by a fresh engine in another order, of 8.
`job_*` rows are the whole of `girl materialize`: read, generate, encode, write, publish online. They count seconds
of the clock on the wall, as generating and encoding overlap, and so need an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import numpy as np
import polars as pl
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from girl_features.batch.local import local_chunks
from girl_features.batch.run import run_batch
from girl_features.config import GirlConfig
from girl_features.contract import EncoderContract, FeatureContract, SamplingContract
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
SHAPES = {
    "15m": {"vocab_size": 8192, "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 7, "heads": (6, 6)},
    "135m": {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "heads": (9, 3),
    },
}


Clock = Callable[[], float]  # seconds
Contenders = dict[str, tuple[Callable[[list[str]], int], int]]  # name -> (CVs to number of new tokens, CVs a round)


class Rate(NamedTuple):
    tokens_per_s: float
    cvs_per_s: float


def make_model(size: str, folder: Path) -> Path:
    shape = dict(SHAPES[size])
    heads, kv_heads = shape.pop("heads")
    words = ["<pad>", "<unk>", "<end>"]
    words += sorted({piece for piece, _ in _pieces(f"{PLAIN.before_cv} {PLAIN.after_cv}")})
    words += [f"w{i}" for i in range(shape["vocab_size"] - len(words))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="<end>"
    ).save_pretrained(folder)
    config = LlamaConfig(
        **shape,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=2,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        # logits as far apart as a trained model's, so that sampling costs what it does there; and not a copy of the
        # last token, which the tied embeddings of an untrained model favour
        model.model.norm.weight.mul_(3 / (0.02 * shape["hidden_size"] ** 0.5))
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.mul_(4)
            layer.mlp.down_proj.weight.mul_(4)
    model.save_pretrained(folder)
    return folder


def _pieces(text: str) -> list[tuple[str, tuple[int, int]]]:
    return pre_tokenizers.Whitespace().pre_tokenize_str(text)


def some_cvs(n: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(f"w{i}" for i in rng.integers(0, 4000, CV_TOKENS)) for _ in range(n)]


def plain_loop(model: Any, tokenizer: Any, batch: int) -> Callable[[list[str]], int]:
    """What a user would write: transformers' own sampling, in batches. Returns the number of new tokens."""
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


def contract_for(engine: str, temperature: float, folder: Path) -> FeatureContract:
    encoder = EncoderContract(
        name="none", weights_sha256="", max_tokens=1, pooling="mean", normalized=True, dtype="float32", dimension=1
    )
    return FeatureContract(
        generator=folder.name,
        weights_sha256="",
        adapter_sha256=None,
        trained_until=datetime(2020, 1, 1, tzinfo=UTC),
        prompt_version=PLAIN.version,
        max_cv_tokens=CV_TOKENS,
        sampling=SamplingContract(n=1, temperature=temperature, top_p=TOP_P, max_new_tokens=NEW_TOKENS, seed=0),
        encoder=encoder,
        engine=None if engine == "transformers" else engine,
    )


def opened(engine: str, folder: Path, threads: int, temperature: float = TEMPERATURE, batch: int = BATCH) -> Generator:
    contract = contract_for(engine, temperature, folder)
    return open_engine(contract, folder, batch_size=batch, threads=threads, exports=folder.parent / "exports")


def our_loop(generator: Generator, n: int) -> Callable[[list[str]], int]:
    def write(cvs: list[str]) -> int:
        seeds = [[i * n + sample for sample in range(n)] for i in range(len(cvs))]
        return sum(text.n_new_tokens for own in generator.generate(cvs, seeds) for text in own)

    return write


def rates(contenders: Contenders, rounds: int, clock: Clock) -> dict[str, Rate]:
    """Median rates of contenders that take turns; each writes for its own number of CVs, new ones each round."""
    found: dict[str, list[Rate]] = {name: [] for name in contenders}
    for write, _ in contenders.values():
        write(some_cvs(1, seed=0))  # kernels are made at their first use
    for number in range(rounds):
        for name, (write, n_cvs) in contenders.items():
            cvs = some_cvs(n_cvs, seed=1000 * number + len(name))
            started = clock()
            n_tokens = write(cvs)
            seconds = clock() - started
            found[name].append(Rate(n_tokens / seconds, n_cvs / seconds))
            print(f"  round {number} {name}: {n_tokens / seconds:.0f} tokens/s", file=sys.stderr, flush=True)
    return {
        name: Rate(*(statistics.median(values) for values in zip(*own, strict=True))) for name, own in found.items()
    }


def read_bandwidth(n_bytes: int) -> float:
    """Bytes a second that a sum over so many reads, best of five; weights that fit a cache are read from there."""
    array = torch.ones(n_bytes // 4)
    best = float("inf")
    for _ in range(5):
        started = time.process_time()
        array.sum()
        best = min(best, time.process_time() - started)
    return n_bytes / best


def limit_tokens_per_s(folder: Path, engine: str, batch: int) -> float:
    """Tokens a second if a step took only the time to read the weights once and every row's cache."""
    config = LlamaConfig.from_pretrained(folder)
    n_weights = sum(path.stat().st_size for path in folder.glob("*.safetensors")) // 4
    head = config.hidden_size // config.num_attention_heads
    per_value = 4 if engine == "transformers" else 2
    row = (256 + NEW_TOKENS // 2) * config.num_hidden_layers * 2 * config.num_key_value_heads * head * per_value
    n_bytes = n_weights * (1 if engine == "openvino" else 4) + batch * row
    return batch * read_bandwidth(n_bytes) / n_bytes


def texts_of(generator: Generator, cvs: list[str]) -> list[list[str]]:
    return [own[0].text.split() for own in generator.generate(cvs, [[i] for i in range(len(cvs))])]


def agreement(ours: list[list[str]], theirs: list[list[str]]) -> dict[str, float]:
    shares = []
    for mine, other in zip(ours, theirs, strict=True):
        same = next(
            (i for i, (a, b) in enumerate(zip(mine, other, strict=False)) if a != b), min(len(mine), len(other))
        )
        shares.append(same / max(len(other), 1))
    return {
        "tokens": statistics.fmean(shares),
        "texts": statistics.fmean(m == o for m, o in zip(ours, theirs, strict=True)),
    }


def measure(size: str, folder: Path, quick: bool, threads: int, clock: Clock) -> list[dict[str, Any]]:
    n_slow, n_fast = (2, 32) if quick or size == "135m" else (4, 64)
    engines = ENGINES[1:] if quick else ENGINES
    batches = PLAIN_BATCHES[-1:] if quick else PLAIN_BATCHES
    plain = (
        AutoModelForCausalLM.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder, padding_side="left"),
    )
    generators = {engine: opened(engine, folder, threads) for engine in engines}
    contenders: Contenders = {f"naive_{size}": (plain_loop(*plain, 1), n_slow)}
    contenders |= {f"plain_batch{batch}_{size}": (plain_loop(*plain, batch), batch) for batch in batches}
    contenders |= {f"{name}_{size}": (our_loop(g, 1), n_fast) for name, g in generators.items()}
    contenders |= {f"{name}_{size}_n4": (our_loop(g, 4), n_fast // 4) for name, g in generators.items()}
    found = rates(contenders, QUICK_ROUNDS if quick else ROUNDS, clock)
    naive = found[f"naive_{size}"].tokens_per_s
    best = max(found[f"plain_batch{batch}_{size}"].tokens_per_s for batch in batches)
    rows: list[dict[str, Any]] = []
    for name, rate in found.items():
        row: dict[str, Any] = {"name": name, **rate._asdict()}
        row |= {"over_naive": rate.tokens_per_s / naive, "over_best_transformers": rate.tokens_per_s / best}
        engine, batch = runs_as(name)
        row["share_of_limit"] = rate.tokens_per_s / limit_tokens_per_s(folder, engine, batch)
        rows.append(row)
    return rows + stability(size, folder, threads, engines, 8 if quick else 16)


def runs_as(name: str) -> tuple[str, int]:
    """Engine and rows at once of a contender."""
    kind, *rest = name.split("_")
    if kind in ENGINES:
        return kind, BATCH
    return "transformers", int(rest[0].removeprefix("batch")) if kind == "plain" else 1


def stability(size: str, folder: Path, threads: int, engines: Sequence[str], n: int) -> list[dict[str, Any]]:
    """How far greedy texts agree with the reference, and sampled ones with themselves in other batches."""
    cvs = some_cvs(n, seed=7)
    reference = texts_of(opened("transformers", folder, threads, temperature=0.0), cvs)
    rows = []
    for engine in engines:
        greedy = agreement(texts_of(opened(engine, folder, threads, temperature=0.0), cvs), reference)
        together = texts_of(opened(engine, folder, threads), cvs)
        fresh = opened(engine, folder, threads, batch=8)
        order = list(range(n))[::-1]
        drawn = fresh.generate([cvs[i] for i in order], [[i] for i in order])
        same = agreement([own[0].text.split() for own in drawn][::-1], together)
        rows.append({"name": f"agreement_{engine}_{size}", "greedy_with_reference": greedy, "same_text": same})
        print(f"  {rows[-1]}", file=sys.stderr, flush=True)
    return rows


class Finished:
    """Gives each text of random weights the end, letters and changing words that a trained generator's have.

    The quality gate would refuse all of them, so nothing would be encoded, and each would be drawn twice.
    """

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self.prompt_version = generator.prompt_version

    def generate(self, cvs: Sequence[str], seeds: Sequence[Sequence[int]]) -> list[list[GeneratedText]]:
        drawn = self._generator.generate(cvs, seeds)
        return [[t._replace(text=_worded(t.text), finish_reason="stop") for t in own] for own in drawn]


def _worded(text: str) -> str:
    return " ".join(f"{word}{place}" for place, word in enumerate(text.split())).translate(LETTERS)


def job(size: str, folder: Path, workspace: Path, threads: int, n: int) -> dict[str, Any]:
    """The whole batch job over n CVs, beside the engine alone on others; seconds of the clock on the wall."""
    clock = time.perf_counter  # encoding overlaps with generating, which a process's own seconds do not show
    config = job_config(folder, workspace, threads, n)
    models = load_models(config)
    models = models._replace(generator=Finished(models.generator))
    cvs = pl.read_parquet(workspace / "job_seekers.parquet")["cv"].to_list()
    warm = some_cvs(4, seed=1)
    models.generator.generate(warm, [[1]] * len(warm))
    started = clock()
    n_tokens = our_loop(models.generator, 1)(some_cvs(n, seed=99))  # other CVs: none is cached for the job
    alone = n_tokens / (clock() - started)
    started = clock()
    report = run_batch(config, models.contract, local_chunks(models))
    seconds = clock() - started
    assert report.n_failed == 0, report.failures
    rate = Rate(report.n_new_tokens / seconds, len(cvs) / seconds)
    return {"name": f"job_{size}", **rate._asdict(), "share_of_engine": rate.tokens_per_s / alone}


def job_config(folder: Path, workspace: Path, threads: int, n: int) -> GirlConfig:
    workspace.mkdir()
    start = datetime(2024, 1, 1, tzinfo=UTC)
    seekers = [f"s{i}" for i in range(n)]
    tables = {
        "job_seekers": {"job_seeker_id": seekers, "cv": some_cvs(n, seed=5), "updated_at": [start] * n},
        "jobs": {"job_id": ["j"], "jd": ["a cook for our kitchen"], "posted_at": [start]},
        "interactions": {
            "job_seeker_id": seekers[:1],
            "job_id": ["j"],
            "matched": [True],
            "decided_at": [start + timedelta(days=1)],
        },
    }
    for name, columns in tables.items():
        pl.DataFrame(columns).write_parquet(workspace / f"{name}.parquet")
    return GirlConfig.model_validate(
        {
            "workspace": workspace / "girl",
            "tables": {name: {"path": str(workspace / f"{name}.parquet")} for name in tables},
            "generator": {
                "base": str(folder),
                "trained_until": datetime(2020, 1, 1, tzinfo=UTC),
                "engine": "openvino",
                "max_cv_tokens": CV_TOKENS,
                "threads": threads,
            },
            "sampling": {"max_new_tokens": NEW_TOKENS, "temperature": TEMPERATURE, "top_p": TOP_P},
            "chunk_size": 64,
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cpu-time", action="store_true", help="count the process's own seconds")
    parser.add_argument("--size", choices=[*SHAPES], action="append", help="one size alone")
    arguments = parser.parse_args()
    if arguments.cpu_time and arguments.threads > 1:
        parser.error("--cpu-time adds up the seconds of all threads: use it with --threads 1")
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    torch.set_num_threads(arguments.threads)
    sizes = arguments.size or (["15m"] if arguments.quick else [*SHAPES])
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for size in sizes:
            folder = make_model(size, Path(temporary) / size)
            n_prompt = len(
                encode_prompt(AutoTokenizer.from_pretrained(folder), PLAIN, some_cvs(1, 0)[0], CV_TOKENS).ids
            )
            print(f"{size}: prompts of {n_prompt} tokens", file=sys.stderr, flush=True)
            rows += measure(size, folder, arguments.quick, arguments.threads, clock)
            n = 64 if arguments.quick or size == "135m" else 256
            rows.append(job(size, folder, Path(temporary) / f"job-{size}", arguments.threads, n))
            print(f"  {rows[-1]}", file=sys.stderr, flush=True)
    for row in rows:
        print("  ".join(f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
