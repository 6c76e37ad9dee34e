"""Verdicts that take seconds to reach, remembered on disk by all that they follow from.

A verdict's file is named by a hash of its grounds, of our sources that reach it, and of the libraries' releases: where
one of these is another, there is no such file, and the verdict is reached again. Files are small; what is not asked for
during `EVICT_AFTER_DAYS` goes when another one is written.
"""

import json
import os
import platform
import stat
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from thinktune.cache import EVICT_AFTER_DAYS, RACY_SECONDS, cache_folder, source_fingerprint
from thinktune.files import atomic_write_text, read_json

LIBRARIES = (
    *("torch", "transformers", "tokenizers", "safetensors", "numpy", "jinja2", "huggingface_hub"),
    *("kernels", "causal-conv1d", "mamba-ssm", "flash-linear-attention"),  # which some classes use where they are
)
MAX_FILES = 10_000  # of a folder that is identified; what holds more is no model's

Facts = dict[str, Any]


def verdict_file(kind: str, grounds: Sequence[str], sources: Sequence[str]) -> Path | None:
    """Return where a verdict is remembered, by its kind, its grounds and our sources (as in `source_fingerprint`).

    None where nothing may be: a library that is being developed changes, and its release stays the same.
    """
    releases = {name: _release(name) for name in LIBRARIES}
    if any("dev" in release for release in releases.values()):
        return None
    facts = [kind, *grounds, source_fingerprint(*sources), platform.machine(), releases]
    name = blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()
    return cache_folder().with_name("verdicts") / f"{name}.json"


def recall(file: Path | None) -> Facts | None:
    """Return the facts of a verdict that was remembered whole, None if there is none."""
    if file is None:
        return None
    with suppress(OSError, ValueError, KeyError, TypeError):  # none, or a damaged one
        remembered = read_json(file)
        facts: Facts = remembered["facts"]
        if remembered["digest"] == _digest(facts):
            with suppress(OSError):  # a cache that others filled may be read-only
                os.utime(file)
            return facts
    return None


def remember(file: Path | None, facts: Facts) -> None:
    """Remember a verdict, if the disk allows it."""
    if file is None:
        return
    with suppress(OSError):
        atomic_write_text(file, json.dumps({"facts": facts, "digest": _digest(facts)}))
        oldest = file.stat().st_mtime - EVICT_AFTER_DAYS * 86_400  # by the clock of the file system
        for other in file.parent.glob("*.json"):
            if other.stat().st_mtime < oldest:
                other.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class FolderIdentity:
    """What changes when any file below a folder does: names, inodes, sizes and times, as a hash."""

    digest: str
    changed_ns: int  # the last time at which one of them did

    def holds_for(self, folder: Path) -> bool:
        """Return True if the folder is still the same, and any later change will show.

        A change within the same tick of the file system's clock as the last one would not.
        """
        settled = time.time_ns() - self.changed_ns > RACY_SECONDS * 10**9
        return settled and identify_folder(folder) == self


def identify_folder(folder: Path) -> FolderIdentity | None:
    """Identify a folder's files where they lie, without reading them.

    None where that is not known: a folder inside is a link, something cannot be read, or there are too many files.
    """
    digest = blake2b(str(folder).encode("utf-8", "surrogateescape"), digest_size=16)
    changed = files = 0
    try:
        for place, folders, names in os.walk(folder, onerror=_raise):
            folders.sort()
            if any(Path(place, name).is_symlink() for name in folders) or (files := files + len(names)) > MAX_FILES:
                return None
            for name in sorted(names):
                path = Path(place, name)
                facts = path.stat()  # of what a link leads to, as hubs' caches have them
                if not stat.S_ISREG(facts.st_mode):
                    return None
                identity = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
                digest.update(repr((path.relative_to(folder).parts, identity)).encode("utf-8", "surrogateescape"))
                changed = max(changed, facts.st_mtime_ns, facts.st_ctime_ns)
    except (OSError, UnicodeError):
        return None
    return FolderIdentity(digest.hexdigest(), changed) if files else None


def _raise(error: OSError) -> None:
    raise error


def _release(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def _digest(facts: Facts) -> str:
    return blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()
