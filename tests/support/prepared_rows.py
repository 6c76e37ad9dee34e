"""Rows for a recipe, and the tokens that they become."""

import json
from pathlib import Path

from support.runs import settings

GOOD = {"question": "心脏？", "think": "想一想。", "answer": "血液。"}


def prose(characters):
    """Return a text of so many characters that repeats no sentence, so that it is no loop."""
    return "".join(f"word {number} and another, " for number in range(characters // 18 + 1))[:characters]


def rows_of(count, **changes):
    return [
        {
            "question": f"What is part {number} of {number * 7}?",
            "think": f"Part {number}.",
            "answer": f"It is {number}.",
        }
        | changes
        for number in range(count)
    ]


def write(path: Path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def with_rows(tree, rows, **data):
    write(Path(tree["data"]["name"]), rows)
    return settings(tree, data=data)


def tokens_of(prepared):
    return [
        [(row.source, row.ids.tolist(), row.kinds.tolist()) for row in rows.replies()]
        for rows in (prepared.train, prepared.validation)
    ]
