"""Launches and host time of an update over as many parameters as Qwen3-1.7B has: `python benchmarks/update_host.py`.

Needs Triton and no card: the kernels are noted and not run, so that what is left is the host's own work, without the
time that Triton takes to launch a kernel. One JSON line for each tier, after the backward pass and inside it.
"""

import json
import os
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

LAYERS, MATRICES, VECTORS = 28, 7, 4  # of Qwen3-1.7B, with its embedding and its last norm
STEPS = 20


class Launches(TorchDispatchMode):
    """The operations that a device would launch; views and allocations launch nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = operation.overloadpacket.__name__
        self.count += not (operation.is_view or name.startswith("empty") or name in ("detach", "_unsafe_view"))
        return operation(*args, **(kwargs or {}))


class NotedKernel:
    """A kernel whose launches are counted and do nothing."""

    launched = 0

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launch(*arguments: Any, **options: Any) -> None:
            NotedKernel.launched += 1

        return launch


def parameters() -> nn.ParameterList:
    shapes = [*[(2, 256)] * (LAYERS * MATRICES + 1), *[(256,)] * (LAYERS * VECTORS + 1)]
    return nn.ParameterList([nn.Parameter(torch.randn(shape)) for shape in shapes])


def update(model: nn.ParameterList, optimizer: Any, gradients: list[Tensor], step: int) -> float:
    """Return the host's seconds of one update, or of the hooks inside the backward pass."""
    optimizer.begin_step(step, 1e-4)
    for weight, gradient in zip(model, gradients, strict=True):
        weight.grad = gradient
    started_at = time.process_time()
    if optimizer.in_backward:
        for index, (name, weight) in enumerate(optimizer.parameters.items()):
            optimizer._update_in_backward(index, name, weight)
    optimizer.finish_step()
    return time.process_time() - started_at


def main() -> None:
    os.environ["TRITON_INTERPRET"] = "1"  # the rule then takes the kernels on the CPU as well
    from thinktune.config.schema import TrainConfig
    from thinktune.optim import Optimizer, update_kernels

    torch.set_num_threads(1)
    for name in ("update_spans", "sum_squares", "clip_in_backward"):
        setattr(update_kernels, name, NotedKernel())
    for memory in ("exact", "exact-bf16", "8bit", "4bit"):
        for in_backward in (False, True):
            model = parameters()
            settings = TrainConfig(rows_per_step=1, memory=memory, update_in_backward=in_backward)
            optimizer = Optimizer(model, settings)
            gradients = [torch.ones_like(weight) for weight in model]
            seconds = sorted(update(model, optimizer, gradients, step) for step in range(1, STEPS + 1))
            NotedKernel.launched = 0
            with Launches() as launches:
                update(model, optimizer, gradients, 1)
            found = {"tier": memory, "in_backward": in_backward, "parameters": len(gradients)}
            found |= {"kernels": NotedKernel.launched, "operations": launches.count}
            print(json.dumps(found | {"host_ms": round(1e3 * seconds[STEPS // 2], 2)}))


if __name__ == "__main__":
    main()
