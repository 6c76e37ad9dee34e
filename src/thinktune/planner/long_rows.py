"""Long rows: what tiles, layer inputs in host memory, and cards that share a row's tokens take and cost."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch.fx import GraphModule, Node

from thinktune.model.long_rows.activation_offload import LEAVING_INPUTS
from thinktune.model.long_rows.tiled_mlp import (
    MATRICES,
    TILE_TOKENS,
    derive_tiles,
    forward_tiles,
    tile_mlps,
    tileable_activation,
)
from thinktune.planner.flops import Operations
from thinktune.planner.trace import LayerBytes, LinearBytes, TracedModel

TILED_OPS = {"tiled_mlp": 3, "tiled_mlp_backward": 8}  # products, each of all tokens with one of the three matrices
TILE_RECOMPUTED_PRODUCTS = 2  # of those of the backward pass: gate and up


def tile_layers(traced: TracedModel) -> tuple[int, int]:
    """Run a traced model's MLPs in tiles, where they can be; return what a tile takes in each pass, in bytes.

    That is what an operator allocates inside, which no trace of a layer sees: tensors of a tile, and sums of gradients.
    """
    name = tileable_activation(traced.model)
    if name is None or not tile_mlps(traced.model):
        return 0, 0
    largest = max(traced.layers, key=lambda layer: layer.mlp.gate_proj.weight.numel())
    with traced.live_bytes() as live, torch.no_grad():
        gate, up, down = (getattr(largest.mlp, part).weight for part in MATRICES)
        hidden = torch.empty(TILE_TOKENS, gate.shape[1], dtype=traced.dtype, device=traced.device)
        gradient, before = torch.empty_like(hidden), live.reset_peak()
        made = forward_tiles(hidden, gate, up, down, name, TILE_TOKENS)
        before = live.current_bytes  # what it returns, the trace of a layer has
        forward = live.peak_bytes - before
        live.reset_peak()
        derived = derive_tiles(gradient, hidden, gate, up, down, name, TILE_TOKENS)
        backward = live.peak_bytes - live.current_bytes
        del made, derived
    return max(0, forward), max(0, backward)


def with_tiles(layer: LayerBytes, tile_bytes: tuple[int, int]) -> LayerBytes:
    """Return the bytes of a layer with those of a tile, which do not grow with the tokens."""
    forward, backward = tile_bytes
    return replace(
        layer,
        forward=LinearBytes(layer.forward.fixed + forward, layer.forward.per_token),
        backward=LinearBytes(layer.backward.fixed + backward, layer.backward.per_token),
    )


def tiled_operations(node: Node) -> float:
    """Count the multiplications of an operator that runs an MLP in tiles; 0 for any other."""
    products = TILED_OPS.get(_name(node), 0)
    if not products:
        return 0.0
    hidden, gate = (each.meta["val"] for each in node.all_input_nodes[-4:-2])
    return products * hidden.numel() * gate.shape[0]


def recomputed_in_tiles(graph: GraphModule) -> float:
    """Count the multiplications that a backward graph's tiles make once more, whatever the activation budget."""
    nodes = (node for node in graph.graph.nodes if _name(node) == "tiled_mlp_backward")
    return sum(tiled_operations(node) * TILE_RECOMPUTED_PRODUCTS / TILED_OPS["tiled_mlp_backward"] for node in nodes)


def is_tiled(node: Node) -> bool:
    """Return True for an operator that runs an MLP in tiles."""
    return _name(node) in TILED_OPS


def stored_outputs(node: Node) -> list[Node]:
    """Return the nodes of what an operator makes: itself, but of the gradients of a tiled MLP that of its input.

    The others are gradients of weights.
    """
    if _name(node) != "tiled_mlp_backward":
        return [node]
    return [user for user in node.users if user.args[1] == 0]


def _name(node: Node) -> str:
    parts = str(node.target).split(".")
    return parts[1] if node.op == "call_function" and len(parts) > 1 else ""


def inputs_on_device(inputs: Sequence[float], *, offloaded: bool) -> list[float]:
    """Return the bytes of layer inputs that the device holds up to each layer; of those offloaded, the last few."""
    most = LEAVING_INPUTS + 1 if offloaded else len(inputs)
    return [sum(inputs[max(0, last - most) : last]) for last in range(1, len(inputs) + 1)]


def pinned_bytes(inputs: Sequence[int]) -> int:
    """Return the bytes of host memory for layer inputs; pinned memory comes in powers of two."""
    return sum(1 << max(0, size - 1).bit_length() for size in inputs)


@dataclass(frozen=True, slots=True)
class Exchange:
    """What cards that share the tokens of each batch send each other around attention; nothing for one card."""

    operations: Operations | None  # of a token; None for one card
    kv_heads: int
    cards: int
    itemsize: int

    @property
    def _token_bytes(self) -> list[int]:
        """Bytes of a token's queries, keys, values and outputs, by attention."""
        times = max(1, self.cards // self.kv_heads)  # fewer keys than cards are sent more than once
        found = self.operations.attentions if self.operations else ()
        return [self.itemsize * (each.query_elements + each.kv_elements * times) for each in found]

    def peak_bytes(self, tokens: int) -> int:
        """Return the bytes that a layer's exchange takes at its peak on a card: what is sent, and what is received."""
        return 2 * tokens * max(self._token_bytes, default=0)

    def seconds(self, tokens: float, bytes_per_second: float) -> float:
        """Predict the seconds of a forward pass's exchanges on a card that has so many tokens of a batch."""
        return (self.cards - 1) / self.cards * tokens * sum(self._token_bytes) / bytes_per_second
