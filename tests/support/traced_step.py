"""Memory of a whole step, counted on fake tensors; nothing is computed.

Storages are counted as the operations make them, on a device without memory, so no card is needed. What cards add by
themselves (a context, rounding of sizes) is not counted.
"""

from typing import Any

import numpy as np
import torch

from thinktune.config.schema import TrainConfig
from thinktune.distributed.world import World
from thinktune.model.batch import pack
from thinktune.model.long_rows.activation_offload import offload_layer_inputs
from thinktune.model.long_rows.tiled_mlp import MATRICES, TILE_TOKENS, derive_tiles, forward_tiles
from thinktune.model.loss import linear_cross_entropy
from thinktune.model.transforms import apply_activation_budget
from thinktune.optim.memory_tiers import TIERS, pick_memory_tier
from thinktune.optim.optimizer import Optimizer
from thinktune.planner.layer_calls import (
    META,
    TRACE_ATTENTION,
    fake_mode,
    kernels_without_memory,
    model_without_memory,
    run_decoder,
    token_inputs,
)
from thinktune.planner.trace import LiveBytes
from thinktune.tokenization import Rendered, TokenKind
from thinktune.train.step import step


def whole_step(
    config: Any,
    settings: TrainConfig,
    dtype: torch.dtype,
    tokens: int,
    learned: int,
    *,
    recompute: bool,
    offloaded: bool = False,
    device: torch.device = META,
) -> tuple[int, int, int]:
    """Trace a real step of a real model, uncompiled; return bytes on the device before and at its peak, and on the host.

    Autocast knows the CPU, but not the device without memory; traced on the CPU, all bytes are there.
    """
    ids, parts = np.zeros(tokens, np.int32), np.full(tokens, int(TokenKind.PROMPT), np.uint8)
    parts[tokens - learned :] = int(TokenKind.ANSWER)
    [batch] = pack([Rendered(ids, parts, "traced")], tokens)
    with fake_mode(), LiveBytes(device) as live:
        held = TIERS[pick_memory_tier(settings, device)].load_dtype
        model = model_without_memory(config, held, device, TRACE_ATTENTION).train()
        if offloaded:
            seen_tiles(model)
            offload_layer_inputs(model, compiled=False)
        elif recompute:
            apply_activation_budget(model, 0.0, compiled=False)
        update = Optimizer(model, settings)
        on_device = batch.to(device)
        before = live.reset_peak()
        update.begin_step(1, 1e-5)
        made = step(model, [on_device], update, World(), dtype)
        found = before, live.peak_bytes, live.host_bytes
        del made, model, update
    return found


class _Tiles(torch.autograd.Function):
    """What the operator of tiled MLPs does, where a trace can see what it allocates."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> torch.Tensor:
        ctx.save_for_backward(*inputs[:4])
        ctx.rest = inputs[4:]
        return forward_tiles(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        return *derive_tiles(gradient, *ctx.saved_tensors, *ctx.rest), None, None


def seen_tiles(model: Any) -> None:
    """Run the MLPs of a model in tiles, as `tile_mlps` does, but in the open."""
    for layer in model.model.layers:
        weights = [getattr(layer.mlp, name) for name in MATRICES]
        layer.mlp.forward = lambda hidden, weights=weights: _Tiles.apply(
            hidden, *(part.weight for part in weights), "silu", TILE_TOKENS
        )


def whole_pass(config: Any, tokens: int, learned: int, *, recompute: bool) -> int:
    """Trace a step of a model of any class, each weight updated in its backward pass; return the bytes at its peak."""
    with fake_mode(), kernels_without_memory(), LiveBytes(META) as live:
        model = model_without_memory(config, torch.bfloat16, META, TRACE_ATTENTION).train()
        if recompute:
            apply_activation_budget(model, 0.0, compiled=False)
        update = Optimizer(model, TrainConfig(rows_per_step=1, memory="8bit", update_in_backward=True))
        update.begin_step(1, 1e-5)
        ids, positions = token_inputs(tokens, META)
        targets = torch.empty(learned, dtype=torch.int64, device=META)
        states = run_decoder(model, ids, positions)[0].index_select(0, targets)
        weight = model.get_output_embeddings().weight
        linear_cross_entropy(states, weight, targets, scale=1.0, dtype=torch.bfloat16)[0].backward()
        return live.peak_bytes
