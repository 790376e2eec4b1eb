"""Settings of the LoRA adapters of all stages: `lora_alpha` is always twice the rank."""

from __future__ import annotations

from typing import Any

import torch
from transformers.pytorch_utils import Conv1D


def generator_adapter(rank: int) -> Any:
    """Return the peft settings of adapters on every linear layer of a causal language model."""
    from peft import LoraConfig

    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")


def reward_adapter(model: Any, rank: int) -> Any:
    """Return the peft settings of adapters on every linear layer of a reward model but its head.

    The task type SEQ_CLS makes peft train and save the whole head `score`. An adapter on the head as well would
    change the scores of the model when it is loaded again.
    """
    from peft import LoraConfig

    linear = {n.split(".")[-1] for n, m in model.named_modules() if isinstance(m, torch.nn.Linear | Conv1D)}
    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=sorted(linear - {"score"}), task_type="SEQ_CLS")
