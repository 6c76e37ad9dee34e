"""A trace of one step: every kernel by name, and where the time of a token goes by kind of work."""

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from thinktune.train.loop import _train_step
from thinktune.train.state import Run

TRACE_LIMIT_BYTES = 5 * 2**20
# By the kernels' names, the first that matches: `nvjet` is cuBLAS on Hopper.
KINDS = (
    ("attention", r"flash|fmha|attention|attn"),
    ("products", r"nvjet|gemm|cutlass|xmma|cublas|splitk|aten::(mm|addmm|bmm|matmul)"),
    ("compiled", r"^triton_"),
    ("update", r"adamw|fused_update|multi_tensor|_update"),
    ("copies", r"memcpy|memset|copy"),
)


class Kernel(NamedTuple):
    """A kernel's name, how often it was launched, and its microseconds in all."""

    name: str
    launches: int
    us: float


def trace_step(run: Run, number: int, tokens: int, out: Path) -> dict[str, Any]:
    """Take a step under the profiler, write `kernels.txt` and `trace.json.gz`, and return the sums.

    The trace is left out if it is larger than what comes back from a rented machine. On the CPU operations stand for
    kernels.
    """
    on_card = run.context.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_card else [])]
    with profile(activities=activities) as found:
        started_at = time.perf_counter()
        _train_step(run, number)
        if on_card:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started_at
    kernels = _kernels(found, on_card=on_card)
    (out / "kernels.txt").write_text(table(kernels, tokens), encoding="utf-8")
    trace = out / "trace.json.gz"
    found.export_chrome_trace(str(trace))
    if trace.stat().st_size > TRACE_LIMIT_BYTES:
        trace.unlink()
    busy = sum(kernel.us for kernel in kernels) / 1e6
    return {
        "tokens": tokens,
        "seconds": seconds,
        "kernels_busy_share": busy / seconds,
        "launches": sum(kernel.launches for kernel in kernels),
        "us_per_token": {kind: us / tokens for kind, us in by_kind(kernels).items()},
        "traced": trace.is_file(),
    }


def by_kind(kernels: Sequence[Kernel]) -> dict[str, float]:
    """Return microseconds by kind of work, the largest first."""
    sums: dict[str, float] = {}
    for kernel in kernels:
        kind = next((kind for kind, names in KINDS if re.search(names, kernel.name, re.IGNORECASE)), "other")
        sums[kind] = sums.get(kind, 0.0) + kernel.us
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


def table(kernels: Sequence[Kernel], tokens: int) -> str:
    """Return all kernels as text: microseconds in all, a launch and a token, launches, name."""
    lines = [
        f"{kernel.us:12.1f} {kernel.us / kernel.launches:10.2f} {kernel.us / tokens:9.4f} {kernel.launches:8d}  "
        f"{kernel.name[:200]}"
        for kernel in sorted(kernels, key=lambda kernel: -kernel.us)
    ]
    return "\n".join([f"{'us':>12} {'us/launch':>10} {'us/token':>9} {'launches':>8}  kernel", *lines]) + "\n"


def _kernels(found: profile, *, on_card: bool) -> list[Kernel]:
    wanted = torch.autograd.DeviceType.CUDA if on_card else torch.autograd.DeviceType.CPU
    kernels: list[Kernel] = []
    for event in found.key_averages():
        us = event.self_device_time_total if on_card else event.self_cpu_time_total
        if event.device_type == wanted and us > 0:
            kernels.append(Kernel(event.key, event.count, us))
    return kernels
