"""A sign of life between processes, so that one may wait long for another that works, and not for one that is gone."""

import threading
import time
from typing import Any

import torch.distributed as dist

EVERY_SECONDS = 2.0


MOST_SILENT_SECONDS = 30.0


POLL_SECONDS = 0.02


FAILED = "failed"  # in the store, where a rank tells that it ends with an error


class Pulse:
    """Tells the others every few seconds that this process lives, by a thread that alone talks with the store.

    Over a broken wire a store does not answer at all, so nothing else may ask it.
    """

    def __init__(self, store: Any, rank: int, size: int, timeout_seconds: float) -> None:
        self._store, self._rank, self._size = store.clone(), rank, size
        self._silence = min(timeout_seconds, MOST_SILENT_SECONDS)
        self._beats = self._asked = self._arrived = self._passed = 0
        self._heard = [(b"", time.monotonic())] * size
        self._failed = self._ended = False
        self._wake, self._met = threading.Event(), threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def wait(self) -> None:
        """Until all have come here, however long they work; raises DistStoreError where one is gone or has failed."""
        self._met.clear()
        self._asked += 1
        self._wake.set()
        while not self._met.wait(1.0):
            if self._failed:
                raise dist.DistStoreError("another rank has failed")
            now = time.monotonic()
            silent = [rank for rank, (_, at) in enumerate(self._heard) if now - at > self._silence]
            if silent:
                raise dist.DistStoreError(f"no sign of life of rank {silent[0]} for {self._silence:.0f} s")

    def end(self) -> None:
        """No more signs of life."""
        self._ended = True
        self._wake.set()

    def _run(self) -> None:
        due = 0.0
        try:
            while not self._ended:
                if time.monotonic() >= due:
                    self._beat()
                    due = time.monotonic() + EVERY_SECONDS
                self._wake.wait(POLL_SECONDS if self._looks_whether_all_are_here() else EVERY_SECONDS)
                self._wake.clear()
        except Exception:
            return  # the store is gone; so are, for this process, all others

    def _beat(self) -> None:
        self._beats += 1
        self._store.set(f"pulse/{self._rank}", str(self._beats))
        told = self._store.multi_get([f"pulse/{rank}" for rank in range(self._size)])
        now = time.monotonic()
        self._heard = [
            (new, at if new == old else now) for new, (old, at) in zip(map(bytes, told), self._heard, strict=True)
        ]
        self._failed = self._store.check([FAILED])

    def _looks_whether_all_are_here(self) -> bool:
        """Whether this process waits for others still."""
        asked = self._asked
        if asked > self._arrived:
            self._store.add(f"wait/{asked}", 1)
            self._arrived = asked
        if asked > self._passed and self._store.add(f"wait/{asked}", 0) >= self._size:
            self._passed = asked
            self._met.set()
        return asked > self._passed
