"""Rows of a pilot: a seeded share of the training rows and some held-out ones, written as files, and their recipe."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinktune.config import ROW_FAULTS, DataConfig, Recipe, TrackConfig
from thinktune.config.schema import ColumnsConfig
from thinktune.data import Prepared, StepRows, Subset, prepare
from thinktune.data.export import is_multi_turn, to_record
from thinktune.data.own_answers.entry import find_own_answers
from thinktune.data.packing import plan_steps
from thinktune.errors import UserError
from thinktune.files import write_json_lines
from thinktune.progress import Say
from thinktune.run.pilot_folder import PilotData
from thinktune.tokenization import ChatTokenizer, Example

MAX_HELD_OUT_ROWS = 400
MIN_EVALUATIONS, MAX_EVALUATIONS = 3, 8  # of a run
EVALUATED_SHARE = 0.25  # of a run's work, at most, that more evaluations than the fewest may add
PATIENCE_EVALUATIONS = 2  # clearly above the best one, after which a run ends


@dataclass(frozen=True, slots=True)
class PilotRows:
    """The rows of a pilot: the recipe that its runs share, and how many they are."""

    recipe: Recipe
    data: PilotData


def prepare_rows(recipe: Recipe, tokenizer: ChatTokenizer, say: Say) -> Prepared:
    """Prepare all rows of a recipe; raises UserError where none is held out."""
    prepared = prepare(recipe, tokenizer, say)
    if not len(prepared.validation):
        raise UserError(
            "data.validation: holds out no rows, but a pilot compares its runs on held-out rows; set it, for "
            "example to 0.1"
        )
    return prepared


def steps_of_one_epoch(recipe: Recipe, prepared: Prepared) -> list[StepRows]:
    """Return the steps of one epoch of a recipe."""
    one = recipe.train.model_copy(update={"epochs": 1})
    return plan_steps(recipe.model_copy(update={"train": one}), prepared)


def write_rows(recipe: Recipe, prepared: Prepared, tokenizer: ChatTokenizer, folder: Path, share: float) -> PilotRows:
    """Write the rows that the runs are trained and evaluated on into a folder.

    The order of rows is drawn from `train.seed`, so a larger share holds a smaller one. Every source gives the same
    share, and held-out rows by its size.
    """
    held_out = min(1.0, MAX_HELD_OUT_ROWS / len(prepared.validation))
    sources = [
        _write_source(recipe, number, (prepared, tokenizer), folder, (share, held_out))
        for number in range(len(recipe.sources))
    ]
    shared = _shared_recipe(recipe, sources)
    part = prepare(shared, tokenizer)
    steps = steps_of_one_epoch(shared, part)
    data = PilotData(
        share=share,
        train_rows=len(part.train),
        all_train_rows=len(prepared.train),
        held_out_rows=len(part.validation),
        all_held_out_rows=len(prepared.validation),
        epoch_steps=len(steps),
        epoch_tokens=_tokens(part, steps),
        all_epoch_tokens=_tokens(prepared, steps_of_one_epoch(recipe, prepared)),
    )
    return PilotRows(shared, data)


def evaluation_steps(data: PilotData, epochs: int) -> int:
    """Return the steps between two evaluations of a run; a forward pass is a third of the work of training."""
    affordable = int(3 * EVALUATED_SHARE * data.train_rows * epochs / data.held_out_rows)
    evaluations = max(MIN_EVALUATIONS, min(MAX_EVALUATIONS, affordable))
    return max(1, math.ceil(data.epoch_steps * epochs / evaluations))


def _tokens(prepared: Prepared, steps: Sequence[StepRows]) -> int:
    lengths = prepared.train.lengths
    return sum(int(lengths[list(step.rows)].sum()) for step in steps)


def _write_source(
    recipe: Recipe, number: int, inputs: tuple[Prepared, ChatTokenizer], folder: Path, shares: tuple[float, float]
) -> DataConfig:
    """Write the rows of one source, and return its settings with these files in place of its own."""
    prepared, tokenizer = inputs
    settings, is_own = recipe.sources[number], recipe.sources[number].answers != "rows"
    if is_own:  # they are read as when they were made: to the token as the base wrote them
        read = find_own_answers(recipe.of_source(number), tokenizer).settings
        settings = read.model_copy(update={"share": settings.share})
    name = f"-{number}" if recipe.is_mixture else ""
    files = folder / f"train{name}.jsonl", folder / f"val{name}.jsonl"
    for file, rows, share in zip(files, (prepared.train, prepared.validation), shares, strict=True):
        chosen = choose_rows(_of_source(rows, number), share, f"{recipe.train.seed}/{file.name}")
        examples = [rows.dataset.example(index) for index in chosen]
        write_json_lines(file, _own_records(examples) if is_own else _records(examples, settings.system))
    has_held_out = bool(len(_of_source(prepared.validation, number)))
    kept = {fault: "keep" if "keep" in ROW_FAULTS[fault].policies else each for fault, each in settings.faults.items()}
    written = {
        "name": str(files[0]),
        "hub": None,
        "revision": None,
        "files": None,
        "rows": None,
        "columns": settings.columns if is_own else ColumnsConfig(),
        "ignore": (),
        "think_tags": None,
        "silent_share": 0.0,  # rows that are silent say so themselves
        "replay": None,  # it is the last of the sources
        "faults": kept,  # what is left after the recipe's own policies is trained
        "validation": str(files[1]) if has_held_out else 0.0,
    }
    return settings.model_copy(update=written)


def _of_source(rows: Subset, number: int) -> NDArray[np.int64]:
    return rows.example_indices[rows.dataset.sources_of_examples(rows.example_indices) == number]


def choose_rows(indices: NDArray[np.int64], share: float, seed: str) -> list[int]:
    """Choose a share of rows, at least one, in their own order: those that come first in a seeded order."""
    order: list[int] = indices.tolist()
    random.Random(seed).shuffle(order)
    return sorted(order[: max(1, round(share * len(order)))])


def _records(examples: Sequence[Example], system: str | None) -> list[dict[str, Any]]:
    as_messages = any(map(is_multi_turn, examples))
    return [to_record(example, system, as_messages=as_messages) for example in examples]


def _own_records(examples: Sequence[Example]) -> list[dict[str, Any]]:
    """Return own answers as rows of the form in which they were made: messages, and the mode of the reply."""
    modes = ("on" if example.turns[-1].thinks else "off" for example in examples)
    records = (to_record(example, None, as_messages=True) for example in examples)
    return [record | {"mode": mode} for record, mode in zip(records, modes, strict=True)]


def _shared_recipe(recipe: Recipe, sources: Sequence[DataConfig]) -> Recipe:
    """Return what all runs share: these rows, no samples and no trackers, and an early end where a run overfits.

    Its weights are those that a rate and its epochs give: an average of them with the base's would hide their cost.
    """
    train = {"time_limit": None, "stop_when_overfitting": PATIENCE_EVALUATIONS, "average": None}
    shared = recipe.model_copy(
        update={
            "data": sources[0],
            "other_sources": tuple(sources[1:]),
            "train": recipe.train.model_copy(update=train),
            "generate": recipe.generate.model_copy(update={"sample_questions": 0}),
            "track": TrackConfig(),
        }
    )
    return Recipe.model_validate(shared.model_dump(mode="json"))  # a copy is not held to the rules of a recipe
