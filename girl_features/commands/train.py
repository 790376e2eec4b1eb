"""Commands that train a generator or a student: `girl train sft | reward | ppo | all | student | encoder`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from girl_features.commands import common
from girl_features.errors import CheckpointError, GirlError
from girl_features.sql import was_interrupted

if TYPE_CHECKING:
    from girl_features.batch.quality import Verdict
    from girl_features.config import GirlConfig
    from girl_features.generator.checkpoint import GeneratorRecord
    from girl_features.input.tables import Tables

ForceOption = Annotated[bool, typer.Option(help="Train again even if these inputs were trained on before.")]
ResumeOption = Annotated[bool, typer.Option(help="Resume an interrupted PPO run from its checkpoint, or start anew.")]
PaperOption = Annotated[
    bool, typer.Option("--paper-literal", help="PPO as the paper prints it, which tends to blow up: see docs/adr/0009.")
]
PAPER_LITERAL = ("ppo.kl_penalty=paper_kl", "ppo.ratio=frozen", "ppo.advantage=plain", "ppo.target_kl=null")
_STAGES = {"sft": "Generator, stage SFT", "reward": "Reward model", "ppo": "Generator, stage PPO"}


def sft(
    config: common.ConfigOption = common.DEFAULT_CONFIG,
    set_values: common.SetOption = None,
    force: ForceOption = False,
    json_file: common.JsonOption = None,
) -> None:
    """Stage 1: fine-tune the generator on matched CV-JD pairs of the SFT window (TRL's SFTTrainer)."""
    _train(config, set_values, ("sft",), force, json_file)


def reward(
    config: common.ConfigOption = common.DEFAULT_CONFIG,
    set_values: common.SetOption = None,
    force: ForceOption = False,
    json_file: common.JsonOption = None,
) -> None:
    """Stage 2: train the reward model on matched and mismatched JDs of the reward window (TRL's RewardTrainer)."""
    _train(config, set_values, ("reward",), force, json_file)


def ppo(
    config: common.ConfigOption = common.DEFAULT_CONFIG,
    set_values: common.SetOption = None,
    force: ForceOption = False,
    resume: ResumeOption = True,
    paper_literal: PaperOption = False,
    algo: Annotated[str | None, typer.Option(help="ppo, or by TRL's trainers: rloo, grpo, dpo.")] = None,
    json_file: common.JsonOption = None,
) -> None:
    """Stage 3: PPO from recruiter feedback on the CVs of the RL window, against the frozen reward model."""
    overrides = [*(set_values or []), *(PAPER_LITERAL if paper_literal else [])]
    if algo is not None:
        overrides.append(f"ppo.algo={algo}")
    _train(config, overrides, ("ppo",), force, json_file, resume)


def all_stages(
    config: common.ConfigOption = common.DEFAULT_CONFIG,
    set_values: common.SetOption = None,
    force: ForceOption = False,
    resume: ResumeOption = True,
    paper_literal: PaperOption = False,
    json_file: common.JsonOption = None,
) -> None:
    """Train the three stages one after the other. A stage that was trained on the same inputs before is reused."""
    overrides = [*(set_values or []), *(PAPER_LITERAL if paper_literal else [])]
    _train(config, overrides, ("sft", "reward", "ppo"), force, json_file, resume)


def student(
    config: common.ConfigOption = common.DEFAULT_CONFIG,
    set_values: common.SetOption = None,
    contract: common.ContractOption = None,
    json_file: common.JsonOption = None,
) -> None:
    """Train a small network that predicts generated-JD vectors from CV vectors, and bundle it for ranking hosts."""
    from girl_features.lookup.bundle import read_bundle_manifest
    from girl_features.trainers.student import train_student

    resolved = common.load(config, set_values)
    features = common.chosen_contract(resolved.store_dir, contract)
    folder = train_student(resolved, features)
    made = read_bundle_manifest(folder).made
    encoder = made.get("encoder")
    result = {"folder": str(folder), "contract": features.fingerprint, **made["measures"], "encoder": encoder}
    common.emit(result, json_file, lambda: common.print_mapping("Student", result))


def encoder(
    config: common.ConfigOption = common.DEFAULT_CONFIG,
    set_values: common.SetOption = None,
    force: ForceOption = False,
    json_file: common.JsonOption = None,
) -> None:
    """Tune the sentence encoder on all matched CV-JD pairs before the ranking windows.

    The tuning needs no generator and no mismatches. Once a generator is trained too, `girl materialize --set
    encoder.name=FOLDER` makes vectors with the tuned encoder, under a contract of their own.
    """
    from girl_features.encoder import read_encoder_record
    from girl_features.errors import require
    from girl_features.input.splits import cut_windows
    from girl_features.input.tables import open_tables

    resolved = common.load(config, set_values)
    trainer = require("girl_features.trainers.text_encoder", "generate")
    with open_tables(resolved) as tables:
        folder = trainer.train_encoder(tables, cut_windows(tables, resolved.windows), resolved, force)
    record = read_encoder_record(folder)
    assert record is not None, "written by the training"

    def show() -> None:
        facts = {"folder": str(folder), "pairs": record.n_pairs, "trained until": record.trained_until}
        common.print_mapping("Encoder", {**facts, **record.metrics})
        typer.echo(f"once a generator is trained: girl materialize --config {config} --set encoder.name={folder}")

    common.emit({"folder": str(folder), **record.model_dump(mode="json")}, json_file, show)


class _Trained(NamedTuple):
    """One trained stage."""

    folder: Path
    record: GeneratorRecord
    verdict: Verdict | None  # None for a reward model, and where the quality gate could not be asked


def train_function(stage: str) -> Callable[..., Path]:
    """Return the function that trains stage `sft`, `reward` or `ppo`. Each brings in torch, so one is imported."""
    if stage == "sft":
        from girl_features.trainers.sft import train_sft

        return train_sft
    if stage == "reward":
        from girl_features.trainers.reward import train_reward

        return train_reward
    from girl_features.trainers.rl import train_ppo

    return train_ppo


def _train(
    config: Path,
    overrides: list[str] | None,
    stages: tuple[str, ...],
    force: bool,
    json_file: Path | None,
    resume: bool = True,
) -> None:
    """Train the given stages. The JSON is the result of the one stage, or stage -> result for several."""
    from girl_features.trainers.processes import is_main

    resolved = common.load(config, overrides)
    try:
        trained = _train_stages(resolved, stages, force, resume)
    except (KeyboardInterrupt, RuntimeError) as error:
        if not was_interrupted(error):
            raise
        print("stopped; the same command goes on from the last checkpoint, if there is one yet", file=sys.stderr)
        raise typer.Exit(130) from None

    def show() -> None:
        for stage, (folder, record, verdict) in trained.items():
            facts = {"folder": str(folder), "rows": record.n_pairs, "trained until": record.trained_until}
            common.print_mapping(f"{_STAGES[stage]} ({record.stage})", {**facts, **record.metrics})
            for note in record.notes:
                typer.echo(f"  {note}")
            if verdict is not None:
                common.print_verdict(verdict)

    if not is_main():  # of several processes, one shows the result
        return
    results = {stage: _result(stage, result) for stage, result in trained.items()}
    common.emit(results if len(stages) > 1 else results[stages[0]], json_file, show)


def _result(stage: str, trained: _Trained) -> dict[str, Any]:
    """Return a trained stage for JSON."""
    result = {"folder": str(trained.folder), **trained.record.model_dump(mode="json")}
    if stage != "reward":
        result["gate"] = None if trained.verdict is None else trained.verdict.to_json()
    return result


def _verdict(config: GirlConfig, folder: Path, tables: Tables) -> Verdict | None:
    """Return the verdict of the quality gate on the generator in `folder`; None if it cannot be taken here."""
    from girl_features.batch.quality import judge, stored_verdict
    from girl_features.generator.opening import load_models, settle_contract

    generator = config.generator.model_copy(update={"checkpoint": folder})
    config = config.model_copy(update={"generator": generator})
    try:
        contract = settle_contract(config)
        if (stored := stored_verdict(config, contract)) is not None:
            return stored
        if contract.engine == "vllm":
            raise CheckpointError("vLLM has no room beside the trainer; `girl materialize` asks it first")
        return judge(config, load_models(config), tables)
    except GirlError as error:  # the generator is trained and kept: `girl materialize` asks the gate again
        print(f"the quality gate was not asked: {error}", file=sys.stderr)
        return None


def _train_stages(config: GirlConfig, stages: tuple[str, ...], force: bool, resume: bool) -> dict[str, _Trained]:
    """Train the stages, and ask the quality gate about each generator."""
    from girl_features.config import write_resolved
    from girl_features.generator.checkpoint import RECORD_NAME, REWARD_RECORD_NAME, read_record
    from girl_features.input.splits import cut_windows
    from girl_features.input.tables import open_tables
    from girl_features.progress import announce
    from girl_features.trainers.processes import is_main

    trained = {}
    with open_tables(config) as tables:
        windows = cut_windows(tables, config.windows)
        for stage in stages:
            announce(f"loading what stage {stage} needs")
            arguments = {"resume": resume} if stage == "ppo" else {}
            folder = train_function(stage)(tables, windows, config, force=force, **arguments)
            if is_main():
                write_resolved(config, folder / "girl.yaml")
            name = REWARD_RECORD_NAME if stage == "reward" else RECORD_NAME
            is_judged = stage != "reward" and is_main()
            verdict = _verdict(config, folder, tables) if is_judged else None
            trained[stage] = _Trained(folder, read_record(folder, name), verdict)
    return trained
