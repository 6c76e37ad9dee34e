"""A model's files on their way to a hub: what is sent, how far each file is, and the stop that all of them hear."""

import io
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from thinktune.hub.verification import Listing


@dataclass(frozen=True, slots=True)
class ModelUpload:
    """A model as it is to be on a hub: its repository (`owner/name`) and its files, by name in the folder.

    `files` holds the sha256 of each. `license` is the identifier that the model's card gives, where it gives one.
    """

    name: str
    folder: Path
    files: Listing
    public: bool
    license: str | None


class TransferStopped(Exception):  # noqa: N818 - not an error: another file's error stopped this one
    """A file is no longer sent, because the transfer was stopped."""


class Transfer:
    """The bytes of a transfer, from several threads at once; `tick` is called with all bytes sent so far."""

    def __init__(self, tick: Callable[[int], None]) -> None:
        self._tick = tick
        self._sent: dict[str, int] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Let every file stop at its next read."""
        self._stopped.set()

    def move(self, name: str, sent_bytes: int) -> None:
        """Record how far a file is, also backwards, as when it is sent again; raises TransferStopped after `stop`."""
        if self._stopped.is_set():
            raise TransferStopped(name)
        with self._lock:
            self._sent[name] = sent_bytes
            self._tick(sum(self._sent.values()))


class CountedFile(io.BufferedReader):
    """A file that reports how far it was read. The clients read what they send from it, and rewind it to send again."""

    def __init__(self, path: Path, name: str, transfer: Transfer) -> None:
        super().__init__(io.FileIO(path))
        self._name, self._transfer = name, transfer

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to `size` bytes; raises TransferStopped where the transfer was stopped."""
        found = super().read(size)
        self._transfer.move(self._name, self.tell())
        return found


class HubRepository(Protocol):
    """A model's repository on a hub, by the hub's own client. Every method raises the client's many errors."""

    @property
    def address(self) -> str:
        """The page of the repository."""
        ...

    def visibility(self) -> str | None:
        """Return `public`, `private` or the hub's own word for another one; None where there is no such repository."""
        ...

    def create(self, upload: ModelUpload) -> None:
        """Create the repository, private unless the upload is public."""
        ...

    def listing(self) -> Listing:
        """Return the files that are there, and keep which version of the repository that is."""
        ...

    def send(self, upload: ModelUpload, name: str, transfer: Transfer) -> None:
        """Send the content of a file to the hub's storage, where it is not yet; the repository stays as it is."""
        ...

    def commit(self, upload: ModelUpload, added: list[str], removed: list[str]) -> None:
        """Change the repository in one step, from the version that was listed: add sent files, remove some."""
        ...
