"""Which engine writes the JDs: what `auto` stands for, and how each is opened."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from girl_features.config import EngineSetting
from girl_features.contract import FeatureContract
from girl_features.errors import ConfigError
from girl_features.generator import Generator
from girl_features.generator.checkpoint import weights_size

_PACKAGES = {"openvino": "openvino_genai", "openvino-float32": "openvino_genai", "vllm": "vllm"}
_EXTRAS = {"openvino": "openvino", "openvino-float32": "openvino", "vllm": "vllm"}
SMALL_BYTES = 120_000_000  # 30 M float32 weights; below, a second thread costs more than it gives


class Engine(Generator, Protocol):
    """A generator that was loaded from a checkpoint."""

    @property
    def prompt_version(self) -> str:
        """Of the prompt that it writes."""
        ...


def fastest_engine() -> str:
    """The engine for this machine: vLLM where a GPU and vLLM are, OpenVINO on CPUs where it is, else the reference."""
    import torch

    best = "vllm" if torch.cuda.is_available() else "openvino"
    return best if find_spec(_PACKAGES[best]) else "transformers"


def settle_engine(
    setting: EngineSetting, contract: FeatureContract, known: Iterable[FeatureContract]
) -> FeatureContract:
    """`contract` with the engine that `setting` means.

    Engines write different texts, so each makes a contract of its own. `auto` is this machine's fastest; but where
    the store holds `contract` made by another engine and not by that one, it is the other: a new machine alone is no
    reason to make every feature again.

    Args:
        setting: `generator.engine`.
        contract: the one wanted, whatever its engine.
        known: contracts in the store, oldest first.
    """
    if setting != "auto":
        return _made_by(setting, contract)
    used = [c.engine_name for c in known if _made_by(c.engine_name, contract) == c]
    fastest = fastest_engine()
    return _made_by(fastest if fastest in used or not used else used[-1], contract)


def _made_by(engine: str, contract: FeatureContract) -> FeatureContract:
    return contract.model_copy(update={"engine": None if engine == "transformers" else engine})


def open_engine(
    contract: FeatureContract, folder: Path, *, batch_size: int | None, threads: int | None, exports: Path
) -> Engine:
    """The generator in `folder`, run by the contract's engine.

    Args:
        contract: says which engine, and how JDs are drawn.
        folder: a causal LM or a LoRA adapter.
        batch_size: JDs written at once; None for 32, or what vLLM finds room for.
        threads: of the CPU; None for one where the model is small, else all cores.
        exports: where generators in OpenVINO's format lie.

    Raises:
        ConfigError: the engine is not installed here.
        CheckpointError: the checkpoint cannot be loaded, or not by this engine.
    """
    engine = contract.engine_name
    _check_installed(engine)
    drawing: dict[str, Any] = {
        "max_cv_tokens": contract.max_cv_tokens,
        "max_new_tokens": contract.sampling.max_new_tokens,
        "temperature": contract.sampling.temperature,
        "top_p": contract.sampling.top_p,
    }
    if engine == "vllm":
        from girl_features.generator.vllm_engine import VLLMGenerator

        return VLLMGenerator(folder, **drawing, batch_size=batch_size)
    if threads is None and weights_size(folder) < SMALL_BYTES:
        threads = 1
    if engine == "transformers":
        from girl_features.generator.transformers_engine import TransformersGenerator

        return TransformersGenerator(folder, **drawing, batch_size=batch_size or 32, threads=threads)
    from girl_features.generator.openvino_engine import OpenVINOGenerator

    return OpenVINOGenerator(
        folder,
        **drawing,
        batch_size=batch_size or 32,
        threads=threads,
        weights="int8" if engine == "openvino" else "float32",
        exports=exports,
    )


def _check_installed(engine: str) -> None:
    package = _PACKAGES.get(engine)
    if package is not None and find_spec(package) is None:
        raise ConfigError(
            f"the engine {engine!r} needs the package {package!r}, which is not installed: "
            f"`pip install 'girl-features[{_EXTRAS[engine]}]'`, or choose another with `generator.engine`, "
            f"which makes every text anew under a contract of its own"
        )
