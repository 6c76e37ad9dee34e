"""The entry of the cache that holds a source's own answers: named by model, questions and settings, whole or absent."""

import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

from thinktune import cache
from thinktune.config import ROW_FAULTS, DataConfig, Recipe
from thinktune.config.schema import ColumnsConfig
from thinktune.data.own_answers.questions import Asked, Questions, read_questions
from thinktune.errors import UserError
from thinktune.files import read_json, write_json
from thinktune.hub import locate_model
from thinktune.hub.fingerprint import weights_fingerprint
from thinktune.progress import Say
from thinktune.tokenization import ChatTokenizer
from thinktune.tokenization.chat_template import render_prompt
from thinktune.tokenization.tokenizer import tokenizer_state

FORMAT = 1  # of an entry, in its name
AFTER_END_TOKENS = 8  # at most what chat templates write after the token that ends a reply
ANSWERS_FILE, ACCOUNT_FILE = "own-answers.jsonl", "account.json"


@dataclass(frozen=True)
class OwnAnswers:
    """A source whose answers are the base's own: its settings, what is asked, and where the answers are kept.

    `weights` is the fingerprint of the base.
    """

    source: DataConfig
    questions: Questions
    prompt_tokens: tuple[int, ...]
    weights: str
    entry: Path

    @property
    def is_sampled(self) -> bool:
        """True if tokens are drawn by the model's own settings, False if the likeliest is taken."""
        return self.source.answers == "own-sampled"

    @property
    def file(self) -> Path:
        """The answers as rows."""
        return self.entry / ANSWERS_FILE

    @cached_property
    def asked(self) -> tuple[tuple[int, Asked, int], ...]:
        """Number, question and most tokens of each reply; a question that leaves no room for one is not asked."""
        rooms = (self.source.max_tokens - tokens - AFTER_END_TOKENS for tokens in self.prompt_tokens)
        pairs = zip(self.questions.asked, rooms, strict=True)
        return tuple((number, asked, room) for number, (asked, room) in enumerate(pairs) if room > 0)

    @cached_property
    def settings(self) -> DataConfig:
        """Settings by which the answers are read as rows: to the token as they were written, or not at all.

        What would be repaired is kept as it is, or dropped where it cannot be kept.
        """
        return self.source.model_copy(
            update={
                **dict.fromkeys(("hub", "revision", "files", "rows", "system", "think_tags"), None),
                "name": str(self.file),
                "columns": ColumnsConfig(messages="messages", mode="mode"),
                "ignore": (),
                "answers": "rows",
                "silent_share": 0.0,
                "faults": {name: _unrepaired(name, policy) for name, policy in self.source.faults.items()},
            }
        )

    def is_made(self, say: Say = lambda _: None) -> bool:
        """Return True if the answers are there, undamaged."""
        return cache.is_complete(self.entry, say)

    def told_in(self, summary: dict[str, Any]) -> dict[str, Any]:
        """Return the summary of these rows with their account, and without what is no news.

        Both modes of a question are asked, so there are always rows whose questions are the same.
        """
        alike = ("conflict", "near_duplicate")
        faults = [each for each in summary["faults"] if each["fault"] not in alike or "kept" not in each["actions"]]
        return summary | {"own_answers": self.account(), "faults": faults}

    def account(self) -> dict[str, Any]:
        """Return what was asked and what came of it; before the answers are made, at most what may come."""
        if self.entry.is_dir():
            return read_json(self.entry / ACCOUNT_FILE) | {"made": True}
        rooms = [room for _, _, room in self.asked]
        return {
            "made": False,
            "questions": self.questions.count,
            "asked": len(rooms),
            "no_room": len(self.prompt_tokens) - len(rooms),
            "left_out": self.questions.left_out,
            "longest_tokens": max(rooms, default=0),
            "most_tokens": sum(rooms),
        }


def find_own_answers(recipe: Recipe, tokenizer: ChatTokenizer) -> OwnAnswers:
    """Find where the answers to the questions of a recipe's `data` are, or will be kept; makes none.

    Raises UserError where the questions cannot be read.
    """
    source, questions = locate_model(recipe), read_questions(recipe, tokenizer)
    prompts = tuple(len(render_prompt(asked.turns, tokenizer, thinking=asked.thinking)) for asked in questions.asked)
    weights = weights_fingerprint(source)
    generation = source / "generation_config.json"  # which tokens end a reply, and how the model samples
    digest = blake2b(digest_size=16)
    for part in (
        f"own answers {FORMAT} {recipe.data.answers} {recipe.data.max_tokens} {weights}".encode(),
        tokenizer_state(tokenizer).encode(),
        generation.read_bytes() if generation.is_file() else b"",
        json.dumps([asdict(asked) for asked in questions.asked]).encode(),
    ):
        digest.update(blake2b(part).digest())
    return OwnAnswers(recipe.data, questions, prompts, weights, cache.cache_folder() / digest.hexdigest())


def find_all_own_answers(recipe: Recipe, tokenizer: ChatTokenizer) -> list[OwnAnswers]:
    """Find the own answers of each of a recipe's sources that has them."""
    found: list[OwnAnswers] = []
    for number, source in enumerate(recipe.sources):
        if source.answers != "rows":
            with naming_source(recipe, number):
                found.append(find_own_answers(recipe.of_source(number), tokenizer))
    return found


@contextmanager
def naming_source(recipe: Recipe, number: int) -> Generator[None]:
    """Name the settings in a UserError of the block, which is about one source alone, as the recipe has them."""
    try:
        yield
    except UserError as error:
        raise UserError([recipe.in_source(fault, number) for fault in error.faults]) from error


def keep_own_answers(recipe: Recipe, tokenizer: ChatTokenizer, file: Path) -> None:
    """Write the entries of a recipe's own answers into a file, by their names; nothing where there are none."""
    if found := find_all_own_answers(recipe, tokenizer):
        write_json(file, {own.entry.name: read_entry(own) for own in found})


def restore_own_answers(recipe: Recipe, tokenizer: ChatTokenizer, file: Path) -> None:
    """Make the entries hold what a file of `keep_own_answers` holds, where the cache has lost it or has other replies.

    Another run, machine or release may write other replies to the same questions, and the rows of a run would not be
    its own any more. Replies that are replaced are as good as theirs to a run that has not begun; any other has its own
    file.
    """
    if all(source.answers == "rows" for source in recipe.sources) or not file.is_file():
        return
    kept = read_json(file)
    for own in find_all_own_answers(recipe, tokenizer):
        if own.entry.name in kept:
            write_own_answers(own, kept[own.entry.name])


def write_own_answers(own: OwnAnswers, files: dict[str, str]) -> None:
    """Write the entry from the texts of its files, by name, in place of one with other replies."""
    if own.is_made():
        if read_entry(own) == files:
            return
        cache.discard(own.entry)
    with cache.create_entry(own.entry) as folder:
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8", newline="\n")


def read_entry(own: OwnAnswers) -> dict[str, str]:
    """Read the texts of the entry's files, by name."""
    return {name: (own.entry / name).read_text(encoding="utf-8") for name in (ANSWERS_FILE, ACCOUNT_FILE)}


def rows_with_real_tokens(summary: dict[str, Any], owners: Sequence[int]) -> list[bool]:
    """Return for each row, by the number of its source, whether its tokens are there: own answers may not be made."""
    accounts = [source.get("own_answers") for source in summary.get("sources", ())]
    missing = {number for number, account in enumerate(accounts) if account and not account["made"]}
    return [owner not in missing for owner in owners]


def _unrepaired(fault: str, policy: str) -> str:
    if policy not in ("repair", "trim-reasoning"):
        return policy
    return (
        "keep" if "keep" in ROW_FAULTS[fault].policies else "drop" if "drop" in ROW_FAULTS[fault].policies else policy
    )
