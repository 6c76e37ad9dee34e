"""Models that other programs left in the clients' caches: found there, and verified by what those programs keep.

Transformers, Unsloth, TRL and LLaMA-Factory fill Hugging Face's cache without our listing, often with a model's files
alone. Clients of ModelScope before 1.38, which ms-swift and LLaMA-Factory used, had other layouts, with dots in names
written as three underscores, and record which files they had verified, but no digests.
"""

import json
import pickle
import re
from collections.abc import Collection, Generator
from io import BytesIO
from pathlib import Path
from typing import Any

from thinktune.files import is_safe_relative_path, read_json
from thinktune.hub.verification import IncompleteSnapshotError, Listing, matches_digest, unlisted_files

RECORD = ".msc"  # ModelScope's former clients: a pickled list of the files that they had downloaded and verified
REVISION_RECORD = ".mv"  # theirs too: "Revision:master,CreatedAt:1741000000"
BLOB = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")  # Hugging Face's cache names its files by their digests
INDEX, SINGLE_FILE = "model.safetensors.index.json", "model.safetensors"
NEEDED = re.compile(r"(config|generation_config|special_tokens_map|added_tokens|tokenizer.*|vocab.*|chat_template.*)\.")
NEEDED_ENDINGS = (".model", ".tiktoken", ".py", ".jinja", "merges.txt")
MAX_HEADER_BYTES = 100_000_000  # as safetensors itself allows


def former_modelscope_folders(cache: Path, name: str) -> Generator[Path]:
    """Yield the folders in which former clients of ModelScope kept a model, those that exist."""
    owner, _, model = name.partition("/")
    for root in (cache / "models", cache / "hub" / "models", cache / "hub", cache):
        for written in (model.replace(".", "___"), model):
            if (root / owner / written / RECORD).is_file():
                yield root / owner / written


def verify_former_modelscope(folder: Path, revision: str | None) -> None:
    """Raise IncompleteSnapshotError unless a former client's model is whole.

    All that it recorded is there, nothing else is, the weights are whole by their headers, and the revision is the one
    that is asked for.
    """
    names = _recorded_files(folder / RECORD)
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise IncompleteSnapshotError(f"{folder} lacks {', '.join(missing[:3])}, which its client recorded")
    if unlisted := unlisted_files(folder, names):
        raise IncompleteSnapshotError(f"{folder} also holds {', '.join(unlisted[:3])}, which its client did not record")
    held = _revision(folder)
    if revision is not None and held != revision:
        raise IncompleteSnapshotError(f"{folder} is of revision {held or 'unknown'}")
    require_whole_model(folder)


def _recorded_files(record: Path) -> list[str]:
    """Read a former client's record; raises IncompleteSnapshotError where it is no list of files."""
    try:
        entries: Any = _PlainUnpickler(BytesIO(record.read_bytes())).load()
        names = [str(entry["Path"]) for entry in entries]
    except Exception as error:  # a pickle can raise anything
        raise IncompleteSnapshotError(f"{record} cannot be read") from error
    if not all(map(is_safe_relative_path, names)):
        raise IncompleteSnapshotError(f"{record} names files outside its folder")
    return names


class _PlainUnpickler(pickle.Unpickler):
    """Reads lists, dictionaries and texts, and refuses all else: a pickle can name any code to run."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        raise pickle.UnpicklingError(f"{module_name}.{global_name} is not plain data")


def _revision(folder: Path) -> str | None:
    try:
        found = re.match("Revision:([^,]+)", (folder / REVISION_RECORD).read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None
    return found[1] if found else None


def verify_huggingface_blobs(folder: Path, listing: Listing) -> None:
    """Raise IncompleteSnapshotError unless a snapshot of a model in Hugging Face's cache is whole.

    Each file is a link to one that is named by its digest, and is what the digest says. Where there is a `listing`,
    only files that no model needs may be missing.
    """
    found = [path for path in folder.rglob("*") if path.is_file()]
    for path in found:
        blob = path.readlink().name if path.is_symlink() else ""
        if not BLOB.fullmatch(blob):
            raise IncompleteSnapshotError(f"{path} cannot be verified: it is not a link to a file with a digest")
        size, digest = listing.get(path.relative_to(folder).as_posix(), (path.stat().st_size, blob))
        if not matches_digest(path, size, digest):
            raise IncompleteSnapshotError(f"{path} is not as its digest says")
    held = {path.relative_to(folder).as_posix() for path in found}
    if listing and (unlisted := sorted(held - listing.keys())):
        raise IncompleteSnapshotError(f"{folder} also holds {', '.join(unlisted[:3])}, which the hub does not list")
    missing = [name for name in listing if name not in held and _is_needed(name)]
    if missing:
        raise IncompleteSnapshotError(f"{folder} lacks {', '.join(missing[:3])}")
    require_whole_model(folder)


def _is_needed(name: str) -> bool:
    """Return True for a listed file that a model reads; which weights it reads, its index says."""
    return "/" not in name and bool(NEEDED.match(name) or name.endswith(NEEDED_ENDINGS))


def require_whole_model(folder: Path) -> None:
    """Raise IncompleteSnapshotError unless a folder has a configuration and weights that are whole by their headers."""
    if not (folder / "config.json").is_file():
        raise IncompleteSnapshotError(f"{folder} lacks config.json")
    files = _weight_files(folder)
    if not files:
        raise IncompleteSnapshotError(f"{folder} lacks {SINGLE_FILE}")
    for name in files:
        if not (folder / name).is_file():
            raise IncompleteSnapshotError(f"{folder} lacks {name}")
        if not _is_whole(folder / name):
            raise IncompleteSnapshotError(f"{folder / name} is incomplete")


def _weight_files(folder: Path) -> Collection[str]:
    if (folder / SINGLE_FILE).is_file() or not (folder / INDEX).is_file():
        return [SINGLE_FILE] if (folder / SINGLE_FILE).is_file() else []
    try:
        names = {str(name) for name in read_json(folder / INDEX)["weight_map"].values()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise IncompleteSnapshotError(f"{folder / INDEX} cannot be read") from error
    return sorted(names) if all(map(is_safe_relative_path, names)) else []


def _is_whole(file: Path) -> bool:
    """Return True if a safetensors file is as long as its header says."""
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if length > MAX_HEADER_BYTES:
                return False
            header = json.loads(opened.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        return file.stat().st_size == 8 + length + max(ends, default=0)
    except (OSError, ValueError, KeyError, IndexError, AttributeError, TypeError, RecursionError):
        return False
