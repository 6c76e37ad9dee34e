"""Stored weights against a model's parameters: which are read, missing, misshapen, unread, tied twice or not finite."""

import math
import re
from collections import Counter
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from thinktune.errors import UserError
from thinktune.model.folder import FIELD, StoredTensor, list_some, quantized_fault
from thinktune.model.weight_names import NamedWeights, name_weights, wrapper_conversions

# As safetensors names them; others are quantized weights.
FLOAT_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
COMPUTED_SUFFIX = "rotary_emb.inv_freq"  # which old checkpoints hold
CHUNK_ELEMENTS = 2**24  # of a tensor read at a time


@dataclass(frozen=True, slots=True)
class MatchedWeights:
    """A model's parameters, each with its name in the files, and the stored tensors that no parameter reads.

    A stored name may lack the prefix of the model's body, or be that of a tied weight's twin. Parameters of `converted`
    have no single name: loading makes them of the stored tensors `sources`. `renamings` are patterns and replacements
    of names that loading needs besides the class's own. `is_part` says that the model is part of the stored one, and
    `wrapper` under which names transformers may keep rules for that. `saved_as` has for each stored tensor that is
    read, or is tied to one, the names under which a save may have it.
    """

    stored: Mapping[str, StoredTensor]
    names: Mapping[str, str]
    unread: tuple[str, ...]
    converted: frozenset[str] = frozenset()
    sources: frozenset[str] = frozenset()
    renamings: Mapping[str, str] = field(default_factory=dict[str, str])
    is_part: bool = False
    wrapper: tuple[str, ...] = ()
    saved_as: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])

    @property
    def main_dtype(self) -> torch.dtype:
        """The dtype in which most elements of the weights are stored."""
        elements = Counter[torch.dtype]()
        for name in self.saved_as:
            if dtype := self.dtype(name):
                elements[dtype] += math.prod(self.stored[name].shape)
        return elements.most_common(1)[0][0]

    def dtype(self, name: str) -> torch.dtype | None:
        """Return the dtype of a stored tensor, None if it is no floating one."""
        return FLOAT_DTYPES.get(self.stored[name].dtype)


def match_weights(
    model: Any, stored: Mapping[str, StoredTensor], folder: Path, *, is_part: bool = False, wrapper: Sequence[str] = ()
) -> MatchedWeights:
    """Match a model (it may be on the meta device) with stored tensors, as transformers matches their names.

    Raises one UserError with all weights that are missing, quantized or of another shape, and where a tied head was
    saved with other values than its embedding. `is_part` says that the model is part of the one that is stored, which
    transformers knows by the names `wrapper`.
    """
    parameters = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}  # tied weights once
    wanted = parameters | _required_buffers(model)
    twins = {source: twin for twin, source in (model.all_tied_weights_keys or {}).items()}
    with wrapper_conversions(model.config.model_type, wanted, wrapper):
        named = name_weights(model, stored, is_part=is_part)
    names = {name: named.direct[known] for name in wanted if (known := _either(name, twins, named.direct))}
    faults = [*_missing_faults(wanted.keys() - names.keys() - named.converted, stored, folder)]
    wrong = [
        f"{names[name]} is {stored[names[name]].shape} instead of {wanted[name]}"
        for name in names
        if stored[names[name]].shape != wanted[name]
    ]
    if wrong := [*wrong, *named.misshapen.values()]:
        remedy = (
            f"{type(model).__name__}, used to train its text part, does not read it; use a text model"
            if is_part
            else "download the model again"
        )
        faults.append(
            f"{FIELD}: the weights in {folder} have other shapes than its config.json says ({list_some(wrong)}); "
            + remedy
        )
    read = [names[name] for name in parameters if name in names] + sorted(named.sources)
    if rounded := [name for name in read if stored[name].dtype not in FLOAT_DTYPES]:
        faults.append(quantized_fault(folder, f"{rounded[0]} is stored as {stored[rounded[0]].dtype}"))
    if faults:
        raise UserError(faults)
    unread = _refuse_and_list_unread(stored, named, names, twins, folder)
    saved_as = _saved_names(named, names, twins)
    return MatchedWeights(
        stored,
        names,
        unread,
        named.converted,
        named.sources,
        named.renamings,
        is_part,
        wrapper=tuple(wrapper),
        saved_as=saved_as,
    )


def _saved_names(named: NamedWeights, names: Mapping[str, str], twins: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Return for each stored tensor the names under which a save of the model may have it; `twins` by source.

    The first is the stored one, the second the model's own.
    """
    found: dict[str, tuple[str, ...]] = {source: (source,) for source in named.sources}
    for name, stored in names.items():
        found[stored] = (stored, name)
    for source, twin in twins.items():
        if source in names and (saved := named.direct.get(twin)) is not None:
            found[saved] = (saved, twin, names[source], source)
    return found


def _required_buffers(model: Any) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the buffers that are stored like weights, without those that a class can do without."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    spared: Sequence[str] = model._keys_to_ignore_on_load_missing or ()
    return {
        name: tuple(buffer.shape)
        for name, buffer in model.state_dict().items()
        if name not in parameters
        and not name.endswith(COMPUTED_SUFFIX)
        and not any(re.search(pattern, name) for pattern in spared)
    }


def _either(name: str, twins: Mapping[str, str], found: Collection[str]) -> str | None:
    """Return which of a tensor's name and its tied twin's is found, or None."""
    return next((known for known in (name, twins.get(name)) if known in found), None)


def _missing_faults(missing: Iterable[str], stored: Mapping[str, StoredTensor], folder: Path) -> Generator[str]:
    """Yield a sentence for missing weights; where only their names are wrong, it says how."""
    names = sorted(missing)
    if not names:
        return
    if added := _added_prefix(names, stored):
        yield (
            f"{FIELD}: the names of the weights in {folder} begin with {added!r}, as a wrapped model's do; save the "
            "model that is inside the wrapper again"
        )
    elif names == ["lm_head.weight"]:
        yield (
            f"{FIELD}: {folder} has no lm_head.weight, and its config.json does not tie the head to the embedding; "
            "download the model again, or set tie_word_embeddings: true there if it was trained so"
        )
    else:
        yield (
            f"{FIELD}: the weights in {folder} are incomplete: {len(names)} are missing ({list_some(names)}); "
            "download the model again"
        )


def _added_prefix(missing: Sequence[str], stored: Mapping[str, StoredTensor]) -> str | None:
    """Return the prefix that wrappers (torch.compile, DDP, PEFT) have put before the missing names, if it is one."""
    added = {key[: -len(missing[0])] for key in stored if key.endswith(f".{missing[0]}")}
    return next((each for each in added if all(each + name in stored for name in missing)), None)


def _refuse_and_list_unread(
    stored: Mapping[str, StoredTensor],
    named: NamedWeights,
    names: Mapping[str, str],
    twins: Mapping[str, str],
    folder: Path,
) -> tuple[str, ...]:
    """List the tensors that no parameter reads; raises UserError for those that would change what the model says."""
    read = named.sources.union(names.values())
    unread = {name for name in stored.keys() - read if not name.endswith(COMPUTED_SUFFIX)}
    if adapters := sorted(name for name in unread if ".lora_" in name):
        raise UserError(
            f"{FIELD}: {folder} has the weights of an adapter ({list_some(adapters)}), which would not be used; "
            "merge it into the model first (merge_and_unload of PEFT)"
        )
    for source, twin in twins.items():
        saved = named.direct.get(twin)
        if saved in unread and source in names:
            if not _are_equal(stored, saved, names[source]):
                raise UserError(
                    f"{FIELD}: {folder} holds {saved}, but its config.json ties it to {source}, which has other "
                    "values; set tie_word_embeddings: false there to use it, or remove it from the file"
                )
            unread.discard(saved)
    return tuple(sorted(unread))


def has_own_head(model: Any, stored: Mapping[str, StoredTensor]) -> bool | None:
    """Return whether a part of a larger model has a head other than its embedding; None where no head is stored.

    `model` is on the meta device, with a head that is not tied. The values decide, as in transformers: a wrapper's
    setting and its text part's may disagree.
    """
    found = name_weights(model, stored, is_part=True).direct
    parameters = {id(parameter): name for name, parameter in model.named_parameters()}
    head = found.get(parameters[id(model.get_output_embeddings().weight)])
    embedding = found.get(parameters[id(model.get_input_embeddings().weight)])
    if head is None or embedding is None:
        return None
    return not _are_equal(stored, head, embedding)


def _are_equal(stored: Mapping[str, StoredTensor], first: str, second: str) -> bool:
    if stored[first].shape != stored[second].shape:
        return False
    parts = zip(read_chunks(stored[first], first), read_chunks(stored[second], second), strict=True)
    return all(torch.equal(ours.float(), theirs.float()) for ours, theirs in parts)


def read_chunks(tensor: StoredTensor, name: str) -> Generator[Tensor]:
    """Read a stored tensor, some rows at a time."""
    with safe_open(tensor.file, framework="pt") as file:
        part = file.get_slice(name)
        rows = tensor.shape[0] if tensor.shape else 0
        if not rows:
            yield file.get_tensor(name)
            return
        at_once = max(1, CHUNK_ELEMENTS // max(1, _product(tensor.shape[1:])))
        for start in range(0, rows, at_once):
            yield part[start : start + at_once]


def _product(sizes: Sequence[int]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total


def refuse_non_finite_files(matched: MatchedWeights, folder: Path) -> None:
    """Read every stored weight of a model once; raises UserError that names those that hold NaN or infinity."""
    _refuse(
        [
            name
            for name in sorted(matched.sources.union(matched.names.values()))
            if not all(_is_finite(chunk) for chunk in read_chunks(matched.stored[name], name))
        ],
        folder,
    )


def refuse_non_finite(model: Any, folder: Path) -> None:
    """Raise UserError that names the loaded weights that hold NaN or infinity."""
    _refuse([name for name, weight in model.named_parameters() if not _is_finite(weight.detach())], folder)


def _is_finite(weights: Tensor) -> bool:
    # A sum that is finite proves it in one pass; one that is not may only have been too large.
    total = weights.sum(dtype=torch.float32 if weights.dtype != torch.float64 else torch.float64)
    return bool(total.isfinite()) or bool(weights.isfinite().all())


def _refuse(names: Sequence[str], folder: Path) -> None:
    if names:
        raise UserError(
            f"{FIELD}: the weights in {folder} are damaged: NaN or infinity in {list_some(names)}; download the "
            "model again"
        )
