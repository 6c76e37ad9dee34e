"""A few held-out questions of a run, to ask on the chat page: rows that the model was not trained on."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

from thinktune.run.folder import RunFolder
from thinktune.run.reading import Record

HELD_OUT_SET = "held-out"  # the set of an evaluation that these rows make
LONGEST_QUESTION_CHARACTERS = 300


def held_out_questions(run: RunFolder, wanted: int) -> tuple[str, ...]:
    """Return held-out questions, spread over those that an evaluation asked or, without one, training's samples.

    Questions of more than one turn would lack their history, and very long ones would fill the page. Lines that cannot
    be read are skipped: nothing depends on them.
    """
    for found in (_evaluated(run), _sampled(run)):
        questions = [*dict.fromkeys(found)]
        if questions:
            count = min(wanted, len(questions))
            return tuple(questions[number * len(questions) // count] for number in range(count))
    return ()


def _evaluated(run: RunFolder) -> Iterator[str]:
    for task in _records(run.evaluation().tasks):
        turns = task.get("turns")
        if task.get("set") != HELD_OUT_SET or not isinstance(turns, list):
            continue
        said: list[Record] = [turn for turn in turns if isinstance(turn, dict) and turn.get("role") != "system"]
        if len(said) == 1 and _is_short(question := said[0].get("content")):
            yield question


def _sampled(run: RunFolder) -> Iterator[str]:
    for sample in _records(run.samples):
        if _is_short(question := sample.get("question")):
            yield question


def _is_short(question: object) -> TypeGuard[str]:
    return isinstance(question, str) and bool(question.strip()) and len(question) <= LONGEST_QUESTION_CHARACTERS


def _records(file: Path) -> Iterator[Record]:
    try:
        lines = file.read_bytes().split(b"\n")
    except OSError:
        return
    for line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            yield record
