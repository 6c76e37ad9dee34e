"""Micro-measurements that only a card can answer, about a minute: one JSON line an item; none can stop the others.

    python benchmarks/card_probe.py [--only ITEM ...] [--tiny]

Items: attention over packed rows (padded rows, grouped keys, bytes of its backward pass), cuDNN's kernels for the same,
products of our shapes, memory and the link to the host, launches, the update of four tiers, head and loss, operations
that deterministic mode refuses, and products over seconds, under which clocks fall. Random data; ten runs after three.
"""

import math
import time
import traceback
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from typing import Any

import torch
from card.packed_attention import attention, cudnn
from card.probe import Probe
from card.turns import turns
from jobs import QWEN3
from torch import Tensor, nn

from thinktune.config.schema import MemoryTierName, TrainConfig
from thinktune.model.loss import LogitChunks, linear_cross_entropy
from thinktune.optim.memory_tiers import TIERS
from thinktune.optim.optimizer import Optimizer

PARAMETERS_OF_1_7B = 1.72e9


def products(probe: Probe) -> dict[str, float]:
    """Return TFLOP/s of our products in bf16: of the layers, joined and apart, of their gradients, and of the head."""
    shape = QWEN3["1.7B"]
    hidden, inner, keys, vocab = shape.hidden_size, shape.intermediate_size, 1024, shape.vocab_size
    if probe.tiny:
        hidden, inner, keys, vocab = 64, 128, 32, 512
    joined = hidden + 2 * keys
    found: dict[str, float] = {}
    for tokens in (256,) if probe.tiny else (2048, 8192, 32_768):
        cases = {
            "q": (tokens, hidden, hidden),
            "k": (tokens, hidden, keys),
            "q, k, v": (tokens, hidden, joined),
            "gate": (tokens, hidden, inner),
            "gate, up": (tokens, hidden, 2 * inner),
            "down": (tokens, inner, hidden),
            "gradient of k": (keys, tokens, hidden),
            "gradient of q, k, v": (joined, tokens, hidden),
            "gradient of gate": (inner, tokens, hidden),
            "head": (min(tokens, 7680), hidden, vocab),
        }
        for name, (rows, middle, columns) in cases.items():
            left, right = probe.random(rows, middle), probe.random(middle, columns)
            took = probe.milliseconds(lambda left=left, right=right: left @ right)
            found[f"{name}, {tokens} tokens"] = 2 * rows * middle * columns / took / 1e9
    return found


def memory(probe: Probe) -> dict[str, float]:
    """Measure a copy on the card, and copies to it and both ways from pinned memory of the host."""
    size = 2**20 if probe.tiny else 2**32
    source = torch.empty(size, dtype=torch.uint8, device=probe.device).random_()
    target = torch.empty_like(source)
    took = probe.milliseconds(lambda: target.copy_(source))
    found = {"copy, read and written, TB/s": 2 * size / took / 1e9}
    if probe.tiny:
        return found
    part = 2**30
    host, back = (torch.empty(part, dtype=torch.uint8, pin_memory=True) for _ in range(2))
    streams = torch.cuda.Stream(), torch.cuda.Stream()

    def to_card() -> None:
        with torch.cuda.stream(streams[0]):
            target[:part].copy_(host, non_blocking=True)

    def both() -> None:
        to_card()
        with torch.cuda.stream(streams[1]):
            back.copy_(source[:part], non_blocking=True)

    found["to the card, GB/s"] = part / probe.milliseconds(to_card, 5) / 1e6
    found["both ways at once, GB/s each"] = part / probe.milliseconds(both, 5) / 1e6
    return found


def launches(probe: Probe) -> dict[str, float]:
    """Return the host's microseconds of a small operation, and those of one in a captured graph."""
    small, count = torch.zeros(8, device=probe.device), 10 if probe.tiny else 1000

    def launch() -> None:
        for _ in range(count):
            small.add_(1)

    found = {"an operation, us": 1000 * probe.milliseconds(launch, 5) / count}
    if probe.tiny:
        return found
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launch()
    return found | {"an operation in a captured graph, us": 1000 * probe.milliseconds(graph.replay, 5) / count}


def updates(probe: Probe) -> dict[str, Any]:
    """Time the update of each tier, norm included: on the card, on the host, and over the bytes that it must move."""
    found: dict[str, Any] = {}
    rows, columns, count = (64, 64, 3) if probe.tiny else (6144, 2048, 48)
    tiers: tuple[MemoryTierName, ...] = ("exact", "exact-bf16", "8bit", "4bit")
    for name in tiers:
        torch._dynamo.reset()
        model = nn.Module()
        weights = [nn.Parameter(torch.randn(rows, columns, device=probe.device)) for _ in range(count)]
        model.weights = nn.ParameterList(weights)
        optimizer = Optimizer(model, TrainConfig(rows_per_step=1, memory=name))
        gradients = [torch.randn_like(weight) for weight in optimizer.parameters.values()]

        def update(optimizer: Optimizer = optimizer, gradients: Sequence[Tensor] = gradients) -> None:
            for weight, gradient in zip(optimizer.parameters.values(), gradients, strict=True):
                weight.grad = gradient
            optimizer.begin_step(1, 1e-5)
            optimizer.finish_step()

        started = time.perf_counter()
        update()
        probe.wait()
        first = time.perf_counter() - started
        took = probe.milliseconds(update, 5)
        started = time.perf_counter()
        update()
        host = 1000 * (time.perf_counter() - started)
        probe.wait()
        size = sum(weight.numel() for weight in optimizer.parameters.values())
        least = 2 * TIERS[name].bytes_per_parameter + TIERS[name].gradient_bytes_per_parameter
        found[name] = {
            "ms": took,
            "ms_for_1.7B": took * PARAMETERS_OF_1_7B / size,
            "host_ms": host,
            "first_s": first,
            "least_bytes_per_parameter": least,
            "gb_per_s": least * size / took / 1e6,
        }
        del model, weights, optimizer, gradients, update
    return found


def loss(probe: Probe) -> dict[str, Any]:
    """Time head and loss with both gradients, by rows of logits at a time, beside their three products alone."""
    tokens, hidden, vocab = (64, 32, 512) if probe.tiny else (7536, 2048, 151_936)
    states, head = probe.random(tokens, hidden, grad=True), probe.random(vocab, hidden, grad=True)
    targets = torch.randint(vocab, (tokens,), device=probe.device)
    found: dict[str, Any] = {}
    for rows in (None, tokens // 2, tokens // 8):

        def run(rows: int | None = rows) -> None:
            scaled, _ = linear_cross_entropy(
                states, head, targets, scale=1.0, dtype=torch.bfloat16, chunks=LogitChunks(rows)
            )
            torch.autograd.grad(scaled, (states, head))

        found["all rows" if rows is None else f"{rows} rows"] = {
            "ms": probe.milliseconds(run, 5),
            "peak_mib": probe.peak_bytes(run) / 2**20,
        }
    with torch.no_grad():
        logits = states @ head.T
        found["products alone, ms"] = probe.milliseconds(lambda: (states @ head.T, logits @ head, logits.T @ states), 5)
        found["logits read and written once, ms"] = probe.milliseconds(lambda: logits.mul_(1.0), 5)
    return found


def deterministic(probe: Probe) -> dict[str, str]:
    """Say which operations of ours deterministic mode refuses."""
    numbers = torch.rand(4, 100, device=probe.device)
    places = torch.randint(5, (99,), device=probe.device)
    operations: dict[str, Callable[[], Any]] = {
        "cumsum": lambda: numbers.cumsum(-1),
        "index_add_": lambda: torch.zeros(5, device=probe.device).index_add_(0, places, numbers.flatten()[:99]),
        "scatter_add_": lambda: torch.zeros(5, device=probe.device).scatter_add_(0, places, numbers.flatten()[:99]),
        "embedding's gradient": lambda: _embedding_gradient(places, probe.device),
    }
    found: dict[str, str] = {}
    torch.use_deterministic_algorithms(True)
    try:
        for name, operation in operations.items():
            try:
                operation()
                found[name] = "taken"
            except RuntimeError as error:
                found[name] = str(error).splitlines()[0][:160]
    finally:
        torch.use_deterministic_algorithms(False)
    return found


def sustained(probe: Probe) -> list[float]:
    """Return TFLOP/s of a large product, second by second: clocks fall under load."""
    side, runs = (64, 1) if probe.tiny else (8192, 150)
    left, right = probe.random(side, side), probe.random(side, side)
    return [2 * side**3 / probe.milliseconds(lambda: left @ right, runs, 0) / 1e9 for _ in range(5)]


ITEMS = (attention, products, memory, launches, updates, loss, cudnn, deterministic, sustained)


def _embedding_gradient(places: Tensor, device: torch.device) -> Tensor:
    table = torch.zeros(5, 8, device=device, requires_grad=True)
    return torch.autograd.grad(torch.nn.functional.embedding(places, table).sum(), table)[0]


def _rounded(found: Any) -> Any:
    if isinstance(found, dict):
        return {key: _rounded(value) for key, value in found.items()}
    if isinstance(found, list):
        return [_rounded(value) for value in found]
    if isinstance(found, float):
        return None if math.isnan(found) else float(f"{found:.4g}")
    return found


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[item.__name__ for item in ITEMS])
    parser.add_argument("--tiny", action="store_true", help="small sizes on the CPU, to see that everything runs")
    parser.add_argument("--staged", action="store_true", help="a stage of first_card.py: it waits for turns")
    arguments = parser.parse_args()
    line, probe = turns(arguments.staged), Probe(arguments.tiny)
    line.wait("timed")
    torch.manual_seed(0)
    for item in ITEMS:
        if item.__name__ not in arguments.only:
            continue
        started = time.perf_counter()
        try:
            found = _rounded(item(probe))
        except Exception as error:
            at = traceback.extract_tb(error.__traceback__)[-1]
            found = {"failed": f"{type(error).__name__}: {error}"[:300], "at": f"{at.name}:{at.lineno}"}
        line.find(item.__name__, seconds=round(time.perf_counter() - started, 2), found=found)
        if not probe.tiny:
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
