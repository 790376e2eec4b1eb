"""Small random models as GGUF files, the format of llama.cpp, with a byte-level tokenizer."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from tokenizers.pre_tokenizers import ByteLevel

SHAPE = {"hidden": 16, "mlp": 32, "layers": 2, "heads": 2}
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(ByteLevel.alphabet()), "ab"]
CHAT_TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


def write_gguf(
    path: Path, seed: int = 0, *, without: str = "nothing", rope_scaling: str | None = None, rope_freqs: bool = False
) -> dict[str, np.ndarray]:
    """Write a random Llama with tied token vectors to `path`, and return its weights by their names in the file.

    Weights whose names begin with `without` are left out. The other arguments say that its positions are scaled.
    """
    rng, hidden, mlp = np.random.default_rng(seed), SHAPE["hidden"], SHAPE["mlp"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(1024)
    writer.add_embedding_length(hidden)
    writer.add_block_count(SHAPE["layers"])
    writer.add_feed_forward_length(mlp)
    writer.add_head_count(SHAPE["heads"])
    writer.add_head_count_kv(SHAPE["heads"])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(hidden // SHAPE["heads"])
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3, *[1] * (len(TOKENS) - 3)])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template(CHAT_TEMPLATE)
    shapes = {"token_embd": (len(TOKENS), hidden), "output_norm": (hidden,)}
    for layer in range(SHAPE["layers"]):
        square, wide = (hidden, hidden), (mlp, hidden)
        block = {f"attn_{name}": square for name in ("q", "k", "v", "output")}
        block |= {"ffn_gate": wide, "ffn_up": wide, "ffn_down": wide[::-1]}
        block |= {"attn_norm": (hidden,), "ffn_norm": (hidden,)}
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in block.items()}
    weights = {f"{name}.weight": rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    weights = {name: tensor for name, tensor in weights.items() if not name.startswith(without)}
    if rope_scaling is not None:
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope_scaling))
    if rope_freqs:
        weights["rope_freqs.weight"] = np.ones(hidden // SHAPE["heads"] // 2, np.float32)
    for name, tensor in weights.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights
