"""Models that will read the CVs, for `girl check`: found on this machine without loading or downloading them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from girl_features.config import GirlConfig
from girl_features.encoder import BUNDLED_MODELS
from girl_features.generator.bases.catalogue import KNOWN_BASES
from girl_features.generator.bases.finding import present_base
from girl_features.generator.checkpoint import adapter_settings, is_adapter, trained_generators
from girl_features.generator.opening import was_trained_as
from girl_features.input.text_report import Reader

_TOKENIZER = "tokenizer.json"


def cv_readers(config: GirlConfig) -> list[Reader]:
    """Return the generator and the encoder that `config` names; not an encoder whose limit is unknown."""
    setting = "generator.max_cv_tokens"
    readers = [Reader("generator", setting, config.generator.max_cv_tokens, _generator_tokenizer(config))]
    tokenizer = _model_file(config.encoder.name, _TOKENIZER)
    limit = _encoder_limit(config.encoder.name)
    if limit is not None:
        readers.append(Reader("encoder", "encoder.name", limit, tokenizer))
    return readers


def base_reader(folder: str, config: GirlConfig) -> Reader:
    """Return the base model in `folder` as a reader of CVs."""
    return Reader("generator", "generator.base", config.generator.max_cv_tokens, _model_file(folder, _TOKENIZER))


def _generator_tokenizer(config: GirlConfig) -> Path | None:
    settings = config.generator
    trained = [folder for folder in trained_generators(config.generators_dir) if was_trained_as(config, folder)]
    folder = settings.checkpoint or next(iter(trained), None)
    if folder is None:
        if settings.base in KNOWN_BASES:
            present = present_base(settings.base, config.bases_dir)
            return None if present is None else _model_file(str(present), _TOKENIZER)
        return None if settings.base == "tiny" else _model_file(settings.base, _TOKENIZER)
    if is_adapter(folder) and not (folder / _TOKENIZER).is_file():
        return _model_file(str(adapter_settings(folder)["base_model_name_or_path"]), _TOKENIZER)
    return _model_file(str(folder), _TOKENIZER)


def _encoder_limit(name: str) -> int | None:
    path = _model_file(name, "sentence_bert_config.json")
    try:
        limit = json.loads(path.read_text(encoding="utf-8"))["max_seq_length"] if path else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # `girl materialize` says what is wrong with the encoder
    return limit if isinstance(limit, int) else None


def _model_file(name: str, file: str) -> Path | None:
    """Return a file of a model that is a folder, in an installed package, or in the cache of Hugging Face's hub."""
    folder: Path | None = Path(name) if Path(name).is_dir() else None
    package = BUNDLED_MODELS.get(name.removeprefix("sentence-transformers/"))
    if folder is None and package is not None:
        spec = importlib.util.find_spec(package)
        folder = Path(spec.origin).parent / "model" if spec is not None and spec.origin is not None else None
    if folder is not None:
        return folder / file if (folder / file).is_file() else None
    if importlib.util.find_spec("huggingface_hub") is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    for repo in (name, f"sentence-transformers/{name}"):
        cached = try_to_load_from_cache(repo, file) if repo.count("/") <= 1 else None
        if isinstance(cached, str):
            return Path(cached)
    return None
