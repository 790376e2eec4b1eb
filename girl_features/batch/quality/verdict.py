"""The verdict on a generator: its measures against the thresholds of `gate:`, kept once for each contract.

The file in `workspace/gates` holds the measures alone. So the verdict follows a change of the thresholds at once, and
a nightly batch does not generate the sample again. No file holds an id or a text of a job seeker.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from girl_features.batch.quality.measures import measure
from girl_features.batch.quality.real_texts import Value
from girl_features.batch.quality.sample import Answers, GateSample, answer, take_sample
from girl_features.config import GateConfig, GirlConfig
from girl_features.contract import FeatureContract
from girl_features.errors import GateError
from girl_features.generator.opening import LoadedModels
from girl_features.input.tables import Tables, open_tables
from girl_features.store.files import write_whole

SETTINGS = {  # measure -> the setting that it is held against
    "usable": "min_usable",
    "held_out_bits": "max_held_out_bits",
    "real_words": "min_real_words",
    "word_order": "min_word_order",
    "own_cv": "min_own_cv",
    "same_script": "min_same_script",
    "copied": "max_copied",
    "unknown_script": "max_unknown_script",
}


class Measure(NamedTuple):
    """One line of the verdict."""

    name: str
    value: float | None  # None: not measured
    threshold: float
    note: str

    @property
    def result(self) -> str:
        """`pass`, `FAIL`, or `not measured`."""
        if self.value is None:
            return "not measured"
        is_upper = SETTINGS[self.name].startswith("max")
        return "pass" if (self.value <= self.threshold if is_upper else self.value >= self.threshold) else "FAIL"

    @property
    def text(self) -> str:
        """The measure with its threshold and its note, for messages."""
        value = "not measured" if self.value is None else f"{self.value:.2f}"
        return f"{self.name} {value} ({self.limit}; {self.note})"

    @property
    def limit(self) -> str:
        """The threshold in words, such as `min 0.5`."""
        return f"{SETTINGS[self.name].partition('_')[0]} {self.threshold:g}"


class Verdict(NamedTuple):
    """All measures of a generator."""

    contract: str
    measures: list[Measure]
    stands: bool  # False: of another `gate.sample`, or of too few rows and no failure, so it is taken again next time

    @property
    def failed(self) -> list[Measure]:
        """The measures that do not reach their threshold."""
        return [measure for measure in self.measures if measure.result == "FAIL"]

    @property
    def note(self) -> str:
        """The result in a few words, for the run log of a generator that does not fail."""
        missing = [measure.name for measure in self.measures if measure.value is None]
        if len(missing) == len(self.measures):
            return "not measured"
        return f"passed; not measured: {', '.join(missing)}" if missing else "passed"

    def to_json(self) -> dict[str, object]:
        """Return the measures with thresholds and results, for JSON."""
        measures = {m.name: {**m._asdict(), "result": m.result} for m in self.measures}
        passed = any(m.result == "pass" for m in self.measures) and not self.failed
        return {"contract": self.contract, "passed": passed, "measures": measures}


class _Record(BaseModel):
    """The file of one contract."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    version: Literal[2]  # earlier files hold measures of too few rows, and null for a measure that is not a number
    contract: str
    sample: int  # the setting `gate.sample` that it was measured with
    measured_at: datetime
    values: dict[str, Value]


def stored_verdict(config: GirlConfig, contract: FeatureContract) -> Verdict | None:
    """Return the verdict on the generator of `contract`, if there is one that stands."""
    verdict = last_verdict(config, contract.fingerprint)
    return verdict if verdict is not None and verdict.stands else None


def last_verdict(config: GirlConfig, fingerprint: str) -> Verdict | None:
    """Return the verdict from the measures that were taken last for a contract, even if it does not stand."""
    try:
        record = _Record.model_validate_json(_path(config, fingerprint).read_bytes())
    except (OSError, ValidationError):
        return None  # everything is measured again
    return _verdict(record, config.gate) if set(record.values) == set(SETTINGS) else None


def judge(config: GirlConfig, models: LoadedModels, tables: Tables | None = None) -> Verdict:
    """Return the verdict on loaded models; measure them first if that has not been done.

    Args:
        config: of the tables, the thresholds and the workspace.
        models: to be judged.
        tables: if they are open already.
    """
    stored = stored_verdict(config, models.contract)
    if stored is not None:
        return stored
    if tables is not None:
        sample = gate_sample(config, models.contract, tables)
    else:
        with open_tables(config) as opened:
            sample = gate_sample(config, models.contract, opened)
    return keep_verdict(config, models.contract, sample, answer(models, sample))


def gate_sample(config: GirlConfig, contract: FeatureContract, tables: Tables) -> GateSample:
    """Return the sample for a contract."""
    return take_sample(tables, contract.trained_until, contract.max_cv_tokens, config.gate.sample)


def keep_verdict(config: GirlConfig, contract: FeatureContract, sample: GateSample, answers: Answers) -> Verdict:
    """Measure the answers to a sample, write the measures down, and return the verdict."""
    values, now = measure(sample, answers), datetime.now(UTC)
    record = _Record(
        version=2, contract=contract.fingerprint, sample=config.gate.sample, measured_at=now, values=values
    )
    write_whole(_path(config, contract.fingerprint), record.model_dump_json(indent=1).encode())
    return _verdict(record, config.gate)


def require_quality(config: GirlConfig, models: LoadedModels, *, anyway: bool) -> str:
    """Return how the generator stands to the quality gate, for the run log.

    Args:
        config: of the tables, the thresholds and the workspace.
        models: loaded models. They are measured first if that has not been done.
        anyway: let a generator pass that is below the gate. Nothing is measured then.

    Raises:
        GateError: the generator is below the gate, and `anyway` is False.
    """
    if anyway:
        return note_anyway(config, models.contract)
    return checked(config, judge(config, models))


def checked(config: GirlConfig, verdict: Verdict) -> str:
    """Return the note of a verdict for the run log.

    Raises:
        GateError: a measure does not reach its threshold.
    """
    if verdict.failed:
        path = str(_path(config, verdict.contract))
        raise GateError([measure.text for measure in verdict.failed], path)
    return verdict.note


def note_anyway(config: GirlConfig, contract: FeatureContract) -> str:
    """Return the note for the run log of a generator that is used whatever its verdict is."""
    verdict = last_verdict(config, contract.fingerprint)
    if verdict is None:
        return "--anyway: not measured"
    if not verdict.failed:
        return verdict.note
    return f"--anyway: below the gate by {'; '.join(measure.text for measure in verdict.failed)}"


def _path(config: GirlConfig, fingerprint: str) -> Path:
    path: Path = config.gates_dir / f"{fingerprint}.json"
    return path


def _verdict(record: _Record, settings: GateConfig) -> Verdict:
    measures = [
        Measure(name, record.values[name].value, getattr(settings, setting), record.values[name].note)
        for name, setting in SETTINGS.items()
    ]
    had_enough = not any(value.too_few for value in record.values.values())
    verdict = Verdict(record.contract, measures, False)
    return verdict._replace(stands=record.sample == settings.sample and (had_enough or bool(verdict.failed)))
