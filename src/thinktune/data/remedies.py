"""Remedies for a recipe that does not fit its rows: each is tried on sample rows before a sentence proposes it."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thinktune.config import ROW_FAULTS, DataConfig
from thinktune.data.columns.dataset_info import FILE_NAME, read_dataset_info
from thinktune.data.columns.dataset_kinds import (
    DatasetKind,
    recognize_dataset,
    recognize_replies,
    trains_pair_by_accident,
)
from thinktune.data.columns.detection import Undetected, find_mapping, given_parts, mapping_mistakes
from thinktune.data.columns.mapping import PART_OF_COLUMN, ColumnMapping, to_flow_yaml
from thinktune.data.columns.messages import normalize_key
from thinktune.data.columns.proposal import PROPOSED_PARTS, name_score, propose_columns
from thinktune.data.columns.recipe_change import RecipeChange
from thinktune.data.columns.unused import UnusedColumns
from thinktune.data.sample import FileSample, detect_form
from thinktune.data.worker import Chunk, process_chunk
from thinktune.errors import UserError
from thinktune.tokenization import ChatTokenizer

MAX_OFFERED = 3  # remedies in one sentence


LONGER_TOKENS = (4096, 8192, 16_384, 32_768)


MAX_LISTED_COLUMNS = 20


_AFTER_QUESTION = ("may be the options", "may be the rest")


_BESIDE_QUESTION = ("may be material", "may be part", "may be the question", *_AFTER_QUESTION)


# What would teach the wrong thing if it were kept: nobody is told to do so, though a recipe may.
_NEVER_ADVISED = frozenset(
    ("handed_answer", "handed_context", "answer_is_question", "reasoning_is_answer", "loop", "placeholder", "garbled")
)


_POLICY_REASONS = {
    "no_reasoning": "to train the replies without thinking",
    "media": "to train the texts without what they mention",
    "marked_bad": "to train bad replies as well",
}


@dataclass(frozen=True, slots=True)
class Trial:
    """What becomes of sample rows under some settings: rows left, columns refused, and rows dropped by each fault."""

    rows_left: int = 0
    refused: tuple[str, ...] = ()
    dropped: Counter[str] = field(default_factory=Counter[str])
    stops: bool = False
    first: str = ""  # the first sentence of a row that is lost

    @property
    def works(self) -> bool:
        """True where a run could start."""
        return self.rows_left > 0 and not self.refused and not self.stops


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """Sample rows of all files, and what they are processed with: where changes of the recipe are tried."""

    samples: Sequence[FileSample]
    settings: DataConfig
    tokenizer: ChatTokenizer

    def try_change(self, change: RecipeChange) -> Trial:
        """Read, check and tokenize the sample rows under a change of the recipe."""
        settings = change.apply(self.settings)
        if settings is None:
            return Trial(stops=True)
        rows_left, refused, dropped, stops, first = 0, list[str](), Counter[str](), False, ""
        for sample in self.samples:
            try:
                form = detect_form(sample, settings)
                mapping = form.mapping
                result = process_chunk(Chunk(0, sample.trial_rows, mapping, form.habits), settings, self.tokenizer)
            except UserError:
                return Trial(stops=True)
            if trains_pair_by_accident(_free_values(sample, settings), mapping):
                return Trial(stops=True)
            refused += result.unused_columns.refused(mapping)
            dropped.update(found.fault for found in result.findings if found.action == "dropped")
            stops |= any(found.action == "stops" for found in result.findings)
            first = first or next((found.sentence for found in result.findings if found.action != "kept"), "")
            rows_left += len(result.examples)
        return Trial(rows_left, tuple(dict.fromkeys(refused)), dropped, stops, first)

    def complete(self, change: RecipeChange) -> RecipeChange | None:
        """Complete a change by what else must be written so that rows are left under it; None where nothing helps.

        Columns of text that would stop the run are ignored, rows without any reasoning trained without thinking.
        """
        tried = self.try_change(change)
        if tried.refused:
            change = change.ignoring(tried.refused)
            tried = self.try_change(change)
        if tried.works:
            return change
        lost = [name for name in change.ignore if name_score("reasoning", name) > 0]  # the reasoning, most likely
        if tried.dropped["no_reasoning"] and "no_reasoning" not in change.faults and not lost:
            silent = change.with_faults(no_reasoning="silent")
            if self.try_change(silent).works:
                return silent
        return None

    def completed(self, changes: Iterable[RecipeChange]) -> list[RecipeChange]:
        """Complete changes and return those that work; those that leave rows their reasoning come first, or alone."""
        working: list[RecipeChange] = []
        for change in changes:
            if (done := self.complete(change)) is not None and done not in working:
                working.append(done)
        plain = [change for change in working if not change.faults]
        return (plain or working)[:MAX_OFFERED]


def explain_refusal(
    sample: FileSample, path: Path, settings: DataConfig, tokenizer: ChatTokenizer, error: UserError
) -> list[str]:
    """Return the faults of a file whose columns are not detected, with what the set is or a mapping that works."""
    values, given = _free_values(sample, settings), given_parts(settings.columns)
    rows = [*sample.rows, *sample.late_rows]
    if not rows or list(mapping_mistakes(given, rows, settings.ignore, "")):
        return error.faults
    found = find_mapping(rows, settings.columns, settings.ignore)
    if not isinstance(found, Undetected):
        return error.faults
    rehearsal = Rehearsal([sample.for_trials], settings, tokenizer)
    if informed := rehearsal.completed(read_dataset_info(path)):
        source = f"{FILE_NAME} beside it says what they are"
        return [f"{found.describe(sample.file)}; {source}: write {_offer(informed, settings)}"]
    if kind := recognize_dataset(values, given):
        return [_describe_kind(kind, rehearsal, sample.file)]
    proposals = propose_columns(values, {**given, **found.found})
    free = [] if found.found == given else propose_columns(values, given)
    changes = rehearsal.completed(RecipeChange({**given, **one}) for one in _distinct([*proposals, *free]))
    if not changes:
        remedy = f"write data.columns: {to_flow_yaml(found.wanted)} with the names of yours"
        return [f"{found.describe(sample.file)}; {remedy}"]
    return [f"{found.describe(sample.file)}; by what they hold, write {_offer(changes, settings)}"]


def explain_pairs(
    sample: FileSample, mapping: ColumnMapping, settings: DataConfig, tokenizer: ChatTokenizer
) -> list[str]:
    """Return a fault where a file holds pairs of replies and its mapping would train something else than the better."""
    values = _free_values(sample, settings)
    if not trains_pair_by_accident(values, mapping):
        return []
    kind = recognize_dataset(values, given_parts(settings.columns))
    return [_describe_kind(kind, Rehearsal([sample.for_trials], settings, tokenizer), sample.file)] if kind else []


def explain_unused(files: Sequence[tuple[FileSample, ColumnMapping, UnusedColumns]], rehearsal: Rehearsal) -> list[str]:
    """Return the faults of columns that would be left out untold, with changes of the recipe that settle them."""
    faults: list[str] = []
    refused: list[str] = []
    for sample, mapping, unused in files:
        names = unused.refused(mapping)
        for name in names[:MAX_LISTED_COLUMNS]:
            faults.append(f"data.ignore: column {name!r} of {sample.file} is not used: {unused.describe(name)}")
        if names:
            faults.append(f"data.columns: {sample.file} is read as data.columns: {mapping.as_recipe_value}")
        refused += names
    if not refused:
        return []
    every = tuple(dict.fromkeys(refused))
    changes = [RecipeChange(ignore=every, why=f"to leave {'it' if len(every) == 1 else 'them'} out")]
    for sample, mapping, unused in files:
        changes += _used_changes(sample, mapping, unused, every)
    working = rehearsal.completed(changes)
    if working:
        return [*faults[:-1], f"{faults[-1]}; write {_offer(working, rehearsal.settings)}"]
    tried = rehearsal.try_change(changes[0])
    remedy = "fix the rows: no mapping of columns leaves a usable row" + (f" ({tried.first})" if tried.first else "")
    return [*faults[:-1], f"{faults[-1]}; {remedy}"]


def _used_changes(
    sample: FileSample, mapping: ColumnMapping, unused: UnusedColumns, every: tuple[str, ...]
) -> Iterator[RecipeChange]:
    """Yield changes that use a refused column: as the part that its name or content speaks for, or in the question."""
    refused = unused.refused(mapping)
    if mapping.message_columns or not refused:
        return
    parts = _parts_of(mapping)
    if len(refused) > 1:
        settled = {"question": parts["question"]} if isinstance(parts.get("question"), str) else {}
        for proposal in _distinct(propose_columns(sample.values, settled)):
            if {*_columns_in(proposal)} & {*refused}:
                rest = tuple(name for name in (*every, *_columns_in(parts)) if name not in _columns_in(proposal))
                yield RecipeChange(proposal, rest, why="to train these")
    for name in refused:
        part = PART_OF_COLUMN.get(normalize_key(name))
        if part is None and "reasoning" not in parts and name_score("reasoning", name) > 0:
            part = "reasoning"
        rest = tuple(other for other in every if other != name)
        yield from _joined_changes(name, unused.facts_of(name)["may_be"], parts, rest)
        is_second_prompt = part == "question" and not unused.contents[name].is_prose
        if part in ("reasoning", "system", "question", "answer") and not is_second_prompt:
            others = (*rest, *_columns_in({part: parts[part]})) if part in parts else rest
            yield RecipeChange({**parts, part: name}, others, why=f"to train {name} as the {part}")


def _joined_changes(name: str, may_be: str, parts: dict[str, Any], rest: tuple[str, ...]) -> Iterator[RecipeChange]:
    """Yield the change that puts a column into the question, where that is what it may be."""
    question = parts.get("question")
    if isinstance(question, str) and may_be.startswith(_BESIDE_QUESTION):
        after = may_be.startswith(_AFTER_QUESTION)
        columns = {**parts, "question": [question, name] if after else [name, question]}
        yield RecipeChange(columns, rest, why=f"to put it {'after' if after else 'before'} the question")


def explain_nothing_left(summary: dict[str, Any], rehearsal: Rehearsal) -> list[str]:
    """Return why no row is left to train on, with policies under which some are."""
    dropped = sorted(
        (fault for fault in summary["faults"] if "dropped" in fault["actions"]),
        key=lambda fault: -fault["actions"]["dropped"],
    )
    counted = "; ".join(f"{fault['fault']} {fault['actions']['dropped']:,}" for fault in dropped)
    named = next(filter(None, (_name_sample(sample, rehearsal.settings) for sample in rehearsal.samples)), "")
    changes = _policy_changes([fault["fault"] for fault in dropped])
    working = None if named else next((change for change in changes if rehearsal.try_change(change).works), None)
    remedy = "fix the rows" + (f", or write {working.describe(rehearsal.settings)}" if working else "")
    why = next(
        (f" {_POLICY_REASONS[fault]}" for fault in (working.faults if working else ()) if fault in _POLICY_REASONS), ""
    )
    if dropped and dropped[0]["fault"] == "no_reasoning" and not named:
        why += "; thinktune think RECIPE --teacher URL#MODEL makes reasoning for them"
    return [
        f"data.name: no row is left to train on ({counted or 'the files hold none'}); {named or remedy + why}",
        *(fault["examples"][0] for fault in dropped),
    ]


def _policy_changes(faults: Sequence[str]) -> Iterator[RecipeChange]:
    """Yield changes of policies under which rows may be left, the smallest first."""
    gentler: dict[str, str] = {}
    for fault in faults:
        policies = ROW_FAULTS[fault].policies
        gentle = ("repair", "silent") if fault in _NEVER_ADVISED else ("repair", "silent", "keep")
        policy = next((one for one in gentle if one in policies and one != policies[0]), None)
        if fault == "too_long":
            yield from (RecipeChange(max_tokens=tokens) for tokens in LONGER_TOKENS)
        if policy is not None:
            gentler[fault] = policy
            yield RecipeChange(faults={fault: policy})
    for count in range(2, len(gentler) + 1):
        yield RecipeChange(faults=dict(list(gentler.items())[:count]))


def _name_sample(sample: FileSample, settings: DataConfig) -> str:
    """Say what the rows of a sample are where they are not for training as they stand, and what to do; else empty."""
    values = _free_values(sample, settings)
    kind = recognize_dataset(values, given_parts(settings.columns))
    if kind is not None and not kind.changes:
        return f"{sample.file} {kind.sentence}; {kind.otherwise}"
    try:
        mapping = detect_form(sample, settings).mapping
    except UserError:
        return ""
    name = mapping.messages or mapping.answer
    kind = recognize_replies(values.get(name, [])) if isinstance(name, str) else None
    return f"{sample.file} {kind.sentence}; {kind.otherwise}" if kind else ""


def _describe_kind(kind: DatasetKind, rehearsal: Rehearsal, file: str) -> str:
    """Describe a set by its name, with a change of the recipe that uses it, or what else to do."""
    working = rehearsal.completed(kind.changes)[:1]
    remedy = f"{kind.use}write {_offer(working, rehearsal.settings)}" if working else kind.otherwise
    return f"data.columns: {file} {kind.sentence}; {remedy}"


def _offer(changes: Sequence[RecipeChange], settings: DataConfig) -> str:
    """Write the changes as one choice, each with what it does."""
    return ", or ".join(
        change.describe(settings)
        + (f" {change.why}" if change.why else "")
        + (" (they have no reasoning, so they are trained without thinking)" if "no_reasoning" in change.faults else "")
        for change in changes
    )


def _distinct(proposals: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Keep the first proposal and those that read another reasoning than all before."""
    first: dict[str | None, dict[str, str]] = {}
    for proposal in proposals:
        first.setdefault(proposal.get("reasoning"), proposal)
    return list(first.values())


def _parts_of(mapping: ColumnMapping) -> dict[str, Any]:
    """Return the parts of a mapping that a recipe can name."""
    names = ("messages", *PROPOSED_PARTS, "system", "keypoint", "mode", "label")
    found = {part: name for part in names if (name := getattr(mapping, part)) is not None}
    return {part: list(name) if isinstance(name, tuple) else name for part, name in found.items()}


def _columns_in(parts: Mapping[str, Any]) -> list[str]:
    """List the columns of parts, each of which may be several."""
    return [name for part in parts.values() for name in ([part] if isinstance(part, str) else part)]


def _free_values(sample: FileSample, settings: DataConfig) -> dict[str, list[Any]]:
    return {name: values for name, values in sample.values.items() if name not in settings.ignore}
