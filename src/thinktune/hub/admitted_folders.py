"""Model folders that were admitted before and have not changed since: their rows can be read before torch is loaded."""

from pathlib import Path

from thinktune.verdicts import FolderIdentity, identify_folder, recall, remember, verdict_file

# Our own source that says whether a folder can be trained, and in which words it is refused.
ADMISSION_SOURCES = ("model", "tokenization", "hub", "errors", "files", "verdicts")


def was_admitted(folder: Path) -> bool:
    """Return True if a folder was admitted as it is, by this release of ours and of the libraries.

    Every weight of it was read once and found finite, and none of its code was needed.
    """
    found = identify_folder(folder)
    return found is not None and recall(_file(found)) is not None


def note_admitted(folder: Path, before: FolderIdentity | None) -> None:
    """Remember that a folder was admitted, if it is what it was `before` that and any later change will show."""
    if before and before.holds_for(folder):
        remember(_file(before), {"admitted": True})


def _file(identity: FolderIdentity) -> Path | None:
    return verdict_file("admitted", [identity.digest], ADMISSION_SOURCES)
