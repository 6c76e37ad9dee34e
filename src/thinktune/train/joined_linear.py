"""Linear layers over one input (queries, keys and values; gate and up) as one matrix product in compiled code.

Each keeps its parameter, its name and its gradient. The parameters become views of one weight, so that nothing is
copied: checkpoints, updates and generation see them as they were.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from thinktune.model import CausalLM
from thinktune.model.decoder import decoder_layers

# Names of linear layers that read the same hidden states, in the classes of transformers.
JOINED_NAMES = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


class JoinedProduct:
    """The product of one input with the weights of several linear layers, which take their parts of it one by one.

    `weight` is (rows of all, in_features); the layers' parameters are views of it.
    """

    def __init__(self, linears: list[nn.Linear]) -> None:
        self._parameters = [linear.weight for linear in linears]
        self._rows = [len(parameter) for parameter in self._parameters]
        self.weight = torch.cat([parameter.detach() for parameter in self._parameters])
        for parameter, rows in zip(self._parameters, self.weight.split(self._rows), strict=True):
            parameter.data = rows
        self._input: Tensor | None = None
        self._parts: dict[int, Tensor] = {}

    def take(self, index: int, states: Tensor) -> Tensor:
        """Return the product of layer `index`, computed with that of the others when the first of them asks."""
        if self._input is not states or index not in self._parts:
            learns = torch.is_grad_enabled()  # evaluation needs no gradient, nor the compiler's care for one
            product = _Product.apply(states, self.weight, *self._parameters) if learns else states @ self.weight.T
            self._input, self._parts = states, dict(enumerate(product.split(self._rows, -1)))
        part = self._parts.pop(index)
        if not self._parts:  # all are taken, and nothing of this pass is held any longer
            self._input = None
        return part


class _Product(torch.autograd.Function):
    """`states @ weight.T`, whose gradients of the weight's parts are one product too."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(states, weight)
        ctx.rows = [len(parameter) for parameter in parameters]
        return states @ weight.T

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        states, weight = ctx.saved_tensors
        of_weight = gradient.flatten(0, -2).T @ states.flatten(0, -2)
        return gradient @ weight, None, *of_weight.split(ctx.rows)


class JoinedLinear(nn.Linear):
    """A linear layer that takes its part of a joined product in compiled code, and is itself anywhere else."""

    joined: JoinedProduct
    index: int

    def forward(self, input: Tensor) -> Tensor:
        """Return (…, out_features) for (…, in_features)."""
        return self.joined.take(self.index, input) if torch.compiler.is_compiling() else super().forward(input)


def joining_pays(activation_budget: float) -> bool:
    """Return True where joined products move fewer bytes, by the code that torch 2.11 writes for an H200.

    A token of Qwen3-1.7B's layer moves 528,000 bytes instead of 553,000 with all activations kept. Below that, what is
    computed again for one gradient of all parts costs what the products save, or more (`benchmarks/layer_code.py`).
    """
    return activation_budget == 1


def join_products(model: CausalLM, dtype: torch.dtype) -> int:
    """Join the linear layers that share an input in each decoder layer; return the number of joined products.

    Left as they are: layers with a bias, whose sum would be rounded before it is added; weights that are shared, that
    are sharded over ranks, that do not learn, or that are not kept in `dtype`, the one that is computed in; and classes
    of layers that multiply in another way, such as fp8.

    Call it before anything else holds the weights' storage, and only for layers that will be compiled.
    """
    owners = Counter(id(weight) for _, weight in model.named_parameters(remove_duplicate=False))  # pyright: ignore
    count = 0
    for linears in _groups(model):
        weights = [linear.weight for linear in linears]
        if any(_stays(linear, dtype) or owners[id(linear.weight)] > 1 for linear in linears):
            continue
        if len({(weight.shape[1], weight.device) for weight in weights}) > 1:
            continue
        joined, count = JoinedProduct(linears), count + 1
        for index, linear in enumerate(linears):
            linear.__class__ = JoinedLinear
            made = cast("JoinedLinear", linear)
            made.joined, made.index = joined, index
    return count


def _groups(model: CausalLM) -> Iterator[list[nn.Linear]]:
    for module in decoder_layers(model).modules():
        children = dict(module.named_children())
        for names in JOINED_NAMES:
            if all(type(children.get(name)) is nn.Linear for name in names):
                yield [children[name] for name in names]  # pyright: ignore[reportReturnType]


def _stays(linear: nn.Linear, dtype: torch.dtype) -> bool:
    weight = linear.weight
    unfit = isinstance(weight, DTensor) or not weight.requires_grad or weight.dtype != dtype
    return unfit or getattr(linear, "bias", None) is not None
