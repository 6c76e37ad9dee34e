"""Kernels, bytes and matrix products of one compiled decoder layer, from the code that torch's compiler writes for it.

    python benchmarks/layer_code.py --sizes 0.6B 1.7B 4B 8B --budgets 1 0.7 0.5 0.3 0.1 0

Needs no card, but a build of torch for CUDA with Triton: layers are traced on tensors without memory, the graphs are
moved to an H200 that is not there, and the compiler writes its code for that. Written for torch 2.11: the compiler's
inner parts have no stable interface.
"""

import argparse
import copy
import json
import re
from collections.abc import Generator, Iterable
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from jobs import QWEN3, Shape
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule, Node
from transformers import AutoModelForCausalLM

from thinktune.model.decoder import decoder_layers
from thinktune.model.low_precision import float8 as float8_products
from thinktune.model.low_precision.float8 import Scaling, apply_float8, cast_weights
from thinktune.model.transforms import apply_activation_budget, compile_layers
from thinktune.train.joined_linear import join_products, joining_pays

TOKENS, PADDED_ROWS, LONGEST_ROW = 8192, 64, 2048
VOCABULARY = 64  # no layer depends on it
CAPABILITY = (9, 0)
H200 = SimpleNamespace(
    name="NVIDIA H200",
    major=CAPABILITY[0],
    minor=CAPABILITY[1],
    multi_processor_count=132,
    regs_per_multiprocessor=65_536,
    max_threads_per_multi_processor=2048,
    max_threads_per_block=1024,
    warp_size=32,
    shared_memory_per_block=48 * 1024,
    shared_memory_per_block_optin=227 * 1024,
    shared_memory_per_multiprocessor=228 * 1024,
    L2_cache_size=60 * 2**20,
    total_memory=141 * 10**9,
    gcnArchName="",
    is_integrated=0,
)


@dataclass(frozen=True, slots=True)
class Float8:
    """Products in fp8: how they are scaled, and whether the weights' casts are at hand."""

    scaling: Scaling
    held: bool


FLOAT8 = {
    "off": None,
    **{f"{scaling}{', held' * held}": Float8(scaling, held) for scaling in ("tensor", "row") for held in (False, True)},
}


@dataclass(frozen=True, slots=True)
class PassCode:
    """What one pass of a layer launches, and the bytes a token that its kernels read and write.

    `bytes_per_token` is of the compiler's own kernels, `other_bytes_per_token` of products and attention.
    """

    triton_kernels: int
    products: int
    attentions: int
    bytes_per_token: float
    other_bytes_per_token: float
    multiplications: int  # of all matrix products


@dataclass(frozen=True, slots=True)
class LayerCode:
    """Both passes of a layer, and the bytes a token that the first keeps for the second beside its own inputs."""

    forward: PassCode
    backward: PassCode
    kept_bytes_per_token: float

    @property
    def bytes_per_token(self) -> float:
        """Bytes a token of the compiler's own kernels, both passes."""
        return self.forward.bytes_per_token + self.backward.bytes_per_token

    @property
    def all_bytes_per_token(self) -> float:
        """Those, and the bytes that products and attention read and write at least."""
        return self.bytes_per_token + self.forward.other_bytes_per_token + self.backward.other_bytes_per_token


@dataclass(frozen=True, slots=True)
class TracedPass:
    """A graph as the compiler is given it: its module, its inputs and the compiler's options."""

    module: GraphModule
    inputs: list[Any]
    options: dict[str, Any]


def layer_code(
    shape: Shape,
    budget: float,
    attention: str = "thinktune_varlen",
    *,
    joined: bool | None = None,
    float8: Float8 | None = None,
) -> LayerCode:
    """Return what a layer of this shape launches under an activation budget, in bf16 or with products in fp8.

    Products that share an input are `joined` where runs join them, if nothing else is said.
    """
    joined = joining_pays(budget) and float8 is None if joined is None else joined
    forward, backward = trace_layer(shape, budget, attention, joined=joined, float8=float8)
    with pretended_card():
        return LayerCode(pass_code(forward), pass_code(backward), kept_bytes(forward.module) / TOKENS)


def trace_layer(
    shape: Shape, budget: float, attention: str, *, joined: bool, float8: Float8 | None = None
) -> tuple[TracedPass, TracedPass]:
    """Trace both passes of a layer as `compile_layers` has them compiled, on tensors without memory."""
    from torch._inductor.compile_fx import compile_fx

    found: list[TracedPass] = []

    def keep(module: GraphModule, inputs: list[Any], **options: Any) -> Any:
        found.append(TracedPass(module, list(inputs), options))

        def run(arguments: list[Any]) -> Any:
            return module(*arguments)

        run._boxed_call = True  # pyright: ignore[reportFunctionMemberAccess]
        return run

    torch._dynamo.reset()
    # Traced without a card, but as for one.
    with FakeTensorMode(), patch.object(float8_products, "is_emulated", lambda _: False):
        options: dict[str, Any] = {"dtype": torch.bfloat16, "attn_implementation": "thinktune_rows"}
        config = Shape(**(asdict(shape) | {"num_layers": 1, "vocab_size": VOCABULARY})).config()
        model: Any = AutoModelForCausalLM.from_config(config, **options).train()
        model.set_attn_implementation(attention)
        if joined:
            join_products(model, torch.bfloat16)
        if float8:
            apply_float8(model, float8.scaling, hold=float8.held)
            cast_weights(model)
        apply_activation_budget(model, budget, compiled=True)
        compile_layers(model, lambda module, inputs: compile_fx(module, inputs, inner_compile=keep))
        states = torch.empty(1, TOKENS, shape.hidden_size, dtype=torch.bfloat16, requires_grad=True)
        angles = (torch.empty(1, TOKENS, shape.head_dim, dtype=torch.bfloat16),) * 2
        output = decoder_layers(model)[0].forward(
            states,
            attention_mask=None,
            position_ids=torch.empty(1, TOKENS, dtype=torch.int64),
            position_embeddings=angles,
            use_cache=False,
            cu_seqlens=torch.empty(PADDED_ROWS + 1, dtype=torch.int32),
            max_seqlen=LONGEST_ROW,
        )
        output.backward(torch.empty_like(output))
    apply_activation_budget(model, 1.0, compiled=True)
    forward, backward = found
    return forward, backward


def kept_bytes(forward: GraphModule) -> int:
    """Count the bytes that a forward graph hands to the backward one beside its own inputs."""
    [last] = forward.graph.find_nodes(op="output")
    kept = {node for node in last.args[0][1:] if isinstance(node, Node) and node.op != "placeholder"}
    values = [node.meta["val"] for node in kept]
    return sum(value.numel() * value.element_size() for value in values if isinstance(value, torch.Tensor))


def multiplications(module: GraphModule) -> int:
    """Count the multiplications of all matrix products in a graph."""
    products = module.graph.find_nodes(op="call_function", target=torch.ops.aten.mm.default)
    sides = [[argument.meta["val"].shape for argument in node.args[:2]] for node in products]
    return sum(left[0] * left[1] * right[1] for left, right in sides)


class _CodeWrittenError(Exception):
    """Ends a compilation once its code is there: to load it would take a card."""


def pass_code(traced: TracedPass) -> PassCode:
    """Let the compiler write the code of a graph for the card that is pretended, and count what it launches."""
    from torch._dispatch.python import enable_python_dispatcher
    from torch._guards import TracingContext, tracing
    from torch._inductor import compile_fx, config
    from torch._inductor.debug import DebugContext
    from torch._inductor.graph import GraphLowering
    from torch._inductor.utils import BoxedBool
    from torch._inductor.virtualized import V

    found: dict[str, Any] = {}

    def stop(graph: Any, code: Any) -> Any:
        found.update(code=code.value, sizes=read_and_written(graph.scheduler.nodes))
        raise _CodeWrittenError

    module, inputs, mode = on_the_card(traced)
    options: dict[str, Any] = {
        "cudagraphs": BoxedBool(False),
        "static_input_idxs": traced.options.get("static_input_idxs", ()),
        "is_backward": traced.options.get("is_backward", False),
        "graph_id": 0,
        "cpp_wrapper": False,
        "fx_wrapper": False,
        "is_inference": False,
        "boxed_forward_device_index": None,
        "layout_opt": None,
        "extern_node_serializer": None,
    }
    with ExitStack() as stack:
        stack.enter_context(patch.object(GraphLowering, "_compile_to_module_lines", stop))
        stack.enter_context(patch.object(compile_fx, "get_cuda_device_context", lambda _: nullcontext()))
        stack.enter_context(config.patch(compile_threads=1, fx_graph_cache=False))
        stack.enter_context(tracing(TracingContext(mode)))
        stack.enter_context(V.set_fake_mode(mode))
        stack.enter_context(V.set_debug_handler(DebugContext()))
        stack.enter_context(enable_python_dispatcher())
        try:
            compile_fx._InProcessFxCompile().codegen_and_compile(module, inputs, (), options)  # pyright: ignore
        except Exception:
            if not found:  # otherwise it ended as it was told to, whatever was made of that
                raise
    return count_launches(found["code"], found["sizes"], multiplications(traced.module))


def on_the_card(traced: TracedPass) -> tuple[GraphModule, list[Any], FakeTensorMode]:
    """Return a copy of a graph, and of its inputs, as if it had been traced on a card."""
    from torch._dispatch.python import enable_python_dispatcher
    from torch.fx.node import map_aggregate
    from torch.fx.passes.fake_tensor_prop import FakeTensorProp

    card = torch.device("cuda", 0)
    module, mode = copy.deepcopy(traced.module), FakeTensorMode(allow_non_fake_inputs=True)

    def move(value: Any) -> Any:
        return card if isinstance(value, torch.device) else value

    for node in module.graph.nodes:
        if node.op == "call_function":
            node.args, node.kwargs = map_aggregate(node.args, move), map_aggregate(node.kwargs, move)
    module.recompile()
    with mode, enable_python_dispatcher():
        inputs = [
            torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=card)
            if isinstance(value, torch.Tensor)
            else value
            for value in traced.inputs
        ]
        FakeTensorProp(module, mode).propagate_dont_convert_inputs(*inputs)
    return module, inputs, mode


def read_and_written(nodes: Iterable[Any]) -> tuple[int, int]:
    """Return the bytes that the compiler's own kernels move, and those of products and attention."""
    own = other = 0
    for node in nodes:
        size = node.get_read_write_buffers_sizes()
        if type(node).__name__.startswith("Extern"):
            other += size
        else:
            own += size
    return own, other


def count_launches(code: str, sizes: tuple[int, int], multiplied: int) -> PassCode:
    """Count what the body of a compiled pass launches."""
    body = code[code.rindex("def call(") :]
    return PassCode(
        triton_kernels=len(re.findall(r"\btriton_\w+\.run\(", body)),
        products=len(re.findall(r"extern_kernels\.\w+\(", body)),
        attentions=len(re.findall(r"= torch\.ops\.(?:torch_attn|thinktune|benchmark)\.\w+\.default\(", body)),
        bytes_per_token=sizes[0] / TOKENS,
        other_bytes_per_token=sizes[1] / TOKENS,
        multiplications=multiplied,
    )


@contextmanager
def pretended_card() -> Generator[None]:
    """Let torch's compiler believe that this machine has an H200, as far as it asks from Python."""
    import triton
    from torch._dynamo.device_interface import CudaInterface
    from triton.backends.compiler import GPUTarget

    driver = SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", 10 * CAPABILITY[0] + CAPABILITY[1], H200.warp_size),
        get_current_device=lambda: 0,
        get_active_torch_device=lambda: torch.device("cuda", 0),
        get_device_interface=lambda: torch.cuda,
        utils=SimpleNamespace(
            get_device_properties=lambda _: {
                "max_shared_mem": H200.shared_memory_per_block_optin,
                "multiprocessor_count": H200.multi_processor_count,
            }
        ),
    )
    facts: dict[str, Any] = {
        "get_device_properties": H200,
        "get_compute_capability": 10 * CAPABILITY[0] + CAPABILITY[1],
        "is_available": True,
        "device_count": 1,
        "current_device": 0,
        "is_triton_capable": True,
        "raise_if_triton_unavailable": None,
        "is_bf16_supported": True,
    }
    of_torch: dict[str, Any] = {
        "get_device_properties": H200,
        "get_device_capability": CAPABILITY,
        "get_device_name": H200.name,
        "current_device": 0,
        "is_bf16_supported": True,
    }
    with ExitStack() as stack:
        for owner, answers in ((CudaInterface, facts), (torch.cuda, of_torch)):
            for name, answer in answers.items():
                value = lambda *_, answer=answer, **__: answer  # noqa: E731
                stack.enter_context(patch.object(owner, name, staticmethod(value) if owner is CudaInterface else value))
        worker = staticmethod(lambda *_: H200)
        stack.enter_context(patch.object(CudaInterface.Worker, "get_device_properties", worker))
        stack.enter_context(_triton_everywhere())
        former = triton.runtime.driver._active
        triton.runtime.driver.set_active(driver)
        try:
            yield
        finally:
            triton.runtime.driver._active = former


@contextmanager
def _triton_everywhere() -> Generator[None]:
    """Answer `has_triton` with True in each module of torch that has taken it by name."""
    import sys

    with ExitStack() as stack:
        for name, module in list(sys.modules.items()):
            if name.startswith("torch") and "has_triton" in getattr(module, "__dict__", {}):
                stack.enter_context(patch.object(module, "has_triton", lambda *_, **__: True))
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=QWEN3, default=["0.6B", "1.7B", "4B", "8B"])
    parser.add_argument("--budgets", nargs="+", type=float, default=[1.0, 0.7, 0.5, 0.3, 0.1, 0.0])
    parser.add_argument("--attention", choices=["thinktune_varlen", "thinktune_rows"], default="thinktune_varlen")
    parser.add_argument("--joined", choices=["where it pays", "always", "never"], default="where it pays")
    parser.add_argument("--float8", choices=FLOAT8, default="off")
    parser.add_argument("--json", action="store_true", help="one JSON line for each instead of the table")
    chosen = parser.parse_args()
    joined = {"where it pays": None, "always": True, "never": False}[chosen.joined]
    if not chosen.json:
        print(
            "| model | budget | forward: Triton, products, attention | backward | B/token | of products, attention | "
            "kept B/token | multiplications |"
        )
        print("|---|---:|---|---|---:|---:|---:|---:|")
    for size in chosen.sizes:
        least = None
        for budget in chosen.budgets:
            found = layer_code(QWEN3[size], budget, chosen.attention, joined=joined, float8=FLOAT8[chosen.float8])
            passes = found.forward, found.backward
            multiplied = sum(each.multiplications for each in passes)
            least = multiplied if least is None else least
            if chosen.json:
                print(json.dumps({"size": size, "budget": budget, **asdict(found)}), flush=True)
                continue
            others = sum(each.other_bytes_per_token for each in passes)
            launched = " | ".join(f"{each.triton_kernels}, {each.products}, {each.attentions}" for each in passes)
            print(
                f"| {size} | {budget:g} | {launched} | {found.bytes_per_token:,.0f} | {others:,.0f} | "
                f"{found.kept_bytes_per_token:,.0f} | {multiplied / least:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
