"""The wheel: one top-level name, and it works in an environment that has nothing else of ours."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import polars as pl
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:  # type: ignore[no-untyped-def]
    folder = tmp_path_factory.mktemp("dist")
    source = folder / "source"  # a copy, so that no build folder is left in the checkout
    tracked = (
        subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        )
        .stdout.decode()
        .split("\0")
    )
    for name in filter(None, tracked):
        path, copy = ROOT / name, source / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            copy.symlink_to(path.readlink())
        elif path.is_file():
            copy.write_bytes(path.read_bytes())
    build = [sys.executable, "-m", "build", "--outdir"]
    subprocess.run([*build, str(folder), "--wheel", str(source)], check=True, capture_output=True)
    subprocess.run([*build, str(folder / "from-sdist"), str(source)], check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory) -> Path:  # type: ignore[no-untyped-def]
    """A fresh environment with the wheel alone; what it depends on is borrowed from this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    subprocess.run(
        [folder / "bin" / "python", "-m", "pip", "install", "-q", "--no-deps", "--no-index", str(wheel)], check=True
    )
    (site_packages,) = folder.glob("lib/python*/site-packages")
    # a path in a .pth file is searched last, and the .pth files in it (our editable install) are not read
    (site_packages / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder


def test_the_wheel_has_one_top_level_name_and_all_its_parts(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"girl_features"}
    for part in (
        "py.typed",
        "sample/words.yaml",
        "sample/demo.yaml",
        "evaluation/page.md",
        "evaluation/controls/function_words.yaml",
        "lab/experiment/default.yaml",
        "lab/experiment/models.csv",
        "lab/experiment/page.md",
        "trainers/sft.py",
        "integrations/rankers/two_tower.py",
        "feature_repo/feature_store.yaml",
        "feature_repo/girl_definitions.py",
        "feature_repo/girl.yaml",
        "feature_repo/.feastignore",
    ):
        assert f"girl_features/{part}" in names


def test_a_wheel_made_from_the_sdist_is_the_same(wheel: Path) -> None:
    (other,) = (wheel.parent / "from-sdist").glob("*.whl")
    direct, from_sdist = zipfile.ZipFile(wheel), zipfile.ZipFile(other)
    assert sorted(direct.namelist()) == sorted(from_sdist.namelist())
    for name in direct.namelist():
        assert name.endswith("/RECORD") or direct.read(name) == from_sdist.read(name), name


def test_a_source_without_the_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "setup.py").write_bytes((ROOT / "setup.py").read_bytes())
    (tmp_path / "girl_features").mkdir()
    for part in ("trainers", "integrations", "feature_repo"):
        (tmp_path / "girl_features" / part).write_text(f"../{part}")  # what a zip makes of a link
    built = subprocess.run([sys.executable, "setup.py", "--name"], cwd=tmp_path, capture_output=True, text=True)
    assert built.returncode != 0
    assert "the link to trainers/ is missing" in built.stderr


def test_every_python_file_is_in_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for part in ("girl_features", "trainers", "integrations", "feature_repo"):
        for path in (ROOT / part).rglob("*.py"):
            inner = path.relative_to(ROOT).as_posix()
            assert (inner if part == "girl_features" else f"girl_features/{inner}") in names


def test_help_and_quick_demo_run_from_the_wheel(environment: Path, tmp_path: Path) -> None:
    python = environment / "bin" / "python"
    where = subprocess.run(
        [python, "-c", "import girl_features; print(girl_features.__file__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert str(environment) in where
    girl = environment / "bin" / "girl"
    shown = subprocess.run([girl, "--help"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "materialize" in shown.stdout
    run = {"cwd": tmp_path, "capture_output": True, "text": True}
    demo = subprocess.run([girl, "demo", "--quick", "--json", "demo.json"], **run)
    assert demo.returncode == 0, demo.stderr
    result = json.loads((tmp_path / "demo.json").read_text())
    assert {row["predictor"] for row in result["rows"]} >= {"mlp", "dot", "lightgbm"}
    assert {row["row"] for row in result["rows"]} == {"base", "girl-sft", "girl"}
    assert {row["slice"] for row in result["rows"]} >= {"all", "cold"}
    assert result["simulation"] is True

    config = ["--config", "girl-demo/girl.yaml"]
    again = subprocess.run([girl, "materialize", "--anyway", *config, "--json", "-"], **run)
    assert again.returncode == 0, again.stderr
    report = json.loads(again.stdout)
    assert (report["n_planned"], report["n_cv_vectors"], report["n_jd_vectors"]) == (0, 0, 0), "nothing twice"

    seeker = result["example"]["job_seeker_id"]
    found = subprocess.run([girl, "lookup", seeker, "nobody", *config, "--json", "-"], **run)
    assert found.returncode == 0, found.stderr
    assert [row["has_generated_jd"] for row in json.loads(found.stdout)] == [True, False]

    (data,) = (tmp_path / "girl-demo").glob("market-*/interactions.parquet")
    decisions = pl.read_parquet(data)
    late = decisions.sample(decisions.height, shuffle=True, seed=0)
    late.write_parquet(tmp_path / "pairs.parquet")
    joined = subprocess.run([girl, "join", "pairs.parquet", "with_girl.parquet", "--fit", *config], **run)
    assert joined.returncode == 0, joined.stderr
    table = pl.read_parquet(tmp_path / "with_girl.parquet")
    assert table.select(late.columns).equals(late), "the same rows in the same order"
    assert 0 < table["girl_cos_generated_jd_jd"].null_count() < late.height, "null before the generator was trained"
