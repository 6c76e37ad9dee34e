"""The update: AdamW in every memory tier, clipped and refused on the device itself, and the learning rate's shape."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from thinktune.config.schema import Memory, Train
from thinktune.distributed.sharding import cut_like, elements_before, shard_mesh, share
from thinktune.errors import UserError
from thinktune.optim.adamw import Push, Slot, chunk_of, move
from thinktune.optim.memory_tiers import TIERS, Tier, pick_memory
from thinktune.optim.offload import Ferry, host_blocks
from thinktune.optim.quantization import (
    Blocks,
    State,
    eight_bit_levels,
    empty_blocks,
    four_bit_levels,
    join,
    keys,
    split,
)


class Update:
    """AdamW (Loshchilov and Hutter, 2019) in one tier, after the backward pass or inside it.

    Clipping and the refusal of a gradient that is not finite happen on the device, by numbers that the host never
    waits for: no weight ever takes a bad number. Making it turns the model's weights into the tier's own type.

    Inside the backward pass each weight moves as soon as its gradient is whole, and the gradient is gone before the
    next one comes. Its true norm is not known then, so gradients are divided by what the larger of two norms asks for:
    that of the last step, and that of this step's gradients so far. After a bad gradient the rest of the step moves
    nothing; what moved before it stays moved. A step must be one backward pass.
    """

    def __init__(self, model: nn.Module, settings: Train) -> None:
        self.parameters = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        first = next(iter(self.parameters.values()))
        self.memory: Memory = pick_memory(settings, first.device)
        self.inside = settings.update_in_backward
        self._settings, self._tier, self._device = settings, TIERS[self.memory], first.device
        remainders = [_convert(weight, self._tier) for weight in self.parameters.values()]
        self._mesh = shard_mesh(first)
        if self._mesh:
            model._apply(_itself)  # pyright: ignore[reportPrivateUsage]  # has FSDP2 take up the converted weights
        shares = [share(weight) for weight in self.parameters.values()]
        largest = max(1, *(kept.numel() for kept in shares))
        self._ferry = Ferry(first.device, min(largest, chunk_of(first.device))) if self._tier.streamed else None
        self._leaves: Sequence[Tensor] = ()
        self._fused: torch.optim.AdamW | None = None
        self._slots: list[Slot] = []
        if self.memory == "fp32" and not self.inside:
            self._leaves = [nn.Parameter(kept) for kept in shares] if self._mesh else [*self.parameters.values()]
            self._fused = _fused(self._leaves, settings)
        if not self._fused:
            whose = zip(self.parameters.values(), remainders, strict=True)
            self._slots = [_slot(weight, rest, self._tier, self._ferry) for weight, rest in whose]
        # Scalars of the host would be rounded once; on the CPU double precision does the same for ours.
        kind = torch.float64 if first.device.type == "cpu" else torch.float32
        self._counts = torch.zeros(len(self._slots), dtype=kind, device=first.device)
        self._rate = torch.zeros((), dtype=kind, device=first.device)
        self._keys = torch.empty(0)
        self._last_norm, self._square = (torch.zeros((), device=first.device) for _ in range(2))
        if self.inside:
            for index, weight in enumerate(self.parameters.values()):
                weight.register_post_accumulate_grad_hook(partial(self._move_now, index))

    def begin(self, step: int, learning_rate: float) -> None:
        """Before a step's first forward pass."""
        if self._fused:
            for group in self._fused.param_groups:
                group["lr"] = learning_rate
        if self._ferry:
            self._ferry.begin()
        self._rate.fill_(learning_rate)
        if self._slots:
            self._keys = keys(self._settings.seed, step, len(self._slots), self._device)
        self._square = torch.zeros_like(self._square)

    def finish(self) -> Tensor:
        """After the last backward pass: move the weights, forget the gradients, return the norm before clipping."""
        if self.inside:
            norm = self._square.sqrt()
            self._last_norm = torch.where(norm.isfinite(), norm, self._last_norm)
            return norm
        gradients = [share(weight.grad) for weight in self.parameters.values() if weight.grad is not None]
        norm = nn.utils.get_total_norm(gradients) if self._tier.weights == "fp32" else _norm(gradients)
        norm = self._over_shares(norm)
        scale, bad = (norm / self._settings.clip_norm).clamp(min=1.0), ~torch.isfinite(norm)
        if self._fused:
            self._move_all(self._fused, scale, bad)
            return norm
        for index, weight in enumerate(self.parameters.values()):
            self._move(index, weight, scale, bad)
        return norm

    def _over_shares(self, norm: Tensor) -> Tensor:
        """The norm of all shares, from that of this rank's."""
        if self._mesh is None or self._mesh.size() == 1:
            return norm
        square = norm.square()
        dist.all_reduce(square, group=self._mesh.get_group())
        return square.sqrt()

    def _move_all(self, adamw: Any, scale: Tensor, bad: Tensor) -> None:
        """Torch's own pass over all weights."""
        for leaf, weight in zip(self._leaves, self.parameters.values(), strict=True):
            if leaf is not weight:
                leaf.grad, weight.grad = None if weight.grad is None else share(weight.grad), None
        adamw.grad_scale = scale  # what the pass divides gradients by
        adamw.found_inf = bad.float()  # where it is 1 the pass leaves everything as it was
        adamw.step()
        adamw.zero_grad(set_to_none=True)

    def _move_now(self, index: int, weight: Tensor) -> None:
        """The hook of a weight whose gradient is whole."""
        assert weight.grad is not None
        self._square = self._square + self._over_shares(_norm([share(weight.grad)])).square()
        norm = torch.maximum(self._square.sqrt(), self._last_norm)
        self._move(index, weight, (norm / self._settings.clip_norm).clamp(min=1.0), ~torch.isfinite(norm))

    def _move(self, index: int, weight: Tensor, scale: Tensor, bad: Tensor) -> None:
        if weight.grad is None:
            return
        decay = self._settings.weight_decay if weight.ndim >= 2 else 0.0
        push = Push(self._rate, self._counts[index], scale, bad, self._settings.betas, decay)
        with torch.no_grad():
            move(self._slots[index], share(weight.grad), push, self._keys[index])
            self._counts[index] += ~bad
        weight.grad = None

    def master(self, name: str) -> Tensor:
        """A weight as it is kept: the fp32 master where there is one, cut over ranks as the weight is."""
        weight = self.parameters[name]
        if self._tier.weights != "exact":
            return weight
        slot = self._slots[list(self.parameters).index(name)]
        assert slot.remainder is not None
        return cut_like(join(slot.weight, slot.remainder).view(share(weight).shape), weight)

    def weights(self) -> dict[str, Tensor] | None:
        """The fp32 masters on the CPU, where they are kept apart from the model's weights; else none."""
        if self._tier.weights != "exact":
            return None
        return {name: self.master(name).cpu() for name in self.parameters}

    def state(self) -> dict[str, Tensor]:
        """Everything beside the weights that a later run needs to go on exactly, as named tensors, not copied.

        Where weights are cut over ranks, so are these; the whole does not depend on how.
        """
        if self._ferry:
            self._ferry.wait()
        found: dict[str, Tensor] = {}
        if self._fused:
            for (name, weight), leaf in zip(self.parameters.items(), self._leaves, strict=True):
                kept = self._fused.state[leaf]
                found |= {f"{name}/{key}": cut_like(kept[key], weight) for key in ("exp_avg", "exp_avg_sq")}
                found[f"{name}/step"] = kept["step"]
            return found
        found = {"counts": self._counts, "last_norm": self._last_norm}
        for (name, weight), slot in zip(self.parameters.items(), self._slots, strict=True):
            for moment in ("first", "second"):
                parts = _named(moment, getattr(slot, moment), weight)
                found |= {f"{name}/{key}": value for key, value in parts.items()}
        return found


def _fused(leaves: Sequence[Tensor], settings: Train) -> torch.optim.AdamW:
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


def _itself(tensor: Tensor) -> Tensor:
    return tensor


def _convert(weight: nn.Parameter, tier: Tier) -> Tensor | None:
    """Turn a weight into what the tier computes with; the flat remainder of an exact master."""
    kept, remainder = share(weight.detach()), None
    match tier.weights:
        case "fp32":
            kept = kept.float().contiguous()
        case "exact":
            kept, remainder = split(kept.float().contiguous())
            remainder = remainder.view(-1)
        case "rounded":
            kept = kept.to(torch.bfloat16).contiguous()
    if shard_mesh(weight):
        torch.utils.swap_tensors(weight, nn.Parameter(cut_like(kept, weight)))
    else:
        weight.data = kept
    return remainder


def _slot(weight: nn.Parameter, remainder: Tensor | None, tier: Tier, ferry: Ferry | None) -> Slot:
    """A weight's place in the update."""
    kept = share(weight.detach())
    first, second = (_moment(weight, kept, tier, signed=signed) for signed in (True, False))
    carried = ferry if isinstance(first, Blocks) else None
    return Slot(kept.view(-1), remainder, first, second, carried, elements_before(weight))


def _moment(weight: Tensor, kept: Tensor, tier: Tier, *, signed: bool) -> State:
    size, device = kept.numel(), kept.device
    states = tier.states if weight.ndim >= 2 or tier.states == "bf16" else "fp32"
    match states:
        case "fp32":
            return torch.zeros(size, device=device)
        case "bf16":
            return torch.zeros(size, dtype=torch.bfloat16, device=device)
        case "8bit":
            make = host_blocks if tier.streamed else empty_blocks
            made = make(size, eight_bit_levels(signed=signed).to(device))
        case "4bit":
            made = empty_blocks(size, four_bit_levels(signed=signed).to(device))
    if size < weight.numel() and not _has_whole_rows(made, weight):
        raise UserError(
            f"train.strategy: cuts weights over cards, and a row of {weight.shape[-1]} numbers does not fill whole "
            f"blocks of {made.block}, as {states} states need; set train.strategy: replicate, or train.memory: exact"
        )
    return made


def _has_whole_rows(blocks: Blocks, weight: Tensor) -> bool:
    return (weight.numel() // max(1, weight.shape[0])) % blocks.block == 0


def _named(moment: str, state: State, weight: Tensor) -> dict[str, Tensor]:
    """A moment's own tensors under their names, by the weight's rows; the levels are the code's, not the run's."""
    kept = share(weight.detach())
    if isinstance(state, Tensor):
        return {moment: cut_like(state.view(kept.shape), weight)}
    codes, scales = state.codes, state.scales
    if _has_whole_rows(state, weight):
        rows = kept.shape[0]
        blocks = weight.numel() // weight.shape[0] // state.block
        codes, scales = (cut_like(part, weight) for part in (codes.view(rows, blocks, -1), scales.view(rows, blocks)))
    return {f"{moment}_codes": codes, f"{moment}_scales": scales}


def _norm(gradients: list[Tensor]) -> Tensor:
    """The norm of all, summed in fp32: bf16 would keep three digits of it."""
    return torch.stack([torch.linalg.vector_norm(gradient, dtype=torch.float32) for gradient in gradients]).norm()
