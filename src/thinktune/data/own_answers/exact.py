"""Replies of the base as rows: kept where what is trained of a row is to the token what the base wrote."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from thinktune import __version__
from thinktune.config import DataConfig
from thinktune.data.columns.mapping import UncheckedExample, to_example
from thinktune.data.columns.provenance import MAKER_KEY, PROVENANCE_COLUMN
from thinktune.data.own_answers.entry import ACCOUNT_FILE, ANSWERS_FILE, OwnAnswers
from thinktune.data.own_answers.questions import Asked
from thinktune.data.sample import FileForm, detect_form, read_sample
from thinktune.data.types import RawRow
from thinktune.data.worker import Chunk, process_chunk
from thinktune.errors import UserError
from thinktune.tokenization import ChatTokenizer, TokenKind, Turn
from thinktune.tokenization.chat_template import render, render_prompt


@dataclass(frozen=True, slots=True)
class OwnReply:
    """A reply of the base: the number of what it was asked, its tokens with the one that ended it, and both parts."""

    asked: int
    ids: tuple[int, ...]
    reasoning: str
    answer: str
    finish: str


def entry_files(own: OwnAnswers, replies: Sequence[OwnReply], tokenizer: ChatTokenizer, model: str) -> dict[str, str]:
    """Return the files of an entry, by name: the rows, and an account of every reply.

    A reply that its limit cut is dropped, and one that is written in other tokens when it is trained: by another end
    token, with white space that the chat template leaves out, or by pieces that the tokenizer would join. What is
    wrong with a row by the recipe's own rules is told of and dropped when rows are read, like any other.
    """
    whole = sorted((reply for reply in replies if reply.finish == "end"), key=lambda reply: reply.asked)
    facts = {MAKER_KEY: __version__, "kind": "own answer", "weights": own.weights, "sampling": own.source.answers}
    made = [_record(own.questions.asked[reply.asked], reply, facts, tokenizer) for reply in whole]
    rows = [RawRow(f"{ANSWERS_FILE}:{number}", row, (), len(json.dumps(row))) for number, row in enumerate(made, 1)]
    form = detect_form(read_sample(ANSWERS_FILE, rows), own.settings) if rows else FileForm()
    kept = [
        (reply, row)
        for reply, row in zip(whole, rows, strict=True)
        if _is_exact(own.questions.asked[reply.asked], reply, row, form, own.settings, tokenizer)
    ]
    account = {
        MAKER_KEY: __version__,
        "model": model,
        "weights": own.weights,
        "answers": own.source.answers,
        "questions": own.questions.count,
        "left_out": own.questions.left_out,
        "no_room": len(own.prompt_tokens) - len(own.asked),
        "asked": len(replies),
        "cut": len(replies) - len(whole),
        "other_tokens": len(whole) - len(kept),
        "kept": len(kept),
        "tokens": sum(len(reply.ids) for reply in replies),
    }
    lines = "".join(json.dumps(row.columns, ensure_ascii=False) + "\n" for _, row in kept)
    return {ANSWERS_FILE: lines, ACCOUNT_FILE: json.dumps(account, ensure_ascii=False, indent=1) + "\n"}


def _record(asked: Asked, reply: OwnReply, facts: dict[str, Any], tokenizer: ChatTokenizer) -> dict[str, Any]:
    """Return a row: the conversation as messages, the mode, and where it comes from."""
    thinks = asked.thinking and (bool(reply.reasoning.strip()) or _has_switch(asked, tokenizer))
    last = Turn("assistant", reply.answer, reply.reasoning)
    return {
        "messages": [*map(_message, asked.turns), _message(last)],
        "mode": "on" if thinks else "off",
        PROVENANCE_COLUMN: facts | {"question": asked.source},
    }


def _has_switch(asked: Asked, tokenizer: ChatTokenizer) -> bool:
    """Return True if the chat template writes another prompt without thinking."""
    one, other = (render_prompt(asked.turns, tokenizer, thinking=thinking) for thinking in (True, False))
    return one != other


def _message(turn: Turn) -> dict[str, Any]:
    reasoning = {"reasoning_content": turn.reasoning} if turn.reasoning else {}
    given = {} if turn.trained or turn.role != "assistant" else {"weight": 0}
    return {"role": turn.role, "content": turn.content} | reasoning | given


def _is_exact(
    asked: Asked, reply: OwnReply, row: RawRow, form: FileForm, settings: DataConfig, tokenizer: ChatTokenizer
) -> bool:
    """Return True if a row is trained as the reply was written, whether or not a fault leaves it out.

    Faults are found again when rows are read, where they may depend on the other rows that are left.
    """
    try:
        made = process_chunk(Chunk(0, [row], form.mapping, form.habits), settings, tokenizer).examples
        if made:
            [rendered] = made[0].replies
        elif isinstance(read := to_example(row, form.mapping), UncheckedExample):
            [rendered] = render(read.example, tokenizer)
        else:
            return True  # it is no conversation, and is told of as such
    except UserError:  # the chat template does not write it
        return False
    written = [*render_prompt(asked.turns, tokenizer, thinking=asked.thinking), *reply.ids]
    end = len(written)
    return (
        rendered.ids[:end].tolist() == written
        and int(rendered.kinds[end - 1]) == TokenKind.END
        and not np.any(rendered.kinds[end:])
    )


def read_replies(lines: Iterable[str]) -> list[OwnReply]:
    """Read replies from lines of JSON, each as `reply_line` wrote it; one that is torn or doubled is left out."""
    found: dict[int, OwnReply] = {}
    for line in lines:
        try:
            asked, ids, reasoning, answer, finish = json.loads(line)
            found[int(asked)] = OwnReply(int(asked), tuple(map(int, ids)), str(reasoning), str(answer), str(finish))
        except (ValueError, TypeError):
            continue
    return list(found.values())


def reply_line(reply: OwnReply) -> str:
    """Return a reply as a line of JSON."""
    return json.dumps([reply.asked, reply.ids, reply.reasoning, reply.answer, reply.finish], ensure_ascii=True) + "\n"
