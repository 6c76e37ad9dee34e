"""Records of fetched exams: revision and digests as first read from a hub, to which later fetches are held."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from thinktune.cache import cache_folder
from thinktune.errors import UserError, shorten_error
from thinktune.eval.exams.catalogue import Hub
from thinktune.files import is_safe_relative_path, read_json, write_json
from thinktune.hub.fingerprint import file_digest

FORMAT = 1


class FileDigest(NamedTuple):
    """Size in bytes and sha256 of a file."""

    size_bytes: int
    sha256: str


class FetchRecord(BaseModel):
    """What was fetched of a set: repository, revision, its files with questions, and the licence that its card names.

    `revision` is a commit on Hugging Face; ModelScope's is a branch, so there the digests alone hold. `folder` is where
    the files are on this machine, and is not in a run's record. `fetched` is when that was first, ISO 8601, UTC.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    hub: Hub
    repository: str
    revision: str
    files: dict[str, FileDigest] = Field(min_length=1)
    licence: str = ""
    fetched: str = ""
    folder: str = ""


_Record = TypeVar("_Record", bound="FetchRecord | _RunRecord")


class _RunRecord(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    sets: dict[str, FetchRecord]


def machine_record_file(name: str, hub: Hub) -> Path:
    """Return the file in the user's cache with the record of a set as it was fetched from a hub."""
    return cache_folder().parent / "exams" / f"{name}.{hub}.json"


def read_machine_record(name: str, hub: Hub) -> FetchRecord | None:
    """Read this machine's record of a set; None before its first fetch. Raises UserError where it is damaged."""
    file = machine_record_file(name, hub)
    return _checked(file, FetchRecord) if file.is_file() else None


def write_machine_record(name: str, record: FetchRecord) -> None:
    """Write this machine's record of a set."""
    file = machine_record_file(name, record.hub)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, record.model_dump(mode="json"))


def read_run_record(file: Path) -> dict[str, FetchRecord]:
    """Read a run's record of its exams' sets, by their names; {} before its first. Raises UserError where damaged."""
    return dict(_checked(file, _RunRecord).sets) if file.is_file() else {}


def write_run_record(file: Path, records: Mapping[str, FetchRecord]) -> None:
    """Write a run's record, which may be copied into other runs' folders, and to other machines."""
    sets = {name: record.model_dump(mode="json", exclude={"folder"}) for name, record in records.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, {"format": FORMAT, "sets": sets})


def digest_file(file: Path) -> FileDigest:
    """Return the digest of a file; raises OSError where it cannot be read."""
    return FileDigest(file.stat().st_size, file_digest(file))


def is_held(record: FetchRecord, folder: Path) -> bool:
    """Return True if a folder holds every file of a record, unchanged."""
    return all((folder / name).is_file() and digest_file(folder / name) == each for name, each in record.files.items())


def _checked(file: Path, kind: type[_Record]) -> _Record:
    try:
        read = kind.model_validate(read_json(file))
    except (ValidationError, ValueError, RecursionError) as error:
        raise UserError(
            f"{file}: is not a record of fetched exams ({shorten_error(error, 100)}); remove it; the next fetch "
            "writes it again"
        ) from None
    records = [read] if isinstance(read, FetchRecord) else read.sets.values()
    if any(not is_safe_relative_path(name) for record in records for name in record.files):
        raise UserError(f"{file}: names files outside of a repository; remove it; the next fetch writes it again")
    return read
