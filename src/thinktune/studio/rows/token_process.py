"""Tokens of some rows of a recipe, printed as JSON: a process of its own, so that no tokenizer is in the server.

Run as `python -m thinktune.studio.rows.token_process RECIPE FIRST COUNT [SOURCE]` in the recipe's folder.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from thinktune.config import load_recipe
from thinktune.data import Prepared
from thinktune.data.dataset import select
from thinktune.data.rows_first import prepare_rows_first
from thinktune.errors import UserError
from thinktune.progress import say_nothing
from thinktune.studio.side_process import print_value
from thinktune.tokenization import ChatTokenizer
from thinktune.tokenization.chat_template import decode_by_token

SHOWN_FIRST, SHOWN_LAST = 4000, 2000  # tokens of a reply with its history; of a longer one, those between are left out


def tokens_of_rows(recipe_path: Path, first: int, count: int, source: str = "") -> dict[str, Any]:
    """Return the tokens of rows from a number on, in the order of the files, as plain values.

    With a `source`, such as `rows.jsonl:12`, from that row on. Raises UserError where the rows cannot be prepared, or
    this one is not among them.
    """
    recipe = load_recipe(recipe_path)
    found = prepare_rows_first(recipe, say_nothing)
    if found is None:
        raise UserError(f"{recipe_path}: its tokens are not made yet; check the recipe first")
    if isinstance(found.prepared, UserError):
        raise found.prepared
    prepared = found.prepared
    indices = np.sort(np.concatenate([prepared.train.example_indices, prepared.validation.example_indices]))
    dataset = prepared.train.dataset
    if source:
        places = (place for place, index in enumerate(indices) if dataset.source(int(index)) == source)
        first = next(places, -1)
        if first < 0:
            raise UserError(f"{source}: is left out, so it has no tokens; the faults say why")
    chosen = indices[first : first + count]
    held_out = {int(index) for index in prepared.validation.example_indices}
    rows = [_row(prepared, int(index), held_out, found.tokenizer) for index in chosen]
    return {"total": len(indices), "first": first, "rows": rows}


def _row(prepared: Prepared, index: int, held_out: set[int], tokenizer: ChatTokenizer) -> dict[str, Any]:
    alone = select(prepared.train.dataset, np.array([index]))
    replies: list[dict[str, Any]] = []
    for reply in alone.replies():
        pieces = decode_by_token(reply, tokenizer)
        hidden = max(0, len(pieces) - SHOWN_FIRST - SHOWN_LAST)
        shown = [*pieces[:SHOWN_FIRST], *pieces[-SHOWN_LAST:]] if hidden else pieces
        replies.append({"tokens": len(reply), "learned": int(reply.label_tokens), "pieces": shown, "hidden": hidden})
    return {"source": prepared.train.dataset.source(index), "held_out": index in held_out, "replies": replies}


if __name__ == "__main__":
    recipe, first, count, *source = sys.argv[1:]
    print_value(lambda: tokens_of_rows(Path(recipe), int(first), int(count), "".join(source)))
