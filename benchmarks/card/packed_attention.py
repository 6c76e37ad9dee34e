"""Micro-measurements of attention over packed rows: padded rows, grouped keys, and cuDNN's kernels for the same."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jobs import Lengths
from torch import Tensor
from torch.nn.attention import varlen
from torch.nn.functional import scaled_dot_product_attention

from card.probe import Probe

LONGEST = 2048
Kernel = Callable[..., Tensor]


def attention(probe: Probe) -> dict[str, Any]:
    """Time 1.7B's attention, forward and both ways, by tokens and by rows of boundaries; most of those are empty."""
    kernel = _one_row_at_a_time if probe.tiny else varlen.varlen_attn
    found: dict[str, Any] = {}
    for tokens in (256,) if probe.tiny else (8192, 32_768):
        parts, lengths = _parts(probe, tokens), _lengths(tokens, probe.tiny)
        gradient = torch.randn_like(parts[0])
        flops = 4 * parts[0].shape[1] * parts[0].shape[2] * sum(n * (n + 1) / 2 for n in lengths)
        for rows in (len(lengths), 42, 125, 474, 1316):
            if rows < len(lengths):
                continue
            ends = _boundaries(probe, lengths, rows)
            forward, both = _both_ways(kernel, parts, ends, gradient)
            peak = probe.peak_bytes(both)
            there, back = probe.milliseconds(forward), probe.milliseconds(both)
            found[f"{tokens} tokens, {rows} rows"] = {
                "forward_ms": there,
                "both_ms": back,
                "forward_tflops": flops / there / 1e9,
                "both_tflops": 3.5 * flops / back / 1e9,
                "both_peak_mib": peak / 2**20,
            }
        found[f"{tokens} tokens, grouped keys"] = _grouped(probe, kernel, parts, lengths, gradient)
    return found


def cudnn(probe: Probe) -> dict[str, Any]:
    """Time cuDNN's kernels for packed rows, which torch holds but does not choose, and hold them to FlashAttention."""
    if probe.tiny:
        return {"absent": "needs a card"}
    module: Any = varlen
    parts, lengths = _parts(probe, 8192), _lengths(8192, tiny=False)
    ends, gradient = _boundaries(probe, lengths, len(lengths)), torch.randn_like(parts[0])
    expected = _results(varlen.varlen_attn, parts, ends, gradient)
    known = [each.name for each in torch.ops.torch_attn._varlen_attn.default._schema.arguments]
    takes_groups = "enable_gqa" in known
    before, found = module._should_use_cudnn, dict[str, Any]()
    module._should_use_cudnn = lambda *_: True
    try:
        for name, grouped in (("grouped", True), ("repeated", False)):
            try:
                kernel = _cudnn_kernel(takes_groups, repeats=not grouped)
                forward, both = _both_ways(kernel, parts, ends, gradient)
                differences = _differences(_results(kernel, parts, ends, gradient), expected)
                times = {"forward_ms": probe.milliseconds(forward), "both_ms": probe.milliseconds(both)}
                found[name] = {"differs": differences, **times}
            except Exception as error:
                found[name] = {"absent": f"{type(error).__name__}: {error}"[:200]}
    finally:
        module._should_use_cudnn = before
    return found


def _parts(probe: Probe, tokens: int) -> tuple[Tensor, ...]:
    heads, kv_heads, head_dim = (4, 2, 16) if probe.tiny else (16, 8, 128)
    return tuple(probe.random(tokens, count, head_dim, grad=True) for count in (heads, kv_heads, kv_heads))


def _lengths(tokens: int, tiny: bool) -> list[int]:
    drawn = Lengths(60 if tiny else 900, 0.55, 128 if tiny else LONGEST).draw(np.random.default_rng(0), tokens).tolist()
    taken: list[int] = []
    while sum(taken) < tokens:
        taken.append(min(drawn.pop(0), tokens - sum(taken)))
    return taken


def _boundaries(probe: Probe, lengths: Sequence[int], rows: int) -> Tensor:
    """Return the boundaries of rows, followed by empty rows up to a number."""
    ends = [0, *np.cumsum(lengths).tolist()]
    return torch.tensor(ends + [ends[-1]] * (rows - len(lengths)), dtype=torch.int32, device=probe.device)


def _call(kernel: Kernel, parts: Sequence[Tensor], ends: Tensor) -> Tensor:
    """Call a packed kernel causally, with grouped keys as they are: torch 2.11 takes them without being told."""
    known = inspect.signature(kernel).parameters
    grouped = {"enable_gqa": parts[0].shape[1] != parts[1].shape[1]} if "enable_gqa" in known else {}
    scale = parts[0].shape[2] ** -0.5
    return kernel(*parts, ends, ends, LONGEST, LONGEST, scale=scale, window_size=(-1, 0), **grouped)


def _both_ways(
    kernel: Kernel, parts: Sequence[Tensor], ends: Tensor, gradient: Tensor
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    def forward() -> Tensor:
        with torch.no_grad():
            return _call(kernel, parts, ends)

    return forward, lambda: torch.autograd.grad(_call(kernel, parts, ends), tuple(parts), gradient)


def _results(kernel: Kernel, parts: Sequence[Tensor], ends: Tensor, gradient: Tensor) -> list[Tensor]:
    out = _call(kernel, parts, ends)
    return [out.detach(), *torch.autograd.grad(out, tuple(parts), gradient)]


def _differences(mine: Sequence[Tensor], theirs: Sequence[Tensor]) -> dict[str, float]:
    """Return the norm of each difference over the norm of what is expected."""
    names = ("output", "queries", "keys", "values")
    return {
        name: float((one.float() - other.float()).norm() / other.float().norm())
        for name, one, other in zip(names, mine, theirs, strict=True)
    }


def _repeated(kernel: Kernel) -> Kernel:
    """Return a kernel that gets each key as often as queries share it, as for kernels that know no groups."""

    def call(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any) -> Tensor:
        times = query.shape[1] // key.shape[1]
        options.pop("enable_gqa", None)
        return kernel(query, key.repeat_interleave(times, 1), value.repeat_interleave(times, 1), *rest, **options)

    return call


def _grouped(
    probe: Probe, kernel: Kernel, parts: Sequence[Tensor], lengths: Sequence[int], gradient: Tensor
) -> dict[str, Any]:
    """Hold grouped keys to repeated ones, and time both."""
    ends = _boundaries(probe, lengths, len(lengths))
    times = {
        name: probe.milliseconds(_both_ways(each, parts, ends, gradient)[1])
        for name, each in (("grouped_ms", kernel), ("repeated_ms", _repeated(kernel)))
    }
    results = [_results(each, parts, ends, gradient) for each in (kernel, _repeated(kernel))]
    return times | {"differs": _differences(*results)}


def _cudnn_kernel(takes_groups: bool, *, repeats: bool) -> Kernel:
    """Return torch's private operation for packed rows, causal without a window, as cuDNN's kernels take it."""

    def call(query: Tensor, key: Tensor, value: Tensor, *rest: Any, scale: float, **options: Any) -> Tensor:
        more = [query.shape[1] != key.shape[1]] if takes_groups else []
        return torch.ops.torch_attn._varlen_attn(query, key, value, *rest, True, scale, [-1, -1], *more)[0]

    return _repeated(call) if repeats else call


def _one_row_at_a_time(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    *rest: Any,
    window_size: tuple[int, int],
    **options: Any,
) -> Tensor:
    """Stand in for the packed kernel on the CPU."""
    assert window_size == (-1, 0)
    lengths = [length for length in cu_seq_q.diff().tolist() if length]
    rows = [
        scaled_dot_product_attention(*(part.transpose(0, 1) for part in row), is_causal=True, enable_gqa=True)
        for row in zip(*(each.split(lengths) for each in (query, key, value)), strict=True)
    ]
    return torch.cat([row.transpose(0, 1) for row in rows])
