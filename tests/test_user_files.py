"""The user's files: what is there is never overwritten, and no personal data reaches git."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from girl_features.batch.local import local_chunks
from girl_features.batch.run import run_batch
from girl_features.cli import app
from girl_features.commands.common import emit
from girl_features.config import GirlConfig, load_config, settings
from girl_features.errors import CheckpointError, ConfigError, DataError, StoreError
from girl_features.evaluation.plots import save_figure
from girl_features.evaluation.tables import write_page
from girl_features.generator.opening import LoadedModels
from girl_features.init_repo import init_repo, write_repo
from girl_features.integrations.join_table import join_table
from girl_features.integrations.pair_files import write_pairs
from girl_features.integrations.rankers import ranker_files
from girl_features.lookup import open_queue
from girl_features.lookup.bundle import write_bundle
from girl_features.lookup.generation_queue import MissedCV
from girl_features.sample.tables import write_sample
from girl_features.store.user_files import WORKSPACE_NAMES, append_patterns, free_backup_path, keep_out_of_git
from tests.batch_worker import TRAINED_UNTIL
from tests.fakes import HashingEncoder, TemplateGenerator, feature_contract
from tests.input_tables import day, write_tables
from tests.served_market import bundle

ROOT = Path(__file__).resolve().parents[1]
CANARY, SEEKER, JOB = "canary-cv-text", "seeker-4711", "job-0815"


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


def _staged(folder: Path) -> dict[str, bytes]:
    _git(folder, "add", "-A")
    names = [name for name in _git(folder, "diff", "--cached", "--name-only", "-z").split("\0") if name]
    return {name: (folder / name).read_bytes() for name in names}


def _fill_workspace(folder: Path) -> GirlConfig:
    """Write tables, features, an online store, a queue and results, as the commands do."""
    (folder / "tables").mkdir()
    rows = [(f"{SEEKER}-{i}", f"{CANARY} number {i}", day(11)) for i in range(80)]
    jobs = [(f"{JOB}-{i}", f"{CANARY} of job {i}", day(1)) for i in range(5)]
    decisions = [(f"{SEEKER}-{i}", f"{JOB}-{i % 5}", True, day(12)) for i in range(80)]
    write_tables(folder / "tables", {"job_seekers": rows, "jobs": jobs, "interactions": decisions})
    config = load_config(folder / "girl.yaml")
    contract = feature_contract(TRAINED_UNTIL.isoformat())
    models = LoadedModels(HashingEncoder(), TemplateGenerator(), contract)
    run_batch(config, contract, local_chunks(models))
    open_queue(config).add([MissedCV(contract.fingerprint, SEEKER, "0" * 16, f"{CANARY} waiting")])
    pl.read_parquet(folder / "tables" / "interactions.parquet").write_parquet(folder / "pairs.parquet")
    reduction = config.workspace / "reductions" / contract.fingerprint
    arguments: Any = {"repo": config.feast_repo, "contract": contract, "reduction": reduction}
    join_table(folder / "pairs.parquet", folder / "joined.parquet", fit=True, **arguments)
    (folder / "checked.json").write_text(json.dumps({"id": SEEKER}))
    return config


def _assert_private(folder: Path, expected: set[str]) -> None:
    staged = _staged(folder)
    leaking = [n for n, data in staged.items() if any(word.encode() in data for word in (CANARY, SEEKER, JOB))]
    assert not leaking
    assert {name for name in staged if not name.endswith((".py", ".yaml"))} == expected
    assert "girl.yaml" in staged and "feature_store.yaml" in staged


def test_git_add_all_stages_no_personal_data(tmp_path: Path) -> None:
    _git(tmp_path, "init", "-q")
    assert CliRunner().invoke(app, ["init", str(tmp_path)]).exit_code == 0
    config = _fill_workspace(tmp_path)
    assert (config.feast_repo, config.workspace) == (tmp_path, tmp_path / ".girl")
    _assert_private(tmp_path, {".gitignore", ".feastignore"})


@pytest.mark.parametrize("workspace", ["work", "deep/er work", "."])
def test_a_workspace_of_another_name_is_covered_too(tmp_path: Path, workspace: str) -> None:
    _git(tmp_path, "init", "-q")
    init_repo(tmp_path, tmp_path / ".girl" / "store", "girl")
    path = tmp_path / "girl.yaml"
    path.write_text(path.read_text().replace("workspace: .girl ", f"workspace: {workspace} "))
    definitions = tmp_path / "girl_definitions.py"  # its store moves with the workspace
    definitions.write_text(definitions.read_text().replace("/.girl/store", f"/{workspace}/store"))
    config = _fill_workspace(tmp_path)
    assert config.store_dir == tmp_path / workspace / "store"
    _assert_private(tmp_path, {".gitignore", ".feastignore"})


@pytest.mark.parametrize("own", [b"*.log", b"*.log\r\n.girl\r\n", b"data/\n!data/\n!.girl/\n", b"\xff\xfe caf\xe9\n"])
def test_a_gitignore_that_is_there_is_added_to(tmp_path: Path, own: bytes) -> None:
    _git(tmp_path, "init", "-q")
    (tmp_path / ".gitignore").write_bytes(own)
    init_repo(tmp_path, tmp_path / ".girl" / "store", "girl")
    after = (tmp_path / ".gitignore").read_bytes()
    assert after.startswith(own) and b"/data/" in after
    init_repo(tmp_path, tmp_path / ".girl" / "store", "girl")
    assert (tmp_path / ".gitignore").read_bytes() == after, "nothing is added twice"
    for folder in (".girl", "data", "tables", "girl-demo"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "cv.txt").write_text(CANARY)
    _assert_private(tmp_path, {".gitignore", ".feastignore"})


def test_init_says_what_it_adds_to_a_gitignore_and_what_it_does_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / ".gitignore"
    path.write_text("*.log\n*.csv\n/data/\n")
    for added in ("/.girl/, /tables/, /girl-demo/, *.bak-[0-9]*Z*", "nothing"):
        caplog.clear()
        assert CliRunner().invoke(app, ["init", str(tmp_path)]).exit_code == 0
        (record,) = caplog.records
        line = record.getMessage()
        assert line.startswith(f"{path} was there before. Added to it: {added}. ")
        assert "Not added: *.parquet, *.tsv, *.json, *.duckdb, *.duckdb.wal, since" in line
        assert "CVs and JDs are personal data" in line
    caplog.clear()
    path.write_text(path.read_text() + "*.parquet\n*.tsv\n*.json\n*.duckdb\n*.duckdb.wal\n")
    init_repo(tmp_path, tmp_path / ".girl" / "store", "girl")
    init_repo(tmp_path / "new", tmp_path / "new" / ".girl" / "store", "girl")
    init_repo(tmp_path / "new", tmp_path / "new" / ".girl" / "store", "girl")
    assert caplog.records == []


def test_a_workspace_whose_feast_repo_is_elsewhere_keeps_itself_out(tmp_path: Path) -> None:
    _git(tmp_path, "init", "-q")
    write_repo(tmp_path / "repo", tmp_path / "work" / "store", "girl")
    (tmp_path / "work" / "runs").mkdir()
    (tmp_path / "work" / "runs" / "a.json").write_text(CANARY)
    assert not any(name.startswith("work/") for name in _staged(tmp_path))


def test_every_name_in_a_workspace_is_known() -> None:
    places = [value for value in vars(GirlConfig).values() if type(value).__module__ == settings.__name__]
    names = {place.__get__(GirlConfig.model_construct(workspace=Path("w")), GirlConfig).name for place in places}
    assert len(names) >= 8
    for path in [*(ROOT / "girl_features").rglob("*.py"), *(ROOT / "trainers").rglob("*.py")]:
        if "experiment" not in path.parts:
            names |= set(re.findall(r'workspace / "(\w+)"', path.read_text(encoding="utf-8")))
    assert {re.sub(r"\*$", "", name) for name in WORKSPACE_NAMES} >= names


def test_a_workspace_that_holds_measures_of_the_gate_is_covered_whole(tmp_path: Path) -> None:
    (tmp_path / "gates").mkdir()  # the gate is asked before anything else is written
    keep_out_of_git(tmp_path)
    assert "*" in (tmp_path / ".gitignore").read_text().splitlines()


def _files(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and ".git/" not in str(p)
    }


class Figure:
    def savefig(self, path: Path, metadata: dict[str, str]) -> None:
        path.write_bytes(b"\x89PNG " + metadata["Software"].encode())


def _write_page(path: Path) -> None:
    template = path.parent / "template"
    template.write_text("# Results on {title}\n")
    write_page(path, template, title="tests")


def _join(path: Path) -> None:
    write_pairs(pl.DataFrame({"girl_tier": [1]}).to_arrow(), path)


def _save_reduction(path: Path) -> None:
    manifest = ranker_files.ReductionManifest(contract="c", dimension=1, n_components=1, sha256={})
    ranker_files.make_folder(path.parent, ("weights",))
    (path.parent / "weights").write_bytes(b"1")
    ranker_files.write_manifest(path.parent, manifest, ("weights",))


# place -> the name of the file and the function that writes it
PLACES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "--json": ("out.json", lambda path: emit({"a": 1}, path, lambda: None)),
    "--markdown": ("page.md", _write_page),
    "picture": ("page.png", lambda path: save_figure(Figure(), path)),
    "join OUT": ("out.parquet", _join),
    "sample --overwrite": ("jobs.parquet", lambda path: write_sample(path.parent, n_seekers=3, overwrite=True)),
    "init --force": ("feature_store.yaml", lambda p: init_repo(p.parent, p.parent / "w/store", "girl", force=True)),
    "definitions": ("girl_definitions.py", lambda p: write_repo(p.parent, p.parent / "w/store", "girl", force=True)),
    "girl.yaml": ("girl.yaml", lambda path: init_repo(path.parent, path.parent / "w/store", "girl", force=True)),
    "ranker manifest": ("manifest.json", _save_reduction),
    "ranker weights": ("weights", _save_reduction),
}
OWN = {
    "text": b"dear diary",
    "json": b'{"name": "my-package", "version": "1"}',
    "list": b"[1, 2]",
    "page": b"# My page\n",
    "binary": b"PAR1\x00\xff\xfe",
}


@pytest.mark.parametrize("own", OWN)
@pytest.mark.parametrize("place", PLACES)
def test_a_users_file_is_kept_beside_the_new_one(
    tmp_path: Path, place: str, own: str, caplog: pytest.LogCaptureFixture
) -> None:
    name, write = PLACES[place]
    path = tmp_path / name
    path.write_bytes(OWN[own])
    write(path)
    [backup] = tmp_path.glob(f"{name}.bak-*")
    assert re.fullmatch(rf"{re.escape(name)}\.bak-\d{{8}}T\d{{6}}Z", backup.name)
    assert backup.read_bytes() == OWN[own] != path.read_bytes()
    assert f"{path} was there before: it is kept as {backup.name}" in caplog.text


@pytest.mark.parametrize("place", PLACES)
def test_an_earlier_output_is_replaced_and_leaves_no_backup(tmp_path: Path, place: str) -> None:
    name, write = PLACES[place]
    for _ in range(3):
        write(tmp_path / name)
    assert not list(tmp_path.glob("*.bak-*"))


@pytest.mark.parametrize("place", PLACES)
def test_a_link_is_kept_and_its_target_is_not_touched(tmp_path: Path, place: str) -> None:
    name, write = PLACES[place]
    (tmp_path / "folder").mkdir()
    (tmp_path / "target").write_bytes(b"dear diary")
    path = tmp_path / "folder" / name
    path.symlink_to(tmp_path / "target")
    write(path)
    assert (tmp_path / "target").read_bytes() == b"dear diary"
    assert [backup.is_symlink() for backup in path.parent.glob(f"{name}.bak-*")] == [True]


def test_no_backup_replaces_another(tmp_path: Path) -> None:
    path = tmp_path / "feature_store.yaml"
    kept = []
    for i in range(5):
        kept.append(f"mine {i}".encode())
        path.write_bytes(kept[-1])
        write_repo(tmp_path, tmp_path / "w" / "store", "girl", force=True)
    assert sorted(backup.read_bytes() for backup in tmp_path.glob("*.bak-*")) == kept
    taken = free_backup_path(path)
    taken.symlink_to(tmp_path / "nowhere")
    assert free_backup_path(path) != taken, "a dangling link is there, too"


@pytest.mark.parametrize("kind", ["file", "link", "dangling link", "folder", "gitignore link"])
def test_init_names_what_it_found_and_force_keeps_it(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "repo"
    target.mkdir()
    path = target / (".gitignore" if kind == "gitignore link" else "feature_store.yaml")
    (tmp_path / "other").write_text("project: theirs")
    if kind == "file":
        path.write_text("project: theirs")
    elif kind == "folder":
        path.mkdir()
        (path / "inside").write_text("theirs")
    else:
        path.symlink_to(tmp_path / ("nowhere" if kind == "dangling link" else "other"))
    refused = CliRunner().invoke(app, ["init", str(target)])
    message = str(refused.exception)
    assert isinstance(refused.exception, StoreError)
    assert f"other files named {path.name}; nothing was written" in message and "NAME.bak-TIME" in message
    assert (f"set `feast: {{repo: {target}}}`" in message) == (path.name == "feature_store.yaml")
    assert [entry.name for entry in target.iterdir()] == [path.name]
    done = CliRunner().invoke(app, ["init", str(target), "--force"])
    assert done.exit_code == 0, done.output
    [backup] = target.glob(f"{path.name}.bak-*")
    assert path.is_file() and not path.is_symlink()
    assert (tmp_path / "other").read_text() == "project: theirs"
    assert backup.is_dir() == (kind == "folder") and backup.is_symlink() == ("link" in kind)


def test_the_advice_about_an_own_feast_repo_can_be_followed(tmp_path: Path) -> None:
    own = tmp_path / "own"
    write_repo(own, tmp_path / "other" / "store", "theirs")
    new = tmp_path / "new"
    init_repo(new, new / ".girl" / "store", "girl")
    raw = yaml.safe_load((new / "girl.yaml").read_text())
    (new / "girl.yaml").write_text(yaml.safe_dump({**raw, "feast": {"repo": str(own)}}))
    assert load_config(new / "girl.yaml").feast_repo == own


def test_folders_of_the_user_are_refused(tmp_path: Path) -> None:
    before = _files(tmp_path)
    (tmp_path / "girl.yaml").write_text("name: mine\n")
    refused = CliRunner().invoke(app, ["demo", "--quick", "--dir", str(tmp_path)])
    assert isinstance(refused.exception, ConfigError) and "choose another folder with --dir" in str(refused.exception)
    (tmp_path / "girl.yaml").unlink()
    (tmp_path / ".girl").mkdir()
    assert isinstance(CliRunner().invoke(app, ["demo", "--dir", str(tmp_path)]).exception, ConfigError)
    with pytest.raises(CheckpointError, match="holds no bundle"):
        write_bundle(tmp_path, bundle(), {})
    assert _files(tmp_path) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "--json", "FOLDER"),
        ("evaluate", "--markdown", "FOLDER"),
        ("evaluate", "--markdown", "page.png"),
        ("experiment", "run", "x.yaml", "--markdown", "FOLDER"),
        ("join", "pairs.parquet", "FOLDER"),
        ("train", "ranker", "--out", "FILE"),
        ("init", "FILE"),
        ("sample", "FILE"),
        ("demo", "--dir", "FILE"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    (tmp_path / "FILE").write_text("mine")
    (tmp_path / "FOLDER").mkdir()
    words = [str(tmp_path / word) if word in ("FILE", "FOLDER") else word for word in arguments]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2 and ("is a " in result.output or "picture gets that name" in result.output), (
        result.output
    )
    assert (tmp_path / "FILE").read_text() == "mine"


def test_a_file_where_a_folder_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match=r"cannot make the folder .*; name another"):
        write_sample(tmp_path / "file" / "market", n_seekers=3)
    path = tmp_path / "girl.yaml"
    path.write_text("tables: {job_seekers: {path: a}, jobs: {path: b}, interactions: {path: c}}\nworkspace: file\n")
    with pytest.raises(ConfigError, match=r"workspace is .* which is a file; name a folder"):
        load_config(path)


def test_a_sample_is_replaced_but_a_table_of_the_users_is_kept(tmp_path: Path) -> None:
    write_sample(tmp_path, n_seekers=3)
    mine = pq.read_table(tmp_path / "jobs.parquet").to_pandas().assign(job_id="mine")
    mine.to_parquet(tmp_path / "jobs.parquet")
    write_sample(tmp_path, n_seekers=4, overwrite=True)
    [backup] = tmp_path.glob("*.bak-*")
    assert set(pl.read_parquet(backup)["job_id"]) == {"mine"}


ADDED = "girl_cos_cv_jd,girl_cos_generated_jd_jd,girl_cos_cv_generated_jd,girl_has_generated_jd,girl_tier"


@pytest.mark.parametrize("name", ["out.parquet", "out.csv", "out.csv.gz", "out.tsv"])
def test_a_table_with_a_column_like_ours_is_kept(tmp_path: Path, name: str) -> None:
    path, columns = tmp_path / name, {column: [1] for column in ADDED.split(",")}
    if name == "out.parquet":
        pl.DataFrame(columns).write_parquet(path)
    else:
        text = b"my_girl_note,girl_tier\tx\n1,2\t3\n"
        path.write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    before = path.read_bytes()
    for _ in range(2):
        write_pairs(pa.table(columns), path)
    [backup] = tmp_path.glob("*.bak-*")
    assert backup.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_that_is_cut_short_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "out.csv.gz"
    for cut in (gzip.compress(ADDED.encode() * 99)[:-20], gzip.compress(b"x")[:10] + b"\xff" * 20):
        path.write_bytes(cut)
        write_pairs(pa.table({"a": [1]}), path)
        assert cut in [backup.read_bytes() for backup in tmp_path.glob("*.bak-*")]


@pytest.mark.parametrize("column", [pa.array([[1]]), pa.array([Decimal(10) ** 40], pa.decimal256(50, 0))])
def test_a_join_that_fails_leaves_what_was_there(tmp_path: Path, column: pa.Array) -> None:
    (tmp_path / "out.csv").write_text(f"{ADDED}\n")
    with pytest.raises(DataError, match=r"out\.csv cannot hold all columns"):
        write_pairs(pa.table({"a": column}), tmp_path / "out.csv")
    assert [entry.read_text() for entry in tmp_path.iterdir()] == [f"{ADDED}\n"]


def test_standard_output_is_never_renamed(tmp_path: Path) -> None:
    script = "import sys; from pathlib import Path; from girl_features.commands.common import emit\n"
    script += "print('before', flush=True); emit({'a': 1}, Path('/dev/stdout'), lambda: None)"
    with (tmp_path / "out").open("ab") as out:
        subprocess.run([sys.executable, "-c", script], stdout=out, check=True, cwd=ROOT)
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out").read_text().startswith(("before", "{"))


def test_a_shared_folder_gets_the_names_of_ours_only(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    keep_out_of_git(tmp_path)
    lines = (tmp_path / ".gitignore").read_text().splitlines()
    assert "*" not in lines and "/store" in lines
    keep_out_of_git(tmp_path)
    append_patterns(tmp_path / ".gitignore", ["/store/"])
    assert (tmp_path / ".gitignore").read_text().splitlines() == lines
