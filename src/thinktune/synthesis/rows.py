"""Rows with their new reasoning, each with its provenance, as the file that `think` hands to `check` and `train`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from thinktune import __version__
from thinktune.data.columns.provenance import MAKER_KEY, PROVENANCE_COLUMN
from thinktune.data.export import is_multi_turn, to_record
from thinktune.synthesis.questions import Question, Rows
from thinktune.tokenization import Example


@dataclass(frozen=True, slots=True)
class KeptReply:
    """A reply that was kept for a question; `facts` are what its provenance says of it."""

    question: Question
    reasoning: str
    answer: str
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class WrittenRow:
    """A row to write, and the replies in it; none for a row that is passed on as it was."""

    record: dict[str, Any]
    source: str
    replies: tuple[KeptReply, ...] = ()


def written_rows(
    rows: Rows, kept: Sequence[Sequence[KeptReply]], system: str | None, *, own_answers: bool
) -> Iterator[WrittenRow]:
    """Yield the rows to write, in the order of the recipe's rows: those passed on, and the others once for each reply.

    `kept` holds the replies of each question of `rows`. In a longer conversation, the replies for which none was kept
    become history, unless they have their own reasoning already, as those that were to be shortened; a row without any
    is left out. With `own_answers` the row's answer stays as it was, else it is the teacher's. All rows are messages if
    any is a longer conversation, as in `check --write`.
    """
    as_messages = any(map(is_multi_turn, rows.examples))
    by_row: dict[int, list[tuple[Question, Sequence[KeptReply]]]] = {}
    for question, replies in zip(rows.questions, kept, strict=True):
        by_row.setdefault(question.row_index, []).append((question, replies))
    for index, example in enumerate(rows.examples):
        asked = by_row.get(index, [])
        reasons_itself = all(example.turns[question.turn_index].has_reasoning for question, _ in asked)
        if not any(replies for _, replies in asked) and reasons_itself:
            yield WrittenRow(to_record(example, system, as_messages=as_messages), example.source)
        for number in range(max((len(replies) for _, replies in asked), default=0)):
            chosen = {question.turn_index: replies[number : number + 1] for question, replies in asked}
            made = _with_replies(example, chosen, own_answers=own_answers)
            used = tuple(reply for replies in chosen.values() for reply in replies)
            record = to_record(made, system, as_messages=as_messages)
            yield WrittenRow(record | {PROVENANCE_COLUMN: _provenance(example, used)}, example.source, used)


def _with_replies(example: Example, chosen: Mapping[int, Sequence[KeptReply]], *, own_answers: bool) -> Example:
    """Put reasoning into an example's turns, by their index; a turn without becomes history."""
    turns = list(example.turns)
    for index, replies in chosen.items():
        if not replies:
            turns[index] = replace(turns[index], trained=turns[index].has_reasoning)
            continue
        answer = turns[index].content if own_answers else replies[0].answer
        turns[index] = replace(turns[index], reasoning=replies[0].reasoning, content=answer)
    return replace(example, turns=tuple(turns))


def _provenance(example: Example, replies: Sequence[KeptReply]) -> dict[str, Any]:
    return {MAKER_KEY: __version__, "row": example.source, "replies": [dict(reply.facts) for reply in replies]}
