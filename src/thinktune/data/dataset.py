"""Tokenized rows on the disk: written once by content, read through memory maps, so that size costs no memory."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinktune.data.chat_template import Rendered, TokenKind
from thinktune.data.types import Example, Turn
from thinktune.files import read_json, write_json

# An example: its number among all rows read, where it stands, its line in texts.jsonl, and its replies.
EXAMPLE_DTYPE = np.dtype(
    [("row", "i8"), ("file", "i4"), ("line", "i8"), ("text", "i8"), ("bytes", "i4"), ("first", "i8"), ("replies", "i4")]
)


REPLY_DTYPE = np.dtype([("example", "i8"), ("start", "i8"), ("length", "i4"), ("learned", "i4"), ("digest", "u8")])


@dataclass(frozen=True, slots=True)
class TokenizedDataset:
    """Examples and their tokens: `ids` int32 and `kinds` uint8 of all replies, one after another, and two tables."""

    texts_file: Path
    source_files: tuple[str, ...]
    ids: NDArray[np.int32]
    kinds: NDArray[np.uint8]
    examples: NDArray[Any]  # EXAMPLE
    replies: NDArray[Any]  # REPLY

    def example(self, number: int) -> Example:
        """An example's text."""
        entry = self.examples[number]
        with self.texts_file.open("rb") as file:
            file.seek(int(entry["text"]))
            return example_from_json(file.read(int(entry["bytes"])))

    def source(self, number: int) -> str:
        """Where an example stands, as `file:line`."""
        entry = self.examples[number]
        return f"{self.source_files[entry['file']]}:{entry['line']}"

    def reply(self, number: int) -> Rendered:
        """A reply's tokens."""
        entry = self.replies[number]
        span = slice(int(entry["start"]), int(entry["start"]) + int(entry["length"]))
        return Rendered(np.array(self.ids[span]), np.array(self.kinds[span]), self.source(int(entry["example"])))


@dataclass(frozen=True, slots=True)
class Subset:
    """Some of a store's examples, in an order; and their replies, which are what is trained and dealt into steps."""

    dataset: TokenizedDataset
    example_indices: NDArray[np.int64]
    reply_indices: NDArray[np.int64]  # of the replies

    def __len__(self) -> int:
        return len(self.example_indices)

    @property
    def lengths(self) -> NDArray[np.int32]:
        """Tokens of each reply with its history."""
        return self.dataset.replies["length"][self.reply_indices]

    @property
    def label_tokens(self) -> NDArray[np.int32]:
        """Learned tokens of each reply."""
        return self.dataset.replies["learned"][self.reply_indices]

    @property
    def digests(self) -> bytes:
        """Changes with any token, with what is learned of it, and with the order of the replies."""
        return self.dataset.replies["digest"][self.reply_indices].tobytes()

    def examples(self, limit: int | None = None) -> list[Example]:
        """The examples, or the first few of them."""
        return [self.dataset.example(int(number)) for number in self.example_indices[:limit]]

    def replies(self, indices: Iterable[int] | None = None) -> list[Rendered]:
        """The replies at these indices of `lengths`, or all of them."""
        numbers = self.reply_indices if indices is None else self.reply_indices[np.fromiter(indices, np.int64)]
        return [self.dataset.reply(int(number)) for number in numbers]

    def sources(self, indices: Iterable[int]) -> list[str]:
        """The `file:line` of the replies at these indices of `lengths`."""
        examples = self.dataset.replies["example"][self.reply_indices[np.fromiter(indices, np.int64)]]
        return [self.dataset.source(int(example)) for example in examples]

    def digest_lines(self) -> Iterator[str]:
        """Yield `digest file:line` for each reply, the digest in 16 hexadecimal digits."""
        for number in self.reply_indices:
            entry = self.dataset.replies[number]
            yield f"{int(entry['digest']):016x} {self.dataset.source(int(entry['example']))}"


def select(dataset: TokenizedDataset, example_indices: NDArray[np.int64]) -> Subset:
    """Some examples of a store with their replies."""
    counts = dataset.examples["replies"][example_indices].astype(np.int64)
    # Of each example's replies, the number of the first and how far each is from it.
    starts = np.repeat(dataset.examples["first"][example_indices], counts)
    steps = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return Subset(dataset, example_indices, starts + steps)


class DatasetWriter:
    """Takes examples one by one and leaves a store in a folder, as a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._texts, self._ids, self._kinds = (
            (folder / name).open("wb") for name in ("texts.jsonl", "ids.bin", "parts.bin")
        )
        self._files: dict[str, int] = {}
        self._examples, self._replies = bytearray(), bytearray()
        self._example_count = self._reply_count = self._token_count = 0

    def __enter__(self) -> "DatasetWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        """Close the files, whatever happened; where all went well, write the tables."""
        for file in (self._texts, self._ids, self._kinds):
            file.close()
        if error is None:
            np.save(self._folder / "examples.npy", np.frombuffer(self._examples, EXAMPLE_DTYPE))
            np.save(self._folder / "replies.npy", np.frombuffer(self._replies, REPLY_DTYPE))
            write_json(self._folder / "files.json", list(self._files))

    def add(self, row: int, source: str, example_json: bytes, replies: Sequence[Rendered]) -> None:
        """Keep an example, which stands at this number among all rows read, with its text and its replies."""
        name, _, line = source.rpartition(":")
        file = self._files.setdefault(name, len(self._files))
        entry = (row, file, int(line), self._texts.tell(), len(example_json), self._reply_count, len(replies))
        self._examples += np.array(entry, EXAMPLE_DTYPE).tobytes()
        self._texts.write(example_json + b"\n")
        for reply in replies:
            self._ids.write(reply.ids.tobytes())
            self._kinds.write(reply.kinds.tobytes())
            values = (self._example_count, self._token_count, len(reply), reply.label_tokens, reply_digest(reply))
            self._replies += np.array(values, REPLY_DTYPE).tobytes()
            self._token_count += len(reply)
        self._example_count += 1
        self._reply_count += len(replies)


def open_dataset(folder: Path) -> TokenizedDataset:
    """The store in a folder, its tokens mapped, not read."""
    examples, replies = np.load(folder / "examples.npy"), np.load(folder / "replies.npy")
    ids, parts = (_memory_map(folder / f"{name}.bin", kind) for name, kind in (("ids", np.int32), ("parts", np.uint8)))
    files = tuple(read_json(folder / "files.json"))
    return TokenizedDataset(folder / "texts.jsonl", files, ids, parts, examples, replies)


def example_to_json(example: Example) -> bytes:
    """An example as one line of JSON."""
    turns = [(turn.role, turn.content, turn.reasoning, turn.trained) for turn in example.turns]
    return json.dumps((turns, example.source, example.keypoint), ensure_ascii=False, separators=(",", ":")).encode()


def example_from_json(line: bytes) -> Example:
    """What `example_to_json` wrote."""
    turns, source, keypoint = json.loads(line)
    return Example(tuple(Turn(*turn) for turn in turns), source, keypoint)


def reply_digest(reply: Rendered) -> int:
    """A number that changes with any token of a reply, and with what is learned of it."""
    return int.from_bytes(blake2b(reply.ids.tobytes() + reply.kinds.tobytes(), digest_size=8).digest(), "little")


def _memory_map(file: Path, dtype: Any) -> NDArray[Any]:
    return np.memmap(file, dtype, "r") if file.stat().st_size else np.empty(0, dtype)  # an empty file cannot be mapped


assert TokenKind.PROMPT == 0  # `label_tokens` counts the parts that are not zero
