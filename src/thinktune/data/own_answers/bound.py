"""A bound of own answers that are not made yet: every reply as long as it may become, so that a plan holds for them."""

from pathlib import Path
from typing import Any

import numpy as np

from thinktune.config import Recipe
from thinktune.data.columns.modes import has_thinking_switch
from thinktune.data.dataset import DatasetWriter, example_to_json
from thinktune.data.faults.duplicates import fingerprint, question_text
from thinktune.data.faults.language import count_languages
from thinktune.data.own_answers.entry import OwnAnswers
from thinktune.data.split import ROW_FEATURES, hash_fraction
from thinktune.data.summary import summarize
from thinktune.data.types import Tally
from thinktune.files import write_json
from thinktune.tokenization import ChatTokenizer, Example, Rendered, TokenKind, Turn
from thinktune.tokenization.chat_template import render_prompt
from thinktune.tokenization.tags import read_tags


def write_bound(folder: Path, own: OwnAnswers, tokenizer: ChatTokenizer) -> None:
    """Write a data set in which each question is there with its own tokens and a reply of the most tokens.

    The reply is nothing but the end token; nobody trains on it. Questions are told as what they are, so that one that
    another source holds out is found already.
    """
    features, train_tokens, learned, silent = bytearray(), 0, 0, 0
    with DatasetWriter(folder) as writer:
        for row, (_, asked, room) in enumerate(own.asked):
            prompt = render_prompt(asked.turns, tokenizer, thinking=asked.thinking)
            ids = np.array([*prompt, *[tokenizer.eos_token_id] * room], np.int32)
            kinds = np.full(len(ids), TokenKind.ANSWER, np.uint8)
            kinds[: len(prompt)], kinds[-1] = TokenKind.PROMPT, TokenKind.END
            mode = "thinking" if asked.thinking else "silent"
            example = Example((*asked.turns, Turn("assistant", "", mode=mode)), f"{asked.source} {mode}")
            writer.add(row, asked.source, example_to_json(example), [Rendered(ids, kinds, asked.source)])
            found, fraction = fingerprint(example), hash_fraction(question_text(example), own.source.seed)
            # Both modes of one question are rows of their own, as their answers will be.
            values = (row, False, fraction, found.question_hash, found.answer_hash, found.row_hash ^ row, found.minhash)
            features += np.array(values, ROW_FEATURES).tobytes()
            train_tokens, learned, silent = train_tokens + len(ids), learned + room, silent + (not asked.thinking)
    count = len(own.asked)
    np.save(folder / "features.npy", np.frombuffer(features, ROW_FEATURES))
    np.save(folder / "lengths.npy", np.zeros((0, 4), np.int32))  # none is measured
    np.save(folder / "train.npy", np.arange(count, dtype=np.int64))
    np.save(folder / "validation.npy", np.zeros(0, np.int64))
    totals = {"rows": count, "tokens": train_tokens, "learned_tokens": learned, "silent": silent}
    most = own.source.max_tokens
    stops = (
        []
        if count
        else [f"no question leaves space for a reply within {most:,} tokens; raise the token limit of a row"]
    )
    facts = {"summary": _summary(own, tokenizer, totals), "stop_reasons": stops, "decided": {}}
    write_json(folder / "facts.json", facts)


def bound_faults(recipe: Recipe, summary: dict[str, Any]) -> list[str]:
    """Return a sentence for each source of which rows hold a bound in place of own answers, by their summary."""
    return [
        f"{recipe.key_of_source(number)}.answers: the base has not written its own answers to {settings.name} yet; "
        "run thinktune train or pilot with this recipe first"
        for number, (settings, source) in enumerate(
            zip(recipe.sources, summary.get("sources") or [summary], strict=True)
        )
        if not source.get("own_answers", {"made": True})["made"]
    ]


def _summary(own: OwnAnswers, tokenizer: ChatTokenizer, totals: dict[str, int]) -> dict[str, Any]:
    """Return the summary of a source, of rows that are not there yet."""
    texts = (asked.turns[-1].content for _, asked, _ in own.asked)
    return summarize(own.settings, Tally(), [], np.zeros((0, 4), np.int32)) | {
        "rows_read": totals["rows"],
        "train_rows": totals["rows"],
        "validation_rows": 0,
        "train_tokens": totals["tokens"],
        "train_learned_tokens": totals["learned_tokens"],
        "own_system_rows": 0,
        "silent_share": 0.0,
        "silent_rows": totals["silent"],
        "has_thinking_switch": has_thinking_switch(tokenizer),
        "think_tags": [read_tags(tokenizer).opening, read_tags(tokenizer).closing],
        "languages": count_languages(texts),
        "largest_token": tokenizer.eos_token_id,
        "decisions": [],
        "shown": [],
    }
