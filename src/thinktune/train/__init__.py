"""A recipe to a tuned model."""

import sys
from types import ModuleType
from typing import Any

import thinktune
from thinktune.train.context import evaluation_interval_steps
from thinktune.train.launcher import launch_workers, process_group
from thinktune.train.loop import train

__all__ = [
    "evaluation_interval_steps",
    "launch_workers",
    "process_group",
    "train",
]

_train_recipe = thinktune.train  # the function, before this package takes its name in `thinktune`


class _CallableModule(ModuleType):
    """Keeps `thinktune.train("mine.yaml")` a call: importing this package binds it over the function of that name."""

    def __call__(self, *recipe_and_overrides: Any) -> Any:
        return _train_recipe(*recipe_and_overrides)


sys.modules[__name__].__class__ = _CallableModule
