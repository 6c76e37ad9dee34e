"""What people said of replies on the chat page: records in files of JSON lines, one writer at a time."""

import json
from pathlib import Path
from typing import Any, Literal

from thinktune.errors import UserError
from thinktune.files import atomic_write_bytes, name_path
from thinktune.run.folder import RunFolder
from thinktune.run.lock import hold_lock
from thinktune.run.reading import AnyObject, Record, read_lines

MAX_FILE_BYTES = 64 * 2**20  # of rows or votes; each change reads and writes all of them
LOCK_WAIT_SECONDS = 10.0
READ_AGAIN = "correct the line, or remove it"

Preference = Literal["tuned", "base", "tie", "neither"]


class VoteRecord(AnyObject):
    """A line of votes.jsonl: the side that somebody preferred, and the step of the tuned model that was shown."""

    id: str
    preferred: Preference
    question: str = ""
    step: int | None = None


def put_record(run: RunFolder, file: Path, identity: str, record: Record | None) -> None:
    """Write a record in the place of the one with the same identity, or at the end; None takes that one away.

    The identity is the record's `id`, or that of its provenance. All other lines stay as they are, whoever wrote them,
    and the file is the former one or the new one at any time. Raises UserError where another server holds the file for
    long or it would become too large, OSError where it cannot be written.
    """
    with hold_lock(run.feedback_lock, f"{file.name}: another server is writing it; try again", LOCK_WAIT_SECONDS):
        target = file.resolve()  # a link stays one
        before = _read_lines(target)
        line = None if record is None else json.dumps(record, ensure_ascii=False).encode() + b"\n"
        places = [number for number, other in enumerate(before) if _identity_of(other, identity) == identity]
        after = [other for number, other in enumerate(before) if number not in places]
        if line is not None:
            after.insert(places[0] if places else len(after), line)
        if after == before:
            return
        if line is not None and sum(map(len, after)) > MAX_FILE_BYTES:
            raise UserError(f"{file.name}: would exceed {MAX_FILE_BYTES >> 20} MiB; move it elsewhere")
        if after:
            atomic_write_bytes(target, after)
        else:
            target.unlink()


def read_votes(run: RunFolder) -> list[Record]:
    """Read the votes, the last one of each identity; raises UserError where a line is damaged."""
    votes = read_lines(run.votes, VoteRecord, READ_AGAIN)
    return [*{vote["id"]: vote for vote in votes}.values()]


def _read_lines(file: Path) -> list[bytes]:
    """Read lines with their ends; the last one gets one, so that none is ever joined to another."""
    if not file.exists():
        return []
    with name_path(file):
        content = file.read_bytes()
    lines = [line + b"\n" for line in content.split(b"\n")]
    return lines[:-1] if lines[-1] == b"\n" else lines


def _identity_of(line: bytes, wanted: str) -> Any:
    """Return the identity of a line's record; None where it is surely another one than what is wanted."""
    if wanted.encode() not in line:
        return None
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):  # somebody's own line
        return None
    if not isinstance(record, dict):
        return None
    fields: Record = record
    provenance = fields.get("provenance")
    return provenance.get("id") if isinstance(provenance, dict) else fields.get("id")
