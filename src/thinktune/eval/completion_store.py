"""Replies kept as they come: an evaluation that was stopped goes on, and its report needs no model."""

import json
import os
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from thinktune.checkpoint.store import TRAINER_STATE_FILE

_HASHED_BYTES = 2**20  # bytes at each end of a file of weights, from which a model is known again


def completion_key(prompt: str, model: str, sampling: Mapping[str, Any]) -> str:
    """What a reply is known by: its prompt's key, its model, and how it was written."""
    said = json.dumps([prompt, model, dict(sorted(sampling.items()))])
    return blake2b(said.encode(), digest_size=12).hexdigest()


def model_fingerprint(folder: Path) -> str:
    """What a model folder is known by: its small files whole, and size, beginning and end of each file of weights.

    Reading all of a large model would take longer than some evaluations; two trained models differ everywhere.
    """
    digest = blake2b(digest_size=12)
    for file in sorted(folder.iterdir()):
        if file.suffix not in (".json", ".jinja", ".safetensors", ".bin", ".txt") or file.name == TRAINER_STATE_FILE:
            continue
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as opened:
            digest.update(opened.read(_HASHED_BYTES))
            opened.seek(max(_HASHED_BYTES, size - _HASHED_BYTES))
            digest.update(opened.read())
    return digest.hexdigest()


def read_records(file: Path) -> dict[str, dict[str, Any]]:
    """Saved records by their `key`; of records of one key the last counts, of a torn line nothing does."""
    saved: dict[str, dict[str, Any]] = {}
    if file.is_file():
        for line in file.read_bytes().splitlines():
            try:
                record = json.loads(line)
            except ValueError:  # the power went, or the process, in the middle of a line
                continue
            if isinstance(record, dict) and isinstance(record.get("key"), str):
                saved[record["key"]] = record
    return saved


class RecordWriter:
    """A file of records that grows by a line at a time, each on the disk before the next is waited for."""

    def __init__(self, file: Path) -> None:
        self._path = file
        self._file: TextIO | None = None

    def __enter__(self) -> "RecordWriter":
        self._path.parent.mkdir(parents=True, exist_ok=True)
        torn = self._path.is_file() and self._path.stat().st_size and not self._path.read_bytes().endswith(b"\n")
        self._file = self._path.open("a", encoding="utf-8", errors="replace", newline="\n")
        if torn:
            self._file.write("\n")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, record: Mapping[str, Any]) -> None:
        """Write one record so that a kill loses nothing of it."""
        assert self._file is not None
        self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
