"""Exports of a model: written aside, loaded back and asked, and only then put in their place."""

import os
import re
import shutil
import time
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Any

from thinktune.checkpoint.manifest import MANIFEST, checksum, write_manifest
from thinktune.errors import UserError, shorten_error
from thinktune.export.reference import Reference, make_reference
from thinktune.export.source import FACTS_FILE, ModelSource
from thinktune.export.targets import Target
from thinktune.export.verification import Verification, verify_export
from thinktune.files import fsync_folder, fsync_tree, name_path, read_json, write_json
from thinktune.planner.disk_space import spell_missing, spell_size
from thinktune.progress import ProgressReporter, Say
from thinktune.report import write_model_card

MIB = 2**20
OTHER_FILES_BYTES = 64 * MIB  # tokenizer, configurations, facts

_PARTIAL = re.compile(r"\.(.+?)\.(\d+)\.(gone\.)?partial")


@dataclass(frozen=True, slots=True)
class Exported:
    """A finished export: its target, its folder, and its facts as in `export.json`.

    `check` is None if it was not asked; `finished` is what was done with it in its place.
    """

    target: Target
    folder: Path
    facts: dict[str, Any]
    check: Verification | None
    finished: str = ""


def export_model(source: ModelSource, targets: Sequence[Target], to: Path | None, say: Say) -> list[Exported]:
    """Write a model's exports, load each back and ask it, and put it in its place; each is whole or absent.

    An earlier export in the same place is replaced once the new one is whole. Where a target is wrong nothing of it is
    kept; the others are still made, and UserError then says what is wrong with each.

    Args:
        source: the model.
        targets: what to export it to.
        to: the folder in which each target gets a folder by its name; None is the run's own.
        say: told the progress.
    """
    folder = _exports_folder(source, to)
    _refuse_faulty_places(folder, targets)
    _refuse_small_disk(folder, targets)
    for target in targets:
        _remove_leftovers(folder, target.name)
    checked = [target.form for target in targets if target.open]
    reference = make_reference(source, checked, say) if checked else None
    exported: list[Exported] = []
    faults: list[str] = []
    for target in targets:
        try:
            exported.append(_export(source, target, folder / target.name, reference, say))
        except UserError as error:
            faults += error.faults
    if faults:
        raise UserError(faults)
    return exported


def _export(source: ModelSource, target: Target, place: Path, reference: Reference | None, say: Say) -> Exported:
    """Write one export aside, check it, and rename it; raises UserError where it is wrong."""
    with _partial_folder(place) as partial:
        started = time.monotonic()
        progress = ProgressReporter(say, f"MiB of {target.name}", max(1, target.size_bytes // MIB))
        written_bytes = 0

        def tick(count: int) -> None:
            nonlocal written_bytes
            written_bytes += count
            progress.update(written_bytes // MIB)

        with name_path(place):
            target.write(partial, tick)
        written = time.monotonic()
        check = _check(target, partial, reference, say) if reference and target.open else None
        checked = time.monotonic()
        with name_path(place):
            _write_card(source, target, partial, say)
        facts = _facts(source, target, partial, check)
        facts["seconds"] = {"writing": round(written - started, 1), "checking": round(checked - written, 1)}
        with name_path(place):
            write_json(partial / FACTS_FILE, facts)
            if (partial / MANIFEST).is_file():  # the model's own, of which this file is now a part
                write_manifest(partial)
            _commit(partial, place)
    finished = target.finish(place) if target.finish else ""
    return Exported(target, place, facts, check, finished)


def _write_card(source: ModelSource, target: Target, folder: Path, say: Say) -> None:
    """Write the model's card into an export that holds a model; a damaged record of the run makes it a shorter one."""
    if not target.holds_model:
        return
    try:
        write_model_card(folder, source.run, source.name, source=source.folder)
    except UserError as error:
        say(f"{target.name}: its card says nothing about the run: {'; '.join(error.faults)}")
        write_model_card(folder, None, source.name, source=source.folder)


def _check(target: Target, folder: Path, reference: Reference, say: Say) -> Verification:
    assert target.open is not None
    try:
        with closing(target.open(folder)) as asked:
            found = verify_export(target.name, target.form, asked, reference, say)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # engines raise whatever their parsers raise
        raise UserError(
            f"{target.name}: {target.engine} cannot load it or answer with it ({shorten_error(error)}); this "
            "export was removed; choose another target, or another release of that engine"
        ) from error
    if found.faults:
        raise UserError(
            [
                f"{target.name}: {fault} (tested in {target.engine}); this export was removed; choose another "
                "target, or another release of that engine"
                for fault in found.faults
            ]
        )
    return found


def _facts(source: ModelSource, target: Target, folder: Path, check: Verification | None) -> dict[str, Any]:
    """Return what is known of an export, as JSON values."""
    files = {
        path.relative_to(folder).as_posix(): checksum(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (MANIFEST, FACTS_FILE)
    }
    return {
        "target": target.name,
        "form": target.form,
        "model": source.name,
        "thinktune": _own_version(),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "files": files,
        "bytes": sum(int(entry["bytes"]) for entry in files.values()),
        "engine": target.engine,
        "check": _check_as_dict(check) if check else None,
        "unchecked": target.unchecked or None,
        "notes": list(target.notes),
    }


def _check_as_dict(check: Verification) -> dict[str, Any]:
    """Return a verification as JSON values, which have no infinity."""
    first = check.first
    if first and not isfinite(first.gap):
        first = replace(first, gap=-1.0)
    found = asdict(replace(check, first=first))
    del found["faults"]
    return found


def _own_version() -> str:
    from thinktune import __version__

    return __version__


def _exports_folder(source: ModelSource, to: Path | None) -> Path:
    if to is not None:
        if to.exists() and not to.is_dir():
            raise UserError(f"--to: {to} is a file; name a folder, in which each target gets a folder of its own")
        return to
    if source.run is None:
        raise UserError(
            f"--to: {source.folder} is not a run's folder, so its exports have no place yet; name one with --to"
        )
    return source.run.exports


def _refuse_faulty_places(folder: Path, targets: Sequence[Target]) -> None:
    """Raise UserError where a target's place holds what no export of ours wrote, all of them at once."""
    faults: list[str] = []
    for target in targets:
        place = folder / target.name
        if place.is_symlink() or (place.exists() and not place.is_dir()):
            faults.append(f"{place}: is in the way of the export; move it, or name another folder with --to")
        elif place.is_dir() and (added := _not_ours(place)):
            faults.append(
                f"{place}: holds {added}, which no export wrote or which has changed since; move it, or name "
                "another folder with --to"
            )
    if faults:
        raise UserError(faults)


def _not_ours(place: Path) -> str | None:
    """Return the name of a file in an export's place that an export did not write as it is; None where all are ours."""
    ours: dict[str, Any] = {}
    with suppress(OSError, ValueError, KeyError, TypeError):
        ours = dict(read_json(place / FACTS_FILE)["files"])
    for path in sorted(place.rglob("*")):
        name = path.relative_to(place).as_posix()
        if path.is_dir() or (ours and name in (FACTS_FILE, MANIFEST)):
            continue
        written = ours.get(name, {})
        size = path.stat().st_size
        if written.get("bytes") != size or (size <= MIB and checksum(path) != written):
            return name
    return None


def _refuse_small_disk(folder: Path, targets: Sequence[Target]) -> None:
    """Raise UserError where the disk cannot hold the exports; those that they replace stay until they are whole."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    needed = sum(target.size_bytes for target in targets) + OTHER_FILES_BYTES
    if needed > free:
        raise UserError(
            f"{folder}: the disk has {spell_size(free)} free, and the exports need {spell_size(needed)}; free "
            f"{spell_missing(needed - free)}, name fewer targets, or another disk with --to"
        )


@contextmanager
def _partial_folder(place: Path) -> Generator[Path]:
    """Yield an empty folder beside a place, which is removed unless it was renamed."""
    partial = place.with_name(f".{place.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    is_first = not place.parent.exists()
    with name_path(place):
        partial.mkdir(parents=True)
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if is_first:
            with suppress(OSError):  # it holds the export, unless that failed
                place.parent.rmdir()


def _commit(partial: Path, place: Path) -> None:
    """Put a whole export in its place; a former one is moved aside first, and removed last."""
    fsync_tree(partial)
    former = place.with_name(f".{place.name}.{os.getpid()}.gone.partial")
    if place.exists():
        place.rename(former)
    partial.rename(place)
    fsync_folder(place.parent)
    shutil.rmtree(former, ignore_errors=True)


def _remove_leftovers(folder: Path, name: str) -> None:
    """Remove what an export of this target left when its process was killed; those of living processes stay.

    A former export that was moved aside and not yet replaced goes back to its place.
    """
    for path in sorted(folder.glob(f".{name}.*.partial")):
        found = _PARTIAL.fullmatch(path.name)
        if not (found and found[1] == name and path.is_dir()) or _is_alive(int(found[2])):
            continue
        if found[3] and not (folder / name).exists():
            path.rename(folder / name)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _is_alive(process: int) -> bool:
    if os.name != "posix":  # asking would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return process != os.getpid()
