"""Engines that run a generator: choose one for this machine, and open it."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from girl_features.config import EngineSetting, PromptStyle
from girl_features.contract import FeatureContract, SamplingContract
from girl_features.errors import ConfigError
from girl_features.generator import Generator
from girl_features.generator.checkpoint import n_parameters
from girl_features.generator.prompts import style_of

_PACKAGES = {"openvino": "openvino_genai", "openvino-float32": "openvino_genai", "vllm": "vllm"}
_EXTRAS = {"openvino": "openvino", "openvino-float32": "openvino", "vllm": "vllm"}
SMALL = 30_000_000  # parameters; smaller models run slower with a second thread


class Engine(Generator, Protocol):
    """Protocol of every engine: a generator that is loaded from a checkpoint."""

    prompt_version: str  # version of the prompt template in use


def fastest_engine() -> str:
    """Return the fastest installed engine: vLLM on a GPU, OpenVINO on a CPU, otherwise transformers."""
    import torch

    best = "vllm" if torch.cuda.is_available() else "openvino"
    return best if find_spec(_PACKAGES[best]) else "transformers"


def settle_engine(
    setting: EngineSetting, contract: FeatureContract, known: Iterable[FeatureContract]
) -> FeatureContract:
    """Return `contract` with the engine that `setting`, the value of `generator.engine`, selects.

    Engines write different texts, so each engine has a contract of its own. `auto` selects the fastest engine of this
    machine. But if the store has features of this contract from other engines only, it keeps to the newest of these,
    so that a new machine does not generate everything again. `known` are the contracts in the store, oldest first.
    """
    if setting != "auto":
        return _with_engine(setting, contract)
    stored = [c.engine_name for c in known if _with_engine(c.engine_name, contract) == c]
    fastest = fastest_engine()
    return _with_engine(fastest if fastest in stored or not stored else stored[-1], contract)


def _with_engine(engine: str, contract: FeatureContract) -> FeatureContract:
    return contract.model_copy(update={"engine": None if engine == "transformers" else engine})


def open_engine(
    contract: FeatureContract, folder: Path, *, batch_size: int | None, threads: int | None, exports: Path
) -> Engine:
    """Load the generator in `folder` with the engine, the sampling and the prompt of `contract`.

    The other arguments and the errors are those of `start_engine`.
    """
    return start_engine(
        contract.engine_name,
        folder,
        contract.sampling,
        contract.max_cv_tokens,
        style=style_of(contract.prompt_version),
        batch_size=batch_size,
        threads=threads,
        exports=exports,
    )


def start_engine(
    engine: str,
    folder: Path,
    sampling: SamplingContract,
    max_cv_tokens: int,
    *,
    style: PromptStyle,
    batch_size: int | None,
    threads: int | None,
    exports: Path,
) -> Engine:
    """Load the generator in `folder` with an engine.

    Args:
        engine: name of the engine.
        folder: a causal LM or a LoRA adapter.
        sampling: how JDs are sampled.
        max_cv_tokens: number of first tokens of a CV that the prompt keeps.
        style: what the prompt asks for.
        batch_size: JDs generated at once; None is 32, or with vLLM as many as fit into memory.
        threads: CPU threads; None is one thread for a small model, else all cores.
        exports: folder that keeps generators in OpenVINO's format.

    Raises:
        ConfigError: the engine is not installed.
        CheckpointError: the checkpoint cannot be loaded, or not with this engine.
    """
    _check_installed(engine)
    if engine == "vllm":
        from girl_features.generator.vllm_engine import VLLMGenerator

        return VLLMGenerator(folder, sampling, max_cv_tokens=max_cv_tokens, batch_size=batch_size, style=style)
    if threads is None and n_parameters(folder) < SMALL:
        threads = 1
    if engine == "transformers":
        from girl_features.generator.transformers_engine import TransformersGenerator

        return TransformersGenerator(
            folder, sampling, max_cv_tokens=max_cv_tokens, batch_size=batch_size or 32, threads=threads, style=style
        )
    from girl_features.generator.openvino_engine import OpenVINOGenerator

    return OpenVINOGenerator(
        folder,
        sampling,
        max_cv_tokens=max_cv_tokens,
        batch_size=batch_size or 32,
        threads=threads,
        weights="int8" if engine == "openvino" else "float32",
        exports=exports,
        style=style,
    )


def _check_installed(engine: str) -> None:
    package = _PACKAGES.get(engine)
    if package is not None and find_spec(package) is None:
        raise ConfigError(
            f"the engine {engine!r} needs the package {package!r}, which is not installed: "
            f"run `pip install 'girl-features[{_EXTRAS[engine]}]'`, or set `generator.engine`; another "
            f"engine generates every text again, under a new contract"
        )
