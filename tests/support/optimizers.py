"""A small model and random gradients for tests of the optimizer."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from thinktune.config.schema import TrainConfig

RATE = 1e-3


class SmallModel(torch.nn.Module):
    """A matrix that does not fill whole blocks, a vector, and a matrix smaller than a block."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.matrix = torch.nn.Parameter(torch.randn(37, 131))
        self.vector = torch.nn.Parameter(torch.ones(19))
        self.small_matrix = torch.nn.Parameter(torch.randn(3, 5) * 1e-3)


def settings(memory="fp32", **changes):
    return TrainConfig(rows_per_step=1, weight_decay=0.1, memory=memory, **changes)


def gradients(number, scale=1.0):
    generator = torch.Generator().manual_seed(number)
    return [
        torch.randn(weight.shape, generator=generator) * scale * 10.0 ** -(number % 5)
        for weight in SmallModel().parameters()
    ]


def take_steps(model, optimizer, numbers, change=lambda gradient: gradient, like=torch.bfloat16):
    """Take steps with random gradients, rounded to bf16 so that every tier gets the same ones."""
    norms = []
    for number in numbers:
        optimizer.begin_step(number, RATE)
        for weight, gradient in zip(model.parameters(), gradients(number), strict=True):
            weight.grad = change(gradient.to(like).to(weight.dtype))
        norms.append(optimizer.finish_step())
    return norms


def all_tensors(model, optimizer):
    """Copy weights, masters and optimizer state."""
    return [
        tensor.clone()
        for tensor in (
            *model.parameters(),
            *(optimizer.master_weights() or {}).values(),
            *optimizer.state_dict().values(),
        )
    ]


def all_equal(some, others):
    return len(some) == len(others) and all(one.equal(other) for one, other in zip(some, others, strict=True))


def take_steps_in_backward(model, optimizer, numbers, change=lambda gradient: gradient):
    """Take the same steps by real backward passes, whose gradients are the random ones."""
    norms = []
    for number in numbers:
        optimizer.begin_step(number, RATE)
        pairs = zip(model.parameters(), gradients(number), strict=True)
        sum((weight * change(gradient.bfloat16().to(weight.dtype))).sum() for weight, gradient in pairs).backward()
        assert optimizer._settings.update_in_backward
        assert all(weight.grad is None for weight in model.parameters())
        norms.append(optimizer.finish_step())
    return norms


class Reads(TorchDispatchMode):
    """Record the operations in which the host would wait for the device."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.overloadpacket.__name__
        self.found += [name] if name in ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique") else []
        return operation(*args, **(kwargs or {}))
