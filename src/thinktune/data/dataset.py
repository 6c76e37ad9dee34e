"""Tokenized rows on disk: written once, read through memory maps, so that size costs no memory."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from thinktune import cache
from thinktune.data.reading.places import join_place, split_place
from thinktune.errors import UserError
from thinktune.files import read_json, write_json
from thinktune.tokenization import Example, Rendered, TokenKind, Turn

# An example: its index among all rows read, its file and its place there as a number (see `reading.places`), its span
# in texts.jsonl, its replies, and its digest.
EXAMPLE_DTYPE = np.dtype(
    [
        *(("row", "i8"), ("file", "i4"), ("line", "i8"), ("text", "i8"), ("bytes", "i8")),
        *(("first", "i8"), ("replies", "i4"), ("digest", "u8")),
    ]
)


REPLY_DTYPE = np.dtype(
    [
        *(("example", "i8"), ("start", "i8"), ("length", "i4")),
        *(("label_tokens", "i4"), ("reasoning_tokens", "i4"), ("digest", "u8")),
    ]
)


@dataclass(frozen=True, slots=True)
class TokenizedDataset:
    """Examples and their tokens: `ids` (tokens,) int32 and `kinds` (tokens,) uint8 of all replies, and two tables.

    Everything is mapped or in memory, so that its `folder` may be removed while it is used. What is read is held to its
    digest each time; UserError where it does not have it.
    """

    folder: Path
    source_files: tuple[str, ...]
    texts: NDArray[np.uint8]  # (bytes,): each example as a line of JSON
    ids: NDArray[np.int32]
    kinds: NDArray[np.uint8]
    examples: NDArray[Any]  # of EXAMPLE_DTYPE
    replies: NDArray[Any]  # of REPLY_DTYPE

    def example(self, index: int) -> Example:
        """Read an example's text."""
        entry = self.examples[index]
        start = int(entry["text"])
        text = self.texts[start : start + int(entry["bytes"])].tobytes()
        if _digest(text) != entry["digest"]:
            raise self._damaged(self.source(index), "text")
        return example_from_json(text)

    def source(self, index: int, file_names: Sequence[str] | None = None) -> str:
        """Return an example's place, such as `file:line`; `file_names` are others for its files."""
        entry = self.examples[index]
        return join_place((file_names or self.source_files)[int(entry["file"])], int(entry["line"]))

    def reply(self, index: int) -> Rendered:
        """Read a reply's tokens."""
        entry = self.replies[index]
        span = slice(int(entry["start"]), int(entry["start"]) + int(entry["length"]))
        reply = Rendered(np.array(self.ids[span]), np.array(self.kinds[span]), self.source(int(entry["example"])))
        if reply_digest(reply) != entry["digest"]:
            raise self._damaged(reply.source, "tokens")
        return reply

    def sources_of_examples(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of each example's source: 0, the only one."""
        return np.zeros(len(indices), np.int64)

    def _damaged(self, source: str, what: str) -> UserError:
        cache.distrust(self.folder)
        return UserError(
            f"{source}: its {what} in {self.folder} were damaged; run the same command again to rebuild them"
        )


class Dataset(Protocol):
    """A dataset as its readers see it: a tokenized one, or several joined (`joined.JoinedDataset`)."""

    @property
    def examples(self) -> NDArray[Any]:
        """The table of examples, of EXAMPLE_DTYPE."""
        ...

    @property
    def replies(self) -> NDArray[Any]:
        """The table of replies, of REPLY_DTYPE."""
        ...

    def example(self, index: int) -> Example:
        """Read an example's text."""
        ...

    def source(self, index: int) -> str:
        """Return an example's place."""
        ...

    def reply(self, index: int) -> Rendered:
        """Read a reply's tokens."""
        ...

    def sources_of_examples(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of the source of each example, in the recipe's order."""
        ...


@dataclass(frozen=True, slots=True)
class Subset:
    """Some of a dataset's examples, in an order, and their replies, which are assigned to optimizer steps."""

    dataset: Dataset
    example_indices: NDArray[np.int64]
    reply_indices: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.example_indices)

    @property
    def lengths(self) -> NDArray[np.int32]:
        """Tokens of each reply with its history."""
        return self.dataset.replies["length"][self.reply_indices]

    @property
    def label_tokens(self) -> NDArray[np.int32]:
        """Trained tokens of each reply."""
        return self.dataset.replies["label_tokens"][self.reply_indices]

    def reasoning_tokens(self, indices: Iterable[int] | None = None) -> int:
        """Count the trained tokens of reasoning in the replies at these indices of `lengths`, or in all of them."""
        chosen = self.reply_indices if indices is None else self.reply_indices[np.fromiter(indices, np.int64)]
        return int(self.dataset.replies["reasoning_tokens"][chosen].sum())

    @property
    def digests(self) -> bytes:
        """Bytes that change with any token, with its kind, and with the order of the replies."""
        return self.dataset.replies["digest"][self.reply_indices].tobytes()

    @property
    def source_numbers(self) -> NDArray[np.int64]:
        """Number of the source of each reply, in the recipe's order: all 0 where there is one."""
        return self.dataset.sources_of_examples(self.dataset.replies["example"][self.reply_indices])

    def source_numbers_at(self, indices: Sequence[int]) -> NDArray[np.int64]:
        """Return the number of the source of the replies at these indices of `lengths`."""
        return self.dataset.sources_of_examples(self.dataset.replies["example"][self.reply_indices[list(indices)]])

    def examples(self, limit: int | None = None) -> list[Example]:
        """Read the examples, or the first `limit` of them."""
        return [self.dataset.example(int(index)) for index in self.example_indices[:limit]]

    def replies(self, indices: Iterable[int] | None = None) -> list[Rendered]:
        """Read the replies at these indices of `lengths`, or all of them."""
        chosen = self.reply_indices if indices is None else self.reply_indices[np.fromiter(indices, np.int64)]
        return [self.dataset.reply(int(index)) for index in chosen]

    def sources(self, indices: Iterable[int]) -> list[str]:
        """Return the `file:line` of the replies at these indices of `lengths`."""
        examples = self.dataset.replies["example"][self.reply_indices[np.fromiter(indices, np.int64)]]
        return [self.dataset.source(int(example)) for example in examples]

    def digest_lines(self) -> Iterator[str]:
        """Yield `digest file:line` for each reply, the digest in 16 hexadecimal digits."""
        for number in self.reply_indices:
            entry = self.dataset.replies[number]
            yield f"{int(entry['digest']):016x} {self.dataset.source(int(entry['example']))}"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A recipe's tokenized rows, split; `summary` accounts for every row read (see `summary.summarize`).

    `fingerprint` changes with any token or label; `stop_reasons` say why a run with these rows cannot start.
    """

    train: Subset
    validation: Subset
    summary: dict[str, Any]
    fingerprint: str
    stop_reasons: tuple[str, ...] = ()


def select(dataset: Dataset, example_indices: NDArray[np.int64]) -> Subset:
    """Select examples of a dataset, with their replies."""
    counts = dataset.examples["replies"][example_indices].astype(np.int64)
    # For each reply, the index of its example's first reply, and its distance from that.
    starts = np.repeat(dataset.examples["first"][example_indices], counts)
    steps = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return Subset(dataset, example_indices, starts + steps)


class DatasetWriter:
    """Context manager that writes examples one by one as a dataset in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._texts, self._ids, self._kinds = (
            (folder / name).open("wb") for name in ("texts.jsonl", "ids.bin", "kinds.bin")
        )
        self._files: dict[str, int] = {}
        self._examples, self._replies = bytearray(), bytearray()
        self._example_count = self._reply_count = self._token_count = 0

    def __enter__(self) -> "DatasetWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        """Close the files; if no error was raised, write the tables."""
        for file in (self._texts, self._ids, self._kinds):
            file.close()
        if error is None:
            np.save(self._folder / "examples.npy", np.frombuffer(self._examples, EXAMPLE_DTYPE))
            np.save(self._folder / "replies.npy", np.frombuffer(self._replies, REPLY_DTYPE))
            write_json(self._folder / "files.json", list(self._files))

    def add(self, row: int, source: str, example_json: bytes, replies: Sequence[Rendered]) -> None:
        """Write an example with its text and its replies; `row` is its index among all rows read."""
        name, line = split_place(source)
        file = self._files.setdefault(name, len(self._files))
        place = (row, file, line, self._texts.tell(), len(example_json))
        entry = (*place, self._reply_count, len(replies), _digest(example_json))
        self._examples += np.array(entry, EXAMPLE_DTYPE).tobytes()
        self._texts.write(example_json + b"\n")
        for reply in replies:
            self._ids.write(reply.ids.tobytes())
            self._kinds.write(reply.kinds.tobytes())
            counts = len(reply), reply.label_tokens, np.count_nonzero(reply.kinds == TokenKind.REASONING)
            values = (self._example_count, self._token_count, *counts, reply_digest(reply))
            self._replies += np.array(values, REPLY_DTYPE).tobytes()
            self._token_count += len(reply)
        self._example_count += 1
        self._reply_count += len(replies)


def open_dataset(folder: Path) -> TokenizedDataset:
    """Open the dataset in a folder; its tokens are mapped, not read."""
    examples, replies = np.load(folder / "examples.npy"), np.load(folder / "replies.npy")
    texts, kinds = (_memory_map(folder / name, np.uint8) for name in ("texts.jsonl", "kinds.bin"))
    ids = _memory_map(folder / "ids.bin", np.int32)
    files = tuple(read_json(folder / "files.json"))
    return TokenizedDataset(folder, files, texts, ids, kinds, examples, replies)


def example_to_json(example: Example) -> bytes:
    """Serialize an example as one line of JSON."""
    turns = [(turn.role, turn.content, turn.reasoning, turn.trained, turn.mode) for turn in example.turns]
    return json.dumps((turns, example.source, example.keypoint), ensure_ascii=False, separators=(",", ":")).encode()


def example_from_json(line: bytes) -> Example:
    """Read what `example_to_json` wrote."""
    turns, source, keypoint = json.loads(line)
    return Example(tuple(Turn(*turn) for turn in turns), source, keypoint)


def reply_digest(reply: Rendered) -> int:
    """Hash a reply's tokens and their kinds to 64 bits."""
    return _digest(reply.ids.tobytes() + reply.kinds.tobytes())


def _digest(content: bytes) -> int:
    return int.from_bytes(blake2b(content, digest_size=8).digest(), "little")


def _memory_map(file: Path, dtype: Any) -> NDArray[Any]:
    return np.memmap(file, dtype, "r") if file.stat().st_size else np.empty(0, dtype)  # an empty file cannot be mapped


assert TokenKind.PROMPT == 0  # `label_tokens` counts the kinds that are not zero
