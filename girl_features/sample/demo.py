"""`girl demo`: every step of the product on a small simulated market, and the commands to type next."""

from __future__ import annotations

import shlex
import time
import timeit
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from girl_features.batch.local import materialize
from girl_features.batch.quality import Verdict, judge
from girl_features.config import GirlConfig, load_config
from girl_features.contract import FeatureContract
from girl_features.errors import ConfigError
from girl_features.evaluation.report import print_comparison
from girl_features.evaluation.results import Comparison
from girl_features.evaluation.run import run_evaluate
from girl_features.generator.checkpoint import RECORD_NAME, REWARD_RECORD_NAME, read_record
from girl_features.generator.opening import load_models
from girl_features.input.splits import cut_windows
from girl_features.input.tables import Tables, open_tables
from girl_features.lookup import FeatureClient
from girl_features.progress import Progress
from girl_features.ranker import Ranker
from girl_features.sample.tables import write_sample
from girl_features.store.parts import PartsStore
from girl_features.store.user_files import begins_with

N_LOOKUPS = 50
N_NEAREST = 3
_COMMENT = "# A simulated market; `girl demo` writes this anew each time.\n"


class Example(NamedTuple):
    """One job seeker, with a generated JD and the jobs nearest to it."""

    job_seeker_id: str
    cv: str
    generated_jd: str
    nearest: list[tuple[float, str]]  # cosine to the generated JD, and the JD of a simulated job


class DemoResult(NamedTuple):
    """Results of the demo."""

    folder: Path
    comparison: Comparison
    training: dict[str, dict[str, float]]  # stage -> its metrics
    example: Example
    lookup_p50_ms: float  # milliseconds for one seeker, median
    verdict: Verdict  # of the quality gate, on the last generator
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the rows of `girl evaluate`, the example and the lookup time, for JSON."""
        return {
            **self.comparison.to_json(),
            "simulation": True,
            "training": self.training,
            "example": self.example._asdict(),
            "lookup_p50_ms": self.lookup_p50_ms,
            "gate": self.verdict.to_json(),
            "seconds": self.seconds,
        }

    def show(self) -> None:
        """Print the table, the example, the lookup and the next three commands."""
        console = Console()
        reward, ppo = self.training["reward"], self.training["ppo"]
        console.print(
            f"Reward model: tells the matched job from the mismatched one in {reward['pair_accuracy']:.0%} of "
            f"{reward['n_heldout_pairs']:.0f} pairs of {reward['n_heldout_seekers']:.0f} seekers it has not seen.\n"
            f"PPO: its score on unseen CVs {ppo['reward_gain_sd']:+.2f} standard deviations over stage 1, at a KL of "
            f"{ppo['kl_per_sequence']:.2f} nats per JD. A demo trains both for a moment only."
        )
        if self.verdict.failed:
            is_salad = {"real_words", "word_order"} & {measure.name for measure in self.verdict.failed}
            what = "The generated JDs are word salad" if is_salad else "The generator is not good enough"
            console.print(
                f"[bold]{what}[/bold]: "
                f"below the quality gate by {_names(self.verdict)}. `girl materialize` would refuse this generator "
                f"without --anyway; the demo goes on, as a simulation."
            )
        print_comparison(self.comparison, simulation=True)
        example = self.example
        console.print(Panel(Text(example.cv), title=f"CV of {example.job_seeker_id}", title_align="left"))
        console.print(Panel(Text(example.generated_jd), title="its generated JD", title_align="left"))
        for cosine, jd in example.nearest:
            title = f"a job near the generated JD, cosine {cosine:.2f}"
            console.print(Panel(Text(_first_words(jd)), title=title, title_align="left"))
        console.print(
            f"Online lookup of one seeker: {self.lookup_p50_ms:.2f} ms (median of {N_LOOKUPS}, in process, SQLite). "
            f"The whole demo took {self.seconds:.0f} s."
        )
        config = shlex.quote(str(self.folder / "girl.yaml"))
        commands = {
            f"girl lookup {example.job_seeker_id} --config {config}": "the vector a ranking service would get",
            f"girl materialize --anyway --config {config}": "again: nothing is generated twice",
            "girl init my-girl": "a girl.yaml and a Feast repo for tables of your own",
        }
        console.print("\nNext:")
        for command, purpose in commands.items():
            console.print(Text(f"  {command}", style="bold"))
            console.print(Text(f"      {purpose}"))


def run_demo(
    folder: Path,
    *,
    quick: bool,
    seed: int,
    stages: Mapping[str, Callable[..., Path]],
    make_ranker: Callable[[str, str, int], Ranker],
) -> DemoResult:
    """Simulate a market in `folder`, train, materialize, evaluate and look up. Work done there before is reused.

    Args:
        folder: folder of the demo.
        quick: True for a smaller market and generator.
        seed: seed of market, training and sampling.
        stages: functions that train "sft", "reward" and "ppo", in this order.
        make_ranker: makes a new ranker of a predictor, a row and a seed.
    """
    started = time.monotonic()
    config = _prepare(folder, quick, seed)
    with open_tables(config) as tables:
        windows = cut_windows(tables, config.windows)
        folders = {stage: train(tables, windows, config) for stage, train in stages.items()}
    record_names = {"sft": RECORD_NAME, "reward": REWARD_RECORD_NAME, "ppo": RECORD_NAME}
    training = {stage: read_record(trained, record_names[stage]).metrics for stage, trained in folders.items()}
    for stage in ("sft", "ppo"):
        generator = config.generator.model_copy(update={"stage": stage})
        materialize(config.model_copy(update={"generator": generator}), anyway=True)  # a simulation: nobody is served
    verdict = judge(config, load_models(config))
    evaluation = run_evaluate(config, make_ranker)
    contract = evaluation.contracts["girl"]
    with open_tables(config) as tables:
        example = _example(tables, PartsStore(config.store_dir), contract)
    client = FeatureClient(config.feast_repo, contract.fingerprint)
    times = timeit.repeat(lambda: client.job_seekers([example.job_seeker_id]), number=1, repeat=1 + N_LOOKUPS)
    latency = float(np.median(times[1:]) * 1000)  # the first call opens the database
    return DemoResult(folder, evaluation.comparison, training, example, latency, verdict, time.monotonic() - started)


def _prepare(folder: Path, quick: bool, seed: int) -> GirlConfig:
    """Write the tables of the market, unless they are there, and girl.yaml; load it.

    Raises:
        ConfigError: the folder holds a girl.yaml or a workspace of the user's.
    """
    path = folder / "girl.yaml"
    is_demo = path.is_file() and begins_with(path, _COMMENT)
    if not is_demo and (path.exists() or (folder / ".girl").exists()):
        raise ConfigError(f"{folder} holds a girl.yaml or a workspace of your own; choose another folder with --dir")
    sizes = yaml.safe_load(Path(__file__).with_name("demo.yaml").read_text(encoding="utf-8"))
    size = sizes["quick" if quick else "full"]
    data = folder / f"market-{size['seekers']}-{seed}"
    if not (data / "interactions.parquet").is_file():
        with Progress("simulate", size["seekers"], "seekers") as progress:
            write_sample(data, n_seekers=size["seekers"], seed=seed, progress=progress.reach)
    raw = {
        "name": "demo",
        "workspace": ".girl",
        "tables": {name: {"path": f"{data.name}/{name}.parquet"} for name in ("job_seekers", "jobs", "interactions")},
        **size["config"],
    }
    for section in ("sft", "reward", "ppo", "sampling"):
        raw[section]["seed"] = seed
    path.write_text(_COMMENT + yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    return load_config(path)


def _example(tables: Tables, store: PartsStore, contract: FeatureContract) -> Example:
    relation = store.scan("generated_jds", contract.fingerprint)
    assert relation is not None
    seeker, cv, jds, vector = tables.connection.execute(
        f"""SELECT job_seeker_id, cv, generated_jds, generated_jd_vector FROM {relation} AS made
        JOIN job_seekers USING (job_seeker_id, updated_at, cv_hash)
        ORDER BY updated_at DESC, job_seeker_id LIMIT 1"""
    ).fetchall()[0]
    jobs = store.scan("jd_vectors", contract.encoder.fingerprint)
    nearest = tables.connection.execute(
        f"""SELECT list_cosine_similarity(jd_vector, $vector::FLOAT[]) AS cosine, jd
        FROM {jobs} JOIN jobs USING (job_id) ORDER BY cosine DESC, job_id LIMIT {N_NEAREST}""",
        {"vector": vector},
    ).fetchall()
    return Example(seeker, cv, jds[0], [(float(cosine), jd) for cosine, jd in nearest])


def _names(verdict: Verdict) -> str:
    return ", ".join(f"{measure.name} {measure.value:.2f} ({measure.limit})" for measure in verdict.failed)


def _first_words(text: str, n: int = 40) -> str:
    words = text.split()
    return " ".join(words[:n]) + (" ..." if len(words) > n else "")
