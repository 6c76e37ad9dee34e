"""The Think screen: what a teacher was asked for a recipe, what it has cost so far, and which rows came of it."""

import json
import os
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from fastapi import FastAPI
from starlette.responses import JSONResponse, Response

from thinktune.config import Recipe, load_recipe
from thinktune.files import name_path
from thinktune.inference.openai_errors import API_KEY_VARIABLES
from thinktune.run.environment import shell_command
from thinktune.run.reading import AnyObject, read_object
from thinktune.run.thought_folder import ThoughtFolder
from thinktune.studio.studio import Studio
from thinktune.synthesis.ledger import Price, Usage
from thinktune.synthesis.reply_journal import parse_line
from thinktune.synthesis.settings import default_folder

AGAIN = "run thinktune think again: replies that were saved are not asked for again"
MAX_SHOWN_ROWS = 50  # of those that were kept
_COLUMNS = (("question", "question"), ("reasoning", "think"), ("answer", "answer"))  # as `think` writes them


def read_think(root: Path, name: str) -> dict[str, Any]:
    """Read what the screen shows of a recipe by its name below a folder, as JSON values.

    Relative paths in it are from that folder on, where the verb runs; what is elsewhere is not read. Raises UserError
    where recipe or account is damaged.
    """
    recipe = load_recipe(root / name)
    folders = {"new": default_folder(recipe), "short": default_folder(recipe, "-short")}
    return {
        "recipe": name,
        "base": recipe.model.name,
        "max_tokens": recipe.data.max_tokens,
        "is_list": bool(recipe.other_sources),
        "key": _key(),
        "runs": _teachers(root, recipe),
        "thoughts": {kind: read_thought(root, folder) for kind, folder in folders.items()},
    }


def _key() -> dict[str, Any]:
    """Return the variables that a teacher's key is read from, and which one is set: never what it holds."""
    found = next((name for name in API_KEY_VARIABLES if os.environ.get(name)), None)
    return {"variables": list(API_KEY_VARIABLES), "set": found}


def _teachers(root: Path, recipe: Recipe) -> list[str]:
    """Return the runs in the recipe's folder of runs that have a final model, by name: each can be asked."""
    folder = (root / recipe.runs_folder).resolve()
    if not folder.is_relative_to(root):
        return []
    return sorted(path.parent.relative_to(root).as_posix() for path in folder.glob("*/final") if path.is_dir())


def read_thought(root: Path, path: Path) -> dict[str, Any] | None:
    """Read a folder of `think`, by its path below `root`: its settings, spendings so far and account.

    None where nothing was asked in it, and where it is not below `root`.
    """
    folder = ThoughtFolder((root / path).resolve())
    if not folder.path.is_relative_to(root) or not folder.settings.is_file():
        return None
    settings = read_object(folder.settings, AnyObject, AGAIN)
    account = read_object(folder.account, AnyObject, AGAIN)
    recipe = folder.recipe.relative_to(root)
    return {
        "path": folder.path.relative_to(root).as_posix(),
        "recipe": recipe.as_posix() if folder.recipe.is_file() else None,
        "settings": settings,
        "spent": _spent(folder, settings.get("price")),
        "account": account or None,
        "rows": _kept_rows(folder.rows),
        "commands": [shell_command(verb, recipe) for verb in ("check", "train")] if folder.recipe.is_file() else [],
    }


@dataclass(slots=True)
class _ReadJournal:
    """What was read of a journal of replies so far: up to which byte, and its sums."""

    inode: int
    size_bytes: int = 0
    spent: Usage = field(default_factory=Usage)
    waiting: dict[str, list[Usage]] = field(default_factory=dict[str, list[Usage]])
    counts: Counter[str] = field(default_factory=Counter[str])

    def read_on(self, file: Path) -> None:
        """Read the lines that were added since; one that is not yet whole is read the next time."""
        with name_path(file), file.open("rb") as lines:
            lines.seek(self.size_bytes)
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                self.size_bytes += len(line)
                self._add(parse_line(line))

    def _add(self, record: Mapping[str, Any]) -> None:
        event = record.get("event")
        if event == "asked":
            self.waiting.setdefault(record["key"], []).append(Usage(*record["reserved"]))
        elif event in ("reply", "lost"):
            self.spent += Usage(*record["charged"])
            self.counts[event] += 1
            if reserved := self.waiting.get(record["key"]):
                reserved.pop()


_journals: dict[Path, _ReadJournal] = {}
_reading = Lock()


def _spent(folder: ThoughtFolder, price: Any) -> dict[str, Any]:
    """Sum a folder's journal: replies, requests without an end, tokens, and money where the price is known.

    A request that has no reply yet counts with what is reserved for it, as it does where the process was killed. Of a
    journal that has grown only the new lines are read.
    """
    read = _ReadJournal(0)
    with _reading:
        if folder.replies.is_file():
            state = folder.replies.stat()
            read = _journals.get(folder.replies, read)
            if read.inode != state.st_ino or read.size_bytes > state.st_size:
                read = _journals[folder.replies] = _ReadJournal(state.st_ino)
            read.read_on(folder.replies)
        reserved = sum((each for usages in read.waiting.values() for each in usages), Usage())
        waiting = sum(map(len, read.waiting.values()))
    money = None
    with suppress(TypeError, ValueError, IndexError):
        cost = Price(float(price[0]), float(price[1]), str(price[2]))
        money = {"currency": cost.currency, "spent": cost.cost(read.spent), "reserved": cost.cost(reserved)}
    tokens = {"prompt": read.spent.prompt_tokens, "reply": read.spent.reply_tokens, "reserved": reserved.total}
    counts = {"replies": read.counts["reply"], "lost": read.counts["lost"], "waiting": waiting}
    return counts | {"tokens": tokens, "money": money}


def _kept_rows(file: Path) -> dict[str, Any]:
    """Return how many rows were written, and the first of them: question, reasoning and answer."""
    shown: list[dict[str, str]] = []
    total = 0
    if file.is_file():
        with name_path(file), file.open("rb") as lines:
            for line in lines:
                total += 1
                if total <= MAX_SHOWN_ROWS:
                    with suppress(ValueError, KeyError, TypeError, IndexError, AttributeError):
                        shown.append(_shown_row(json.loads(line)))
    return {"total": total, "shown": shown}


def _shown_row(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the last question of a row as `think` writes it, and its reply."""
    if "messages" not in record:
        return {key: str(record.get(column) or "") for key, column in _COLUMNS}
    asked, reply = record["messages"][-2:]
    reasoning = str(reply.get("reasoning_content") or "")
    return {"question": str(asked["content"]), "reasoning": reasoning, "answer": str(reply["content"])}


def add_think_routes(app: FastAPI, studio: Studio) -> None:
    """Add the route of the Think screen."""

    def show_think(name: str) -> Response:
        folder = studio.folder
        return JSONResponse(read_think(folder.path, folder.name_of(folder.resolve(name))))

    app.add_api_route("/studio/think/{name:path}", show_think, summary="Show what a teacher was asked for a recipe.")
