"""Heartbeats of ranks: a barrier waits long for a rank that works, but not for one that is gone."""

import threading
import time
from typing import Any

import torch.distributed as dist

INTERVAL_SECONDS = 2.0
MAX_SILENCE_SECONDS = 30.0
POLL_SECONDS = 0.02
FAILED_KEY = "failed"  # in the store, set by a rank that ends with an error


class Heartbeat:
    """Reports every few seconds that this process is alive, and waits for the others.

    Only its own thread uses its copy of the store: over a broken network connection a store never answers.
    """

    def __init__(self, store: Any, rank: int, size: int, timeout_seconds: float) -> None:
        self._store, self._rank, self._size = store.clone(), rank, size
        self._max_silence_seconds = min(timeout_seconds, MAX_SILENCE_SECONDS)
        self._beats = self._barriers_requested = self._barriers_entered = self._barriers_passed = 0
        self._last_beats = [(b"", time.monotonic())] * size
        self._failed = self._stopped = False
        self._wake, self._all_arrived = threading.Event(), threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def barrier(self) -> None:
        """Wait for all ranks, however long they work.

        Raises DistStoreError where one is gone or has failed.
        """
        self._all_arrived.clear()
        self._barriers_requested += 1
        self._wake.set()
        while not self._all_arrived.wait(1.0):
            if self._failed:
                raise dist.DistStoreError("another rank has failed")
            now = time.monotonic()
            silent = [rank for rank, (_, at) in enumerate(self._last_beats) if now - at > self._max_silence_seconds]
            if silent:
                raise dist.DistStoreError(f"no heartbeat of rank {silent[0]} for {self._max_silence_seconds:.0f} s")

    def stop(self) -> None:
        """Stop the heartbeat."""
        self._stopped = True
        self._wake.set()

    def _run(self) -> None:
        due = 0.0
        try:
            while not self._stopped:
                if time.monotonic() >= due:
                    self._beat()
                    due = time.monotonic() + INTERVAL_SECONDS
                self._wake.wait(POLL_SECONDS if self._poll_barrier() else INTERVAL_SECONDS)
                self._wake.clear()
        except Exception:
            return  # the store is gone; so are, for this process, all others

    def _beat(self) -> None:
        self._beats += 1
        self._store.set(f"heartbeat/{self._rank}", str(self._beats))
        beats = self._store.multi_get([f"heartbeat/{rank}" for rank in range(self._size)])
        now = time.monotonic()
        self._last_beats = [
            (new, at if new == old else now) for new, (old, at) in zip(map(bytes, beats), self._last_beats, strict=True)
        ]
        self._failed = self._store.check([FAILED_KEY])

    def _poll_barrier(self) -> bool:
        """Return True while this process waits for others."""
        requested = self._barriers_requested
        if requested > self._barriers_entered:
            self._store.add(f"wait/{requested}", 1)
            self._barriers_entered = requested
        if requested > self._barriers_passed and self._store.add(f"wait/{requested}", 0) >= self._size:
            self._barriers_passed = requested
            self._all_arrived.set()
        return requested > self._barriers_passed
