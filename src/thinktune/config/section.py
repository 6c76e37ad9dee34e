"""Base of a recipe's sections: frozen, with no unknown key."""

from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class Section(BaseModel):
    """Frozen group of settings; an unknown key is an error."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=(), allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        # For pydantic, as for Python, true is 1.
        parts: Sequence[Any] = value if isinstance(value, list | tuple) else (value,)
        found = next((part for part in parts if isinstance(part, bool)), None)
        if found is not None and not _takes_bool(cls.model_fields[info.field_name or ""].annotation):
            raise ValueError(f"is {str(found).lower()}; write a number, or text in quotes, instead")
        return value


def _takes_bool(annotation: Any) -> bool:
    return annotation is bool or any(_takes_bool(part) for part in get_args(annotation))
