"""Print docs/recipe.md, the page of all settings, from the recipe's schema; with `zh`, docs/recipe.zh.md."""

import sys
from typing import get_args

from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from recipe_page_words import EXPERT as EXPERT_ZH
from recipe_page_words import FAULTS as FAULTS_ZH
from recipe_page_words import HEAD as HEAD_ZH
from recipe_page_words import SOURCES as SOURCES_ZH

from thinktune.config.recipe_keys import EXPERT_FIELDS, OTHER_SOURCES, recipe_key
from thinktune.config.row_faults import ROW_FAULTS
from thinktune.config.schema import Recipe
from thinktune.translation import Language, translate

MOST_SHOWN = 4
_REQUIRED: dict[Language, str] = {"en": "required", "zh": "必填"}
HEAD = """\
# Every setting of a recipe

[中文](recipe.zh.md)

`python docs/recipe_page.py > docs/recipe.md` makes this page from `src/thinktune/config/schema.py`; a test keeps them
equal. Only `model.name` and `data.name` must be set. On the command line, set anything with `key.path=value`, as in
`thinktune train recipe.yaml train.epochs=1`. The settings that you will hardly ever need are in
[a list of their own](#expert-settings).

A recipe is read in one way, and so are overrides: a key appears once; only `true` and `false` are booleans; numbers
are decimal and finite; `yes`, `1:30` and `2026-01-01` are texts. Anchors, aliases, merge keys and tags are
refused, with the line. `~` at the beginning of a path is your home.

| setting | default | meaning |
|---|---|---|
"""

EXPERT = """
## Expert settings

Written under `expert:`, as in `expert: {rows_per_step: 8, log_every_steps: 1}`. Recipes that use their old names still
work; `check` and `train` name the new place.

| setting | default | meaning |
|---|---|---|
"""

SOURCES = """
## Replay

`replay` below `data` trains general rows beside your own, without a list, so that a model tuned on few rows forgets
less; `thinktune eval` shows whether it does.

| written | general rows |
|---|---|
| `replay: 0.1` | 216 bundled rows (Chinese and English, with reasoning), a tenth of the trained tokens |
| `replay: {share: 0.1, answers: own}` | the same questions, answered by the base itself before training |
| `replay: {share: 0.1, rows: general.jsonl}` | a file of your own |
| `replay: {share: 0.1, rows: questions.jsonl, answers: own}` | your questions (`{"question": …}`), answered by it |

No replayed row is held out, so the held-out loss means the same as without them, and none is longer than
`data.max_tokens`. [data.md](data.md) says how own answers are made and kept. If replayed rows
need other settings (columns, faults, a system prompt), write the list below: the bundled rows are `name:
bundled:general` there, and `answers: own` can be used in any source after the first.

## Several sources

A list in `data` names several sources: each has its own files, columns, faults, system prompt, tags, modes and held-out
rows, and is read as if it were alone. On the command line a source has a number: `data.1.share=0.2`. An expert setting
of the rows counts for every source that does not set it itself; a source sets it directly, as in `data.1.license`.

```yaml
data:
- name: mine.jsonl
- name: general.jsonl
  share: 0.1
  validation: 0
```

`share` is a source's part of all tokens that are trained, whatever `train.weights` is. It is exact over
the run, to half a row, and nearly so in every step; it is dealt before rows are packed, so that cards and batches
change nothing. `train.epochs` counts the passes over the sources without a share, or over the first where each has
one. The rows of the others come in a seeded order, each once before any comes again: as often as the share asks for,
or only in part. `check` says how often.

A row whose question another source holds out is a `leak`, and of a row that two sources have, the later source's is a
`duplicate`; the policies of a row's own source decide. The held-out rows of all sources choose the best checkpoint;
write `validation: 0` for a source that is not to be asked. The first source is the one whose system prompt chat and
exams use, and whose held-out rows samples and `eval` ask first. `check`, the run's page and `metrics.jsonl` account for
each source, with its losses apart.
"""

FAULTS = """
## Row faults and `data.faults`

`drop` leaves the row out, `keep` trains it as it is, `silent` trains it in the mode without thinking, `repair` repairs
what is certain and drops the rest, and `stop` ends the run and names such rows. `thinktune check` and the report count
them all and show examples. Write `data.faults: {handed_answer: keep, too_long: trim-reasoning}`.

| fault | policies, the default first | meaning |
|---|---|---|
"""


def table_rows(language: Language, section: type[BaseModel] = Recipe, prefix: str = "") -> dict[str, str]:
    """Return a table row for each field of a section and the sections below it, by the field's path."""
    made: dict[str, str] = {}
    for name, field in section.model_fields.items():
        kind, path = field.annotation, f"{prefix}{name}"
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            made |= table_rows(language, kind, f"{path}.")
            continue
        if name == OTHER_SOURCES:
            continue
        below = [each for each in get_args(kind) if isinstance(each, type) and issubclass(each, BaseModel)]
        default = _REQUIRED[language] if field.default is PydanticUndefined else shown(field.default, language)
        description = translate(
            " ".join((field.description or "").split()), language
        )  # a line break would end the table
        made[path] = f"| `{recipe_key(path)}` | {default} | {description} |\n"
        for section_below in below:  # one that may be left out has a line of its own
            made |= table_rows(language, section_below, f"{path}.")
    return made


def shown(value: object, language: Language) -> str:
    """Return a default as YAML writes it."""
    if value is None or value in ((), {}):
        return "none" if language == "en" else "无"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple) and len(value) > MOST_SHOWN:
        more = f"… ({len(value)} in all)" if language == "en" else f"…（共 {len(value)} 个）"
        return ", ".join((*map(str, value[:MOST_SHOWN]), more))
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return f"`{{{', '.join(f'{key}: {item:g}' for key, item in value.items())}}}`"
    return str(value)


def fault_rows(language: Language) -> str:
    """Return a table row for each fault; the first policy is the default."""
    rows: list[str] = []
    for name, kind in ROW_FAULTS.items():
        others = "".join(f", {policy}" for policy in kind.policies[1:])
        rows.append(f"| `{name}` | **{kind.default}**{others} | {translate(kind.meaning, language)} |\n")
    return "".join(rows)


if __name__ == "__main__":
    spoken: Language = "zh" if "zh" in sys.argv[1:] else "en"
    head, between, sources, faults = (
        (HEAD, EXPERT, SOURCES, FAULTS) if spoken == "en" else (HEAD_ZH, EXPERT_ZH, SOURCES_ZH, FAULTS_ZH)
    )
    rows = table_rows(spoken)
    expert = [rows.pop(field) for field in EXPERT_FIELDS.values()]
    print(head + "".join(rows.values()) + between + "".join(expert) + sources + faults + fault_rows(spoken), end="")
