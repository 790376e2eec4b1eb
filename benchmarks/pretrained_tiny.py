"""Make the base `tiny-pretrained`, which is a part of the package, from simulated markets and nothing else.

    OMP_NUM_THREADS=1 python benchmarks/pretrained_tiny.py --out girl_features/generator/bases/tiny

The texts are single CVs and single JDs of markets whose seeds no demo uses. No pair of them is shown to the model, so
it learns how such texts are written, and nothing of the rule by which the simulation matches them. Its token vectors
start at random. A run that was killed continues from its last checkpoint in `--work`.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import tempfile
import time
from pathlib import Path

import polars as pl
from measuring import describe

from girl_features.config import TinyConfig
from girl_features.generator.bases.catalogue import TINY_PRETRAINED
from girl_features.generator.checkpoint import n_parameters, weights_hash
from girl_features.generator.prompts import CV_TOKEN, JD_TOKEN
from girl_features.machine import machine_description
from girl_features.sample.tables import write_sample
from girl_features.trainers.pretrain import RECORD, BaseRecipe, base_metrics, pretrained_base

FIRST_SEED = 1_000_000_007  # of the markets; `girl demo` begins at 0
DEFAULTS = {"markets": 4, "seekers": 750, "epochs": 2.0}
MAX_CV_TOKENS, MAX_JD_TOKENS = 256, 248  # with 8 for the markers: 512 positions
_CARD = """# tiny-pretrained

A causal language model of {millions:.2f} million parameters ({mb:.1f} MB, float32) that writes short English texts in
the manner of simulated CVs and job descriptions. It is a base for the markets of `girl sample`.

- **Texts:** {n_texts:,} different CVs and JDs of {n_markets} simulated markets of {n_seekers:,} seekers each
  (seeds {seeds}). All of them come from a random number generator and the phrases in
  `girl_features/sample/words.yaml`. No text is about a real person or job, and no pair of a CV and a JD was shown.
- **Made by:** `{command}`
- **On:** {machine}
- **Training:** {n_steps:.0f} steps of 8 rows of 256 tokens; last loss {loss:.2f} nats a token; {seconds:.0f} seconds.
- **Weights:** SHA-256 `{digest}`
- **Not for:** real tables. Its tokenizer knows the words of the simulation, and it knows nothing of the world.
- **Licence:** Apache-2.0, as the rest of the package.
"""


def main() -> None:
    """Simulate the markets, pretrain the base on their texts, and write it with its card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=TINY_PRETRAINED.bundled, help="folder of the base")
    parser.add_argument("--markets", type=int, help="number of simulated markets (default: 4)")
    parser.add_argument("--seekers", type=int, help="seekers of each market (default: 750)")
    parser.add_argument("--epochs", type=float, help="passes over the texts (default: 2)")
    parser.set_defaults(**DEFAULTS)
    parser.add_argument("--work", type=Path, help="folder of checkpoints, to continue from (default: a new one)")
    arguments = parser.parse_args()
    work = arguments.work or Path(tempfile.mkdtemp())
    seeds = range(FIRST_SEED, FIRST_SEED + arguments.markets)
    texts = market_texts(seeds, arguments.seekers)
    shape = TinyConfig(
        vocab_size=2048, hidden_size=128, n_layers=4, n_heads=4, pretrain_epochs=arguments.epochs, embeddings_from=None
    )
    recipe = BaseRecipe(shape, MAX_CV_TOKENS, MAX_JD_TOKENS, TINY_PRETRAINED.n_positions, FIRST_SEED)
    start = time.perf_counter()
    made = pretrained_base(texts, recipe, work)
    seconds = time.perf_counter() - start
    metrics = base_metrics(made)
    shutil.rmtree(arguments.out, ignore_errors=True)
    shutil.copytree(made, arguments.out, ignore=shutil.ignore_patterns(RECORD))
    facts = {
        "millions": n_parameters(arguments.out) / 1e6,
        "mb": (arguments.out / "model.safetensors").stat().st_size / 1e6,
        "n_texts": texts.height,
        "n_markets": arguments.markets,
        "n_seekers": arguments.seekers,
        "seeds": f"{seeds[0]} to {seeds[-1]}",
        "command": shlex.join(["python", "benchmarks/pretrained_tiny.py", *recipe_options(arguments)]),
        "machine": machine_description(),
        "n_steps": metrics["pretrain_steps"],
        "loss": metrics["pretrain_loss"],
        "seconds": seconds,
        "digest": weights_hash(arguments.out),
    }
    (arguments.out / "README.md").write_text(_CARD.format(**facts), encoding="utf-8")
    print(describe(facts))


def recipe_options(arguments: argparse.Namespace) -> list[str]:
    """Return the options that decide what the model learns, as far as they differ from the defaults."""
    changed = {name: getattr(arguments, name) for name in DEFAULTS if getattr(arguments, name) != DEFAULTS[name]}
    return [part for name, value in changed.items() for part in (f"--{name}", str(value))]


def market_texts(seeds: range, n_seekers: int) -> pl.DataFrame:
    """Return the different CVs and JDs of simulated markets, each with its marker."""
    parts = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            market = Path(folder) / str(seed)
            write_sample(market, n_seekers=n_seekers, seed=seed)
            for table, column, marker in (("job_seekers", "cv", CV_TOKEN), ("jobs", "jd", JD_TOKEN)):
                frame = pl.read_parquet(market / f"{table}.parquet", columns=[column])
                parts.append(frame.select(pl.lit(marker).alias("marker"), pl.col(column).alias("text")))
    return pl.concat(parts).unique().sort("marker", "text")


if __name__ == "__main__":
    main()
