"""A change of the recipe's data section, as sentences propose it and as a trial applies it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from thinktune.config import DataConfig
from thinktune.data.columns.mapping import to_flow_yaml


@dataclass(frozen=True, slots=True)
class RecipeChange:
    """What to write in the recipe: a whole `data.columns`, names to add to `data.ignore`, policies of faults.

    `why` says in a few words what it does, for people; it may be empty.
    """

    columns: Mapping[str, Any] = field(default_factory=dict[str, Any])
    ignore: tuple[str, ...] = ()
    faults: Mapping[str, str] = field(default_factory=dict[str, str])
    max_tokens: int | None = None
    why: str = ""

    def apply(self, settings: DataConfig) -> DataConfig | None:
        """Return the settings with this change, or None where a recipe cannot say it."""
        changes: dict[str, Any] = {"ignore": (*settings.ignore, *self._new(settings))}
        if self.columns:
            changes["columns"] = self._columns(settings)
        changes["faults"] = {**settings.faults, **self.faults}
        if self.max_tokens is not None:
            changes["max_tokens"] = self.max_tokens
        try:
            return DataConfig.model_validate(settings.model_dump() | changes)
        except ValidationError:
            return None

    def describe(self, settings: DataConfig) -> str:
        """Write the change as a recipe does: each key with the whole value that it then has."""
        parts = [f"data.columns: {to_flow_yaml(self._columns(settings))}"] if self.columns else []
        if new := self._new(settings):
            parts.append(f"data.ignore: {to_flow_yaml([*settings.ignore, *new])}")
        if self.faults:
            parts.append(f"data.faults: {to_flow_yaml(dict(self.faults))}")
        if self.max_tokens is not None:
            parts.append(f"data.max_tokens: {self.max_tokens}")
        return " and ".join(parts)

    def ignoring(self, names: tuple[str, ...]) -> "RecipeChange":
        """Return the change with more columns to ignore."""
        return replace(self, ignore=(*self.ignore, *(name for name in names if name not in self.ignore)))

    def with_faults(self, **policies: str) -> "RecipeChange":
        """Return the change with more policies."""
        return replace(self, faults={**self.faults, **policies})

    def _columns(self, settings: DataConfig) -> dict[str, Any]:
        """Return the whole `data.columns`; the names of roles stay."""
        roles = settings.columns.model_dump()["roles"]
        return dict(self.columns) | ({"roles": roles} if roles and "roles" not in self.columns else {})

    def _new(self, settings: DataConfig) -> tuple[str, ...]:
        return tuple(name for name in self.ignore if name not in settings.ignore)
