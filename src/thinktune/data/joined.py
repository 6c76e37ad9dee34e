"""Rows of several sources as one dataset: the tables are joined, texts and tokens stay where they are."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from thinktune.data.dataset import TokenizedDataset
from thinktune.tokenization import Example, Rendered


@dataclass(frozen=True, slots=True)
class JoinedDataset:
    """Datasets one after the other, read like one; a place that two of them have gets its source's number.

    `examples` and `replies` are their tables joined, with indices that count through.
    """

    parts: tuple[TokenizedDataset, ...]
    examples: NDArray[np.void]  # of EXAMPLE_DTYPE
    replies: NDArray[np.void]  # of REPLY_DTYPE
    first_examples: NDArray[np.int64]  # (parts,): where each part begins
    first_replies: NDArray[np.int64]
    file_names: tuple[tuple[str, ...], ...]  # by part: each file's name in messages

    def example(self, index: int) -> Example:
        """Read an example's text."""
        part = self._part(self.first_examples, index)
        found = self.parts[part].example(index - int(self.first_examples[part]))
        return replace(found, source=self.source(index))

    def source(self, index: int) -> str:
        """Return an example's place, such as `file:line`."""
        part = self._part(self.first_examples, index)
        return self.parts[part].source(index - int(self.first_examples[part]), self.file_names[part])

    def reply(self, index: int) -> Rendered:
        """Read a reply's tokens."""
        part = self._part(self.first_replies, index)
        found = self.parts[part].reply(index - int(self.first_replies[part]))
        return replace(found, source=self.source(int(self.replies["example"][index])))

    def sources_of_examples(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of the source of each example."""
        return np.searchsorted(self.first_examples, indices, side="right") - 1

    @staticmethod
    def _part(starts: NDArray[np.int64], index: int) -> int:
        return int(np.searchsorted(starts, index, side="right")) - 1


def join_datasets(parts: Sequence[TokenizedDataset]) -> JoinedDataset:
    """Join datasets; a part without examples is one that no index leads to."""
    example_starts, reply_starts = (
        np.cumsum([0, *counts[:-1]]).astype(np.int64)
        for counts in ([len(part.examples) for part in parts], [len(part.replies) for part in parts])
    )
    examples, replies = (np.concatenate([getattr(part, name) for part in parts]) for name in ("examples", "replies"))
    for part, example, reply in zip(parts, example_starts.tolist(), reply_starts.tolist(), strict=True):
        examples["first"][example : example + len(part.examples)] += reply
        replies["example"][reply : reply + len(part.replies)] += example
    return JoinedDataset(tuple(parts), examples, replies, example_starts, reply_starts, _file_names(parts))


def _file_names(parts: Sequence[TokenizedDataset]) -> tuple[tuple[str, ...], ...]:
    """Return each part's names of its files; one that an earlier source has gets the number of its own."""
    taken: set[str] = set()
    names: list[tuple[str, ...]] = []
    for number, part in enumerate(parts):
        own = tuple(f"{name}[data.{number}]" if name in taken else name for name in part.source_files)
        names.append(own)
        taken |= {*own, *part.source_files}
    return tuple(names)
