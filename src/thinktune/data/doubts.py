"""The rows that a person should look at: the most suspicious ones of every kind, before and after each repair."""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from typing import Any

from thinktune.config import ROW_FAULTS, DataConfig, Recipe
from thinktune.data.columns.mapping import UncheckedExample, to_example
from thinktune.data.faults.decisions import RowDecision, digest_row
from thinktune.data.pipeline import read_chunks
from thinktune.data.reading import sources
from thinktune.data.reading.sources import RowFile
from thinktune.data.types import Action, Finding, RawRow
from thinktune.data.worker import Chunk, check_row, check_rules, settings_for_row
from thinktune.errors import UserError
from thinktune.tokenization import ChatTokenizer, Example, Turn

MAX_DOUBTS = 20
MAX_TEXT_CHARACTERS = 20_000  # of each text; a longer one is cut in its middle
# Faults whose repair or keeping is hardly ever wrong come last; in each group, rows are taken kind by kind.
SURE_FAULTS = ("odd_space", "control_character", "soft_switch", "ends_on_user")


@dataclass(frozen=True, slots=True)
class DoubtfulRow:
    """A fault of a row, what would be done about it, and the row as it is and as each policy would train it.

    `outcomes` maps each policy to the turns, or to None where it leaves the row out; `policy` is the one that counts
    if nobody decides.
    """

    row: str  # file:line
    file: str  # of the rows, as messages name it
    path: str
    digest: str
    fault: str
    meaning: str
    sentence: str
    action: Action
    policy: str
    turns: tuple[dict[str, str], ...]
    outcomes: Mapping[str, tuple[dict[str, str], ...] | None]


@dataclass(frozen=True, slots=True)
class Doubts:
    """The rows to look at, how many more of each fault there are, and what was decided before, file by file."""

    rows: tuple[DoubtfulRow, ...]
    counts: Mapping[str, int]
    files: tuple[RowFile, ...]
    decisions: Mapping[str, Mapping[str, RowDecision]]  # by the file's name in messages

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"format": 1, "counts": dict(self.counts), "rows": [asdict(row) for row in self.rows]}


def find_doubts(recipe: Recipe, tokenizer: ChatTokenizer, limit: int = MAX_DOUBTS) -> Doubts:
    """Find the rows to look at: of every fault some, chosen by a hash, without those that are decided already.

    Reads and checks all rows, but makes no tokens, so that rows that are too long or alike are not among them; nor is
    what reading repaired, such as GBK, since the row looks the same before and after. Raises UserError where a file
    cannot be read or understood, and where two of several sources have files of one name.
    """
    if recipe.is_mixture:
        numbers = (number for number, source in enumerate(recipe.sources) if source.answers == "rows")
        alone = map(recipe.of_source, numbers)
        return _merge([find_doubts(each, tokenizer, limit) for each in alone])
    files = sources.find_files(recipe)
    best: dict[str, list[tuple[bytes, str]]] = {}
    found: dict[tuple[str, str], tuple[Chunk, RawRow, Finding]] = {}
    counts: dict[str, int] = {}
    decided: dict[str, dict[str, RowDecision]] = {file.display_name: {} for file in files}
    for chunk in read_chunks(files, recipe.data, tokenizer):
        rules = check_rules(chunk, recipe.data, tokenizer)
        for row in chunk.rows:
            decision = chunk.decisions.get(row.source)
            if decision is not None and _counts(decision, row):
                decided[files[chunk.file_index].display_name][row.source] = decision
            checked = check_row(row, chunk.mapping, recipe.data, rules, tokenizer)
            # Of a row that is left out, only the reason for that is worth a decision.
            for finding in checked.findings if checked.example else checked.findings[-1:]:
                if row.columns is None or _is_certain(finding, row) or _is_decided(decision, row, finding.fault):
                    continue
                counts[finding.fault] = counts.get(finding.fault, 0) + 1
                _keep_lowest(best.setdefault(finding.fault, []), found, (chunk, row, finding), limit)
    chosen = list(_choose(best, limit))
    rows = (_describe(*found[key], files, recipe.data, tokenizer) for key in chosen)
    return Doubts(tuple(filter(None, rows)), counts, tuple(files), decided)


def _merge(found: Sequence[Doubts]) -> Doubts:
    """Merge the doubts about several sources, the first source's first."""
    files = tuple(file for each in found for file in each.files)
    names = [file.display_name for file in files]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise UserError(
            f"--doubts: several sources have a file named {twice[0]}; rename one, so that decisions are about one file"
        )
    counts: dict[str, int] = {}
    for each in found:
        for fault, count in each.counts.items():
            counts[fault] = counts.get(fault, 0) + count
    decisions = {name: decided for each in found for name, decided in each.decisions.items()}
    return Doubts(tuple(row for each in found for row in each.rows), counts, files, decisions)


def _choices(fault: str) -> list[str]:
    return [policy for policy in ROW_FAULTS[fault].policies if policy != "stop"]


def _is_certain(finding: Finding, row: RawRow) -> bool:
    """Return True for a fault with one policy, or one that reading repaired: the row is shown as it was read."""
    return len(_choices(finding.fault)) < 2 or (finding.action == "repaired" and finding in row.findings)


def _counts(decision: RowDecision, row: RawRow) -> bool:
    return row.columns is not None and digest_row(row.columns) == decision.digest


def _is_decided(decision: RowDecision | None, row: RawRow, fault: str) -> bool:
    return decision is not None and fault in decision.policies and _counts(decision, row)


def _keep_lowest(
    kept: list[tuple[bytes, str]],
    found: dict[tuple[str, str], tuple[Chunk, RawRow, Finding]],
    candidate: tuple[Chunk, RawRow, Finding],
    limit: int,
) -> None:
    """Keep a fault's `limit` rows of the lowest hash, each with its chunk's mapping but without its other rows."""
    chunk, row, finding = candidate
    rank = bytes(255 - byte for byte in blake2b(row.source.encode(), digest_size=8).digest())  # heapq keeps the largest
    key = finding.fault, row.source
    if key in found:
        return
    if len(kept) < limit:
        heapq.heappush(kept, (rank, row.source))
    else:
        _, gone = heapq.heappushpop(kept, (rank, row.source))
        if gone == row.source:
            return
        del found[finding.fault, gone]
    found[key] = replace(chunk, rows=(), decisions={}), row, finding


def _choose(best: Mapping[str, Sequence[tuple[bytes, str]]], limit: int) -> Iterator[tuple[str, str]]:
    """Yield faults and rows: one of each fault, then a second one of each, the doubtful faults before the sure ones."""
    left = limit
    for group in ([name for name in best if name not in SURE_FAULTS], [name for name in best if name in SURE_FAULTS]):
        order = sorted(group, key=list(ROW_FAULTS).index)
        queues = {name: sorted(best[name], reverse=True) for name in order}
        while left and any(queues.values()):
            for name in order:
                if left and queues[name]:
                    yield name, queues[name].pop(0)[1]
                    left -= 1


def _describe(
    chunk: Chunk,
    row: RawRow,
    finding: Finding,
    files: Sequence[RowFile],
    settings: DataConfig,
    tokenizer: ChatTokenizer,
) -> DoubtfulRow | None:
    unchecked = to_example(row, chunk.mapping)
    if not isinstance(unchecked, UncheckedExample):
        return None
    file = files[chunk.file_index]
    return DoubtfulRow(
        row=row.source,
        file=file.display_name,
        path=str(file.path),
        digest=digest_row(row.columns or {}),
        fault=finding.fault,
        meaning=ROW_FAULTS[finding.fault].meaning,
        sentence=finding.sentence,
        action=finding.action,
        policy=settings.faults[finding.fault],
        turns=_turns(unchecked.example),
        outcomes={
            policy: _outcome(chunk, row, {finding.fault: policy}, settings, tokenizer)
            for policy in _choices(finding.fault)
        },
    )


def _outcome(
    chunk: Chunk, row: RawRow, policies: Mapping[str, str], settings: DataConfig, tokenizer: ChatTokenizer
) -> tuple[dict[str, str], ...] | None:
    """Return a row's turns as they would be trained under other policies; None where it would be left out."""
    own = settings_for_row(settings.model_copy(update={"system": None}), policies)
    checked = check_row(row, chunk.mapping, own, check_rules(chunk, own, tokenizer), tokenizer)
    return None if checked.example is None else _turns(checked.example)


def _turns(example: Example) -> tuple[dict[str, str], ...]:
    return tuple(_turn(turn) for turn in example.turns)


def _turn(turn: Turn) -> dict[str, str]:
    texts = {"reasoning": _shorten(turn.reasoning), "content": _shorten(turn.content)}
    trained = {} if turn.trained or turn.role != "assistant" else {"trained": "no"}
    return {"role": turn.role} | {name: text for name, text in texts.items() if text or name == "content"} | trained


def _shorten(text: str) -> str:
    half = MAX_TEXT_CHARACTERS // 2
    return text if len(text) <= MAX_TEXT_CHARACTERS else f"{text[:half]}\n[…]\n{text[-half:]}"
