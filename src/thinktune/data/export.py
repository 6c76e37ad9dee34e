"""Write prepared rows as JSON lines, which other tools can use and this one can read back."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from thinktune.data.dataset import Subset, select
from thinktune.data.own_answers.entry import rows_with_real_tokens
from thinktune.data.pipeline import Prepared
from thinktune.errors import UserError
from thinktune.files import write_json_lines
from thinktune.tokenization import Example, Turn

EXPORT_FILES = ("train.jsonl", "val.jsonl")


def refuse_existing(folder: Path) -> None:
    """Raise UserError if one of the files already exists."""
    existing = [str(folder / name) for name in EXPORT_FILES if (folder / name).exists()]
    if existing:
        raise UserError(f"{', '.join(existing)}: already exists and is not overwritten; name another folder")


def export_rows(prepared: Prepared, folder: Path, system: str | None) -> list[str]:
    """Write train.jsonl and, if rows are held out, val.jsonl, each whole or not at all; return a line about each.

    Single questions become rows of question, think and answer; if any row is a longer conversation, all become
    messages with `reasoning_content`. A silent reply has `enable_thinking: false` as well. A row's own system prompt is
    written, the recipe's (`system`) is not. Own answers that are not made yet are left out. Raises UserError if one of
    the files already exists.
    """
    refuse_existing(folder)
    train = prepared.train
    owners = train.dataset.sources_of_examples(train.example_indices).tolist()
    real = np.array(rows_with_real_tokens(prepared.summary, owners), np.bool_)
    prepared = replace(prepared, train=select(train.dataset, train.example_indices[real]))
    as_messages = any(
        is_multi_turn(example) for rows in (prepared.train, prepared.validation) for example in _examples(rows)
    )
    lines: list[str] = []
    for name, rows in zip(EXPORT_FILES, (prepared.train, prepared.validation), strict=True):
        if not len(rows):
            lines.append(f"{folder / name}: no row is held out, so it is not written")
            continue
        written = (to_record(example, system, as_messages=as_messages) for example in _examples(rows))
        write_json_lines(folder / name, written)
        size = (folder / name).stat().st_size
        lines.append(f"{folder / name}: {len(rows):,} rows, {size / 1e6:,.2f} MB")
    return lines


def _examples(rows: Subset) -> Iterator[Example]:
    return (rows.dataset.example(int(index)) for index in rows.example_indices)


def _own_turns(example: Example, system: str | None) -> tuple[Turn, ...]:
    """Return the turns without the recipe's system prompt, which the recipe adds again."""
    first = example.turns[0]
    return example.turns[1:] if first.role == "system" and first.content == system else example.turns


def is_multi_turn(example: Example) -> bool:
    """Return True for a conversation of more than one question and its reply."""
    return sum(turn.role != "system" for turn in example.turns) > 2


def to_record(example: Example, system: str | None, *, as_messages: bool) -> dict[str, Any]:
    """Convert an example to a row: messages, or the columns question, think and answer."""
    return _to_messages(example, system) if as_messages else _to_columns(example, system)


def _to_columns(example: Example, system: str | None) -> dict[str, Any]:
    turns = _own_turns(example, system)
    own = {"system": turns[0].content} if turns[0].role == "system" else {}
    question, reply = turns[-2:]
    row: dict[str, Any] = own | {"question": question.content, "think": reply.reasoning, "answer": reply.content}
    return row | _mode(reply) | _keypoint(example)


def _to_messages(example: Example, system: str | None) -> dict[str, Any]:
    return {"messages": [_to_message(turn) for turn in _own_turns(example, system)]} | _keypoint(example)


def _to_message(turn: Turn) -> dict[str, Any]:
    reasoning = {"reasoning_content": turn.reasoning} if turn.role == "assistant" else {}
    weight = {} if turn.trained else {"loss_weight": 0}
    return {"role": turn.role, "content": turn.content} | reasoning | weight | _mode(turn)


def _mode(turn: Turn) -> dict[str, bool]:
    """Write that a reply is silent: read again, it would else lack its reasoning."""
    return {"enable_thinking": False} if turn.is_trained_reply and not turn.thinks else {}


def _keypoint(example: Example) -> dict[str, str]:
    return {} if example.keypoint is None else {"keypoint": example.keypoint}
