"""Calls that a decoder's own forward pass makes of its layers, a layer of each kind, on tensors without memory.

No class is known by name here: which layers are alike is read from the model's modules, and what a layer is called
with (rotary embeddings, inputs of its own, keys of other layers) is what its class's forward pass hands to it.
"""

import copy
from collections.abc import Callable, Generator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import flop_registry
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM
from transformers.integrations import hub_kernels, moe

from thinktune.library_output import captured_output
from thinktune.model import CausalLM, ModelConfig
from thinktune.model.decoder import decoder, decoder_layers
from thinktune.model.row_attention import causal_operations

META = torch.device("meta")
TRACE_ATTENTION = "thinktune_counted"
NO_WINDOW = 0  # of the stand-in attention: every earlier token is seen


def register_trace_attention() -> None:
    """Register the stand-in attention with transformers, under the name TRACE_ATTENTION."""
    AttentionInterface.register(TRACE_ATTENTION, _attention)
    no_mask: Callable[..., Any] = _no_mask
    AttentionMaskInterface.register(TRACE_ATTENTION, no_mask)


def _attend(query: Tensor, key: Tensor, value: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Allocate what a forward attention kernel does: the output, and an fp32 number for each token and head."""
    output = query.new_empty(*query.shape[:-1], value.shape[-1])
    return output, query.new_empty(query.shape[:-1], dtype=torch.float32)


def _attend_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, sums: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Allocate what a backward attention kernel does: the gradients of query, key and value, and its workspace.

    FlashAttention 2 adds up the query's gradient in fp32, and those of grouped keys and values for each head. What it
    adds for each row is counted where the rows are known.
    """
    scratch = 4 * query.shape[-1]
    if key.shape[2] != query.shape[2]:
        scratch += query.itemsize * (key.shape[-1] + value.shape[-1])
    workspace = query.new_empty(*query.shape[:-1], scratch, dtype=torch.uint8)
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), workspace


attend = torch.library.custom_op("thinktune::attend", _attend, mutates_args=())


attend_backward = torch.library.custom_op("thinktune::attend_backward", _attend_backward, mutates_args=())


attend.register_fake(_attend)


attend_backward.register_fake(_attend_backward)


def _setup_context(ctx: Any, inputs: Sequence[Any], output: Sequence[Tensor]) -> None:
    ctx.save_for_backward(*inputs[:3], *output)


def _backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return *attend_backward(gradient, *ctx.saved_tensors)[:3], None


attend.register_autograd(_backward, setup_context=_setup_context)


def _count_operations(query: Tensor, _key: Tensor, _value: Tensor, window: int, **_: Any) -> int:
    """Count as for the kernel that runs, so that the compiler keeps what it will keep there."""
    tokens, heads, head_dim = query.shape[1:]
    return causal_operations(tokens, heads, head_dim, min(tokens, window or tokens))


flop_registry[torch.ops.thinktune.attend] = _count_operations


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, sliding_window: int | None = None, **__: Any
) -> tuple[Tensor, None]:
    # As kernels take them: under autocast, norms make queries and keys fp32 again.
    parts = (part.transpose(1, 2).contiguous().to(value.dtype) for part in (query, key, value))
    return attend(*parts, sliding_window or NO_WINDOW)[0], None


def _no_mask(*_: Any, **__: Any) -> None:
    return None


@dataclass(frozen=True, slots=True)
class LayerCall:
    """One layer's call: its module, and its positional arguments and options, detached.

    `rest` is what it returns beside hidden states; None where it returns them alone.
    """

    layer: Any
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    rest: tuple[Any, ...] | None

    @property
    def hidden_states(self) -> Tensor:
        """The layer's input."""
        return self.arguments[0] if self.arguments else self.options["hidden_states"]

    def run(self, hidden_states: Tensor, layer: Callable[..., Any] | None = None) -> Tensor:
        """Call the layer, or a compiled form of it, on other hidden states, and return the new ones."""
        call = self.layer if layer is None else layer
        options = detached(self.options)  # which a layer may add to
        if self.arguments:
            return first_tensor(call(hidden_states, *detached(self.arguments[1:]), **options))
        return first_tensor(call(**(options | {"hidden_states": hidden_states})))


def first_tensor(output: Any) -> Tensor:
    """Return the hidden states of what a layer returns; some classes return a tuple that begins with them."""
    return output if isinstance(output, Tensor) else output[0]


def fake_mode() -> FakeTensorMode:
    """Make the mode in which a model's tensors have shapes but no memory; numbers that a class holds stay real."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def model_without_memory(
    config: ModelConfig, dtype: torch.dtype | None = None, device: torch.device = META, attention: str = "eager"
) -> CausalLM:
    """Build the model of a configuration: on the meta device, or within `fake_mode` on any."""
    register_trace_attention()
    # A class of a folder's own code is only here because its user trusts it.
    options: Any = {"trust_remote_code": True} if type(config).__module__.startswith("transformers_modules") else {}
    options |= {} if dtype is None else {"dtype": dtype}
    config = copy.deepcopy(config)  # transformers notes dtype and attention in it
    config._experts_implementation = None  # pyright: ignore # the default, whatever a loaded model has noted
    with torch.device(device), captured_output():
        model: Any = AutoModelForCausalLM.from_config(config, attn_implementation=attention, **options)
    for module in model.modules():
        _fix_rotary_type(module)
    return model


def _fix_rotary_type(module: Any) -> None:
    """Let rotary embeddings not look at the positions' values, which tensors without memory have not."""
    kind: Any = getattr(module, "rope_type", None)
    if isinstance(kind, dict):
        module.rope_type = dict.fromkeys(cast("dict[str, Any]", kind), "default")
    elif isinstance(kind, str):
        module.rope_type = "default"


def layer_kinds(layers: Sequence[Any]) -> tuple[int, ...]:
    """Return for each layer the index of the first layer of its kind.

    Layers are of a kind if their modules have the same names, classes, shapes of weights and switches. A layer's own
    number is no switch, nor is a factor, which changes no size.
    """
    described = [_describe(layer) for layer in layers]
    numbers = _layer_numbers(described)
    keys = [tuple(sorted((key, str(value)) for key, value in each.items() if key not in numbers)) for each in described]
    first: dict[Any, int] = {}
    return tuple(first.setdefault(key, index) for index, key in enumerate(keys))


def _describe(layer: Any) -> dict[tuple[str, str], Any]:
    """List what a layer is made of by module and name: classes, shapes, switches."""
    found: dict[tuple[str, str], Any] = {}
    for place, module in layer.named_modules():
        found[place, "class"] = type(module)
        for name, value in vars(module).items():
            if not name.startswith("_") and (value is None or isinstance(value, int | str)):
                found[place, name] = value
        tensors = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
        found |= {(place, name): tuple(tensor.shape) for name, tensor in tensors}
    return found


def _layer_numbers(described: Sequence[dict[tuple[str, str], Any]]) -> set[tuple[str, str]]:
    """Return the names that count the layers: whole numbers that differ from a layer's index by one constant."""
    found: dict[tuple[str, str], list[int]] = {}
    for index, each in enumerate(described):
        for key, value in each.items():
            if type(value) is int:
                found.setdefault(key, []).append(value - index)
    return {key for key, offsets in found.items() if len(offsets) > 1 and len(set(offsets)) == 1}


def run_decoder(model: CausalLM, ids: Tensor, positions: Tensor) -> Tensor:
    """Run the decoder's own forward pass on one packed row of ids (1, n); return its last hidden states (1, n, h)."""
    with kernels_without_memory():
        output = decoder(model)(input_ids=ids, position_ids=positions, attention_mask=None, use_cache=False)
    return output.last_hidden_state


def token_inputs(tokens: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Make stand-ins for ids and positions (1, tokens)."""
    ids, positions = (torch.empty(1, tokens, dtype=torch.int64, device=device) for _ in range(2))
    return ids, positions


def _is_bfloat16(_: Tensor, weight: Tensor, __: Tensor) -> bool:
    return weight.dtype == torch.bfloat16


@contextmanager
def kernels_without_memory() -> Generator[None]:
    """Let classes choose operators that need no memory.

    Torch's own in the place of other packages' kernels (linear attention), and for experts outside bf16 an operator
    that allocates the same.
    """
    stand_ins: list[tuple[Any, str, Any]] = [
        (hub_kernels, "is_torchdynamo_exporting", lambda: True),
        (moe, "_can_use_grouped_mm", _is_bfloat16),
    ]
    known = [(module, name, getattr(module, name), own) for module, name, own in stand_ins if hasattr(module, name)]
    for module, name, _, own in known:
        setattr(module, name, own)
    try:
        yield
    finally:
        for module, name, theirs, _ in known:
            setattr(module, name, theirs)


@contextmanager
def replaced_forwards(
    layers: Sequence[Any], make: Callable[[int, Callable[..., Any]], Callable[..., Any]]
) -> Generator[None]:
    """Replace each layer's forward by `make(index, its own)` for a while."""
    for index, layer in enumerate(layers):
        layer.forward = make(index, layer.forward)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def capture_layer_calls(model: CausalLM, tokens: int, device: torch.device) -> dict[int, LayerCall]:
    """Run the decoder on one row within `fake_mode`, and return the call of the first layer of each kind by its index.

    Other layers are not run: each passes on what its kind's first returned.
    """
    layers = decoder_layers(model)
    kinds = layer_kinds(layers)
    calls: dict[int, LayerCall] = {}
    outputs: dict[int, Any] = {}

    def make(index: int, plain: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*arguments: Any, **options: Any) -> Any:
            kind = kinds[index]
            if kind == index:
                kept = detached(arguments), detached(options)  # before the layer adds to them
                output = outputs[index] = plain(*arguments, **options)
                rest = None if isinstance(output, Tensor) else detached(tuple(output[1:]))
                calls[index] = LayerCall(layers[index], *kept, rest)
            return outputs[kind]

        return forward

    with replaced_forwards(layers, make):
        run_decoder(model, *token_inputs(tokens, device))
    return calls


def detached(value: Any) -> Any:
    """Return a copy of arguments whose tensors belong to no graph; those that had a gradient want one again."""
    if isinstance(value, Tensor):
        return value.detach().requires_grad_(value.requires_grad)
    if isinstance(value, MutableMapping):  # keys that layers share are in one of transformers' own
        made = copy.copy(cast("MutableMapping[Any, Any]", value))
        for key in list(made):
            made[key] = detached(made[key])
        return made
    if type(value) in (tuple, list):
        return type(value)(map(detached, cast("Sequence[Any]", value)))
    return value
