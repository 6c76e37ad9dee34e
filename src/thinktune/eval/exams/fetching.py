"""Fetch a set of questions from a hub by name, and hold what comes to the record of its first fetch."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from thinktune.errors import UserError
from thinktune.eval.exams.catalogue import HUBS, ExamFile, ExamSet, Hub, choose_files
from thinktune.eval.exams.records import (
    FetchRecord,
    digest_file,
    is_held,
    machine_record_file,
    read_machine_record,
    write_machine_record,
)
from thinktune.hub import fetch_files
from thinktune.hub.card_metadata import read_front_matter
from thinktune.progress import Say

CARD = "README.md"


class ChangedFileError(UserError):
    """A file that is not the one that was recorded: another hub's would be no remedy."""


@dataclass(frozen=True, slots=True)
class FetchedSet:
    """A set's files on this machine: their folder, which files hold questions, and the record they are held to."""

    folder: Path
    files: tuple[ExamFile, ...]
    record: FetchRecord


def fetch_set(name: str, exam_set: ExamSet, hub: Hub | None, held: FetchRecord | None, say: Say) -> FetchedSet:
    """Fetch a set from the hub that it was recorded from, or from `hub`, or from one of the others.

    `held` is the run's record of it. Files that this machine has are not asked for again. Raises UserError with a
    sentence for each hub where none gives the set, and ChangedFileError where a file is not the recorded one.
    """
    faults: list[str] = []
    for each in _hubs_in_order(name, exam_set, hub, held):
        try:
            fetched = _fetch_from(name, exam_set, each, held)
        except ChangedFileError:
            raise
        except UserError as error:
            faults += error.faults
            continue
        for fault in faults:
            say(f"{fault}; {name} comes from {each}")
        return fetched
    raise UserError([f"{fault}, or leave out {name} and name the other sets" for fault in faults])


def _hubs_in_order(name: str, exam_set: ExamSet, hub: Hub | None, held: FetchRecord | None) -> list[Hub]:
    """List the hubs to ask: only the recorded one, or all that have the set, known ones first, then the wanted one."""
    if held is not None:
        return [held.hub]
    offered: list[Hub] = [each for each in HUBS if each in exam_set.places]
    known: list[Hub] = [each for each in offered if read_machine_record(name, each)]
    wanted: list[Hub] = [each for each in offered if each == hub]
    order: list[Hub] = [*known, *wanted, *offered]
    return sorted({*order}, key=order.index)


def _fetch_from(name: str, exam_set: ExamSet, hub: Hub, held: FetchRecord | None) -> FetchedSet:
    place = exam_set.places.get(hub)
    if held is not None and (place is None or place.repository != held.repository):
        raise ChangedFileError(
            f"--exam: {name}: this run's record names {held.repository} on {held.hub}, unlike the catalogue; "
            "remove its entry from the run's eval/exams.json to use the catalogue's"
        )
    assert place is not None
    on_machine = read_machine_record(name, hub)
    record = held or on_machine
    recorded = choose_files(exam_set, place, [*record.files]) if record else []
    if record and recorded and on_machine and is_held(record, Path(on_machine.folder)):
        return FetchedSet(Path(on_machine.folder), tuple(recorded), record)
    chosen: list[ExamFile] = []

    def choose(names: Collection[str]) -> Sequence[str]:
        chosen[:] = choose_files(exam_set, place, names)
        if not chosen:
            raise UserError(
                f"--exam: {name}: {place.repository} on {hub} has no file like {' or '.join(place.files)}, so it "
                "has changed since thinktune's catalogue was written; give its questions with --tasks"
            )
        return [*dict.fromkeys([*(file.name for file in chosen), *(each for each in names if each == CARD)])]

    revision = record.revision if record else None
    folder = fetch_files(place.repository, hub, revision, choose, f"--exam: {name}")
    fetched = FetchRecord(
        hub=hub,
        repository=place.repository,
        revision=folder.name if hub == "huggingface" else revision or "master",
        files={file.name: digest_file(folder / file.name) for file in chosen},
        licence=read_licence(folder),
        fetched=datetime.now(UTC).isoformat(timespec="seconds"),
        folder=str(folder),
    )
    _refuse_changed(name, fetched, record)  # a run may be held to another revision than this machine's record
    if on_machine is None or on_machine.revision == fetched.revision:
        kept = on_machine or fetched
        write_machine_record(name, kept.model_copy(update={"folder": str(folder)}))
    return FetchedSet(folder, tuple(chosen), fetched)


def read_licence(folder: Path) -> str:
    """Return the licence that a data set's card names; "" where it names none."""
    named: Any = read_front_matter(folder / CARD).get("license")
    names = named if isinstance(named, list) else [named]
    return ", ".join(str(each).strip() for each in names if isinstance(each, str) and each.strip())


def _refuse_changed(name: str, fetched: FetchRecord, record: FetchRecord | None) -> None:
    """Raise ChangedFileError where a file with questions is another one than was recorded, or new, or gone."""
    known = record.files if record else fetched.files
    files = dict.fromkeys([*known, *fetched.files])
    changed = [file for file in files if known.get(file) != fetched.files.get(file)]
    if not changed:
        return
    old, new = (
        f"sha256 {found[changed[0]].sha256[:12]}…" if changed[0] in found else "not there"
        for found in (known, fetched.files)
    )
    where = f"this machine's record, {machine_record_file(name, fetched.hub)}"
    if record is not None and not record.folder:
        where = "this run's record, eval/exams.json"
    raise ChangedFileError(
        f"--exam: {name}: {changed[0]} of {fetched.repository} on {fetched.hub} has changed ({old} when it was "
        f"first fetched, {new} now), so the figures could not be compared; to use the new version, remove {where}"
    )
