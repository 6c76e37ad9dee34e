"""Proof that a class can decode with static shapes: with the logits of plain passes, and without reads of the host."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from thinktune.errors import shorten_error
from thinktune.inference.kv_cache import KVCache
from thinktune.model import CausalLM
from thinktune.model.proof import SEEDS, build, plain_class, proof_key
from thinktune.model.twin import fill_weights, shrink

TOLERANCE = 1e-5  # of logits, as a share of the largest
PROMPT_LENGTHS = (7, 13, 2)  # beyond a twin's window and chunk, and one that is shorter
DECODED = 2  # tokens after each change of the batch

# Functions by which Python reads values, or makes a tensor from values of its own.
READING_FUNCTIONS: frozenset[Any] = frozenset(
    [
        *(getattr(Tensor, name) for name in ("tolist", "item", "numpy", "cpu", "__bool__", "__int__", "__float__")),
        *(getattr(Tensor, name) for name in ("__index__", "__contains__", "__array__", "__complex__")),
        torch.tensor,
        torch.as_tensor,
        torch.from_numpy,
    ]
)
# Operations whose result the host must read before it can go on: values, or a shape that follows from values.
READING_OPERATIONS = frozenset(
    [
        "aten::_local_scalar_dense",
        "aten::item",
        "aten::is_nonzero",
        "aten::equal",
        "aten::nonzero",
        "aten::masked_select",
        "aten::unique_dim",
        "aten::_unique2",
        "aten::unique_consecutive",
        "aten::bincount",
        "aten::lift_fresh",  # a tensor of values that Python has
    ]
)


class HostReadError(Exception):
    """The host would wait for the device within a pass, or give it a value that a repetition does not renew."""


class _RefuseFunctions(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in READING_FUNCTIONS:
            raise HostReadError(f"the host reads or gives a value by {getattr(func, '__name__', func)}")
        return func(*args, **(kwargs or {}))


class _RefuseOperations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().partition(".")[0]
        if name in READING_OPERATIONS or (name.startswith("aten::index") and _has_bool_index(args)):
            raise HostReadError(f"the host waits for the result of {name}")
        if name == "aten::repeat_interleave" and (kwargs or {}).get("output_size") is None:
            raise HostReadError(f"the host waits for the size of {name}")
        return func(*args, **(kwargs or {}))


def _has_bool_index(arguments: Sequence[Any]) -> bool:
    indices = arguments[1] if len(arguments) > 1 and isinstance(arguments[1], list | tuple) else ()
    return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in indices)


class RefuseHostReads:
    """Context in which whatever a captured graph cannot hold raises HostReadError, on any device."""

    def __enter__(self) -> None:
        self._modes = (_RefuseFunctions(), _RefuseOperations())
        for mode in self._modes:
            mode.__enter__()

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)


_PROVED: dict[str, str | None] = {}


def static_problem(model: CausalLM) -> str | None:
    """Return why a model decodes by plain passes; None where static ones are proved right for it.

    Proved once in a process, by its class and configuration, on a small twin on the CPU.
    """
    if hasattr(model, "with_unsharded_root"):
        return "its weights are sharded, and gathered for each pass"
    cache = KVCache(model)
    if cache.reads_whole_prompts:
        return "its layers have a recurrent state"
    if not cache.takes_positions:
        return "it takes no positions"
    model_class = plain_class(type(model))
    key = proof_key(model_class, model.config)
    if key not in _PROVED:
        with (
            torch.random.fork_rng(devices=[]),
            torch.inference_mode(mode=False),
            torch.no_grad(),
            torch.autocast("cpu", enabled=False),
        ):
            _PROVED[key] = _find_problem(model_class, model.config)
    return _PROVED[key]


def _find_problem(model_class: type[Any], config: Any) -> str | None:
    problem: str | None = None
    for seed in SEEDS:
        try:
            twin = build(model_class, shrink(config), "cpu")
            fill_weights(twin, seed)
            twin.set_attn_implementation("thinktune_rows")
            prove_static_decode(twin)
            return None
        except Exception as error:  # whatever a class raises where it cannot run so: plain passes are right for it
            problem = shorten_error(error, 160)
    return problem


@torch.no_grad()
def prove_static_decode(twin: CausalLM) -> None:
    """Raise ValueError where logits of static passes differ from those of plain ones, HostReadError for a read.

    Every pass is made both ways on one cache: the second overwrites what the first has written. Replies leave in
    between, down to a single one.

    Args:
        twin: a small model in fp32 on the CPU, whose plain passes are right.
    """
    cache, generator = KVCache(twin), torch.Generator().manual_seed(0)
    vocabulary: int = twin.get_input_embeddings().weight.shape[0]

    def draw(count: int) -> list[int]:
        return torch.randint(vocabulary, (count,), generator=generator).tolist()

    cache.prefill([draw(length) for length in PROMPT_LENGTHS])
    while cache.lengths:
        for _ in range(DECODED):
            tokens = draw(len(cache.lengths))
            found = _decode_statically(cache, tokens)
            expected = cache.extend([[token] for token in tokens])
            difference = float((found - expected).abs().max() / expected.abs().max())
            if not difference <= TOLERANCE:
                raise ValueError(f"its logits differ by {difference:.1e} of the largest from those of plain passes")
        cache.free(0)


def _decode_statically(cache: KVCache, tokens: Sequence[int]) -> Tensor:
    cache.grow(len(tokens), max(cache.lengths) + 1)
    slots, columns = cache.size
    ids, lengths = torch.zeros(2, slots, dtype=torch.long)
    ids[: len(tokens)], lengths[: len(tokens)] = torch.tensor(tokens), torch.tensor(cache.lengths)
    with RefuseHostReads():
        return cache.extend_slots(ids, lengths, columns)[: len(tokens)]
