"""The update: AdamW on fp32 weights, clipped and refused on the device itself, and the learning rate's shape."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from thinktune.recipe import Schedule, Train

STATE = ("step", "exp_avg", "exp_avg_sq")  # what torch's AdamW keeps for each weight


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
    """AdamW (Loshchilov and Hutter, 2019) after the backward pass, in one fused pass over all weights.

    Clipping and the refusal of a gradient that is not finite happen inside that pass, by two numbers that it reads on
    the device: no weight ever takes a bad number, and the host waits for nothing.
    """

    def __init__(self, model: nn.Module, settings: Train) -> None:
        self._clip_norm = settings.clip_norm
        self.parameters = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        matrices = [weight for weight in self.parameters.values() if weight.ndim >= 2]
        others = [weight for weight in self.parameters.values() if weight.ndim < 2]
        groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self._adamw = torch.optim.AdamW(
            [group for group in groups if group["params"]], betas=settings.betas, fused=True
        )

    def begin(self, step: int, learning_rate: float) -> None:
        """Before a step's first forward pass."""
        del step  # rounding that depends on the step comes with the smaller precisions
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate

    def finish(self) -> Tensor:
        """After the last backward pass: move the weights, forget the gradients, return the norm before clipping."""
        norm = nn.utils.get_total_norm([weight.grad for weight in self.parameters.values() if weight.grad is not None])
        adamw: Any = self._adamw
        adamw.grad_scale = (norm / self._clip_norm).clamp(min=1.0)  # what the pass divides gradients by
        adamw.found_inf = (~torch.isfinite(norm)).float()  # where it is 1 the pass leaves everything as it was
        adamw.step()
        adamw.zero_grad(set_to_none=True)
        return norm

    def state(self) -> dict[str, Tensor]:
        """Everything that a later run needs to go on exactly, as named tensors."""
        return {
            f"{name}/{key}": value
            for name, weight in self.parameters.items()
            for key, value in self._adamw.state.get(weight, {}).items()
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take up a saved state; the names are those of `state`."""
        for name, weight in self.parameters.items():
            own = {key: state[f"{name}/{key}"] for key in STATE if f"{name}/{key}" in state}
            if own:
                self._adamw.state[weight] = {key: value.to(weight.device) for key, value in own.items()}
