"""A model of any size with random weights, made where it is used."""

from typing import Any

import torch
from transformers import AutoModelForCausalLM, Qwen3Config


def random_model(config: Qwen3Config, device: torch.device, dtype: torch.dtype, seed: int = 0) -> Any:
    """Make a model of any configuration with random weights, directly on the device and in `dtype`.

    There is no other copy: a model of 32 billion parameters in bf16 takes 64 GB, on the device alone.
    """
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="thinktune_rows")
    model.to_empty(device=device)
    model.tie_weights()
    generator = torch.Generator(device).manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim < 2:
                weight.fill_(1)
            else:
                weight.normal_(std=0.02, generator=generator)
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(device)  # its buffers are computed, not random
    return model
