"""Refuse to build where the links to the top folders are missing; the settings are in pyproject.toml.

A zip of the repository, and git on Windows without `core.symlinks`, turn links into small files. setuptools would then
leave three packages out of the wheel without a word.
"""

from pathlib import Path

from setuptools import setup

for name in ("trainers", "integrations", "feature_repo"):
    folder = Path(__file__).parent / "girl_features" / name
    if not folder.is_dir():
        raise SystemExit(
            f"{folder} is not a folder: the link to {name}/ is missing, as in a zip of the repository. Build from a "
            f"git clone, an sdist or a tar archive; on Windows clone with `git -c core.symlinks=true clone`"
        )

setup()
