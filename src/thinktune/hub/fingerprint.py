"""Fingerprint of a model's weights by content, remembered while a file is the same by inode, size and time."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

from thinktune.cache import cache_folder
from thinktune.files import atomic_write_text, name_path

HASH_THREADS = 4  # hashlib releases the interpreter's lock
MIN_REMEMBERED_BYTES = 2**20  # a smaller file is hashed sooner than its digest is found
SHA256_DIGITS = 64


def weights_fingerprint(folder: Path) -> str:
    """Hash configuration and weights of a model folder, wherever it lies: every byte of config.json and safetensors.

    Raises OSError where a file cannot be read.
    """
    files = [*sorted(folder.glob("*.safetensors")), folder / "config.json"]
    present = [file for file in files if file.is_file()]
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        digests = pool.map(file_digest, present)
        lines = [f"{file.name} {digest}\n" for file, digest in zip(present, digests, strict=True)]
    return blake2b("".join(lines).encode(), digest_size=16).hexdigest()


def file_digest(file: Path) -> str:
    """Return a file's sha256, from memory where the file is the one that was hashed before."""
    facts = file.stat()
    if facts.st_size < MIN_REMEMBERED_BYTES:
        return _sha256(file)
    # The time of the last change of any kind too, which a copy that keeps its other times does not forge.
    identity = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
    remembered = cache_folder().parent / "digests" / blake2b(repr(identity).encode(), digest_size=16).hexdigest()
    with suppress(OSError, ValueError):
        digest = remembered.read_text(encoding="ascii").strip()
        if len(digest) == SHA256_DIGITS:
            return digest
    digest = _sha256(file)
    with suppress(OSError):  # a cache that others filled may be read-only, or its disk full
        atomic_write_text(remembered, digest + "\n")
    return digest


def _sha256(file: Path) -> str:
    with name_path(file), file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
