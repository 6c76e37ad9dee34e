"""A graph without a card: what a step launches is recorded with its tensors and repeated, and none of its Python runs."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from thinktune.inference.static_proof import RefuseHostReads


class Launches(TorchDispatchMode):
    """Counts and keeps the operations that a card would run, in their order; views are none."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(found) if isinstance(leaf, Tensor)]
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        is_view = all(tensor.untyped_storage()._cdata in given for tensor in made)
        if func._schema.is_mutable or not is_view:
            self.kept.append((func, args, kwargs or {}, made))
        return found


def record_graph(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Capture a step as a card does: no read of the host is allowed, and the tensors of this call are used again."""
    launches = Launches()
    with RefuseHostReads(), launches:
        found = step()

    def replay() -> Tensor:
        for func, args, kwargs, made in launches.kept:
            again = func(*args, **kwargs)
            if not func._schema.is_mutable:
                new = (leaf for leaf in tree_leaves(again) if isinstance(leaf, Tensor))
                for old, tensor in zip(made, new, strict=True):
                    old.copy_(tensor)
        return found

    return replay


def count_launches(call: Callable[[], Any]) -> int:
    """Return how many operations a card would run for a call."""
    with torch.no_grad(), Launches() as launches:
        call()
    return len(launches.kept)
