"""A layer's MLP in tiles of tokens: of what is inside it, no more than a tile's part ever exists.

Long rows make a layer's largest tensors in its MLP. Both passes go through them tile by tile, and the backward pass
computes each tile's anew. One operator, opaque to the compiler, so that no compiler puts the tiles together again
(after Luo et al., Mini-Sequence Transformer, 2024).
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.nn import functional

from thinktune.model.decoder import decoder_layers
from thinktune.model.device import runs_triton
from thinktune.model.proof import build, plain_class, proof_key
from thinktune.model.protocols import CausalLM
from thinktune.model.twin import fill_weights, shrink

TILE_TOKENS = 2048  # enough for matrix products to run at full speed
MATRICES = ("gate_proj", "up_proj", "down_proj")  # as transformers calls those of a gated MLP
PROVED_TOKENS = 5
TOLERANCE = 1e-5  # of a tiny MLP in fp32

# What a gate can be passed through, and its derivative: the gradient of the result and the gate's products.
Activation = tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]
ACTIVATIONS: dict[str, Activation] = {
    "silu": (functional.silu, torch.ops.aten.silu_backward.default),
    "gelu": (functional.gelu, torch.ops.aten.gelu_backward.default),
    "gelu_tanh": (
        lambda gate: functional.gelu(gate, approximate="tanh"),
        lambda gradient, gate: torch.ops.aten.gelu_backward.default(gradient, gate, approximate="tanh"),
    ),
    "relu": (functional.relu, lambda gradient, gate: gradient * (gate > 0)),
}


def tile_mlps(model: CausalLM, tile_tokens: int = TILE_TOKENS) -> bool:
    """Run the MLP of each layer in tiles of so many tokens, and return True; False, and no change, where none can.

    Call it before `compile_layers`. The result is the same; gradients of weights are summed over tiles, in fp32.
    """
    name = tileable_activation(model)
    if name is None:
        return False
    for layer in decoder_layers(model):
        layer.mlp.forward = _tiled_forward(layer.mlp, layer.mlp.forward, name, tile_tokens)
    return True


def tileable_activation(model: CausalLM) -> str | None:
    """Return the activation of a model whose layers all have plain gated MLPs; None for any other model.

    Found by its class and configuration on a tiny twin: each layer's own forward pass gives `down(act(gate) * up)`.
    """
    if any(type(part) is not nn.Linear for part in _matrices(model)):  # products in fp8, for one
        return None
    model_class = plain_class(type(model))
    key = proof_key(model_class, model.config)
    if key not in _FOUND:
        _FOUND[key] = _find_activation(model_class, model.config)
    return _FOUND[key]


_FOUND: dict[str, str | None] = {}


def _matrices(model: CausalLM) -> Iterator[Any]:
    for layer in decoder_layers(model):
        mlp = getattr(layer, "mlp", None)
        yield from (getattr(mlp, name, None) for name in MATRICES)


def _find_activation(model_class: type[Any], config: Any) -> str | None:
    with unset_fake_temporarily(), torch.random.fork_rng(devices=[]), torch.no_grad(), torch.device("cpu"):
        twin = build(model_class, shrink(config), "cpu").train()  # with what it drops, if it does
        fill_weights(twin, 0)
        if any(type(part) is not nn.Linear or getattr(part, "bias", None) is not None for part in _matrices(twin)):
            return None
        mlps = [layer.mlp for layer in decoder_layers(twin)]
        return next((name for name in ACTIVATIONS if all(_is_gated(mlp, name) for mlp in mlps)), None)


def _is_gated(mlp: Any, name: str) -> bool:
    """Return True if a small MLP's own forward pass is that of a gated MLP with this activation."""
    if {id(weight) for weight in mlp.parameters()} != {id(getattr(mlp, part).weight) for part in MATRICES}:
        return False
    hidden = torch.randn(1, PROVED_TOKENS, mlp.gate_proj.in_features)
    hidden *= 2 / mlp.gate_proj(hidden).std()  # where activations differ
    own, weights = mlp(hidden), [getattr(mlp, part).weight for part in MATRICES]
    if not isinstance(own, Tensor):
        return False
    found = tiled_mlp(hidden, *weights, name, PROVED_TOKENS)
    return torch.allclose(own, found, rtol=0, atol=TOLERANCE * float(own.abs().max()))


def _tiled_forward(
    mlp: Any, plain: Callable[[Tensor], Tensor], name: str, tile_tokens: int
) -> Callable[[Tensor], Tensor]:
    def forward(hidden: Tensor) -> Tensor:
        if not torch.is_grad_enabled() and hidden.numel() <= tile_tokens * hidden.shape[-1]:  # as in generation
            return plain(hidden)
        return tiled_mlp(hidden, mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight, name, tile_tokens)

    return forward


def forward_tiles(hidden: Tensor, gate: Tensor, up: Tensor, down: Tensor, activation: str, tile_tokens: int) -> Tensor:
    """Return `down(act(gate(hidden)) * up(hidden))`, (..., hidden), in tiles; its gradients are registered below."""
    rows, product = hidden.flatten(0, -2), _kernels(activation, hidden.device.type)[0]
    output = torch.empty_like(rows)
    for tile, part in zip(rows.split(tile_tokens), output.split(tile_tokens), strict=True):
        torch.mm(product(tile @ gate.T, tile @ up.T), down.T, out=part)
    return output.view(hidden.shape)


def derive_tiles(  # noqa: PLR0913 (an operator takes no objects)
    gradient: Tensor, hidden: Tensor, gate: Tensor, up: Tensor, down: Tensor, activation: str, tile_tokens: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of hidden states and of the three matrices; those are summed over tiles in fp32."""
    rows, derive = hidden.flatten(0, -2), _kernels(activation, hidden.device.type)[1]
    of_hidden = torch.empty_like(rows)
    sums = [torch.zeros_like(weight, dtype=torch.float32) for weight in (gate, up, down)]
    tiles = zip(*(each.split(tile_tokens) for each in (gradient.flatten(0, -2), rows, of_hidden)), strict=True)
    for of_output, tile, of_tile in tiles:
        inner, of_gate, of_up = derive(of_output @ down, tile @ gate.T, tile @ up.T)
        sums[2] += of_output.T @ inner
        del inner
        sums[0] += of_gate.T @ tile
        sums[1] += of_up.T @ tile
        torch.mm(of_gate, gate, out=of_tile)
        of_tile.addmm_(of_up, up)
    of_weights = [sums.pop(0).to(gate.dtype) for _ in range(3)]  # each sum goes as it is rounded
    return of_hidden.view(hidden.shape), of_weights[0], of_weights[1], of_weights[2]


tiled_mlp = torch.library.custom_op("thinktune::tiled_mlp", forward_tiles, mutates_args=())
tiled_mlp_backward = torch.library.custom_op("thinktune::tiled_mlp_backward", derive_tiles, mutates_args=())


@tiled_mlp.register_fake
def _(hidden: Tensor, gate: Tensor, up: Tensor, down: Tensor, activation: str, tile_tokens: int) -> Tensor:
    return torch.empty_like(hidden, memory_format=torch.contiguous_format)


@tiled_mlp_backward.register_fake
def _(  # noqa: PLR0913
    gradient: Tensor, hidden: Tensor, gate: Tensor, up: Tensor, down: Tensor, activation: str, tile_tokens: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    of_hidden, *of_weights = (
        torch.empty_like(each, memory_format=torch.contiguous_format) for each in (hidden, gate, up, down)
    )
    return of_hidden, of_weights[0], of_weights[1], of_weights[2]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.activation, ctx.tile_tokens = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    return *tiled_mlp_backward(gradient, *ctx.saved_tensors, ctx.activation, ctx.tile_tokens), None, None


tiled_mlp.register_autograd(_backward, setup_context=_setup_context)


@cache
def _kernels(activation: str, device_type: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return `act(gate) * up`, and its derivative: of the product's gradient, gate and up, with the product itself.

    The derivative is one compiled kernel where the loss's softmax is. The product is not: prompts that are generated
    from have any length, and each would be compiled.
    """
    act, derivative = ACTIVATIONS[activation]

    def product(gate: Tensor, up: Tensor) -> Tensor:
        return act(gate) * up

    def derive(gradient: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        activated = act(gate)
        return activated * up, derivative(gradient * up, gate), gradient * activated

    if not runs_triton(torch.device(device_type)):
        return product, derive
    return product, torch.compile(derive, dynamic=False)
