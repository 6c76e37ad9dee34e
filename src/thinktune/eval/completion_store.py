"""Replies saved as they come, so that a stopped evaluation resumes and scoring needs no model."""

import json
import os
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from thinktune.checkpoint.store import TRAINER_STATE_FILE
from thinktune.files import name_path

_HASHED_BYTES = 2**20  # at each end of a weights file


def completion_key(prompt: str, model: str, sampling: Mapping[str, Any]) -> str:
    """Hash what identifies a reply: its prompt's key, its model's fingerprint and the sampling."""
    text = json.dumps([prompt, model, dict(sorted(sampling.items()))])
    return blake2b(text.encode(), digest_size=12).hexdigest()


def model_fingerprint(folder: Path) -> str:
    """Hash a model folder: small files whole; of each weights file its size, first and last MiB.

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
    """Read saved records by their `key`: the last one of each key; torn lines are skipped."""
    saved: dict[str, dict[str, Any]] = {}
    if file.is_file():
        for line in file.read_bytes().splitlines():
            try:
                record = json.loads(line)
            except ValueError:  # power loss or a kill in the middle of a line
                continue
            if isinstance(record, dict) and isinstance(record.get("key"), str):  # anything else is damage
                saved[record["key"]] = record
    return saved


def read_completions(file: Path) -> dict[str, dict[str, Any]]:
    """Read saved replies by their `key`; what lacks a part of a reply is left out, so that it is generated again."""
    return {
        key: record
        for key, record in read_records(file).items()
        if all(isinstance(record.get(part), str) for part in ("reasoning", "answer", "finish"))
        and isinstance(record.get("tokens"), int)
    }


class RecordWriter:
    """Append-only file of records, each on the disk before `add` returns."""

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
        """Append one record and flush it to the disk."""
        assert self._file is not None
        with name_path(self._path):
            self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
