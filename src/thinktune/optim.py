"""The update: AdamW in every memory tier, clipped and refused on the device itself, and the learning rate's shape."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from thinktune.adamw import Push, Slot, chunk_of, move
from thinktune.codec import (
    EIGHT_BIT_BLOCK,
    FOUR_BIT_BLOCK,
    Blocks,
    State,
    eight_bit_levels,
    empty_blocks,
    four_bit_levels,
    join,
    keys,
    split,
)
from thinktune.ferry import Ferry, host_blocks
from thinktune.knobs import Memory, Schedule, Train

FUSED_STATE = ("step", "exp_avg", "exp_avg_sq")  # what torch's AdamW keeps for each weight
STATE_BYTES = {"fp32": 4.0, "bf16": 2.0, "8bit": 1 + 4 / EIGHT_BIT_BLOCK, "4bit": 0.5 + 4 / FOUR_BIT_BLOCK}


@dataclass(frozen=True, slots=True)
class Tier:
    """What a parameter is kept as: its weights, and each of AdamW's two moments.

    `exact` weights are bf16 with an int16 remainder: an fp32 master, bit for bit. `rounded` ones are bf16, rounded
    stochastically. Norms and biases keep fp32 moments where the matrices' are coded; they are too few to count.
    """

    weights: Literal["fp32", "exact", "rounded"]
    states: Literal["fp32", "bf16", "8bit", "4bit"]
    streamed: bool = False  # the matrices' moments live in the host's memory, and cross the device in chunks

    @property
    def bytes_per_parameter(self) -> float:
        """Weights and moments of a matrix, wherever they are kept, without its gradient."""
        return (2 if self.weights == "rounded" else 4) + 2 * STATE_BYTES[self.states]

    @property
    def gradient_bytes(self) -> int:
        """Of one parameter's gradient, where it is kept until the backward pass is over."""
        return 4 if self.weights == "fp32" else 2

    @property
    def loaded(self) -> torch.dtype:
        """The type that a model is loaded in to be trained in this tier."""
        return torch.bfloat16 if self.weights == "rounded" else torch.float32


TIERS: dict[Memory, Tier] = {
    "fp32": Tier("fp32", "fp32"),
    "exact": Tier("exact", "fp32"),
    "exact-bf16": Tier("exact", "bf16"),
    "8bit": Tier("rounded", "8bit"),
    "8bit-streamed": Tier("rounded", "8bit", streamed=True),
    "4bit": Tier("rounded", "4bit"),
}


def pick_memory(settings: Train, device: torch.device) -> Memory:
    """The tier for `train.memory`: auto is exact on an accelerator, and fp32 on the CPU or where arithmetic is fp32."""
    if settings.memory != "auto":
        return settings.memory
    return "fp32" if device.type == "cpu" or settings.precision == "fp32" else "exact"


def learning_rate_share(step: int, steps: int, warmup_fraction: float, schedule: Schedule) -> float:
    """The learning rate of step `step` (1 to `steps`) as a share of its peak: a linear rise, then the schedule.

    The first step already moves (it has one warm-up step's share) and the last one still does.
    """
    warmup = round(steps * warmup_fraction)
    if step <= warmup:
        return step / (warmup + 1)
    rest = (step - warmup - 1) / max(1, steps - warmup)  # 0 at the peak, below 1 at the last step
    match schedule:
        case "constant":
            return 1.0
        case "linear":
            return 1.0 - rest
        case "cosine":
            return (1.0 + math.cos(math.pi * rest)) / 2


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
        self._fused = _fused(self.parameters, settings) if self.memory == "fp32" and not self.inside else None
        largest = max(weight.numel() for weight in self.parameters.values())
        self._ferry = Ferry(first.device, min(largest, chunk_of(first.device))) if self._tier.streamed else None
        self._slots = (
            [] if self._fused else [_slot(weight, self._tier, self._ferry) for weight in self.parameters.values()]
        )
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
        gradients = [weight.grad for weight in self.parameters.values() if weight.grad is not None]
        norm = nn.utils.get_total_norm(gradients) if self._tier.weights == "fp32" else _norm(gradients)
        scale, bad = (norm / self._settings.clip_norm).clamp(min=1.0), ~torch.isfinite(norm)
        if self._fused:
            adamw: Any = self._fused
            adamw.grad_scale = scale  # what the pass divides gradients by
            adamw.found_inf = bad.float()  # where it is 1 the pass leaves everything as it was
            adamw.step()
            adamw.zero_grad(set_to_none=True)
            return norm
        for index, weight in enumerate(self.parameters.values()):
            self._move(index, weight, scale, bad)
        return norm

    def _move_now(self, index: int, weight: Tensor) -> None:
        """The hook of a weight whose gradient is whole."""
        assert weight.grad is not None
        self._square = self._square + _norm([weight.grad]).square()
        norm = torch.maximum(self._square.sqrt(), self._last_norm)
        self._move(index, weight, (norm / self._settings.clip_norm).clamp(min=1.0), ~torch.isfinite(norm))

    def _move(self, index: int, weight: Tensor, scale: Tensor, bad: Tensor) -> None:
        if weight.grad is None:
            return
        decay = self._settings.weight_decay if weight.ndim >= 2 else 0.0
        push = Push(self._rate, self._counts[index], scale, bad, self._settings.betas, decay)
        with torch.no_grad():
            move(self._slots[index], weight.grad, push, self._keys[index])
            self._counts[index] += ~bad
        weight.grad = None

    def weights(self) -> dict[str, Tensor] | None:
        """The fp32 masters on the CPU, where they are kept apart from the model's weights; else none."""
        if self._tier.weights != "exact":
            return None
        return {
            name: join(slot.weight, slot.remainder).view(weight.shape).cpu()
            for (name, weight), slot in zip(self.parameters.items(), self._slots, strict=True)
            if slot.remainder is not None
        }

    def state(self) -> dict[str, Tensor]:
        """Everything beside the weights that a later run needs to go on exactly, as named tensors."""
        if self._ferry:
            self._ferry.wait()
        if self._fused:
            return {
                f"{name}/{key}": value
                for name, weight in self.parameters.items()
                for key, value in self._fused.state.get(weight, {}).items()
            }
        found = {"counts": self._counts, "last_norm": self._last_norm}
        for name, slot in zip(self.parameters, self._slots, strict=True):
            for moment in ("first", "second"):
                found |= {f"{name}/{key}": value for key, value in _named(moment, getattr(slot, moment)).items()}
        return found

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take up a saved state; the names are those of `state`. Raises ValueError where it is another tier's."""
        if not self._fused:
            mine = self.state()
            if {name: kept.shape for name, kept in mine.items()} != {name: kept.shape for name, kept in state.items()}:
                raise ValueError(f"the state is not that of memory {self.memory}")
            for name, kept in mine.items():
                kept.copy_(state[name])
            return
        if any(name.rpartition("/")[2] not in FUSED_STATE for name in state):
            raise ValueError(f"the state is not that of memory {self.memory}")
        for name, weight in self.parameters.items():
            own = {key: state[f"{name}/{key}"] for key in FUSED_STATE if f"{name}/{key}" in state}
            if own:
                self._fused.state[weight] = {key: value.to(weight.device) for key, value in own.items()}


def _fused(parameters: dict[str, nn.Parameter], settings: Train) -> torch.optim.AdamW:
    """Torch's own AdamW over fp32 weights, in one fused pass over all of them."""
    matrices = [weight for weight in parameters.values() if weight.ndim >= 2]
    others = [weight for weight in parameters.values() if weight.ndim < 2]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], betas=settings.betas, fused=True)


def _slot(weight: nn.Parameter, tier: Tier, ferry: Ferry | None) -> Slot:
    """A weight's place in the update; turns the weight itself into what the tier computes with."""
    remainder: Tensor | None = None
    match tier.weights:
        case "fp32":
            weight.data = weight.data.float().contiguous()
        case "exact":
            weight.data, remainder = split(weight.data.float().contiguous())
            remainder = remainder.view(-1)
        case "rounded":
            weight.data = weight.data.to(torch.bfloat16).contiguous()
    first, second = (_moment(weight, tier, signed=signed) for signed in (True, False))
    return Slot(weight.detach().view(-1), remainder, first, second, ferry if isinstance(first, Blocks) else None)


def _moment(weight: Tensor, tier: Tier, *, signed: bool) -> State:
    size, device = weight.numel(), weight.device
    match tier.states if weight.ndim >= 2 or tier.states == "bf16" else "fp32":
        case "fp32":
            return torch.zeros(size, device=device)
        case "bf16":
            return torch.zeros(size, dtype=torch.bfloat16, device=device)
        case "8bit":
            make = host_blocks if tier.streamed else empty_blocks
            return make(size, eight_bit_levels(signed=signed).to(device))
        case "4bit":
            return empty_blocks(size, four_bit_levels(signed=signed).to(device))


def _named(moment: str, state: State) -> dict[str, Tensor]:
    """A moment's own tensors under their names; the levels are the code's, not the run's."""
    if isinstance(state, Blocks):
        return {f"{moment}_codes": state.codes, f"{moment}_scales": state.scales}
    return {moment: state}


def _norm(gradients: list[Tensor]) -> Tensor:
    """The norm of all, summed in fp32: bf16 would keep three digits of it."""
    return torch.stack([torch.linalg.vector_norm(gradient, dtype=torch.float32) for gradient in gradients]).norm()
