"""The update: AdamW in every memory tier, clipped and refused on the device itself, and the learning rate's shape."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from thinktune.config import MemoryTierName, TrainConfig
from thinktune.distributed import local_shard
from thinktune.distributed.sharding import as_shard_of, element_offset, shard_mesh
from thinktune.errors import UserError
from thinktune.optim.adamw import ParameterState, StepScalars, adamw_update, chunk_elements
from thinktune.optim.memory_tiers import TIERS, MemoryTier, pick_memory_tier
from thinktune.optim.offload import StateOffloader, zero_blocks_on_host
from thinktune.optim.quantization import (
    BlockQuantized,
    Moment,
    eight_bit_codebook,
    four_bit_codebook,
    join_master,
    random_keys,
    split_master,
    zero_blocks,
)


class Optimizer:
    """AdamW (Loshchilov and Hutter, 2019) in one tier, after the backward pass or inside it.

    Clipping and the refusal of a gradient that is not finite happen on the device, by numbers that the host never
    waits for: no weight ever takes a bad number. Making it turns the model's weights into the tier's own type.

    Inside the backward pass each weight moves as soon as its gradient is whole, and the gradient is gone before the
    next one comes. Its true norm is not known then, so gradients are divided by what the larger of two norms asks for:
    that of the last step, and that of this step's gradients so far. After a bad gradient the rest of the step moves
    nothing; what moved before it stays moved. A step must be one backward pass.
    """

    def __init__(self, model: nn.Module, settings: TrainConfig) -> None:
        self.parameters = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        first = next(iter(self.parameters.values()))
        self.memory: MemoryTierName = pick_memory_tier(settings, first.device)
        self.in_backward = settings.update_in_backward
        self._settings, self._tier, self._device = settings, TIERS[self.memory], first.device
        remainders = [_convert_weight(weight, self._tier) for weight in self.parameters.values()]
        self._mesh = shard_mesh(first)
        if self._mesh:
            model._apply(_identity)  # pyright: ignore[reportPrivateUsage]  # has FSDP2 take up the converted weights
        shares = [local_shard(weight) for weight in self.parameters.values()]
        largest = max(1, *(kept.numel() for kept in shares))
        self._offloader = (
            StateOffloader(first.device, min(largest, chunk_elements(first.device))) if self._tier.offloaded else None
        )
        self._leaves: Sequence[Tensor] = ()
        self._fused_adamw: torch.optim.AdamW | None = None
        self._states: list[ParameterState] = []
        if self.memory == "fp32" and not self.in_backward:
            self._leaves = [nn.Parameter(kept) for kept in shares] if self._mesh else [*self.parameters.values()]
            self._fused_adamw = _make_fused_adamw(self._leaves, settings)
        if not self._fused_adamw:
            whose = zip(self.parameters.values(), remainders, strict=True)
            self._states = [_make_parameter_state(weight, rest, self._tier, self._offloader) for weight, rest in whose]
        # Scalars of the host would be rounded once; on the CPU double precision does the same for ours.
        kind = torch.float64 if first.device.type == "cpu" else torch.float32
        self._step_counts = torch.zeros(len(self._states), dtype=kind, device=first.device)
        self._learning_rate = torch.zeros((), dtype=kind, device=first.device)
        self._random_keys = torch.empty(0)
        self._last_norm, self._squared_norm = (torch.zeros((), device=first.device) for _ in range(2))
        if self.in_backward:
            for index, weight in enumerate(self.parameters.values()):
                weight.register_post_accumulate_grad_hook(partial(self._update_in_backward, index))

    def begin_step(self, step: int, learning_rate: float) -> None:
        """Before a step's first forward pass."""
        if self._fused_adamw:
            for group in self._fused_adamw.param_groups:
                group["lr"] = learning_rate
        if self._offloader:
            self._offloader.begin_step()
        self._learning_rate.fill_(learning_rate)
        if self._states:
            self._random_keys = random_keys(self._settings.seed, step, len(self._states), self._device)
        self._squared_norm = torch.zeros_like(self._squared_norm)

    def finish_step(self) -> Tensor:
        """After the last backward pass: move the weights, forget the gradients, return the norm before clipping."""
        if self.in_backward:
            norm = self._squared_norm.sqrt()
            self._last_norm = torch.where(norm.isfinite(), norm, self._last_norm)
            return norm
        gradients = [local_shard(weight.grad) for weight in self.parameters.values() if weight.grad is not None]
        norm = nn.utils.get_total_norm(gradients) if self._tier.weights == "fp32" else _total_norm(gradients)
        norm = self._norm_over_shards(norm)
        scale, bad = (norm / self._settings.clip_norm).clamp(min=1.0), ~torch.isfinite(norm)
        if self._fused_adamw:
            self._step_fused(self._fused_adamw, scale, bad)
            return norm
        for index, weight in enumerate(self.parameters.values()):
            self._update_parameter(index, weight, scale, bad)
        return norm

    def _norm_over_shards(self, norm: Tensor) -> Tensor:
        """The norm of all shares, from that of this rank's."""
        if self._mesh is None or self._mesh.size() == 1:
            return norm
        square = norm.square()
        dist.all_reduce(square, group=self._mesh.get_group())
        return square.sqrt()

    def _step_fused(self, adamw: Any, grad_scale: Tensor, found_inf: Tensor) -> None:
        """Torch's own pass over all weights."""
        for leaf, weight in zip(self._leaves, self.parameters.values(), strict=True):
            if leaf is not weight:
                leaf.grad, weight.grad = None if weight.grad is None else local_shard(weight.grad), None
        adamw.grad_scale = grad_scale  # what the pass divides gradients by
        adamw.found_inf = found_inf.float()  # where it is 1 the pass leaves everything as it was
        adamw.step()
        adamw.zero_grad(set_to_none=True)

    def _update_in_backward(self, index: int, weight: Tensor) -> None:
        """The hook of a weight whose gradient is whole."""
        assert weight.grad is not None
        self._squared_norm = (
            self._squared_norm + self._norm_over_shards(_total_norm([local_shard(weight.grad)])).square()
        )
        norm = torch.maximum(self._squared_norm.sqrt(), self._last_norm)
        self._update_parameter(index, weight, (norm / self._settings.clip_norm).clamp(min=1.0), ~torch.isfinite(norm))

    def _update_parameter(self, index: int, weight: Tensor, grad_scale: Tensor, found_inf: Tensor) -> None:
        if weight.grad is None:
            return
        decay = self._settings.weight_decay if weight.ndim >= 2 else 0.0
        push = StepScalars(
            self._learning_rate, self._step_counts[index], grad_scale, found_inf, self._settings.betas, decay
        )
        with torch.no_grad():
            adamw_update(self._states[index], local_shard(weight.grad), push, self._random_keys[index])
            self._step_counts[index] += ~found_inf
        weight.grad = None

    def master_weight(self, name: str) -> Tensor:
        """A weight as it is kept: the fp32 master where there is one, cut over ranks as the weight is."""
        weight = self.parameters[name]
        if self._tier.weights != "exact":
            return weight
        slot = self._states[list(self.parameters).index(name)]
        assert slot.remainder is not None
        return as_shard_of(join_master(slot.weight, slot.remainder).view(local_shard(weight).shape), weight)

    def master_weights(self) -> dict[str, Tensor] | None:
        """The fp32 masters on the CPU, where they are kept apart from the model's weights; else none."""
        if self._tier.weights != "exact":
            return None
        return {name: self.master_weight(name).cpu() for name in self.parameters}

    def state_dict(self) -> dict[str, Tensor]:
        """Everything beside the weights that a later run needs to go on exactly, as named tensors, not copied.

        Where weights are cut over ranks, so are these; the whole does not depend on how.
        """
        if self._offloader:
            self._offloader.synchronize()
        found: dict[str, Tensor] = {}
        if self._fused_adamw:
            for (name, weight), leaf in zip(self.parameters.items(), self._leaves, strict=True):
                kept = self._fused_adamw.state[leaf]
                found |= {f"{name}/{key}": as_shard_of(kept[key], weight) for key in ("exp_avg", "exp_avg_sq")}
                found[f"{name}/step"] = kept["step"]
            return found
        found = {"counts": self._step_counts, "last_norm": self._last_norm}
        for (name, weight), slot in zip(self.parameters.items(), self._states, strict=True):
            for moment in ("first", "second"):
                parts = _moment_tensors(moment, getattr(slot, moment), weight)
                found |= {f"{name}/{key}": value for key, value in parts.items()}
        return found


def _make_fused_adamw(leaves: Sequence[Tensor], settings: TrainConfig) -> torch.optim.AdamW:
    """Torch's own AdamW over fp32 weights, in one fused pass over all of them."""
    groups = [
        {"params": [leaf for leaf in leaves if leaf.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [leaf for leaf in leaves if leaf.ndim < 2], "weight_decay": 0.0},
    ]
    made = torch.optim.AdamW([group for group in groups if group["params"]], betas=settings.betas, fused=True)
    for leaf in leaves:  # as its first step would; so that there is something to read a saved state into
        step = torch.zeros((), device=leaf.device)
        made.state[leaf] = {"step": step, "exp_avg": torch.zeros_like(leaf), "exp_avg_sq": torch.zeros_like(leaf)}
    return made


def _identity(tensor: Tensor) -> Tensor:
    return tensor


def _convert_weight(weight: nn.Parameter, tier: MemoryTier) -> Tensor | None:
    """Turn a weight into what the tier computes with; the flat remainder of an exact master."""
    kept, remainder = local_shard(weight.detach()), None
    match tier.weights:
        case "fp32":
            kept = kept.float().contiguous()
        case "exact":
            kept, remainder = split_master(kept.float().contiguous())
            remainder = remainder.view(-1)
        case "rounded":
            kept = kept.to(torch.bfloat16).contiguous()
    if shard_mesh(weight):
        torch.utils.swap_tensors(weight, nn.Parameter(as_shard_of(kept, weight)))
    else:
        weight.data = kept
    return remainder


def _make_parameter_state(
    weight: nn.Parameter, remainder: Tensor | None, tier: MemoryTier, offloader: StateOffloader | None
) -> ParameterState:
    """A weight's place in the update."""
    kept = local_shard(weight.detach())
    first, second = (_zero_moment(weight, kept, tier, signed=signed) for signed in (True, False))
    carried = offloader if isinstance(first, BlockQuantized) else None
    return ParameterState(kept.view(-1), remainder, first, second, carried, element_offset(weight))


def _zero_moment(weight: Tensor, kept: Tensor, tier: MemoryTier, *, signed: bool) -> Moment:
    size, device = kept.numel(), kept.device
    states = tier.states if weight.ndim >= 2 or tier.states == "bf16" else "fp32"
    match states:
        case "fp32":
            return torch.zeros(size, device=device)
        case "bf16":
            return torch.zeros(size, dtype=torch.bfloat16, device=device)
        case "8bit":
            make = zero_blocks_on_host if tier.offloaded else zero_blocks
            made = make(size, eight_bit_codebook(signed=signed).to(device))
        case "4bit":
            made = zero_blocks(size, four_bit_codebook(signed=signed).to(device))
    if size < weight.numel() and not _rows_fill_blocks(made, weight):
        raise UserError(
            f"train.strategy: cuts weights over cards, and a row of {weight.shape[-1]} numbers does not fill whole "
            f"blocks of {made.block_size}, as {states} states need; set train.strategy: replicate, or train.memory: exact"
        )
    return made


def _rows_fill_blocks(blocks: BlockQuantized, weight: Tensor) -> bool:
    return (weight.numel() // max(1, weight.shape[0])) % blocks.block_size == 0


def _moment_tensors(moment: str, state: Moment, weight: Tensor) -> dict[str, Tensor]:
    """A moment's own tensors under their names, by the weight's rows; the levels are the code's, not the run's."""
    kept = local_shard(weight.detach())
    if isinstance(state, Tensor):
        return {moment: as_shard_of(state.view(kept.shape), weight)}
    codes, scales = state.codes, state.scales
    if _rows_fill_blocks(state, weight):
        rows = kept.shape[0]
        blocks = weight.numel() // weight.shape[0] // state.block_size
        codes, scales = (
            as_shard_of(part, weight) for part in (codes.view(rows, blocks, -1), scales.view(rows, blocks))
        )
    return {f"{moment}_codes": codes, f"{moment}_scales": scales}


def _total_norm(gradients: list[Tensor]) -> Tensor:
    """The norm of all, summed in fp32: bf16 would keep three digits of it."""
    return torch.stack([torch.linalg.vector_norm(gradient, dtype=torch.float32) for gradient in gradients]).norm()
