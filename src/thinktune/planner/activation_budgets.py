"""Memory of a compiled layer under each activation budget, by the compiler's own partitioner; cached on disk."""

import copy
import hashlib
import json
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch._dynamo.backends.common import aot_autograd
from torch._functorch import config as functorch
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._inductor.decomposition import select_decomp_table
from torch.fx import GraphModule, Node

from thinktune.cache import cache_folder, source_fingerprint
from thinktune.files import read_json, write_json
from thinktune.model import ModelConfig
from thinktune.planner.elementwise import (
    MATMUL_OPS,
    attention_name,
    elementwise_bytes,
    is_matmul_or_attention,
    node_bytes,
)
from thinktune.planner.layer_calls import META, LayerCall, kernels_without_memory
from thinktune.planner.trace import LayerBytes, LinearBytes, TracedModel

ACTIVATION_BUDGETS = (1.0, 0.7, 0.5, 0.3, 0.1, 0.0)


TRACED_TOKENS = 2048  # all bytes and operations are proportional to it, but for attention's few


# Our own source that decides the bytes of a layer: how it is called, traced, autocast and recomputed.
TRACED_SOURCES = (
    "planner.activation_budgets",
    "planner.elementwise",
    "planner.trace",
    "model.forward",
    "planner.layer_calls",
    "model.transforms",
)


EAGER_MEMORY_PASSES = 9.0  # of an uncompiled layer's saved bytes through memory, in its elementwise operations


Layers = tuple[LayerBytes, ...]  # one for each layer of the model, in its order


def trace_layers(
    config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device,
    *,
    compiled: bool,
    weight_dtype: torch.dtype | None = None,
) -> dict[float, Layers]:
    """Trace a layer of each kind under each activation budget: all of ACTIVATION_BUDGETS if compiled, else 1 and 0.

    If `weight_dtype` is not `dtype`, layers are traced without a compiler, which keeps no less. The first trace takes
    seconds; results are kept in the user's cache, under a hash of the model's shape, the libraries' versions and our
    own source. Whatever a class raises that cannot be traced is raised here.
    """
    weight_dtype = weight_dtype or dtype
    compiled = compiled and weight_dtype == dtype
    file = _cache_file(config, (dtype, weight_dtype), device, compiled=compiled)
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):  # none yet, or a damaged one
        return _read_layers(read_json(file))
    traced = TracedModel(config, dtype, device, weight_dtype)
    by_kind = _trace_kinds(traced, compiled=compiled)
    kinds = {str(index): {str(budget): asdict(each) for budget, each in found.items()} for index, found in by_kind}
    write_json(file, {"layers": traced.kinds, "kinds": kinds})
    return _read_layers(read_json(file))


def _cache_file(
    config: ModelConfig, dtypes: tuple[torch.dtype, torch.dtype], device: torch.device, *, compiled: bool
) -> Path:
    values = config.to_dict()
    for name in ("vocab_size", "_name_or_path", "transformers_version"):
        values.pop(name, None)  # no layer depends on it
    source = source_fingerprint(*TRACED_SOURCES)
    facts = [values, *map(str, dtypes), device.type, compiled, version("torch"), version("transformers"), source]
    name = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:32]
    return cache_folder().with_name("plans") / f"{name}.json"


def _read_layers(values: dict[str, Any]) -> dict[float, Layers]:
    kinds = {
        kind: {float(budget): _read_layer(layer) for budget, layer in found.items()}
        for kind, found in values["kinds"].items()
    }
    order = [kinds[str(kind)] for kind in values["layers"]]
    return {budget: tuple(layer[budget] for layer in order) for budget in order[0]}


def _read_layer(values: dict[str, Any]) -> LayerBytes:
    lines: dict[str, Any] = {
        name: LinearBytes(**values[name]) for name in ("saved", "forward", "backward", "gradient_ready")
    }
    return LayerBytes(**(values | lines))


def _trace_kinds(traced: TracedModel, *, compiled: bool) -> Iterator[tuple[int, dict[float, LayerBytes]]]:
    """Yield for the first layer of each kind its index, and its bytes by budget."""
    plain = traced.trace_layers(recompute=False)
    if not compiled:
        recomputed = traced.trace_layers(recompute=True)
        for index, kept in plain.items():
            yield index, {1.0: _with_eager_bytes(kept, kept), 0.0: _with_eager_bytes(recomputed[index], kept)}
        return
    for index, call in traced.capture_calls(TRACED_TOKENS).items():
        yield index, _trace_compiled(traced, call, plain[index])


def _with_eager_bytes(layer: LayerBytes, kept: LayerBytes) -> LayerBytes:
    """Fill in the elementwise bytes of an uncompiled layer, from what it saves where nothing is recomputed."""
    return replace(layer, elementwise_bytes=EAGER_MEMORY_PASSES * kept.saved.per_token * layer.recompute_factor)


def _trace_compiled(traced: TracedModel, call: LayerCall, plain: LayerBytes) -> dict[float, LayerBytes]:
    """Derive all budgets from one trace of a layer: only the partition differs."""
    found: dict[float, tuple[GraphModule, GraphModule, int]] = {}

    def partition(
        joint: GraphModule, inputs: Any, *, num_fwd_outputs: int, **options: Any
    ) -> tuple[GraphModule, GraphModule]:
        for budget in ACTIVATION_BUDGETS:
            with functorch.patch(activation_memory_budget=budget):
                both = min_cut_rematerialization_partition(
                    copy.deepcopy(joint), inputs, num_fwd_outputs=num_fwd_outputs, **options
                )
            found[budget] = (*both, num_fwd_outputs)
        forward, backward, _ = found[ACTIVATION_BUDGETS[0]]
        return forward, backward

    backend = aot_autograd(
        fw_compiler=_passthrough_compiler,
        bw_compiler=_passthrough_compiler,
        partition_fn=partition,
        decompositions=select_decomp_table,
    )
    states = call.hidden_states
    with traced.mode, kernels_without_memory():
        inputs = torch.empty(states.shape, dtype=states.dtype, device=META, requires_grad=True)
        call.run(inputs, torch.compile(call.layer, backend=backend, fullgraph=True, dynamic=False))
        torch.compiler.reset()
    shapes = {size for weight in call.layer.parameters() for size in weight.shape}
    weights = sum(weight.numel() for weight in call.layer.parameters()) * states.dtype.itemsize
    fewest = _matmul_operations(*found[1.0][:2])
    return {
        budget: LayerBytes(
            saved=LinearBytes(0, _saved_bytes(forward, outputs) / TRACED_TOKENS),
            forward=plain.forward,
            backward=LinearBytes(weights, _peak_live_bytes(backward, shapes) / TRACED_TOKENS),
            # The graph returns all gradients at once, at its end.
            gradient_ready=LinearBytes(weights, states.numel() * states.dtype.itemsize / TRACED_TOKENS),
            recompute_factor=_matmul_operations(forward, backward) / fewest,
            elementwise_bytes=sum(elementwise_bytes(graph, TRACED_TOKENS) for graph in (forward, backward))
            / TRACED_TOKENS,
            attention_runs=sum(_attention_calls(graph) for graph in (forward, backward)) or 1.0,
        )
        for budget, (forward, backward, outputs) in found.items()
    }


def _passthrough_compiler(module: GraphModule, _: Any) -> Any:
    def run(inputs: list[Any]) -> Any:
        arguments = list(inputs)
        inputs.clear()
        return module(*arguments)

    run._boxed_call = True  # pyright: ignore[reportFunctionMemberAccess]
    return run


def _saved_bytes(forward: GraphModule, outputs: int) -> int:
    """Count the bytes that the forward graph passes to the backward one, besides its own inputs."""
    [last] = [node for node in forward.graph.nodes if node.op == "output"]
    return sum(node_bytes(node) for node in last.args[0][outputs:] if node.op != "placeholder")


def _peak_live_bytes(backward: GraphModule, weight_sizes: Collection[int]) -> float:
    """Compute the peak bytes of a backward graph besides its inputs, without gradients of weights.

    What only passes between elementwise operations is fused and never stored. Inputs and outputs of matrix products, of
    attention and of the graph are. `weight_sizes` are those of the dimensions of the layer's weights.
    """
    nodes = list(backward.graph.nodes)
    [last] = [node for node in nodes if node.op == "output"]
    ends = {node for node in last.args[0] if node is not None and not _is_weight_gradient(node, weight_sizes)}
    stored = {node for node in nodes if node.op == "placeholder" and not node.name.startswith("primals")} | ends
    for node in nodes:
        if is_matmul_or_attention(node):
            stored |= {node, *node.all_input_nodes}
    stored = {node for node in stored if not _is_weight(node) and not _is_weight_gradient(node, weight_sizes)}
    index = {node: number for number, node in enumerate(nodes)}
    changes = [0] * (len(nodes) + 1)
    for node in stored:
        start = 0 if node.op == "placeholder" else index[node]
        end = len(nodes) - 1 if node in ends else max((index[user] for user in node.users), default=start)
        changes[start] += node_bytes(node)
        changes[end + 1] -= node_bytes(node)
    return max(accumulate(changes)) - sum(node_bytes(node) for node in stored if node.op == "placeholder")


def _is_weight(node: Node) -> bool:
    return node.op == "placeholder" and node.name.startswith("primals")


def _is_weight_gradient(node: Node, weight_sizes: Collection[int]) -> bool:
    """Return True if no dimension of a node is the row's, which only gradients of weights lose.

    Where each token passes several experts, that is a multiple of the row.
    """
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and not any(
        size == TRACED_TOKENS or (size and size % TRACED_TOKENS == 0 and size not in weight_sizes)
        for size in value.shape
    )


def _attention_calls(graph: GraphModule) -> int:
    """Count the forward passes of attention."""
    return sum(attention_name(node) == "attend" for node in graph.graph.nodes)


def _matmul_operations(*graphs: GraphModule) -> float:
    """Count the multiplications of all matrix products."""
    count = 0.0
    for node in (node for graph in graphs for node in graph.graph.nodes if node.op == "call_function"):
        name = str(node.target).split(".")
        if len(name) > 1 and name[1] in MATMUL_OPS:
            left, right = (each.meta["val"] for each in node.all_input_nodes[-2:])
            count += left.numel() * right.shape[-1]
    return count
