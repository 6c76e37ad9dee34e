"""Join the rows of several sources: leaks and duplicates across them taken out, and every row accounted for."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinktune.config import ROW_FAULTS, DataConfig, Recipe
from thinktune.data.dataset import Prepared, Subset, select
from thinktune.data.faults.duplicates import find_duplicates, find_leaks, find_near_duplicates, question_text
from thinktune.data.joined import JoinedDataset, join_datasets
from thinktune.data.split import ROW_FEATURES
from thinktune.data.summary import dropped_share, measure_lengths
from thinktune.data.types import ACTION_OF_POLICY, EXAMPLES_PER_FAULT, Finding, Tally

_SUMMED = (
    *("rows_read", "dropped_rows", "stopping_rows", "own_system_rows", "silent_rows"),
    *("train_rows", "validation_rows", "train_tokens", "train_learned_tokens"),
)


@dataclass(frozen=True, slots=True)
class SourceRows:
    """The rows of one source, prepared as if they were alone.

    `features` (examples,) are of ROW_FEATURES, `lengths` (replies, 4) tokens by kind of all that was measured, and
    `decided` holds policies that count for single rows, by `file:line`.
    """

    prepared: Prepared
    features: NDArray[Any]
    lengths: NDArray[np.int32]
    decided: Mapping[str, Mapping[str, str]]


@dataclass(slots=True)
class _Pool:
    """The examples of all sources, in the recipe's order, while they are compared."""

    dataset: JoinedDataset
    settings: Sequence[DataConfig]
    keys: Sequence[str]  # of the sources, as the recipe has them
    parts: Sequence[SourceRows]
    features: NDArray[Any]  # of ROW_FEATURES, of all examples of all sources
    owners: NDArray[np.int64]  # the source of each
    held_out: NDArray[np.bool_]
    alive: NDArray[np.bool_]
    tallies: Sequence[Tally]

    def found(self, fault: str, index: int, sentence: str) -> None:
        """Record a fault of an example, and take the example out where the policy of its source says so."""
        number = int(self.owners[index])
        part = self.parts[number]
        own = part.decided.get(self._own_place(index), {})
        action = ACTION_OF_POLICY[own.get(fault, self.settings[number].faults[fault])]
        self.tallies[number].add(Finding(fault, f"{self.dataset.source(index)}: {sentence}", action))
        self.alive[index] &= action == "kept"

    def place(self, index: int) -> str:
        """Return an example's place, with the key of its source."""
        return f"{self.dataset.source(index)} ({self.keys[int(self.owners[index])]})"

    def _own_place(self, index: int) -> str:
        """Return an example's place as its own source names it."""
        number = int(self.owners[index])
        return self.parts[number].prepared.train.dataset.source(index - int(self.dataset.first_examples[number]))


def join_sources(recipe: Recipe, parts: Sequence[SourceRows]) -> Prepared:
    """Join the sources of a recipe, each prepared alone, and compare the rows of each with those of the others.

    A row whose question another source holds out is a leak; of rows that two sources have, the later source's is the
    duplicate. The policies of its own source, and decisions about the row, count for each.
    """
    dataset = join_datasets([part.prepared.train.dataset for part in parts])  # pyright: ignore[reportArgumentType]
    pool = _make_pool(recipe, parts, dataset)
    for fault, index, sentence in _compare(pool):
        pool.found(fault, index, sentence)
    train = _subset(pool, [part.prepared.train for part in parts])
    validation = _subset(pool, [part.prepared.validation for part in parts])
    digest = blake2b(train.digests + b"/" + validation.digests, digest_size=16)
    digest.update(np.bincount(train.source_numbers, minlength=len(parts)).tobytes())
    summary = _summarize(recipe, parts, pool.tallies, train, validation)
    stops = _stop_reasons(recipe, parts, summary, pool.tallies)
    return Prepared(train, validation, summary, digest.hexdigest(), tuple(stops))


def _make_pool(recipe: Recipe, parts: Sequence[SourceRows], dataset: JoinedDataset) -> _Pool:
    features = np.concatenate([np.zeros(0, ROW_FEATURES), *(part.features for part in parts)])
    held_out, alive = (np.zeros(len(features), np.bool_) for _ in range(2))
    for start, part in zip(dataset.first_examples.tolist(), parts, strict=True):
        held_out[start + part.prepared.validation.example_indices] = True
        alive[start + part.prepared.train.example_indices] = True
    owners = dataset.sources_of_examples(np.arange(len(features)))
    tallies = [Tally() for _ in parts]
    keys = [recipe.key_of_source(number) for number in range(len(parts))]
    return _Pool(dataset, recipe.sources, keys, parts, features, owners, held_out, alive | held_out, tallies)


def _compare(pool: _Pool) -> Iterator[tuple[str, int, str]]:
    """Yield what the rows of different sources have in common: the fault, the example, and a sentence."""
    rows = np.flatnonzero(pool.alive)
    # The first of several held-out rows may be the source's own, which it was compared with when it was alone.
    for number in range(len(pool.parts)):
        others = rows[pool.held_out[rows] & (pool.owners[rows] != number)]
        own = rows[~pool.held_out[rows] & (pool.owners[rows] == number)]
        both = np.concatenate([others, own])
        leaks = find_leaks(pool.features["question_hash"][both], np.arange(len(both)) < len(others))
        for index, other in zip(own.tolist(), leaks[len(others) :].tolist(), strict=True):
            if other >= 0:
                yield "leak", index, f"its question is also held out, in {pool.place(int(both[other]))}"
    for side in (pool.held_out, ~pool.held_out):
        for index, other in _pairs(pool, np.flatnonzero(side & pool.alive), "row_hash"):
            yield "duplicate", index, f"is the same as {pool.place(other)}"
    same: set[int] = set()
    for index, other in _pairs(pool, np.flatnonzero(pool.alive), "question_hash"):
        same.add(index)
        if pool.features["answer_hash"][index] != pool.features["answer_hash"][other]:
            yield "conflict", index, f"asks the same as {pool.place(other)} and answers differently"
    order = np.concatenate(
        [np.flatnonzero(pool.held_out & pool.alive), np.flatnonzero(~pool.held_out & pool.alive)]
    )  # of a pair across the two sides, the training row is the one found
    near = find_near_duplicates(
        pool.features["minhash"][order],
        pool.features["row_hash"][order],
        lambda place: question_text(pool.dataset.example(int(order[place]))),
        pool.owners[order],
    )
    for later, earlier, similarity in near:
        index, other = int(order[later]), int(order[earlier])
        if index not in same:
            yield "near_duplicate", index, f"its question is {similarity:.0%} like that of {pool.place(other)}"


def _pairs(pool: _Pool, rows: NDArray[np.int64], key: str) -> Iterator[tuple[int, int]]:
    """Yield each example with the first one of an earlier source that has the same hash."""
    for place, first in enumerate(find_duplicates(pool.features[key][rows]).tolist()):
        index, other = int(rows[place]), int(rows[first])
        if first >= 0 and pool.owners[other] != pool.owners[index]:
            yield index, other


def _subset(pool: _Pool, sides: Sequence[Subset]) -> Subset:
    """Return what is left of one side of all sources, one source after the other, each in its own order."""
    starts = pool.dataset.first_examples.tolist()
    indices = np.concatenate([start + side.example_indices for start, side in zip(starts, sides, strict=True)])
    return select(pool.dataset, indices[pool.alive[indices]].astype(np.int64))


def _summarize(
    recipe: Recipe, parts: Sequence[SourceRows], tallies: Sequence[Tally], train: Subset, validation: Subset
) -> dict[str, Any]:
    """Summarize all sources as one, with an account of each under `sources`."""
    alone = [part.prepared.summary for part in parts]
    sources = [
        _account(settings, summary, tally)
        for settings, summary, tally in zip(recipe.sources, alone, tallies, strict=True)
    ]
    owners = train.source_numbers
    for number, source in enumerate(sources):
        own = owners == number
        source["name"], source["key"] = source_names(recipe)[number], recipe.key_of_source(number)
        source["train_rows"] = _count(train, number)
        source["train_tokens"] = int(train.lengths[own].sum())
        source["train_learned_tokens"] = int(train.label_tokens[own].sum())
        source["validation_rows"] = _count(validation, number)
    languages: dict[str, int] = {}
    for summary in alone:
        for language, count in summary["languages"].items():
            languages[language] = languages.get(language, 0) + count
    validations = list(dict.fromkeys(source.validation for source in recipe.sources))
    return {
        **alone[0],  # what the tokenizer decides, and the order of keys
        "files": [file | {"source": number} for number, summary in enumerate(alone) for file in summary["files"]],
        "ignored": list(dict.fromkeys(name for summary in alone for name in summary["ignored"])),
        "faults": _merge_faults([source["faults"] for source in sources], sum(one["rows_read"] for one in alone)),
        "max_tokens": recipe.max_tokens,
        "validation": validations[0] if len(validations) == 1 else validations,
        **measure_lengths(np.concatenate([part.lengths for part in parts]), recipe.max_tokens),
        **{key: sum(source[key] for source in sources) for key in _SUMMED},
        "silent_share": max(source.silent_share for source in recipe.sources),
        "languages": dict(sorted(languages.items(), key=lambda item: -item[1])),
        "largest_token": max(summary["largest_token"] for summary in alone),
        "decisions": [each for summary in alone for each in summary["decisions"]],
        "shown": [shown for summary in alone for shown in summary["shown"]],
        "sources": sources,
    }


def _count(rows: Subset, number: int) -> int:
    """Count the examples of one source."""
    return int((rows.dataset.sources_of_examples(rows.example_indices) == number).sum())


def source_names(recipe: Recipe) -> list[str]:
    """Return a name for each source: its file's or folder's, or the hub's; with its number where two have the same."""
    names = [
        ("" if source.answers == "rows" else "own answers to ")
        + (source.name if source.hub else Path(source.name).name)
        for source in recipe.sources
    ]
    return [
        name if names.count(name) == 1 else f"{name} ({recipe.key_of_source(number)})"
        for number, name in enumerate(names)
    ]


def _account(settings: DataConfig, alone: dict[str, Any], tally: Tally) -> dict[str, Any]:
    """Account for a source's rows, with the faults that only the others showed."""
    found = [
        {
            "fault": fault,
            "meaning": ROW_FAULTS[fault].meaning,
            "policy": settings.faults[fault],
            "count": sum(actions.values()),
            "actions": actions,
            "examples": tally.examples[fault],
        }
        for fault, actions in tally.counts.items()
    ]
    own = {"own_answers": alone["own_answers"]} if "own_answers" in alone else {}
    return {
        **own,
        "share": settings.share,
        **{key: alone[key] for key in _SUMMED},
        "faults": _merge_faults([alone["faults"], found], alone["rows_read"]),
        "dropped_rows": alone["dropped_rows"] + tally.total("dropped"),
        "stopping_rows": alone["stopping_rows"] + tally.total("stops"),
    }


def _merge_faults(lists: Sequence[Sequence[dict[str, Any]]], rows_read: int) -> list[dict[str, Any]]:
    """Merge accounts of faults, in the catalogue's order; policies that differ stand side by side."""
    merged: dict[str, dict[str, Any]] = {}
    for fault in (fault for faults in lists for fault in faults):
        into = merged.setdefault(fault["fault"], {**fault, "count": 0, "actions": {}, "examples": []})
        into["count"] += fault["count"]
        for action, count in fault["actions"].items():
            into["actions"][action] = into["actions"].get(action, 0) + count
        into["examples"] = [*into["examples"], *fault["examples"]][:EXAMPLES_PER_FAULT]
        if fault["policy"] not in into["policy"].split(" / "):
            into["policy"] += f" / {fault['policy']}"
    return [
        merged[name] | {"dropped_share": dropped_share(merged[name]["actions"], rows_read)}
        for name in ROW_FAULTS
        if name in merged
    ]


def _stop_reasons(
    recipe: Recipe, parts: Sequence[SourceRows], summary: dict[str, Any], tallies: Sequence[Tally]
) -> list[str]:
    """List why a run with these rows cannot start, source by source."""
    stops: list[str] = []
    for number, (part, tally) in enumerate(zip(parts, tallies, strict=True)):
        own = list(part.prepared.stop_reasons)
        own += (
            f"{finding.sentence}; fix the row, or write data.faults: {{{finding.fault}: drop}}"
            for finding in tally.stops
        )
        stops += (recipe.in_source(reason, number) for reason in own)
        place = recipe.key_of_source(number)
        more = tally.total("stops") - len(tally.stops)
        stops += [f"{place}: and {more:,} more such rows"] * (more > 0)
        if not part.prepared.stop_reasons and not summary["sources"][number]["train_rows"]:
            name = summary["sources"][number]["name"]
            stops.append(f"{place}: every usable row of {name} is also in another source, or held out there")
    return stops
