"""Find duplicate and near-duplicate rows: fingerprints row by row, in any process, then compared all at once."""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thinktune.tokenization import Example

WIDE_CHARACTERS = re.compile("[\u2000-\u206f\u3000-\u303f\u3200-\u33ff\uff00-\uffef]")


_END_MARKS = "*_`.,;:!?。、\"'“”‘’「」"  # with which the same answer begins or ends, or not


def normalize_text(text: str) -> str:
    """Normalize a text for comparison: NFKC, without case and white space."""
    for character in set(
        WIDE_CHARACTERS.findall(text)
    ):  # NFKC is slow once it meets a wide comma, so those are replaced first
        text = text.replace(character, unicodedata.normalize("NFKC", character))
    return "".join(unicodedata.normalize("NFKC", text).split()).casefold()


MIN_JACCARD = 0.8  # of the shingles of two questions that are near duplicates


MINHASH_WORDS = 10  # uint64 words of a MinHash; with the three hashes, a row's fingerprint takes 104 bytes


MAX_NEIGHBOURS = 8  # rows of its bucket that a row is compared with, so that a huge bucket takes linear time


_NUM_HASHES = 8 * MINHASH_WORDS  # one byte each


_MIN_AGREEING_BYTES = 56  # from which a pair is compared exactly; at a similarity of 0.8, 64 ± 3.6 agree


_CHUNK_ELEMENTS = 2**16  # pairs or shingles in one numpy operation, so that memory stays flat


_MIXER = np.uint64(0x9E3779B97F4A7C15)


_MULTIPLIERS = np.random.default_rng(0).integers(2**63, size=(_NUM_HASHES, 1), dtype=np.uint64) * np.uint64(
    2
) + np.uint64(1)


# Eight bytes of a MinHash make a band. Three ways of dividing the bytes into bands find a pair of similarity 0.8 with
# probability 0.98; one way, with 0.85.
_BANDS = np.concatenate([np.random.default_rng(way).permutation(_NUM_HASHES).reshape(-1, 8) for way in range(3)])


@dataclass(frozen=True, slots=True, eq=False)
class Fingerprint:
    """Comparable digest of a row: 64-bit hashes of question, answer and all, and the question's MinHash."""

    question_hash: int
    answer_hash: int  # without marks, so that a stop more is no other answer
    row_hash: int
    minhash: NDArray[np.uint64]  # (MINHASH_WORDS,): the share of equal bytes estimates the Jaccard similarity


def question_text(example: Example) -> str:
    """Return the last user turn and everything before it, without the system prompt."""
    last = max(index for index, turn in enumerate(example.turns) if turn.role == "user")
    return "\n".join(turn.content for turn in example.turns[: last + 1] if turn.role != "system")


def fingerprint(example: Example) -> Fingerprint:
    """Fingerprint a row; rows that differ only in case, white space or width of characters share one."""
    question = normalize_text(question_text(example))
    parts = (
        part
        for turn in example.turns
        for part in (turn.role, normalize_text(turn.content), normalize_text(turn.reasoning))
    )
    answer = next((turn.content for turn in reversed(example.turns) if turn.role == "assistant"), "")
    words = normalize_text(answer).strip(_END_MARKS) or answer
    return Fingerprint(_hash([question]), _hash([words]), _hash(parts), _minhash(_shingles(question)))


def find_duplicates(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return for each row the index of the first row with the same hash, or -1 if it is the first itself."""
    _, first, group = np.unique(hashes, return_index=True, return_inverse=True)
    earlier = first[group]
    earlier[first] = -1
    return earlier


def find_leaks(question_hashes: NDArray[np.uint64], held_out: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return for each training row the index of the first held-out row that asks the same, else -1."""
    found = np.full(len(question_hashes), -1, np.int64)
    asked, first = np.unique(question_hashes[held_out], return_index=True)
    if len(asked):
        place = np.searchsorted(asked, question_hashes).clip(max=len(asked) - 1)
        leaking = (asked[place] == question_hashes) & ~held_out
        found[leaking] = np.flatnonzero(held_out)[first[place[leaking]]]
    return found


def find_near_duplicates(
    minhashes: NDArray[np.uint64],
    exact_hashes: NDArray[np.uint64],
    question_of: Callable[[int], str],
    groups: NDArray[np.int64] | None = None,
) -> Iterator[tuple[int, int, float]]:
    """Find pairs of rows with near-duplicate questions: the later row, the earlier one, their Jaccard similarity.

    Each later row comes at most once, with the most similar earlier row that it was compared with; a row with the
    `exact_hashes` entry of an earlier row is left out. `question_of` returns the `question_text` of a row. With
    `groups`, only rows of different groups are compared.
    """
    nearest = _most_similar_earlier(minhashes, find_duplicates(exact_hashes) < 0, groups)
    for later in np.flatnonzero(nearest >= 0).tolist():
        earlier = int(nearest[later])
        similarity = jaccard(question_of(later), question_of(earlier))
        if similarity >= MIN_JACCARD:
            yield later, earlier, similarity


def candidate_pairs(
    band_hashes: NDArray[np.uint64], candidates: NDArray[np.bool_]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield chunks of pairs with equal hashes: later rows, each with one of the MAX_NEIGHBOURS candidates before it."""
    order = np.argsort(band_hashes, kind="stable")
    order = order[candidates[order]]
    band_hashes = band_hashes[order]
    for distance in range(1, MAX_NEIGHBOURS + 1):
        pairs = np.flatnonzero(band_hashes[distance:] == band_hashes[:-distance])
        for start in range(0, len(pairs), _CHUNK_ELEMENTS):
            some = pairs[start : start + _CHUNK_ELEMENTS]
            yield order[some + distance], order[some]


def jaccard(question: str, other: str) -> float:
    """Compute the Jaccard similarity of two questions' shingles."""
    ours, theirs = (set(_shingles(normalize_text(text)).tolist()) for text in (question, other))
    return len(ours & theirs) / len(ours | theirs)


def _most_similar_earlier(
    minhashes: NDArray[np.uint64], candidates: NDArray[np.bool_], groups: NDArray[np.int64] | None
) -> NDArray[np.int64]:
    """Return for each row the earlier row with the most similar MinHash, or -1 if none is similar enough."""
    signatures = np.ascontiguousarray(minhashes).view(np.uint8)
    nearest = np.full(len(minhashes), -1, np.int64)
    agreeing = np.full(len(minhashes), _MIN_AGREEING_BYTES - 1, np.uint8)
    for band in _BANDS:
        band_hashes = np.ascontiguousarray(signatures[:, band]).view(np.uint64).ravel()
        for later, earlier in candidate_pairs(band_hashes, candidates):
            agree = np.count_nonzero(signatures[later] == signatures[earlier], axis=1)
            if groups is not None:
                agree[groups[later] == groups[earlier]] = 0
            better = agree > agreeing[later]
            nearest[later[better]] = earlier[better]
            agreeing[later[better]] = agree[better]
    return nearest


def _hash(texts: Iterable[str]) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for text in texts:
        raw = text.encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(8, "little") + raw)
    return int.from_bytes(digest.digest(), "little")


def _shingles(normalized: str) -> NDArray[np.uint64]:
    """Return every run of three characters as one number, (runs,) uint64.

    Two would say too little: most English texts share most pairs of letters, and Chinese questions on one subject
    share its words. Four or more would need 40 Chinese characters before one of them may differ.
    """
    raw = normalized.ljust(3, "\0").encode("utf-32-le", "surrogatepass")
    characters = np.frombuffer(raw, np.uint32).astype(np.uint64)
    return characters[:-2] << np.uint64(42) | characters[1:-1] << np.uint64(21) | characters[2:]


def _minhash(shingles: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Compute a MinHash, (MINHASH_WORDS,) uint64: one byte of the least shingle under each hash function."""
    least = np.full(_NUM_HASHES, 2**64 - 1, np.uint64)
    for start in range(0, len(shingles), _CHUNK_ELEMENTS // _NUM_HASHES):
        some = shingles[start : start + _CHUNK_ELEMENTS // _NUM_HASHES]
        np.minimum(least, (_MULTIPLIERS * some).min(axis=1), out=least)
    # The first bits of a minimum are nearly always zero; those of its product are not.
    return (least * _MIXER >> np.uint64(56)).astype(np.uint8).view(np.uint64)
