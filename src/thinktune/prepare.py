"""A recipe's rows to tokens: found, read, judged, split, rendered and measured, with an account of every row."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from thinktune import data, hub
from thinktune.data import Example, Fault, RawRow, Tally
from thinktune.errors import UserError, brief
from thinktune.recipe import Recipe
from thinktune.render import Part, Rendered, control_tokens, render

MOST_SENTENCES = 20
LENGTH_MARKS = (512, 1024, 2048, 4096, 8192)


@dataclass(frozen=True, slots=True)
class Rows:
    """Examples and, in the same order, their tokens (an example of several replies gives several)."""

    examples: list[Example]
    rendered: list[Rendered]

    @property
    def learned_tokens(self) -> int:
        """Tokens that are learned, in all rows."""
        return sum(row.learned_tokens for row in self.rendered)


@dataclass(frozen=True, slots=True)
class Prepared:
    """The rows to train on, those to evaluate on, and the account that says where every row read went."""

    train: Rows
    validation: Rows
    account: dict[str, Any]
    fingerprint: str


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model folder; raises UserError where it holds none that loads."""
    from transformers import AutoTokenizer  # imported late: it takes seconds

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        # transformers raises whatever its parsers raise (OSError, ValueError, KeyError, ...): the folder is at fault.
        raise UserError(
            f"model.name: {folder} holds no tokenizer that loads ({brief(error)}); name a whole model folder"
        ) from error
    if not tokenizer.is_fast or tokenizer.eos_token_id is None:
        raise UserError(
            f"model.name: the tokenizer in {folder} is not a fast one with an end-of-turn token; take another model"
        )
    return tokenizer


def prepare(recipe: Recipe, tokenizer: Any) -> Prepared:
    """Everything between the recipe and the tokens.

    Raises UserError where a fault's policy is `stop` or no row is left.
    """
    settings = recipe.data
    source = hub.locate(settings.name, settings.hub, settings.revision, "dataset", "data.name")
    rows = _read(data.find_files(source, settings.files, "data.name"), recipe)
    held_out: dict[Path, list[RawRow]] = {}
    for mark in (*data.THINK_TAGS, *control_tokens(tokenizer)):
        if mark in (settings.system or ""):
            raise UserError(f"data.system: holds {mark}, which the tokenizer makes a control token; leave it out")
    if isinstance(settings.validation, str):
        own = hub.locate(settings.validation, None, None, "dataset", "data.validation")
        held_out = _read(data.find_files(own, None, "data.validation"), recipe)
        both = {file.resolve() for file in rows} & {file.resolve() for file in held_out}
        if both:
            raise UserError(f"data.validation: {min(both)} is trained on as well; name a file of other rows")
    judged = _judge(rows, held_out, recipe, tokenizer)
    if not judged.train.examples:
        counted = "; ".join(f"{fault} {count}" for fault, count in judged.tally.counts.items()) or "the files hold none"
        first = [sentences[0] for sentences in judged.tally.examples.values()]
        raise UserError(
            [f"data.name: no row is left to train on ({counted}); see data.faults, or mend the rows", *first]
        )
    texts = (
        part.tobytes().hex()
        for kept in (judged.train, judged.validation)
        for row in kept.rendered
        for part in (row.ids, row.parts)
    )
    account = _account(recipe, {**rows, **held_out}, judged)
    return Prepared(judged.train, judged.validation, account, data.fingerprint(texts))


@dataclass(frozen=True, slots=True)
class _Judged:
    """Rows by what becomes of them; `measured` holds every row that could be rendered, the too long ones too."""

    train: Rows
    validation: Rows
    measured: list[Rendered]
    tally: Tally


def _read(files: Sequence[Path], recipe: Recipe) -> dict[Path, list[RawRow]]:
    rows = {file: list(data.read_rows(file)) for file in files}
    data.check_columns([row for found in rows.values() for row in found], recipe.data.columns, recipe.data.ignore)
    return rows


def _judge(
    rows: dict[Path, list[RawRow]], held_out: dict[Path, list[RawRow]], recipe: Recipe, tokenizer: Any
) -> _Judged:
    settings = recipe.data
    shared = [row for found in rows.values() for row in found]
    everything = shared + [row for found in held_out.values() for row in found]
    chosen = set(range(len(shared), len(everything)))
    if isinstance(settings.validation, float):
        questions = [str(row.columns.get(settings.columns.question, row.source)) for row in shared]
        chosen = data.held_out(questions, settings.validation, settings.split, settings.seed)
    judged = _Judged(Rows([], []), Rows([], []), [], Tally())
    marks = control_tokens(tokenizer)
    stops: list[str] = []
    for index, row in enumerate(everything):
        found = data.to_example(row, settings, marks)
        if isinstance(found, Example):
            found = _place(found, judged, judged.validation if index in chosen else judged.train, recipe, tokenizer)
        if found:
            judged.tally.add(found.name, found.sentence)
            if getattr(settings.faults, found.name) == "stop":
                stops.append(f"{found.sentence}; mend the row, or write data.faults.{found.name}: drop")
    if stops:
        raise UserError(
            stops[:MOST_SENTENCES] + [f"and {len(stops) - MOST_SENTENCES} more"] * (len(stops) > MOST_SENTENCES)
        )
    return judged


def _place(example: Example, judged: _Judged, kept: Rows, recipe: Recipe, tokenizer: Any) -> Fault | None:
    """Render an example and keep it; the fault, where it is too long or is kept in spite of one."""
    rendered = render(example, tokenizer)
    judged.measured.extend(rendered)
    longest = max(map(len, rendered))
    if longest > recipe.data.max_tokens:
        limit = recipe.data.max_tokens
        return Fault("too_long", f"{example.source}: {longest} tokens, more than data.max_tokens {limit}")
    kept.examples.append(example)
    kept.rendered.extend(rendered)
    if not example.turns[-1].reasoning:
        return Fault("no_reasoning", f"{example.source}: {recipe.data.columns.reasoning}: is empty")
    return None


def _account(recipe: Recipe, rows: dict[Path, list[RawRow]], judged: _Judged) -> dict[str, Any]:
    """Plain values for data.json: where every row read went, and how long the rows are, the too long ones included."""
    measured, train = judged.measured, judged.train
    lengths = {
        "prompt": [int(np.argmax(row.parts > 0)) for row in measured],
        "reasoning": [int((row.parts == Part.REASONING).sum()) for row in measured],
        "answer": [int((row.parts == Part.ANSWER).sum()) for row in measured],
        "whole": [len(row) for row in measured],
    }
    faults = recipe.data.faults
    return {
        "files": [{"path": str(file), "rows": len(found)} for file, found in rows.items()],
        "rows_read": sum(map(len, rows.values())),
        "columns": recipe.data.columns.model_dump(exclude_none=True),
        "ignored": list(recipe.data.ignore),
        "faults": [
            {"fault": name, "policy": getattr(faults, name), "count": count, "examples": judged.tally.examples[name]}
            for name, count in judged.tally.counts.items()
        ],
        "train_rows": len(train.examples),
        "validation_rows": len(judged.validation.examples),
        "train_tokens": sum(map(len, train.rendered)),
        "train_learned_tokens": train.learned_tokens,
        "lengths": {name: _summary(values) for name, values in lengths.items()},
        "over": {str(mark): sum(length > mark for length in lengths["whole"]) for mark in LENGTH_MARKS},
    }


def _summary(values: Sequence[int]) -> dict[str, float]:
    array = np.asarray(values)
    return {
        "mean": round(float(array.mean()), 1),
        "median": float(np.median(array)),
        "p95": float(np.percentile(array, 95)),
        "max": float(array.max()),
    }
