"""Journal of a teacher: each request before it is sent, each reply when it ends, every line whole or absent."""

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thinktune.files import name_path
from thinktune.inference import Completion
from thinktune.synthesis.ledger import Usage

_REPLY_FIELDS = ("reasoning", "answer", "tokens", "reasoning_tokens", "finish", "closed", "prompt_tokens")


class ReplyJournal:
    """Append-only file of requests and replies; only the places of the replies are held in memory.

    A request that was sent and has no reply, as a kill leaves it, counts as spent with all that was reserved for it.
    Methods may be called by many threads.
    """

    def __init__(self, file: Path) -> None:
        self._path = file
        self._lock = threading.Lock()
        self._offsets: dict[str, int] = {}
        self.spent = Usage()  # by all replies and lost requests of the file
        file.parent.mkdir(parents=True, exist_ok=True)
        with name_path(file):
            self._file = file.open("ab+", buffering=0)
            self._read()

    def __contains__(self, key: str) -> bool:
        return key in self._offsets

    def __len__(self) -> int:
        return len(self._offsets)

    def record(self, key: str) -> dict[str, Any]:
        """Read a reply's record."""
        with self._lock, name_path(self._path), self._path.open("rb") as file:
            file.seek(self._offsets[key])
            return json.loads(file.readline())

    def completion(self, key: str) -> Completion:
        """Read a reply."""
        record = self.record(key)
        return Completion(**{name: record[name] for name in _REPLY_FIELDS})

    def add_request(self, key: str, reserved: Usage) -> None:
        """Append a request that is about to be sent."""
        self._append({"event": "asked", "key": key, "reserved": [reserved.prompt_tokens, reserved.reply_tokens]})

    def add_reply(self, key: str, reply: Completion, used: Usage, facts: Mapping[str, Any]) -> None:
        """Append a reply, what it is charged, and facts about it."""
        values = {name: getattr(reply, name) for name in _REPLY_FIELDS}
        charged = {"charged": [used.prompt_tokens, used.reply_tokens]}
        self._append({"event": "reply", "key": key, **facts, **values, **charged}, key)

    def add_loss(self, key: str, used: Usage, why: str) -> None:
        """Append that a request failed, and what it may have cost."""
        self._append({"event": "lost", "key": key, "why": why, "charged": [used.prompt_tokens, used.reply_tokens]})

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()

    def _read(self) -> None:
        """Index the replies and sum what was spent; a torn line at the end is cut off."""
        open_requests: dict[str, list[Usage]] = {}
        end = 0
        self._file.seek(0)
        with self._path.open("rb") as file:
            for line in file:
                start, end = end, end + len(line)
                if not line.endswith(b"\n"):
                    os.truncate(self._path, start)
                    break
                record = parse_line(line)
                key = record.get("key", "")
                if record.get("event") == "asked":
                    open_requests.setdefault(key, []).append(Usage(*record["reserved"]))
                elif record.get("event") in ("reply", "lost"):
                    self.spent += Usage(*record["charged"])
                    if waiting := open_requests.get(key):
                        waiting.pop()
                    if record["event"] == "reply":
                        self._offsets[key] = start
        for waiting in open_requests.values():
            self.spent += sum(waiting, Usage())

    def _append(self, record: Mapping[str, Any], key: str | None = None) -> None:
        """Write one line and flush it to the disk; on failure the file is as it was."""
        line = json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        with self._lock, name_path(self._path):
            start = os.fstat(self._file.fileno()).st_size
            try:
                rest = memoryview(line)
                while rest:
                    rest = rest[self._file.write(rest) :]
                os.fsync(self._file.fileno())
            except OSError:
                os.truncate(self._path, start)
                raise
            if key is not None:
                self._offsets[key] = start


def parse_line(line: bytes) -> dict[str, Any]:
    """Parse a line; {} for what is no record of ours, as damage leaves it, so that its request is asked again."""
    try:
        record = json.loads(line)
        Usage(*record.get("charged", record.get("reserved")))
    except (ValueError, TypeError, AttributeError):
        return {}
    is_reply = record.get("event") == "reply" and not all(name in record for name in _REPLY_FIELDS)
    return {} if is_reply or not isinstance(record.get("key"), str) else record
