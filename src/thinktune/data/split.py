"""Split examples into training and validation, then drop leaks and duplicates across the two."""

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinktune.config import DataConfig
from thinktune.data.faults.duplicates import (
    MINHASH_WORDS,
    find_duplicates,
    find_leaks,
    find_near_duplicates,
    normalize_text,
    question_text,
)
from thinktune.data.types import ACTION_OF_POLICY, Finding
from thinktune.tokenization import Example

MIN_SAME_QUESTIONS, MIN_SAME_SHARE = 3, 0.8  # rows that ask the same, from which the question is in another column


def shuffled_holdout(count: int, fraction: float, seed: int) -> set[int]:
    """Choose the rows to hold out in the common way: shuffle all with Python's generator, take the last fraction."""
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return set(order[int(count * (1 - fraction)) :]) if fraction else set()


def hash_fraction(question: str, seed: int) -> float:
    """Hash a question and a seed to [0, 1): the same for duplicates, and independent of all other rows."""
    digest = hashlib.blake2b(
        f"{seed}\0{normalize_text(question)}".encode("utf-8", "surrogatepass"), digest_size=8
    ).digest()
    return int.from_bytes(digest, "little") / 2**64


# What the split needs of every example: its index among all rows read, whether it is from a validation file, its
# `hash_fraction`, and its fingerprint.
ROW_FEATURES = np.dtype(
    [
        ("row", "i8"),
        ("validation_file", "?"),
        ("hash_fraction", "f8"),
        ("question_hash", "u8"),
        ("answer_hash", "u8"),
        ("row_hash", "u8"),
        ("minhash", "u8", (MINHASH_WORDS,)),
    ]
)


def train_validation_split(
    features: NDArray[Any],
    settings: DataConfig,
    shared_rows: int,
    source: Callable[[int], str],
    example: Callable[[int], Example],
    decided: Mapping[str, Mapping[str, str]] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[Finding]]:
    """Split examples: indices to train on, indices held out, and the leaks and duplicates found between them.

    `features` (examples,) of `ROW_FEATURES` are in the order of reading; `shared_rows` is the number of rows that are
    split between both sides. A leak is dropped from training, never from validation; the first of duplicates is kept.
    `decided`: for some rows by `file:line`, policies that count for them alone.
    """
    held_out = _held_out(features, settings, shared_rows)
    alive = np.ones(len(features), np.bool_)
    findings: list[Finding] = []
    same = set[int]()  # rows that are told of by their question already

    def found(fault: str, index: int, sentence: str) -> None:
        own = (decided or {}).get(source(index), {})
        action = ACTION_OF_POLICY[own.get(fault, settings.faults[fault])]
        findings.append(Finding(fault, f"{source(index)}: {sentence}", action))
        alive[index] &= action == "kept"

    for index, other in enumerate(find_leaks(features["question_hash"], held_out)):
        if other >= 0:
            found("leak", index, f"its question is also held out, in {source(int(other))}")
    for side in (held_out, ~held_out):
        for index, other in _duplicate_pairs(np.flatnonzero(side & alive), features["row_hash"]):
            found("duplicate", index, f"is the same as {source(other)}")
    for fault, index, sentence in _same_questions(features, alive, source, example):
        same.add(index)
        found(fault, index, sentence)
    # Held-out rows first, so that of a pair across the two sides the training row is the one found.
    order = np.concatenate([np.flatnonzero(held_out & alive), np.flatnonzero(~held_out & alive)])
    near = find_near_duplicates(
        features["minhash"][order], features["row_hash"][order], lambda place: question_text(example(int(order[place])))
    )
    for later, earlier, similarity in near:
        index, other = int(order[later]), int(order[earlier])
        if index in same:
            continue
        across = ", which is held out" if held_out[other] and not held_out[index] else ""
        found("near_duplicate", index, f"its question is {similarity:.0%} like that of {source(other)}{across}")
    return np.flatnonzero(~held_out & alive), np.flatnonzero(held_out & alive), findings


def _same_questions(
    features: NDArray[Any], alive: NDArray[np.bool_], source: Callable[[int], str], example: Callable[[int], Example]
) -> Iterator[tuple[str, int, str]]:
    """Yield rows that ask what an earlier one asks and answer otherwise: the fault, the row, and a sentence.

    Where nearly all rows ask the same, that is no conflict of theirs, but a question in the wrong place.
    """
    rows = np.flatnonzero(alive)
    questions, answers = features["question_hash"][rows], features["answer_hash"][rows]
    _, group, counts = np.unique(questions, return_inverse=True, return_counts=True)
    for place, first in enumerate(find_duplicates(questions).tolist()):
        if first < 0 or answers[place] == answers[first]:
            continue
        index, other, count = int(rows[place]), int(rows[first]), int(counts[group[place]])
        if count >= max(MIN_SAME_QUESTIONS, MIN_SAME_SHARE * len(rows)):
            asked = question_text(example(other)).strip()[:40]
            what = (
                f"asks {asked!r}, as {count:,} of {len(rows):,} rows do; if another column holds the question, name it"
            )
            yield (
                "one_question",
                index,
                f"{what} in data.columns.question, and write what all rows share as data.system",
            )
        else:
            theirs, ours = (_last_answer(example(each)).strip()[:40] for each in (other, index))
            yield (
                "conflict",
                index,
                f"asks the same as {source(other)} and answers differently ({ours!r}; there {theirs!r})",
            )


def _last_answer(example: Example) -> str:
    return next((turn.content for turn in reversed(example.turns) if turn.role == "assistant"), "")


def _held_out(features: NDArray[Any], settings: DataConfig, shared_rows: int) -> NDArray[np.bool_]:
    validation = settings.validation
    if isinstance(validation, str):
        return features["validation_file"].copy()
    if settings.split == "hash":
        return features["hash_fraction"] < validation
    return np.isin(features["row"], list(shuffled_holdout(shared_rows, validation, settings.seed)))


def _duplicate_pairs(indices: NDArray[np.int64], hashes: NDArray[np.uint64]) -> Iterator[tuple[int, int]]:
    """Yield each later example with the first one of the same hash, by their indices."""
    for place, first in enumerate(find_duplicates(hashes[indices])):
        if first >= 0:
            yield int(indices[place]), int(indices[first])
