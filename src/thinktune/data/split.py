"""Split examples into training and validation, then drop leaks and duplicates across the two."""

import hashlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinktune.config import DataConfig
from thinktune.data import duplicates as twins
from thinktune.data.duplicates import normalize_text
from thinktune.data.types import ACTION_OF_POLICY, Finding


def shuffled_holdout(count: int, fraction: float, seed: int) -> set[int]:
    """Which of so many rows the common recipe holds out: all shuffled by Python's generator, the last share of them."""
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return set(order[int(count * (1 - fraction)) :]) if fraction else set()


def hash_fraction(question: str, seed: int) -> float:
    """A number from 0 to 1 that a question and a seed decide: the same for twins, and whatever other rows there are."""
    digest = hashlib.blake2b(
        f"{seed}\0{normalize_text(question)}".encode("utf-8", "surrogatepass"), digest_size=8
    ).digest()
    return int.from_bytes(digest, "little") / 2**64


# What is known of every example: its number among all rows read, whether it stands in a validation file, where in
# [0, 1) its question's hash falls, and what finds its twins.
ROW_FEATURES = np.dtype(
    [
        ("row", "i8"),
        ("validation_file", "?"),
        ("share", "f8"),
        ("question", "u8"),
        ("whole", "u8"),
        ("bands", "u8", (twins.MINHASH_WORDS,)),
    ]
)


def train_validation_split(
    features: NDArray[Any],
    settings: DataConfig,
    shared_rows: int,
    source: Callable[[int], str],
    question: Callable[[int], str],
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[Finding]]:
    """Numbers of the examples to train on, of those held out, and what was found between them.

    `features` are in the order of reading; `shared_rows` is how many rows were read that both sides share. A leak is
    taken out of training, never out of evaluation; of twins the first one stays.
    """
    held = _held_out(features, settings, shared_rows)
    alive = np.ones(len(features), np.bool_)
    findings: list[Finding] = []

    def found(fault: str, number: int, sentence: str) -> None:
        action = ACTION_OF_POLICY[settings.faults[fault]]
        findings.append(Finding(fault, f"{source(number)}: {sentence}", action))
        alive[number] &= action == "kept"

    for number, twin in enumerate(twins.find_leaks(features["question"], held)):
        if twin >= 0:
            found("leak", number, f"its question is held out as well, in {source(int(twin))}")
    for side in (held, ~held):
        for number, twin in _duplicate_pairs(np.flatnonzero(side & alive), features["whole"]):
            found("duplicate", number, f"is the same as {source(twin)}")
    # Held-out rows first, so that of a pair across the two sides it is the training row that is found.
    order = np.concatenate([np.flatnonzero(held & alive), np.flatnonzero(~held & alive)])
    near = twins.find_near_duplicates(
        features["bands"][order], features["whole"][order], lambda place: question(int(order[place]))
    )
    for later, earlier, similarity in near:
        number, twin = int(order[later]), int(order[earlier])
        across = ", which is held out" if held[twin] and not held[number] else ""
        found("near_duplicate", number, f"its question is {similarity:.0%} like that of {source(twin)}{across}")
    return np.flatnonzero(~held & alive), np.flatnonzero(held & alive), findings


def _held_out(features: NDArray[Any], settings: DataConfig, shared_rows: int) -> NDArray[np.bool_]:
    share = settings.validation
    if isinstance(share, str):
        return features["validation_file"].copy()
    if settings.split == "hash":
        return features["share"] < share
    return np.isin(features["row"], list(shuffled_holdout(shared_rows, share, settings.seed)))


def _duplicate_pairs(numbers: NDArray[np.int64], hashes: NDArray[np.uint64]) -> Iterator[tuple[int, int]]:
    """Later and first number of each pair of examples with the same key."""
    for place, first in enumerate(twins.find_duplicates(hashes[numbers])):
        if first >= 0:
            yield int(numbers[place]), int(numbers[first])
