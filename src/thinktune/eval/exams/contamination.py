"""Exam questions that stand in the training rows: as a whole, or all but a few of their runs of words.

A question is its stem, which a training row may hold among more: its options, a longer prompt, another instruction. So
what is measured is how much of the stem a row has, not how alike the two are: the share of the stem's runs of `RUN`
words that are in one row's prompt. A Chinese character counts as a word; single letters, which label options, do not
count. Brown et al. (2020, "Language models are few-shot learners", appendix C) remove by runs of 8 to 13 words that are
found anywhere; a single common run is not enough here.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from thinktune.eval.grading import rouge_tokens
from thinktune.eval.tasks import Task
from thinktune.tokenization import Example

RUN = 8  # words
MIN_SHARE = 0.8  # of a stem's runs, from which a row asks nearly the same

Match = Literal["whole", "near"]


@dataclass(frozen=True, slots=True)
class TrainedQuestion:
    """The training row that holds a question, by its source, and how exactly."""

    row: str
    match: Match


def find_trained(tasks: Sequence[Task], rows: Iterable[Example]) -> dict[int, TrainedQuestion]:
    """Find the tasks whose question stands in a training row; returns the first such row by the task's index.

    A stem of fewer than `RUN` words ("Which is true?") says little alone, so its options count with it.
    """
    needed: list[int] = []  # runs of each task
    asked: dict[int, set[int]] = defaultdict(set)  # tasks by the hash of a run
    for index, task in enumerate(tasks):
        runs = _runs(_text(task))
        needed.append(len(runs))
        for run in runs:
            asked[run].add(index)
    found: dict[int, TrainedQuestion] = {}
    for row in rows:
        words = _words("\n".join(turn.content for turn in row.turns if turn.role == "user"))
        held = Counter(index for run in _runs(words) if run in asked for index in asked[run])
        for index, count in held.items():
            share = count / needed[index]
            if share == 1 and (index not in found or found[index].match == "near"):
                found[index] = TrainedQuestion(row.source, "whole")
            elif share >= MIN_SHARE:
                found.setdefault(index, TrainedQuestion(row.source, "near"))
    return found


def is_short(task: Task) -> bool:
    """Return True if a question's stem says little without its options."""
    return len(_words(task.stem or task.question)) < RUN


def _text(task: Task) -> list[str]:
    words = _words(task.stem or task.question)
    return words + [word for option in task.choices for word in _words(option)] if is_short(task) else words


def _words(text: str) -> list[str]:
    return [word for word in rouge_tokens(text) if len(word) > 1 or not word.isascii() or word.isdigit()]


def _runs(words: Sequence[str]) -> set[int]:
    """Return the hashes of all runs of `RUN` words; of fewer words, that of all of them."""
    if len(words) < RUN:
        return {hash(tuple(words))} if words else set()
    return {hash(tuple(words[start : start + RUN])) for start in range(len(words) - RUN + 1)}
