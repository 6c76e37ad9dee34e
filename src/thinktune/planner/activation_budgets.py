"""Memory of a compiled layer under each activation budget, by the compiler's own partitioner; cached on disk."""

import copy
import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch._dynamo.backends.common import aot_autograd
from torch._functorch import config as functorch
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._inductor.decomposition import select_decomp_table
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule, Node

from thinktune.cache import cache_folder, source_fingerprint
from thinktune.files import read_json, write_json
from thinktune.model import ModelConfig
from thinktune.model.decoder import decoder_layers
from thinktune.planner.trace import META, LayerBytes, LinearBytes, one_layer_model, rotary_embeddings, trace_layer

ACTIVATION_BUDGETS = (1.0, 0.7, 0.5, 0.3, 0.1, 0.0)


TRACED_TOKENS = 2048  # all bytes and operations are proportional to it, but for attention's few


# Our own source that decides the bytes of one layer: how it is traced, autocast and recomputed.
TRACED_SOURCES = ("planner.activation_budgets", "planner.trace", "model.forward", "model.transforms")


MATMUL_OPS = ("mm", "addmm", "bmm")


def trace_layers(
    config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device,
    *,
    compiled: bool,
    weight_dtype: torch.dtype | None = None,
) -> dict[float, LayerBytes]:
    """Trace one layer under each activation budget: all of ACTIVATION_BUDGETS if compiled, else 1 and 0.

    If `weight_dtype` is not `dtype`, the layer is traced without a compiler, which keeps no less. The first trace takes
    seconds; results are kept in the user's cache, under a hash of the layer's shape, the libraries' versions and our
    own source.
    """
    weight_dtype = weight_dtype or dtype
    compiled = compiled and weight_dtype == dtype
    file = _cache_file(config, (dtype, weight_dtype), device, compiled=compiled)
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):  # none yet, or a damaged one
        return {float(budget): _read_layer(values) for budget, values in read_json(file).items()}
    if compiled:
        found = _trace_compiled(config, dtype)
    else:
        found = {
            budget: trace_layer(config, dtype, device, recompute=budget < 1, weight_dtype=weight_dtype)
            for budget in (1.0, 0.0)
        }
    write_json(file, {str(budget): asdict(layer) for budget, layer in found.items()})
    return found


def _cache_file(
    config: ModelConfig, dtypes: tuple[torch.dtype, torch.dtype], device: torch.device, *, compiled: bool
) -> Path:
    shape = {key: value for key, value in config.to_dict().items() if isinstance(value, int | str | bool | list)}
    for name in ("num_hidden_layers", "vocab_size", "_name_or_path", "layer_types", "transformers_version"):
        shape.pop(name, None)  # one layer does not depend on it
    source = source_fingerprint(*TRACED_SOURCES)
    facts = [shape, *map(str, dtypes), device.type, compiled, version("torch"), version("transformers"), source]
    name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
    return cache_folder().with_name("plans") / f"{name}.json"


def _read_layer(values: dict[str, Any]) -> LayerBytes:
    lines = (LinearBytes(**values[name]) for name in ("saved", "forward", "backward", "gradient_ready"))
    return LayerBytes(*lines, recompute_factor=values["recompute_factor"])


def _trace_compiled(config: ModelConfig, dtype: torch.dtype) -> dict[float, LayerBytes]:
    """Derive all budgets from one trace of the layer: only the partition differs."""
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
    with FakeTensorMode():
        model = one_layer_model(config, dtype, META)
        inputs = torch.empty(1, TRACED_TOKENS, config.hidden_size, dtype=dtype, device=META, requires_grad=True)
        run = torch.compile(decoder_layers(model)[0], backend=backend, fullgraph=True, dynamic=False)
        run(inputs, attention_mask=None, position_embeddings=rotary_embeddings(config, TRACED_TOKENS, dtype, META))
        weights = sum(weight.numel() for weight in decoder_layers(model)[0].parameters()) * dtype.itemsize
        torch.compiler.reset()
        fewest = _matmul_operations(*found[1.0][:2])
        plain = trace_layer(config, dtype, META, recompute=False)
    return {
        budget: LayerBytes(
            saved=LinearBytes(0, _saved_bytes(forward, outputs) / TRACED_TOKENS),
            forward=plain.forward,
            backward=LinearBytes(weights, _peak_live_bytes(backward) / TRACED_TOKENS),
            # The graph returns all gradients at once, at its end.
            gradient_ready=LinearBytes(weights, config.hidden_size * dtype.itemsize),
            recompute_factor=_matmul_operations(forward, backward) / fewest,
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
    return sum(_node_bytes(node) for node in last.args[0][outputs:] if node.op != "placeholder")


def _peak_live_bytes(backward: GraphModule) -> float:
    """Compute the peak bytes of a backward graph besides its inputs, without gradients of weights.

    What only passes between elementwise operations is fused and never stored. Inputs and outputs of matrix products, of
    attention and of the graph are.
    """
    nodes = list(backward.graph.nodes)
    [last] = [node for node in nodes if node.op == "output"]
    ends = {node for node in last.args[0] if node is not None and not _is_weight_gradient(node)}
    stored = {node for node in nodes if node.op == "placeholder" and not node.name.startswith("primals")} | ends
    for node in nodes:
        if _is_matmul_or_attention(node):
            stored |= {node, *node.all_input_nodes}
    stored = {node for node in stored if not _is_weight(node) and not _is_weight_gradient(node)}
    index = {node: number for number, node in enumerate(nodes)}
    changes = [0] * (len(nodes) + 1)
    for node in stored:
        start = 0 if node.op == "placeholder" else index[node]
        end = len(nodes) - 1 if node in ends else max((index[user] for user in node.users), default=start)
        changes[start] += _node_bytes(node)
        changes[end + 1] -= _node_bytes(node)
    return max(accumulate(changes)) - sum(_node_bytes(node) for node in stored if node.op == "placeholder")


def _is_matmul_or_attention(node: Node) -> bool:
    name = str(node.target)
    return node.op == "call_function" and (name.split(".")[1:2] in [[p] for p in MATMUL_OPS] or "attend" in name)


def _is_weight(node: Node) -> bool:
    return node.op == "placeholder" and node.name.startswith("primals")


def _is_weight_gradient(node: Node) -> bool:
    """Return True if no dimension of a node is the row's, which only gradients of weights lose."""
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and TRACED_TOKENS not in value.shape


def _node_bytes(node: Node) -> int:
    value = node.meta.get("val")
    if isinstance(value, Sequence):
        return sum(part.numel() * part.element_size() for part in value if isinstance(part, torch.Tensor))
    return value.numel() * value.element_size() if isinstance(value, torch.Tensor) else 0


def _matmul_operations(*graphs: GraphModule) -> float:
    """Count the multiplications of all matrix products."""
    count = 0.0
    for node in (node for graph in graphs for node in graph.graph.nodes if node.op == "call_function"):
        name = str(node.target).split(".")
        if len(name) > 1 and name[1] in MATMUL_OPS:
            left, right = (each.meta["val"] for each in node.all_input_nodes[-2:])
            count += left.numel() * right.shape[-1]
    return count
