"""Matrix products of the decoder layers in fp8, in training passes (Micikevicius et al., FP8 Formats, 2022).

Evaluation and generation multiply in the weights' own precision: they ask what a checkpoint of these weights gives.
Weights, their names and their gradients stay as they are.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from thinktune.errors import UserError
from thinktune.model.decoder import decoder_layers
from thinktune.model.device import MIN_FLOAT8_CAPABILITY, compute_capability, runs_triton
from thinktune.model.protocols import CausalLM

Scaling = Literal["tensor", "row"]

SCALINGS: dict[str, Scaling] = {"fp8": "tensor", "fp8-row": "row"}  # of `expert.precision`

MULTIPLE = 16  # of both sides of a matrix, and of what a product sums over
# Keys and values have so few columns that their products would save less than the rounding of gradients costs; a
# router's decides where a token goes.
KEPT_NAMES = ("k_proj", "v_proj", "gate", "router")
FORWARD, GRADIENT = torch.float8_e4m3fn, torch.float8_e5m2  # more digits, more range
LEAST_MAGNITUDE = 1e-12  # a tensor of zeros has a scale, too
HELD_BYTES_PER_ELEMENT = 2  # a weight for the forward pass, and its transpose for the backward one


class Encoded(NamedTuple):
    """An fp8 matrix (rows, columns) and its scale, fp32: one number (), or one for each row (rows, 1)."""

    values: Tensor
    scale: Tensor


Casts = tuple[Encoded, Encoded]


def encode(matrix: Tensor, scaling: Scaling, dtype: torch.dtype = FORWARD) -> Encoded:
    """Round a matrix to fp8, scaled so that the largest magnitude of it all, or of each row, is the format's largest.

    What is not finite makes NaN of all that shares its scale.
    """
    most = torch.finfo(dtype).max
    magnitudes = matrix.abs()
    largest = magnitudes.amax(1, keepdim=True) if scaling == "row" else magnitudes.amax()
    scale = largest.float().clamp(min=LEAST_MAGNITUDE) / most
    return Encoded((matrix.float() / scale).clamp(-most, most).to(dtype), scale)


def multiply(left: Encoded, right: Encoded, dtype: torch.dtype, *, fast: bool = False) -> Tensor:
    """Return `left @ right.T` in `dtype`; `fast` lets a card add up in fewer bits than fp32 has.

    On the CPU, and for a sum that no card takes (not over a multiple of 16), the codes are multiplied in fp32.
    """
    right_scale = right.scale.T if right.scale.ndim else right.scale
    if is_emulated(left.values.device) or left.values.shape[1] % MULTIPLE:
        return (left.values.float() @ right.values.float().T * left.scale * right_scale).to(dtype)
    scales = left.scale, right_scale
    product: Any = torch._scaled_mm  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
    return product(left.values, right.values.T, *scales, out_dtype=dtype, use_fast_accum=fast)


def is_emulated(device: torch.device) -> bool:
    """Return True where codes are multiplied as fp32 numbers: on the CPU."""
    return device.type == "cpu"


class Float8Linear(nn.Linear):
    """A linear layer that multiplies in fp8 while the model trains, and is itself in evaluation.

    `held` are its weight and the weight's transpose in fp8, as `cast_weights` left them; None: cast in each pass.
    """

    scaling: Scaling
    holds: bool
    held: Casts | None

    def forward(self, input: Tensor) -> Tensor:
        """Return (…, out_features) for (…, in_features)."""
        if not self.training:
            return super().forward(input)
        held = () if self.held is None else (*self.held[0], *self.held[1])
        output = _Product.apply(_computed_in(input), self.weight, self.scaling, *held)
        bias: Tensor | None = self.bias
        return output if bias is None else output + bias.to(output.dtype)  # pyright: ignore[reportUnnecessaryComparison]


def _computed_in(states: Tensor) -> Tensor:
    device_type = states.device.type
    return states.to(torch.get_autocast_dtype(device_type)) if torch.is_autocast_enabled(device_type) else states


class _Product(torch.autograd.Function):
    """`states @ weight.T` with both in fp8. Of tensors with one scale the gradients are such products, too.

    With a scale for each row, the gradient of the weight is a product in the states' own precision: rows of its
    factors are columns of what is at hand, which would have to be read once more for their scales.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, scaling: Scaling, *held: Tensor) -> Tensor:
        rows = states.flatten(0, -2)
        coded = encode(rows, scaling)
        of_weight = Encoded(*held[:2]) if held else encode(weight, scaling)
        kept = coded if scaling == "tensor" else (rows,)
        # Without held casts the weight itself is saved, and its transpose cast where it is used.
        ctx.save_for_backward(*kept, *(held[2:] if held else (weight,)))
        ctx.scaling, ctx.weight_dtype, ctx.kept = scaling, weight.dtype, len(kept)
        output = multiply(coded, of_weight, states.dtype, fast=True)
        return output.view(*states.shape[:-1], len(weight))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        saved = ctx.saved_tensors
        kept, held = saved[: ctx.kept], saved[ctx.kept :]
        transposed = Encoded(*held) if len(held) > 1 else _encode_transposed(held[0], ctx.scaling)
        rows = gradient.flatten(0, -2)
        coded = encode(rows, ctx.scaling, GRADIENT if ctx.scaling == "tensor" else FORWARD)
        of_states = multiply(coded, transposed, gradient.dtype)
        if ctx.scaling == "tensor":
            of_weight = multiply(_transposed(coded), _transposed(Encoded(*kept)), gradient.dtype)
        else:
            of_weight = rows.T @ kept[0]
        parts = of_states.view(*gradient.shape[:-1], -1), of_weight.to(ctx.weight_dtype), None
        return *parts, *(None,) * (4 if len(held) > 1 else 0)


def _transposed(matrix: Encoded) -> Encoded:
    """Return the transpose, in memory too, of a matrix with one scale: a card multiplies rows by rows."""
    return Encoded(matrix.values.T.contiguous(), matrix.scale)


def _encode_transposed(weight: Tensor, scaling: Scaling) -> Encoded:
    return _transposed(encode(weight, scaling)) if scaling == "tensor" else encode(weight.T.contiguous(), scaling)


def apply_float8(model: CausalLM, scaling: Scaling = "tensor", *, hold: bool = False) -> int:
    """Multiply the layers' matrices in fp8 in training passes; return how many do.

    Embedding, head, keys and values, routers, and matrices with a side that is not a multiple of 16 are left as they
    are. Call it before the layers are compiled; weights may be sharded.

    Args:
        model: the causal language model.
        scaling: one scale for each tensor, or one for each row.
        hold: whether weights are cast once a step, by `cast_weights`, and kept, which pays where a step has several
            batches. Sharded weights are cast in each pass: no rank has all of them between passes.
    """
    found = [module for name, module in decoder_layers(model).named_modules() if fits_float8(name, module)]
    for linear in found:
        linear.__class__ = Float8Linear
        made = cast("Float8Linear", linear)
        made.scaling, made.held = scaling, None
        made.holds = hold and not isinstance(linear.weight, DTensor)
    return len(found)


def fits_float8(name: str, module: nn.Module) -> bool:
    """Return True for a linear layer that fp8 is for."""
    if type(module) is not nn.Linear or name.rpartition(".")[2] in KEPT_NAMES:
        return False
    return not any(size % MULTIPLE for size in module.weight.shape)


def float8_shapes(model: CausalLM) -> list[tuple[int, int]]:
    """Return the shapes of the weights that are for fp8, of a model before or after `apply_float8`."""
    modules = decoder_layers(model).named_modules()
    fitting = [module for name, module in modules if type(module) is Float8Linear or fits_float8(name, module)]
    return [(module.out_features, module.in_features) for module in fitting]  # pyright: ignore


@torch.no_grad()
def cast_weights(model: CausalLM) -> None:
    """Cast the weights to fp8 where their casts are held: before the first pass of a step."""
    for layer in decoder_layers(model):
        linears = [module for module in layer.modules() if type(module) is Float8Linear and module.holds]
        if not linears:
            continue
        weights = [linear.weight.detach() for linear in linears]
        made = _weights_cast(weights[0].device)(weights, linears[0].scaling)
        for linear, casts in zip(linears, made, strict=True):
            linear.held = casts


def _cast_all(weights: Sequence[Tensor], scaling: Scaling) -> list[Casts]:
    return [(encode(weight, scaling), _encode_transposed(weight, scaling)) for weight in weights]


@cache
def _weights_cast(device: torch.device) -> Callable[[Sequence[Tensor], Scaling], list[Casts]]:
    return torch.compile(_cast_all, fullgraph=True, dynamic=False) if runs_triton(device) else _cast_all


def pick_scaling(precision: str) -> Scaling | None:
    """Return how a recipe's precision scales products in fp8; None where it has none."""
    return SCALINGS.get(precision)


def require_float8(precision: str, device: torch.device) -> None:
    """Raise UserError if a recipe's precision is of fp8, which cannot run on this device."""
    if not pick_scaling(precision):
        return
    if problem := float8_problem(device.type, compute_capability(device)):
        raise UserError(f"expert.precision: is {precision}, {problem}")


def float8_problem(device_type: str, capability: tuple[int, int] | None) -> str | None:
    """Return why fp8 cannot run and what to do; None if it can."""
    if device_type == "cuda" and capability is not None and capability >= MIN_FLOAT8_CAPABILITY:
        return None
    which = device_type
    if capability is not None:
        which += f" of compute capability {'.'.join(map(str, capability))}"
    least = ".".join(map(str, MIN_FLOAT8_CAPABILITY))
    return (
        f"which needs an NVIDIA card of compute capability {least} or more (Ada, Hopper, Blackwell), and this is "
        f"{which}; use bf16"
    )
