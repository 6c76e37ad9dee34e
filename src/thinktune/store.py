"""Tokenized rows on the disk: written once by content, read through memory maps, so that size costs no memory."""

import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinktune.data import Example, Turn
from thinktune.files import read_json, sync_tree, write_json
from thinktune.render import Part, Rendered

# An example: its number among all rows read, where it stands, its line in texts.jsonl, and its replies.
EXAMPLE = np.dtype(
    [("row", "i8"), ("file", "i4"), ("line", "i8"), ("text", "i8"), ("bytes", "i4"), ("first", "i8"), ("replies", "i4")]
)
REPLY = np.dtype([("example", "i8"), ("start", "i8"), ("length", "i4"), ("learned", "i4"), ("digest", "u8")])
OURS = re.compile(r"[0-9a-f]{32}|\.[0-9a-f]{32}\.\d+\.partial")
KEPT_DAYS = 30  # an entry that no one read for so long is removed when another one is written


@dataclass(frozen=True, slots=True)
class Store:
    """Examples and their tokens: `ids` int32 and `parts` uint8 of all replies, one after another, and two tables."""

    texts: Path
    files: tuple[str, ...]
    ids: NDArray[np.int32]
    parts: NDArray[np.uint8]
    examples: NDArray[Any]  # EXAMPLE
    replies: NDArray[Any]  # REPLY

    def example(self, number: int) -> Example:
        """An example's text."""
        entry = self.examples[number]
        with self.texts.open("rb") as file:
            file.seek(int(entry["text"]))
            return read_example(file.read(int(entry["bytes"])))

    def source(self, number: int) -> str:
        """Where an example stands, as `file:line`."""
        entry = self.examples[number]
        return f"{self.files[entry['file']]}:{entry['line']}"

    def reply(self, number: int) -> Rendered:
        """A reply's tokens."""
        entry = self.replies[number]
        span = slice(int(entry["start"]), int(entry["start"]) + int(entry["length"]))
        return Rendered(np.array(self.ids[span]), np.array(self.parts[span]), self.source(int(entry["example"])))


@dataclass(frozen=True, slots=True)
class Rows:
    """Some of a store's examples, in an order; and their replies, which are what is trained and dealt into steps."""

    store: Store
    chosen: NDArray[np.int64]
    numbers: NDArray[np.int64]  # of the replies

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def lengths(self) -> NDArray[np.int32]:
        """Tokens of each reply with its history."""
        return self.store.replies["length"][self.numbers]

    @property
    def learned(self) -> NDArray[np.int32]:
        """Learned tokens of each reply."""
        return self.store.replies["learned"][self.numbers]

    @property
    def digests(self) -> bytes:
        """Changes with any token, with what is learned of it, and with the order of the replies."""
        return self.store.replies["digest"][self.numbers].tobytes()

    def examples(self, first: int | None = None) -> list[Example]:
        """The examples, or the first few of them."""
        return [self.store.example(int(number)) for number in self.chosen[:first]]

    def replies(self, indices: Iterable[int] | None = None) -> list[Rendered]:
        """The replies at these indices of `lengths`, or all of them."""
        numbers = self.numbers if indices is None else self.numbers[np.fromiter(indices, np.int64)]
        return [self.store.reply(int(number)) for number in numbers]


def choose(store: Store, chosen: NDArray[np.int64]) -> Rows:
    """Some examples of a store with their replies."""
    spans = [np.arange(entry["first"], entry["first"] + entry["replies"]) for entry in store.examples[chosen]]
    return Rows(store, chosen, np.concatenate([np.empty(0, np.int64), *spans]))


class Writer:
    """Takes examples one by one and leaves a store, as a context manager; what is not closed well is removed."""

    def __init__(self, folder: Path) -> None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.aside = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
        shutil.rmtree(self.aside, ignore_errors=True)
        self.aside.mkdir()
        self._texts, self._ids, self._parts = (
            (self.aside / name).open("wb") for name in ("texts.jsonl", "ids.bin", "parts.bin")
        )
        self._files: dict[str, int] = {}
        self._examples, self._replies = bytearray(), bytearray()
        self._example_count = self._reply_count = self._token_count = 0

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self._close()
        shutil.rmtree(self.aside, ignore_errors=True)

    def add(self, row: int, source: str, text: bytes, replies: Sequence[Rendered]) -> None:
        """Keep an example, which stands at this number among all rows read, with its text and its replies."""
        name, _, line = source.rpartition(":")
        file = self._files.setdefault(name, len(self._files))
        entry = (row, file, int(line), self._texts.tell(), len(text), self._reply_count, len(replies))
        self._examples += np.array(entry, EXAMPLE).tobytes()
        self._texts.write(text + b"\n")
        for reply in replies:
            self._ids.write(reply.ids.tobytes())
            self._parts.write(reply.parts.tobytes())
            digest = blake2b(reply.ids.tobytes() + reply.parts.tobytes(), digest_size=8).digest()
            values = (self._example_count, self._token_count, len(reply), reply.learned_tokens, _number(digest))
            self._replies += np.array(values, REPLY).tobytes()
            self._token_count += len(reply)
        self._example_count += 1
        self._reply_count += len(replies)

    def finish(self) -> Store:
        """The store as it stands aside; nothing can be added any more."""
        self._close()
        np.save(self.aside / "examples.npy", np.frombuffer(self._examples, EXAMPLE))
        np.save(self.aside / "replies.npy", np.frombuffer(self._replies, REPLY))
        write_json(self.aside / "files.json", list(self._files))
        return open_store(self.aside)

    def publish(self, facts: Any) -> Store:
        """Put the store, with facts about it, where the next start finds it: whole, or not at all."""
        write_json(self.aside / "facts.json", facts)
        sync_tree(self.aside)
        _forget_old(self.folder.parent)
        try:
            self.aside.rename(self.folder)
        except OSError:
            if not (self.folder / "facts.json").is_file():  # not another process that was first with the same rows
                raise
        return open_store(self.folder)

    def _close(self) -> None:
        for file in (self._texts, self._ids, self._parts):
            file.close()


def open_store(folder: Path) -> Store:
    """The store in a folder, its tokens mapped, not read."""
    examples, replies = np.load(folder / "examples.npy"), np.load(folder / "replies.npy")
    ids, parts = (_mapped(folder / f"{name}.bin", kind) for name, kind in (("ids", np.int32), ("parts", np.uint8)))
    files = tuple(read_json(folder / "files.json"))
    return Store(folder / "texts.jsonl", files, ids, parts, examples, replies)


def read_facts(folder: Path) -> Any:
    """What `publish` put beside a store, or None where there is none; reading marks it as used."""
    facts = folder / "facts.json"
    if not facts.is_file():
        return None
    os.utime(facts)
    return read_json(facts)


def cache_folder() -> Path:
    """Where stores are kept: THINKTUNE_CACHE, else the user's folder for caches."""
    named = os.environ.get("THINKTUNE_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return (Path(named) if named else Path(base) / "thinktune").expanduser() / "rows"


def write_example(example: Example) -> bytes:
    """An example as one line of JSON."""
    turns = [(turn.role, turn.content, turn.reasoning, turn.learned) for turn in example.turns]
    return json.dumps((turns, example.source, example.keypoint), ensure_ascii=False, separators=(",", ":")).encode()


def read_example(line: bytes) -> Example:
    """What `write_example` wrote."""
    turns, source, keypoint = json.loads(line)
    return Example(tuple(Turn(*turn) for turn in turns), source, keypoint)


def _number(digest: bytes) -> int:
    return int.from_bytes(digest, "little")


def _mapped(file: Path, kind: Any) -> NDArray[Any]:
    return np.memmap(file, kind, "r") if file.stat().st_size else np.empty(0, kind)  # an empty file cannot be mapped


def _forget_old(folder: Path) -> None:
    for entry in folder.iterdir():
        if not OURS.fullmatch(entry.name):
            continue
        facts = entry / "facts.json"
        touched = facts if facts.is_file() else entry
        if time.time() - touched.stat().st_mtime > KEPT_DAYS * 86_400:
            shutil.rmtree(entry, ignore_errors=True)


assert Part.GIVEN == 0  # `learned_tokens` counts the parts that are not zero
