"""Names of stored tensors to names of a model's tensors, by transformers' own rules for each class.

Hubs store some classes under other names and in other pieces than transformers keeps them: experts one by one, a text
part under the path that it has in a model of several modalities. Loading follows the same rules.
"""

import re
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import torch
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    get_model_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.core_model_loading import (
    PrefixChange,
    WeightConverter,
    WeightRenaming,
    convert_and_load_state_dict_in_model,
    dot_natural_key,
    rename_source_key,
)
from transformers.modeling_utils import LoadStateDictConfig

from thinktune.library_output import captured_output
from thinktune.model.folder import StoredTensor

_REGISTRY = Lock()  # of transformers' rules, which belong to the process
LAYER = re.compile(r"(?:^|\.)[a-z_]+\.\d+\.")  # a layer's place in a name


@dataclass(frozen=True, slots=True)
class NamedWeights:
    """A model's tensors by where they come from.

    `direct` has the stored name of each tensor that is stored as it is. Those of `converted` are made of several, or
    reshaped; `sources` are what they are made of, and `misshapen` those that come out wrong, each with what is wrong.
    `renamings` are patterns and replacements that loading needs besides the class's own.
    """

    direct: Mapping[str, str]
    converted: frozenset[str] = frozenset()
    sources: frozenset[str] = frozenset()
    misshapen: Mapping[str, str] = field(default_factory=dict[str, str])
    renamings: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def found(self) -> frozenset[str]:
        """The names of the model's tensors that the stored ones give."""
        return self.converted | self.direct.keys()


def name_weights(model: Any, stored: Mapping[str, StoredTensor], *, is_part: bool = False) -> NamedWeights:
    """Find the stored tensors of each tensor of a model (it may be on the meta device).

    Where the model is a part of a larger one (`is_part`), its weights may stand under any path there: the first path
    under which all are found is taken, or else the one with most of them.
    """
    wanted = model.state_dict().keys()
    best = _name(model, stored, {})
    if not is_part:
        return best
    for renamings in _paths(model, stored):
        if wanted <= best.found | _tied(model):
            break
        found = _name(model, stored, renamings)
        best = max(best, found, key=lambda names: len(names.found))
    return best


def wrapper_names(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names under which transformers may keep rules for a raw configuration of several modalities."""
    inner: Any = raw.get("text_config")
    kinds = [raw.get("model_type"), inner.get("model_type") if isinstance(inner, dict) else None]
    return tuple(str(name) for name in (*kinds, *(raw.get("architectures") or ())) if name)


@contextmanager
def wrapper_conversions(kind: str, tensors: Collection[str], wrapper: Sequence[str]) -> Generator[None]:
    """Let transformers convert a part's weights as it does those of the wrapper that they are stored in.

    Hubs store some wrappers' text parts in other pieces than the class by itself has: Qwen3-VL-MoE its experts
    transposed. Within the block the rules of `wrapper` (names of kinds and classes) that make `tensors` of the part are
    among those of its `kind`.
    """
    own: list[Any] = get_checkpoint_conversion_mapping(kind) or []
    known = {tuple(rule.source_patterns) for rule in own}
    added = [
        rule
        for name in wrapper
        for rule in get_checkpoint_conversion_mapping(name) or []
        if isinstance(rule, WeightConverter)
        and tuple(rule.source_patterns) not in known
        and any(pattern in tensor for pattern in rule.target_patterns for tensor in tensors)
    ]
    if not added:
        yield
        return
    with _REGISTRY:
        register_checkpoint_conversion_mapping(kind, [*own, *added], overwrite=True)
        try:
            yield
        finally:
            register_checkpoint_conversion_mapping(kind, own, overwrite=True)


def set_saved_names(model: Any, *, is_part: bool) -> None:
    """Make a loaded model save its weights under its class's own names, wherever they stood in what it was loaded from.

    Transformers notes by which rules a model was loaded, and turns them around when it is saved. A part of a larger
    model is saved by its class's rules alone: as engines read that class, experts one by one. For any other model only
    the path of a larger one is forgotten.
    """
    rules: list[Any] | None = getattr(model, "_weight_conversions", None)
    if rules is None:
        return
    if is_part:
        rules = [
            rule for rule in get_model_conversion_mapping(model, add_legacy=False) if not isinstance(rule, PrefixChange)
        ]
    model._weight_conversions = [
        rule for rule in rules if not (isinstance(rule, PrefixChange) and rule.prefix_to_remove is not None)
    ]


def _tied(model: Any) -> frozenset[str]:
    return frozenset(model.all_tied_weights_keys or {})


def _paths(model: Any, stored: Collection[str]) -> Generator[dict[str, str]]:
    """Yield renamings for each path under which the model's embedding, and so perhaps all of it, is stored."""
    embedding = model.get_input_embeddings().weight
    body = f"{model.base_model_prefix}."
    name = next(name for name, parameter in model.named_parameters() if parameter is embedding).removeprefix(body)
    heads = sorted(each.removesuffix("lm_head.weight") for each in stored if each.endswith(".lm_head.weight"))
    renamed_heads = {f"^{re.escape(path)}lm_head\\.": "lm_head." for path in heads}
    for path in sorted(each.removesuffix(name) for each in stored if each.endswith(f".{name}")):
        if path != body:
            inside = {pattern: new for pattern, new in renamed_heads.items() if _shares_root(path, pattern)}
            yield {**inside, f"^{re.escape(path)}": body}


def _shares_root(path: str, pattern: str) -> bool:
    """Return True if a head stands beside a body: both of one larger model may have parts with heads of their own."""
    return pattern.startswith(f"^{re.escape(path.partition('.')[0])}\\.")


def _name(model: Any, stored: Mapping[str, StoredTensor], renamings: dict[str, str]) -> NamedWeights:
    tensors: dict[str, Any] = model.state_dict()
    rules = get_model_conversion_mapping(model, key_mapping=renamings or None)
    renaming = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converting = [rule for rule in rules if isinstance(rule, WeightConverter)]
    direct: dict[str, str] = {}
    sources: set[str] = set()
    for name in sorted(stored, key=dot_natural_key):
        target, converter = rename_source_key(name, renaming, converting, model.base_model_prefix, tensors)
        if target not in tensors and name in tensors:
            target, converter = name, None
        if target not in tensors:
            continue
        if converter is None:
            direct[target] = name
        else:
            sources.add(name)
    if not sources:
        return NamedWeights(direct, renamings=renamings)
    made, misshapen = _convert_alike(model, {name: stored[name] for name in sources}, renamings)
    return NamedWeights(direct, made - direct.keys(), frozenset(sources), misshapen, renamings)


def _convert_alike(
    model: Any, stored: Mapping[str, StoredTensor], renamings: dict[str, str]
) -> tuple[frozenset[str], dict[str, str]]:
    """Join stored tensors as `_convert_without_memory`, one layer for all that are stored alike: models have thousands.

    Layers are alike where their tensors have the same names and shapes.
    """
    layers: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, tensor in stored.items():
        found = LAYER.search(name)
        layers.setdefault(found[0] if found else "", {})[name.replace(found[0] if found else "", "", 1)] = tensor.shape
    alike: dict[frozenset[tuple[str, tuple[int, ...]]], list[str]] = {}
    for layer, tensors in layers.items():
        alike.setdefault(frozenset(tensors.items()), []).append(layer)
    firsts = {layers[0] for layers in alike.values()}
    chosen = {name: part for name, part in stored.items() if (LAYER.search(name) or [""])[0] in firsts}
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    made, wrong = _convert_without_memory(model, chosen, renamings)
    all_made, all_wrong = set(made), dict(wrong)
    for first, *others in alike.values():
        for name in (name for name in made if first and first in name):
            for other in (name.replace(first, layer, 1) for layer in others):
                if other in shapes:
                    all_made.add(other)
                    if name in wrong or shapes[other] != shapes[name]:
                        all_wrong[other] = f"{other} is not made as {name} is"
    return frozenset(all_made), all_wrong


def _convert_without_memory(
    model: Any, stored: Mapping[str, StoredTensor], renamings: dict[str, str]
) -> tuple[frozenset[str], dict[str, str]]:
    """Join stored tensors as loading will, on the meta device; return what is made, and what comes out wrong."""
    tensors = {name: torch.empty(part.shape, device="meta") for name, part in stored.items()}
    rules: Any = get_model_conversion_mapping(model, key_mapping=renamings or None)
    before = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    with captured_output():
        report, _ = convert_and_load_state_dict_in_model(
            model, tensors, LoadStateDictConfig(weight_mapping=rules, device_map={"": "meta"}, dtype=torch.float32)
        )
    wrong = {name: f"{name} is {tuple(shape)} instead of {before[name]}" for name, shape, _ in report.mismatched_keys}
    wrong |= {name: f"the parts of {name} do not fit together" for name in report.conversion_errors}
    return frozenset(before.keys() - report.missing_keys | wrong.keys()), wrong
