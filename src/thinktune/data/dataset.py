"""Tokenized rows on the disk: written once by content, read through memory maps, so that size costs no memory."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinktune.data.chat_template import Part, Rendered
from thinktune.data.types import Example, Turn
from thinktune.files import read_json, write_json

# An example: its number among all rows read, where it stands, its line in texts.jsonl, and its replies.
EXAMPLE = np.dtype(
    [("row", "i8"), ("file", "i4"), ("line", "i8"), ("text", "i8"), ("bytes", "i4"), ("first", "i8"), ("replies", "i4")]
)


REPLY = np.dtype([("example", "i8"), ("start", "i8"), ("length", "i4"), ("learned", "i4"), ("digest", "u8")])


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

    def sources(self, indices: Iterable[int]) -> list[str]:
        """The `file:line` of the replies at these indices of `lengths`."""
        examples = self.store.replies["example"][self.numbers[np.fromiter(indices, np.int64)]]
        return [self.store.source(int(example)) for example in examples]


def choose(store: Store, chosen: NDArray[np.int64]) -> Rows:
    """Some examples of a store with their replies."""
    counts = store.examples["replies"][chosen].astype(np.int64)
    # Of each example's replies, the number of the first and how far each is from it.
    starts = np.repeat(store.examples["first"][chosen], counts)
    steps = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return Rows(store, chosen, starts + steps)


class Writer:
    """Takes examples one by one and leaves a store in a folder, as a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._texts, self._ids, self._parts = (
            (folder / name).open("wb") for name in ("texts.jsonl", "ids.bin", "parts.bin")
        )
        self._files: dict[str, int] = {}
        self._examples, self._replies = bytearray(), bytearray()
        self._example_count = self._reply_count = self._token_count = 0

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        """Close the files, whatever happened; where all went well, write the tables."""
        for file in (self._texts, self._ids, self._parts):
            file.close()
        if error is None:
            np.save(self._folder / "examples.npy", np.frombuffer(self._examples, EXAMPLE))
            np.save(self._folder / "replies.npy", np.frombuffer(self._replies, REPLY))
            write_json(self._folder / "files.json", list(self._files))

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
            values = (self._example_count, self._token_count, len(reply), reply.learned_tokens, digest(reply))
            self._replies += np.array(values, REPLY).tobytes()
            self._token_count += len(reply)
        self._example_count += 1
        self._reply_count += len(replies)


def open_store(folder: Path) -> Store:
    """The store in a folder, its tokens mapped, not read."""
    examples, replies = np.load(folder / "examples.npy"), np.load(folder / "replies.npy")
    ids, parts = (_mapped(folder / f"{name}.bin", kind) for name, kind in (("ids", np.int32), ("parts", np.uint8)))
    files = tuple(read_json(folder / "files.json"))
    return Store(folder / "texts.jsonl", files, ids, parts, examples, replies)


def write_example(example: Example) -> bytes:
    """An example as one line of JSON."""
    turns = [(turn.role, turn.content, turn.reasoning, turn.learned) for turn in example.turns]
    return json.dumps((turns, example.source, example.keypoint), ensure_ascii=False, separators=(",", ":")).encode()


def read_example(line: bytes) -> Example:
    """What `write_example` wrote."""
    turns, source, keypoint = json.loads(line)
    return Example(tuple(Turn(*turn) for turn in turns), source, keypoint)


def digest(reply: Rendered) -> int:
    """A number that changes with any token of a reply, and with what is learned of it."""
    return int.from_bytes(blake2b(reply.ids.tobytes() + reply.parts.tobytes(), digest_size=8).digest(), "little")


def _mapped(file: Path, kind: Any) -> NDArray[Any]:
    return np.memmap(file, kind, "r") if file.stat().st_size else np.empty(0, kind)  # an empty file cannot be mapped


assert Part.GIVEN == 0  # `learned_tokens` counts the parts that are not zero
