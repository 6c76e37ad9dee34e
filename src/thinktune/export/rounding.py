"""The rounding of a form, applied to our own model: how far a right export may be from it, measured and not guessed.

Weights and the inputs of matrix products are rounded as an engine rounds them in that form; sums stay in fp32, as
llama.cpp's do (ggml's `vec_dot`).
"""

import re
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from thinktune.model import CausalLM
from thinktune.model.decoder import decoder_layers

BLOCK = 32  # weights that share a scale in ggml's kinds
FP8_LARGEST = 448.0  # of float8_e4m3fn
EMBEDDING_BITS = 6  # at least, of embedding and head in ggml's quantized kinds
EXACT_MANTISSA_BITS = 20  # of fp32's 24: another order of the same sums moves the last ones

_KIND = re.compile(r"(?:i?q|tq)(\d)_")  # ggml's names of quantized kinds: q8_0, q4_k_m, iq3_xs


def is_exact(form: str) -> bool:
    """Return True for a form whose weights are the model's own, multiplied in fp32."""
    return form == "f32"


def quantized_bits(form: str) -> int | None:
    """Return the bits of a weight in a quantized form, None for the others; raises ValueError for an unknown one."""
    if form in ("f32", "f16", "bf16"):
        return None
    if form == "fp8":
        return 8
    found = _KIND.match(form)
    if not found:
        raise ValueError(f"no rounding is known of the form {form!r}")
    return int(found[1])


def coarseness(form: str) -> float:
    """Return the order in which one model is rounded to several forms, finest first: each begins where one ended."""
    order = {"f32": 32.0, "f16": 13.0, "bf16": 10.0, "fp8": 7.0}
    return -order.get(form, quantized_bits(form) or 0)


@contextmanager
def rounded(model: CausalLM, form: str) -> Generator[None]:
    """Round a model's weights to a form, for good, and the inputs of its linear layers while the block runs.

    Only the decoder layers' products are rounded so far in fp8, where embedding and head stay in bf16, and in ggml's
    kinds of few bits, where those have six (llama-quantize's own choice).
    """
    modules: Any = model
    layers = {id(each) for layer in decoder_layers(model) for each in layer.modules()}
    linear = [each for each in modules.modules() if isinstance(each, nn.Linear)]
    if not is_exact(form):
        coarse = {id(each.weight) for each in linear if id(each) in layers}
        for weight in model.parameters():
            if weight.dim() > 1:  # norms and biases stay as they are
                own = form if id(weight) in coarse else _form_of_embedding(form)
                weight.data.copy_(round_weights(weight.data, own))

    def round_inputs(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (round_activations(inputs[0], form), *inputs[1:])

    hooks = [each.register_forward_pre_hook(round_inputs) for each in linear if id(each) in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _form_of_embedding(form: str) -> str:
    if form == "fp8":
        return "bf16"
    bits = quantized_bits(form)
    return form if bits is None or bits >= EMBEDDING_BITS else f"q{EMBEDDING_BITS}_k"


def round_head_input(states: Tensor, form: str) -> Tensor:
    """Return the inputs of the head as an engine rounds them."""
    return round_activations(states, "bf16" if form == "fp8" else form)


def round_weights(values: Tensor, form: str) -> Tensor:
    """Return weights as a form stores them, in their own dtype."""
    bits = quantized_bits(form)
    if bits is None:
        return _round_float(values, form)
    if form == "fp8":
        return _round_fp8(values)
    return _round_blocks(values, bits)


def round_activations(values: Tensor, form: str) -> Tensor:
    """Return the inputs of a product as an engine rounds them: to the float of the weights, or to 8 bits a block."""
    bits = quantized_bits(form)
    if bits is None:
        return _round_float(values, form)
    return _round_fp8(values) if form == "fp8" else _round_blocks(values, 8)


def _round_float(values: Tensor, form: str) -> Tensor:
    if form == "f32":
        mantissa, exponent = torch.frexp(values.float())
        scale = 2.0**EXACT_MANTISSA_BITS
        return torch.ldexp((mantissa * scale).round() / scale, exponent).to(values.dtype)
    return values.to(torch.float16 if form == "f16" else torch.bfloat16).to(values.dtype)


def _round_fp8(values: Tensor) -> Tensor:
    """Round to float8_e4m3fn, with a scale for each row: an output channel of a weight, a token of an input."""
    scale = values.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / FP8_LARGEST
    return (values / scale).to(torch.float8_e4m3fn).to(values.dtype) * scale


def _round_blocks(values: Tensor, bits: int) -> Tensor:
    """Round to whole multiples of a scale that each block of the last dimension has: signed 8 bits, else unsigned."""
    width = values.shape[-1]
    padded = nn.functional.pad(values.float(), (0, -width % BLOCK)).unflatten(-1, (-1, BLOCK))
    tiny = torch.finfo(torch.float32).tiny
    if bits == 8:
        scale = padded.abs().amax(-1, keepdim=True).clamp_min(tiny) / 127
        found = (padded / scale).round() * scale.half().float()  # the scale is stored in fp16
    else:
        low = padded.amin(-1, keepdim=True)
        scale = (padded.amax(-1, keepdim=True) - low).clamp_min(tiny) / (2**bits - 1)
        found = low + ((padded - low) / scale).round() * scale
    return found.flatten(-2)[..., :width].to(values.dtype)
