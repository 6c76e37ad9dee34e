"""Prints docs/recipe.md, the page of all knobs, from the recipe's own types: `python docs/recipe_page.py`."""

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from thinktune.recipe import Recipe

HEAD = """\
# Every knob of a recipe

Made from `src/thinktune/recipe.py` by `python docs/recipe_page.py > docs/recipe.md`; a test holds the two together.
On the command line any of them is `key.path=value`, as in `thinktune train recipe.yaml train.epochs=1`.

| knob | default | meaning |
|---|---|---|
"""


def rows(section: type[BaseModel] = Recipe, prefix: str = "") -> str:
    """The table's rows for a section and the sections below it."""
    made = ""
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            made += rows(kind, f"{prefix}{name}.")
            continue
        default = "required" if field.default is PydanticUndefined else shown(field.default)
        made += f"| `{prefix}{name}` | {default} | {field.description} |\n"
    return made


def shown(value: object) -> str:
    """A default as one writes it in YAML."""
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return str(value)


if __name__ == "__main__":
    print(HEAD + rows(), end="")
