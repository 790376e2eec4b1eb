"""Messages about girl.yaml and experiments: every typo, every wrong type, and YAML that is not what it looks like."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import pytest
import yaml
from pydantic import BaseModel

from girl_features.config import GirlConfig, load_config
from girl_features.config.setting import Setting
from girl_features.errors import ConfigError
from girl_features.lab.experiment.config import ExperimentConfig, load_experiment

TABLES = {"job_seekers": {"path": "a"}, "jobs": {"path": "b"}, "interactions": {"path": "c"}}
GIRL: dict[str, Any] = {"tables": TABLES}
EXPERIMENT: dict[str, Any] = {
    "data": {"market": {"config": "girl.yaml"}},
    "generators": {"girl": {}},
    "grids": [{"rows": ["base"], "predictors": ["mlp"]}],
    "claims": [],
}
PYDANTIC = re.compile(
    r"[Ii]nput should|Extra inputs|Field required|pydantic|type=|String should|valid (integer|number|dict)"
)


class Place(NamedTuple):
    """One setting of a schema."""

    model: type[BaseModel]
    location: tuple[int | str, ...]
    setting: Setting


def _places(model: type[BaseModel], setting: Setting, location: tuple[int | str, ...] = ()) -> Iterator[Place]:
    section = setting.section
    for name in section.model_fields if section is not None else ():
        inner, place = setting.inner(name), (*location, name)
        assert inner is not None
        yield Place(model, place, inner)
        for step in ("market" if name == "data" else "girl", 0):
            if inner.section is None and (entry := inner.inner(step)) is not None and entry.section is not None:
                inner, place = entry, (*place, step)
        yield from _places(model, inner, place)


PLACES = [place for model in (GirlConfig, ExperimentConfig) for place in _places(model, Setting.of(model))]


def _typos(key: str) -> Iterator[str]:
    for i in range(len(key)):
        yield key[:i] + key[i + 1 :]
        yield key[:i] + key[i] + key[i:]
        yield key[:i] + key[i].upper() + key[i + 1 :]
        yield key[:i] + key[i + 1 : i + 2] + key[i] + key[i + 2 :]


def _document(place: Place, values: dict[str, Any]) -> dict[str, Any]:
    """Return a right document, with `values` in place of the setting."""
    document = yaml.safe_load(yaml.safe_dump(GIRL if place.model is GirlConfig else EXPERIMENT))
    node: Any = document
    for step in place.location[:-1]:
        if isinstance(node, list):
            node += [{}] if len(node) <= int(step) else []
        elif step not in node:
            node[step] = [{}] if step in ("grids", "claims") else {}
        node = node[step]
    node.pop(place.location[-1], None)
    node.update(values)
    return document


def _message(folder: Path, model: type[BaseModel], text: str, overrides: list[str] | None = None) -> str:
    path = folder / "girl.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        load_config(path, overrides) if model is GirlConfig else load_experiment(path)
    message = str(refused.value)
    assert message.startswith(str(path)) and "\n" not in message
    assert not PYDANTIC.search(message), message
    return message.removeprefix(str(path)).lstrip(": ,")


def test_every_typo_by_one_edit_names_the_key_and_the_line(tmp_path: Path) -> None:
    n = 0
    for place in PLACES:
        right = str(place.location[-1])
        around = Setting.of(place.model).at(place.location[:-1])
        assert around is not None and around.section is not None
        typos = {typo for typo in _typos(right) if typo and typo not in around.section.model_fields}
        wrong = sorted(typos - TRUTH_VALUES)
        for some in (wrong[i : i + 10] for i in range(0, len(wrong), 10)):  # a message names ten
            text = yaml.safe_dump(_document(place, dict.fromkeys(some, "mistyped")))
            told = _message(tmp_path, place.model, text).split("; ")
            for line, written in enumerate(text.splitlines(), 1):
                if found := re.fullmatch(r"[ -]*(\S+): mistyped", written):
                    beginning = f"line {line}, column {found.start(1) + 1}: "
                    message = next((one for one in told if one.startswith(beginning)), "")
                    assert re.search(rf"\b{re.escape(found[1])}: did you mean (\w+ or )?{right}\b", message), told
                    n += 1
    assert n >= 1_000, n


def test_a_message_names_the_first_ten_problems_and_counts_the_rest(tmp_path: Path) -> None:
    unknown = "".join(f"unknown_key_{i}: 1\n" for i in range(3_000))
    start = perf_counter()
    message = _message(tmp_path, GirlConfig, unknown + yaml.safe_dump({"tables": {"jobs": {"path": "b"}}}))
    assert perf_counter() - start < 10
    assert message.count("there is no such key") == 10
    assert message.endswith("; and 2,992 more problems")
    few = _message(tmp_path, GirlConfig, yaml.safe_dump({**GIRL, "zzz": 1}))
    assert "more problems" not in few


@pytest.mark.parametrize("key", ["", "<<: "])
def test_aliases_that_repeat_aliases_are_refused_at_once(tmp_path: Path, key: str) -> None:
    entry = "{x: 1}" if key else "x"
    text = f"a0: &a0 [{', '.join([entry] * 9)}]\n" if not key else "a0: &a0 {x: 1}\n"
    for i in range(1, 12):
        inner = f"[{', '.join([f'*a{i - 1}'] * 9)}]"
        text += f"a{i}: &a{i} {'{' + key + inner + '}' if key else inner}\n"
    start = perf_counter()
    assert "holds more than 100,000 values" in _message(tmp_path, GirlConfig, text + yaml.safe_dump(GIRL))
    assert perf_counter() - start < 5


TRUTH_VALUES = {"n", "N", "y", "Y", "on", "no", "off", "yes"}  # YAML reads these keys so, and they are refused as such
WRONG: tuple[Any, ...] = ("some-word", 3, -2.5, True, None, [1, [2]], {"odd": 1}, ["a", {"b": 1}])


def _is_right(place: Place, value: Any) -> bool:
    """True if the setting takes the value."""
    document = _document(place, {str(place.location[-1]): value})
    try:
        place.model.model_validate(document)
    except ValueError:
        return False
    is_truth_for_number = isinstance(value, bool) and place.setting.type in (int, float)
    return not is_truth_for_number and not (isinstance(value, (int, float)) and "time" in place.setting.wanted())


def test_every_wrong_type_is_told_in_our_words_with_its_line(tmp_path: Path) -> None:
    n = 0
    for place in PLACES:
        key = str(place.location[-1])
        for value in WRONG:
            if _is_right(place, value):
                continue
            text = yaml.safe_dump(_document(place, {key: value}), sort_keys=False)
            message = _message(tmp_path, place.model, text)
            before = yaml.safe_dump(_document(place, {key: "here"}), sort_keys=False).split("here")[0]
            line = before.count("\n") + 1
            told = {int(number) for number in re.findall(r"line (\d+)", message)}
            if "should be" in message and {key} == set(re.findall(r"(\w+) should be", message)):
                assert told & {line, line + 1, line + 2}, message  # the line of the key, or of an entry in it
            else:  # settings that do not go together, at the line of their section
                assert not told or min(told) <= line + 1, message
            n += 1
    assert n >= 500, n


@pytest.mark.parametrize(
    ("addition", "overrides", "message"),
    [
        ("max_cv_tokens: 3", [], "line 5, column 1: max_cv_tokens: max_cv_tokens belongs under `generator`"),
        (
            "learning_rate: 3",
            [],
            "belongs under `sft` or under `reward` or under `ppo` or under `encoder_tuning` or under",
        ),
        ("generator:\n  n: 2", [], "line 6, column 3: generator.n: n belongs under `sampling`"),
        ("hidden_sizes: 3", [], "did you mean hidden_size? It belongs under `generator.tiny` or under `student`"),
        ("zzz: 3", [], "zzz: there is no such key; the keys at the top level are name, workspace, tables"),
        ("generator: {engine: vlm}", [], "one of auto, transformers, openvino, openvino-float32, vllm; found the text"),
        ("name: no", [], "found `no`, which YAML reads as false; put it in quotes"),
        ("name: 2024-01-01", [], "found 2024-01-01; put it in quotes"),
        ("on: 3", [], "line 5, column 1: YAML reads the key `on` as true or false; put it in quotes: 'on'"),
        ("sampling: {n: yes}", [], "sampling.n should be a whole number, at least 1 and at most 64; found `yes`"),
        ("sampling: {seed: 010}", [], "line 5, column 18: YAML reads `010` as 8; write 8, or put it in quotes"),
        ("sampling: {temperature: .inf}", [], "should be a number, at least 0; found `.inf`"),
        ("windows: {sft_end: 2024}", [], "windows.sft_end should be a date, or a date and time, such as"),
        ("windows: {sft_end: 12:30:00}", [], "YAML reads `12:30:00` as 45000"),
        ("windows: {sft_end: 2024-13-45}", [], "`2024-13-45` looks like a date or number, but is none"),
        ("evaluate: {seeds: [1, x]}", [], "line 5, column 23: entry 2 of evaluate.seeds should be a whole number"),
        ("name: a\nname: b", [], "line 6, column 1: the key name stands here a second time, after line 5"),
        ("sampling: {n: 1, n: 2}", [], "the key n stands here a second time"),
        ("sft:\n\tepochs: 3", [], "line 6, column 1: this is not valid YAML (a tab; YAML takes only spaces there)"),
        ("workspace: *.d", [], "line 5, column 13: this is not valid YAML"),
        ("workspace: a: b", [], "line 5, column 13: this is not valid YAML"),
        ("a: &x {b: *x}", [], "an alias (*name) stands inside what it is an alias of"),
        ("a: 1\n---\nb: 2", [], "line 6, column 1: this is not valid YAML"),
        ("workspace: !!python/object:os.system x", [], "line 5, column 12: this is not valid YAML"),
        ("workspace: ~nobody-of-that-name/x", [], "workspace is '~nobody-of-that-name/x'"),
        ('workspace: "a\\0b"', [], "cannot hold the character NUL"),
        ("sampling:", [], "line 5, column 1: sampling should be a mapping with keys of: n, best_of"),
        ("", ["sampling.nn=3"], "--set sampling.nn=3: sampling.nn: did you mean sampling.n?"),
        ("", ["smapling.n=3"], "--set smapling.n=3: smapling: did you mean sampling?"),
        ("", ["n=3"], "--set n=3: n: n belongs under `sampling`"),
        ("", ["sampling.n=many"], "--set sampling.n=many: sampling.n should be a whole number"),
        ("sampling:\n  n: many", ["sampling.n=0"], "--set sampling.n=0: sampling.n should be a whole number"),
        ("sampling: {n: 0}", ["sampling.top_p=.5"], "line 5, column 12: sampling.n should be a whole number"),
        ("", ["name=no"], "--set name=no: name should be a text"),
        ("", ["sampling={n: 1, n: 2}"], "the key n stands here a second time"),
        ("", ["sampling.n=["], "this is not valid YAML"),
        ("", ["evaluate.seeds=[1, yes]"], "entry 2 of evaluate.seeds should be a whole number; found `yes`"),
    ],
)
def test_messages(tmp_path: Path, addition: str, overrides: list[str], message: str) -> None:
    text = "tables:\n  job_seekers: {path: a}\n  jobs: {path: b}\n  interactions: {path: c}\n" + addition
    path = tmp_path / "girl.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        load_config(path, overrides)
    assert message in str(refused.value)


def test_what_is_right_in_yaml_stays_right(tmp_path: Path) -> None:
    text = (
        "base: &base {epochs: 2}\ntables: {job_seekers: {path: a}, jobs: {path: b}, interactions: {path: c}}\n"
        "sft: {<<: *base, epochs: 3}\nreward: {<<: *base}\nchunk_size: 1_000\nstrict: off\nsampling:\n"
    )
    path = tmp_path / "girl.yaml"
    path.write_text(
        "\ufeff"
        + text.replace("base: &base {epochs: 2}\n", "")
        .replace("<<: *base, ", "")
        .replace("{<<: *base}", "&x {epochs: 2}")
        + "student: *x\n"
    )
    config = load_config(path, ["sampling.n=2", "ranker.tier_dropout=1"])
    assert (config.sft.epochs, config.reward.epochs, config.student.epochs) == (3, 2, 2)
    assert (config.chunk_size, config.strict, config.sampling.n, config.ranker.tier_dropout) == (1000, False, 2, 1)
    path.write_text(
        "tables: {job_seekers: {path: a}, jobs: {path: b}, interactions: {path: c}}\n"
        "sft: &base {epochs: 2}\nreward: {<<: *base, epoch: 3}\n"
    )
    with pytest.raises(ConfigError, match=r"line 3, column 21: reward\.epoch: did you mean epochs\?"):
        load_config(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"# only a remark\n", "is empty"),
        (b"PAR1\x15\x04\x15\xff", "byte 8 is not UTF-8 text"),
        ("tables:".encode("utf-16"), "byte 1 is not UTF-8 text"),
        (b"a: 1\nb\x00: 2", "line 2: this is not valid YAML: character number 7 is a control character"),
        (b"[" * 500, "nested too deeply"),
        (b"tables.jobs", "found a text; write each setting as a key, a colon, a space and the value"),
        (b"3", "found a single value"),
    ],
)
def test_files_that_are_no_config(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "girl.yaml"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config(path)


def test_a_folder_and_a_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="is a folder; name a file in it"):
        load_config(tmp_path)
    with pytest.raises(ConfigError, match="is a folder"):
        load_experiment(tmp_path)

    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(ConfigError, match="cannot be read: Permission denied"):
        load_config(tmp_path / "girl.yaml")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tables.jobs.time_format", "%d.%m.%Y"),
        ("tables.jobs.time_format", "%Y-%m-%d'%H:%M"),
        ("tables.jobs.path", "*.parquet"),
        ("tables.jobs.path", "a: b: c"),
        ("tables.jobs.path", '"$HOME" `x`'),
        ("tables.jobs.path", "2024"),
        ("tables.jobs.path", "2024-13-45"),
        ("tables.jobs.path", "007"),
        ("workspace", "@here"),
        ("name", "no"),
    ],
)
def test_the_option_that_an_error_on_set_shows_survives_a_shell(tmp_path: Path, name: str, value: str) -> None:
    path = tmp_path / "girl.yaml"
    path.write_text("tables: {job_seekers: {path: a}, jobs: {path: b}, interactions: {path: c}}\n")
    with pytest.raises(ConfigError) as refused:
        load_config(path, [f"{name}={value}"])
    shown = re.search(r"`(--set .*)`\Z", str(refused.value))
    assert shown, str(refused.value)
    argued = subprocess.run(["sh", "-c", f"printf '%s\\n' {shown[1]}"], capture_output=True, text=True, check=True)
    option, text = argued.stdout.splitlines()
    assert option == "--set"
    config = load_config(path, [text])
    for step in name.split("."):
        config = getattr(config, step)
    assert str(config) == (str(tmp_path / value) if name.endswith(("path", "workspace")) else value)
