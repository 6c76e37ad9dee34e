"""Tensors of a GGUF: which stored weight becomes which, in what form, read and written a part at a time."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open

from thinktune.errors import UserError
from thinktune.export.gguf.architecture import ARCHITECTURES, FULL, class_name, head_size, measure_rope
from thinktune.model.folder import StoredTensor, list_some
from thinktune.model.stored_weights import MatchedWeights

GgufKind = Literal["f32", "f16", "bf16", "q8_0"]
Tick = Callable[[int], None]

CHUNK_ELEMENTS = 2**24  # of a tensor in memory at a time
ROPE_DIVISORS = "rope_freqs.weight"
Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A tensor of a GGUF: its stored weight, or given `values`, and what is done to them.

    `form` is ggml's, in which `bytes` are written. `heads`: rows are put in the order of interleaved rope, head by
    head. `shift` is added to every value.
    """

    name: str
    shape: tuple[int, ...]
    form: Any
    bytes: int
    stored: tuple[str, StoredTensor] | None = None
    values: NDArray[np.float32] | None = None
    heads: int = 0
    shift: float = 0.0


def plan_tensors(config: Any, weights: MatchedWeights, kind: GgufKind) -> list[GgufTensor]:
    """Return the tensors of a model's GGUF in llama.cpp's names; raises UserError for weights that have no place in it.

    Matrices are of `kind`; norms, biases and rope's divisors stay f32, as llama.cpp wants them. Rows whose length is no
    multiple of a q8_0 block are f16.
    """
    import gguf  # imported late: an extra

    architecture = ARCHITECTURES[class_name(config)]
    kinds = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds[architecture.name], config.num_hidden_layers)
    planned: list[GgufTensor] = []
    unknown: list[str] = []
    for name, stored_name in weights.names.items():
        known = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if known is None:
            unknown.append(name)
            continue
        stored = weights.stored[stored_name]
        form = _form(stored.shape, kind)
        heads = 0
        if architecture.permutes and ".self_attn.q_proj." in name:
            heads = config.num_attention_heads
        elif architecture.permutes and ".self_attn.k_proj." in name:
            heads = config.num_key_value_heads
        shift = 1.0 if architecture.shifts_norms and name.endswith("norm.weight") else 0.0
        planned.append(
            GgufTensor(known, stored.shape, form, _bytes(stored.shape, form), (stored_name, stored), None, heads, shift)
        )
    if unknown := [*unknown, *sorted(weights.converted)]:
        raise UserError(
            f"gguf: llama.cpp has no place for {list_some(unknown)} in a {class_name(config)}; export to hf instead"
        )
    divisors = measure_rope(config, FULL).divisors
    if divisors is not None:
        form = gguf.GGMLQuantizationType.F32
        planned.append(GgufTensor(ROPE_DIVISORS, divisors.shape, form, divisors.nbytes, values=divisors))
    assert all(tensor.heads == 0 or tensor.shape[0] == tensor.heads * head_size(config) for tensor in planned)
    return planned


def _form(shape: Sequence[int], kind: GgufKind) -> Any:
    import gguf

    forms = gguf.GGMLQuantizationType
    if len(shape) == 1 or kind == "f32":
        return forms.F32
    if kind == "q8_0":
        return forms.F16 if shape[-1] % gguf.GGML_QUANT_SIZES[forms.Q8_0][0] else forms.Q8_0
    return forms.F16 if kind == "f16" else forms.BF16


def _bytes(shape: Sequence[int], form: Any) -> int:
    import gguf

    values_in_block, bytes_of_block = gguf.GGML_QUANT_SIZES[form]
    return int(np.prod(shape)) // values_in_block * bytes_of_block


def read_tensor(tensor: GgufTensor) -> Generator[Bytes]:
    """Yield the bytes of a tensor, in order, a part at a time.

    Raises UserError where a value is too large for f16, which would become infinite.
    """
    if tensor.stored is None:
        assert tensor.values is not None
        yield tensor.values.view(np.uint8)
        return
    name, stored = tensor.stored
    with ExitStack() as files:
        part = files.enter_context(safe_open(stored.file, framework="pt")).get_slice(name)
        rows = _rows_at_a_time(tensor)
        for start in range(0, tensor.shape[0], rows):
            values = part[start : start + rows].to(torch.float32)
            if tensor.heads:
                values = _interleave(values, tensor.shape[0] // tensor.heads)
            yield _encode(tensor, (values + tensor.shift if tensor.shift else values).numpy())


def _rows_at_a_time(tensor: GgufTensor) -> int:
    """Return how many rows are read at a time: whole heads, where the order inside a head changes."""
    step = tensor.shape[0] // tensor.heads if tensor.heads else 1
    wanted = CHUNK_ELEMENTS // max(1, int(np.prod(tensor.shape[1:])))
    return max(step, wanted // step * step)


def _interleave(values: torch.Tensor, width: int) -> torch.Tensor:
    """Return rows (heads * width, …) with the halves of each head taken in turns, as interleaved rope pairs them."""
    halves = values.reshape(-1, 2, width // 2, *values.shape[1:])
    return halves.transpose(1, 2).reshape(values.shape)


def _encode(tensor: GgufTensor, values: NDArray[np.float32]) -> Bytes:
    import gguf

    if tensor.form == gguf.GGMLQuantizationType.F16:
        largest = float(np.abs(values).max(initial=0))
        if largest > float(np.finfo(np.float16).max):
            raise UserError(
                f"gguf: {tensor.name} holds a value of {largest:g}, which f16 cannot hold; use bf16 or f32 instead"
            )
    encoded: NDArray[Any] = gguf.quantize(np.ascontiguousarray(values), tensor.form)
    return np.ascontiguousarray(encoded).reshape(-1).view(np.uint8)


def tensor_groups(tensors: Sequence[GgufTensor]) -> Mapping[str, int]:
    """Return how many tensors are of each form, by its name."""
    names = [tensor.form.name.lower() for tensor in tensors]
    return {name: names.count(name) for name in dict.fromkeys(names)}
