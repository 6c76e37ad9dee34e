"""Prints docs/recipe.md, the page of all knobs, from the recipe's own types: `python docs/recipe_page.py`."""

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from thinktune.config.row_faults import ROW_FAULTS
from thinktune.config.schema import Recipe

MOST_SHOWN = 4
HEAD = """\
# Every knob of a recipe

Made from `src/thinktune/config/schema.py` by `python docs/recipe_page.py > docs/recipe.md`; a test holds them
together.
On the command line any of them is `key.path=value`, as in `thinktune train recipe.yaml train.epochs=1`.

| knob | default | meaning |
|---|---|---|
"""

FAULTS = """
## Faults: what `data.faults` decides

`drop` leaves the row out, `keep` trains it as it is, `repair` repairs what is safe to repair and drops the rest,
`stop` ends the run with such rows named. Whatever happens is counted, and shown with examples, by `thinktune check` and
in the report. Written as in `data.faults: {handed_answer: keep, too_long: trim-reasoning}`.

| fault | policies, the default first | meaning |
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
        description = " ".join((field.description or "").split())  # a line break would end the table
        made += f"| `{prefix}{name}` | {default} | {description} |\n"
    return made


def shown(value: object) -> str:
    """A default as one writes it in YAML."""
    if value is None or value in ((), {}):
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple) and len(value) > MOST_SHOWN:
        return f"{', '.join(map(str, value[:MOST_SHOWN]))}, … ({len(value)} in all)"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return str(value)


def fault_rows() -> str:
    """The table's rows for the faults; the first policy is the default."""
    return "".join(
        f"| `{name}` | **{kind.default}**{''.join(f', {policy}' for policy in kind.policies[1:])} | {kind.meaning} |\n"
        for name, kind in ROW_FAULTS.items()
    )


if __name__ == "__main__":
    print(HEAD + rows() + FAULTS + fault_rows(), end="")
