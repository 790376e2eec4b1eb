"""Commands that train: `girl train sft | reward | ppo | all | student`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from girl_features.commands.common import (
    DEFAULT_CONFIG,
    ConfigOption,
    ContractOption,
    JsonOption,
    SetOption,
    emit,
    load,
    print_mapping,
)

ForceOption = Annotated[bool, typer.Option(help="Train again even if these inputs were trained before.")]
ResumeOption = Annotated[bool, typer.Option(help="Go on from the checkpoint of an interrupted PPO run, or start anew.")]
PaperOption = Annotated[
    bool, typer.Option("--paper-literal", help="PPO as the paper prints it, which tends to blow up: see docs/adr/0009.")
]
PAPER_LITERAL = ("ppo.kl_penalty=paper_kl", "ppo.ratio=frozen", "ppo.advantage=plain", "ppo.target_kl=null")
_STAGES = {"sft": "Generator, stage SFT", "reward": "Reward model", "ppo": "Generator, stage PPO"}
STAGE_MODULES = {
    "sft": "girl_features.trainers.sft",
    "reward": "girl_features.trainers.reward",
    "ppo": "girl_features.trainers.rl",
}


def sft(
    config: ConfigOption = DEFAULT_CONFIG,
    set_values: SetOption = None,
    force: ForceOption = False,
    json_file: JsonOption = None,
) -> None:
    """Stage 1: fine-tune the generator on matched CV-JD pairs of the SFT window (TRL's SFTTrainer)."""
    _train(config, set_values, ("sft",), force, json_file)


def reward(
    config: ConfigOption = DEFAULT_CONFIG,
    set_values: SetOption = None,
    force: ForceOption = False,
    json_file: JsonOption = None,
) -> None:
    """Stage 2: train the reward model on matched and mismatched JDs of the reward window (TRL's RewardTrainer)."""
    _train(config, set_values, ("reward",), force, json_file)


def ppo(
    config: ConfigOption = DEFAULT_CONFIG,
    set_values: SetOption = None,
    force: ForceOption = False,
    resume: ResumeOption = True,
    paper_literal: PaperOption = False,
    algo: Annotated[str | None, typer.Option(help="ppo, or by TRL's trainers: rloo, grpo, dpo.")] = None,
    json_file: JsonOption = None,
) -> None:
    """Stage 3: PPO from recruiter feedback on the CVs of the RL window, against the frozen reward model."""
    overrides = [*(set_values or []), *(PAPER_LITERAL if paper_literal else [])]
    if algo is not None:
        overrides.append(f"ppo.algo={algo}")
    _train(config, overrides, ("ppo",), force, json_file, resume)


def all_stages(
    config: ConfigOption = DEFAULT_CONFIG,
    set_values: SetOption = None,
    force: ForceOption = False,
    resume: ResumeOption = True,
    paper_literal: PaperOption = False,
    json_file: JsonOption = None,
) -> None:
    """The three stages one after the other; what these inputs were trained for before is taken as it is."""
    overrides = [*(set_values or []), *(PAPER_LITERAL if paper_literal else [])]
    _train(config, overrides, ("sft", "reward", "ppo"), force, json_file, resume)


def student(
    config: ConfigOption = DEFAULT_CONFIG,
    set_values: SetOption = None,
    contract: ContractOption = None,
    json_file: JsonOption = None,
) -> None:
    """A small network that guesses generated-JD vectors from CV vectors, in a bundle for ranking hosts."""
    from girl_features.errors import require
    from girl_features.lookup.bundle import read_manifest
    from girl_features.store.parts import PartsStore

    resolved = load(config, set_values)
    store = PartsStore(resolved.store_dir)
    found = store.contract(contract) if contract else store.newest_contract()
    folder = require("girl_features.trainers.student", "train").train_student(resolved, found)
    made = read_manifest(folder).made
    shown = {"folder": str(folder), "contract": found.fingerprint, **made["measures"], "encoder": made.get("encoder")}
    emit(shown, json_file, lambda: print_mapping("Student", shown))


def _train(
    config: Path,
    overrides: list[str] | None,
    stages: tuple[str, ...],
    force: bool,
    json_file: Path | None,
    resume: bool = True,
) -> None:
    """Train the given stages; the result of one stage as JSON, or stage -> result where there are several."""
    from girl_features.config import write_resolved
    from girl_features.errors import require
    from girl_features.generator.checkpoint import RECORD_NAME, REWARD_RECORD_NAME, GeneratorRecord, read_record
    from girl_features.input.splits import cut_windows
    from girl_features.input.tables import open_tables

    is_main = require("girl_features.trainers.processes", "train").is_main
    resolved = load(config, overrides)
    trained: dict[str, tuple[Path, GeneratorRecord]] = {}
    with open_tables(resolved) as tables:
        windows = cut_windows(tables, resolved.windows)
        for stage in stages:
            arguments = {"resume": resume} if stage == "ppo" else {}
            train = getattr(require(STAGE_MODULES[stage], "train"), f"train_{stage}")
            folder = train(tables, windows, resolved, force=force, **arguments)
            if is_main():
                write_resolved(resolved, folder / "girl.yaml")
            name = REWARD_RECORD_NAME if stage == "reward" else RECORD_NAME
            trained[stage] = (folder, read_record(folder, name))

    def show() -> None:
        for stage, (folder, record) in trained.items():
            shown = {"folder": str(folder), "rows": record.n_pairs, "trained until": record.trained_until}
            print_mapping(f"{_STAGES[stage]} ({record.stage})", {**shown, **record.metrics})
            for note in record.notes:
                typer.echo(f"  {note}")

    if not is_main():  # of several processes, which all hold the same result
        return
    results = {s: {"folder": str(folder), **record.model_dump(mode="json")} for s, (folder, record) in trained.items()}
    emit(results if len(stages) > 1 else results[stages[0]], json_file, show)
