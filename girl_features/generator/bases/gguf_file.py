"""Conversion of a GGUF file, the format of llama.cpp, into a folder with safetensors weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from girl_features.errors import CheckpointError, reason_of, require

_OF_THIS_MACHINE = ("transformers_version", "is_local", "local_files_only")  # settings that say nothing of the model


def convert_gguf(file: Path, folder: Path) -> None:
    """Write the model and the tokenizer of a GGUF file into `folder`, which exists, with weights in float32.

    The files do not depend on the version of the libraries, so that every machine gets the same hash of them.

    Raises:
        MissingExtraError: a library is not installed.
        CheckpointError: the file is damaged, or holds a kind of model that the libraries do not know.
    """
    require("gguf", "generate")
    transformers = require("transformers", "generate")
    source = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    transformers.utils.logging.disable_progress_bar()
    try:
        _check_positions_are_plain(file)
        loaded: Any
        loaded, loading = transformers.AutoModelForCausalLM.from_pretrained(
            **source, trust_remote_code=False, output_loading_info=True
        )
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(**source, trust_remote_code=False)
    except CheckpointError:
        raise
    except Exception as error:  # the reader raises whatever a damaged file leads to
        reason = reason_of(error)
        raise CheckpointError(f"{file} cannot be read as a GGUF file ({type(error).__name__}: {reason})") from error
    missing = sorted(loading["missing_keys"])
    if missing:  # the library draws them at random
        raise CheckpointError(
            f"{file} lacks {len(missing)} weights of the model, {missing[0]} among them; if it is one of several "
            f"pieces, join them with `llama-gguf-split --merge`"
        )
    loaded.config.__dict__.pop(
        "quantization_config", None
    )  # else the model says that it is quantized, and is not saved
    model = type(loaded)(loaded.config).float()
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for path in folder.glob("*config.json"):
        settings = json.loads(path.read_text(encoding="utf-8"))
        for name in _OF_THIS_MACHINE:
            settings.pop(name, None)
        path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _check_positions_are_plain(file: Path) -> None:
    """Refuse a file whose positions are scaled: the library reads it as if they were not, and other texts come out."""
    reader = require("gguf", "generate").GGUFReader(file)
    scaling = next((field for name, field in reader.fields.items() if name.endswith(".rope.scaling.type")), None)
    is_scaled = scaling is not None and str(scaling.contents()) != "none"
    if is_scaled or any(tensor.name.startswith("rope_freqs") for tensor in reader.tensors):
        raise CheckpointError(
            f"{file} scales its positions (RoPE), which is not read from GGUF files; give the model's folder with "
            f"safetensors weights"
        )
