"""Ceilings of a card: matrix products, memory, and attention over packed rows by each path that torch offers.

    python benchmarks/gpu.py ceilings [--tiny] [--out FOLDER]

Random data (zeros run faster), three unmeasured runs, then ten in a row between two synchronisations.
"""

import json
import time
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jobs import QWEN3, Lengths
from suite import commit, markdown, versions
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from thinktune.planner.hardware import peak_bf16_tflops

WARM_UP, RUNS = 3, 10
ROWS = Lengths(900, 0.55, 2048)


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="small sizes on the CPU, to see that everything runs")
    parser.add_argument("--out", type=Path, default=Path("benchmark-results"))
    arguments = parser.parse_args()
    device = torch.device("cpu" if arguments.tiny else "cuda")
    side, tokens = (128, 256) if arguments.tiny else (8192, 16_384)
    measured = [
        *(_product(device, *sizes) for sizes in _products(side, tokens, tiny=arguments.tiny)),
        _copy(device, 2**20 if arguments.tiny else 2**32),
        *_attention(device, tokens, tiny=arguments.tiny),
    ]
    name = "CPU" if arguments.tiny else torch.cuda.get_device_name()
    text = markdown(("what", "measured", ""), [(what, figure, more) for what, figure, more in measured])
    text += f"\n\n{name}, peak by its maker {peak_bf16_tflops(name)} TFLOP/s in bf16; commit {commit()}; {versions()}."
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "ceilings.json").write_text(json.dumps({"device": name, "measured": measured}, indent=1))
    (arguments.out / "ceilings.md").write_text(text + "\n")
    print(text)


def _products(side: int, tokens: int, *, tiny: bool) -> list[tuple[int, int, int]]:
    if tiny:
        return [(side, side, side)]
    shape = QWEN3["1.7B"]
    layer = (tokens, shape.hidden_size, shape.intermediate_size)
    return [(side, side, side), layer, (layer[0], layer[2], layer[1]), (4096, shape.hidden_size, shape.vocab_size)]


def milliseconds(function: Callable[[], Any], device: torch.device) -> float:
    """Return the mean milliseconds of ten runs."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    for _ in range(WARM_UP):
        function()
    wait()
    started = time.perf_counter()
    for _ in range(RUNS):
        function()
    wait()
    return 1000 * (time.perf_counter() - started) / RUNS


def _product(device: torch.device, rows: int, inner: int, columns: int) -> tuple[str, str, str]:
    left, right = (torch.randn(shape, device=device).bfloat16() for shape in ((rows, inner), (inner, columns)))
    took = milliseconds(lambda: left @ right, device)
    rate = 2 * rows * inner * columns / took / 1e9
    return f"bf16 product {rows} x {inner} x {columns}", f"{rate:,.1f} TFLOP/s", f"{took:.3f} ms"


def _copy(device: torch.device, size: int) -> tuple[str, str, str]:
    source = torch.empty(size, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    took = milliseconds(lambda: target.copy_(source), device)
    return "copy on the device, read and written", f"{2 * size / took / 1e9:,.2f} TB/s", f"{took:.3f} ms"


def _attention(device: torch.device, tokens: int, *, tiny: bool) -> list[tuple[str, str, str]]:
    """Measure forward and backward of one layer of 1.7B's attention, over rows of `tokens` tokens in all."""
    lengths = _lengths(tokens, tiny=tiny)
    heads, kv_heads, head_dim = (2, 1, 16) if tiny else (16, 8, 128)
    query, key, value = (
        torch.randn(tokens, count, head_dim, device=device).bfloat16().requires_grad_()
        for count in (heads, kv_heads, kv_heads)
    )
    flops = 3.5 * sum(4 * length * (length + 1) / 2 * heads * head_dim for length in lengths)  # backward: 2.5 forwards
    paths = {"SDPA, one call per row": _by_row, "varlen_attn": _varlen, "flex_attention, compiled": _flex}
    lines: list[tuple[str, str, str]] = []
    for name, path in paths.items():
        what = f"attention of {len(lengths)} rows, {tokens} tokens: {name}"
        try:
            forward = path(lengths, device)
            gradient = torch.randn_like(query)
            took = milliseconds(_both_ways(forward, (query, key, value), gradient), device)
        except (NotImplementedError, RuntimeError, AssertionError, ValueError) as error:
            lines.append((what, "does not run here", str(error).splitlines()[0][:80]))
            continue
        lines.append((what, f"{flops / took / 1e9:,.1f} TFLOP/s", f"{took:.3f} ms"))
    return lines


def _both_ways(forward: Callable[..., Tensor], parts: tuple[Tensor, ...], gradient: Tensor) -> Callable[[], Any]:
    return lambda: torch.autograd.grad(forward(*parts), parts, gradient)


def _lengths(tokens: int, *, tiny: bool) -> list[int]:
    drawn = (Lengths(60, 0.55, 128) if tiny else ROWS).draw(np.random.default_rng(0), tokens).tolist()
    taken: list[int] = []
    while sum(taken) < tokens:
        taken.append(min(drawn.pop(0), tokens - sum(taken)))
    return taken


def _by_row(lengths: Sequence[int], device: torch.device) -> Callable[..., Tensor]:
    del device

    def forward(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        rows = [
            scaled_dot_product_attention(
                *(part.transpose(0, 1)[None] for part in parts), is_causal=True, enable_gqa=True
            )
            for parts in zip(*(each.split(list(lengths)) for each in (query, key, value)), strict=True)
        ]
        return torch.cat([row[0].transpose(0, 1) for row in rows])

    return forward


def _varlen(lengths: Sequence[int], device: torch.device) -> Callable[..., Tensor]:
    from shim.flash_attn import flash_attn_varlen_func

    cu_seqlens = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32, device=device)
    longest = max(lengths)
    return lambda query, key, value: flash_attn_varlen_func(
        query, key, value, cu_seqlens, cu_seqlens, longest, longest, causal=True
    )


def _flex(lengths: Sequence[int], device: torch.device) -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    row = torch.repeat_interleave(torch.arange(len(lengths), device=device), torch.tensor(lengths, device=device))
    tokens = len(row)

    def attends(batch: Tensor, head: Tensor, at: Tensor, other: Tensor) -> Tensor:
        return (row[at] == row[other]) & (at >= other)

    mask = create_block_mask(attends, None, None, tokens, tokens, device=str(device))
    compiled: Any = torch.compile(flex_attention) if device.type == "cuda" else flex_attention
    return lambda *parts: compiled(*(part.transpose(0, 1)[None] for part in parts), block_mask=mask, enable_gqa=True)[
        0
    ].transpose(0, 1)


if __name__ == "__main__":
    main()
