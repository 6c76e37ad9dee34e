"""Locks of cards as tests see them, and hold them: the CPU's."""

import fcntl
from contextlib import ExitStack

from thinktune.run import card_lock

HOLDER = """
import sys, time
from pathlib import Path
import thinktune.run.card_lock as lock
lock.POLL_SECONDS = 0.02
card, wait, name = sys.argv[1], sys.argv[2] == "wait", Path(sys.argv[3])
with lock.hold_cards([card], lambda line: print(line, flush=True), wait=wait):
    name.write_text("")
    while not name.with_suffix(".release").exists():
        time.sleep(0.01)
    name.with_suffix(".end").write_text("")
"""
"""Program that holds a card (`wait` or not) until a file is there; its arguments are the card, how, and that file."""


def is_cpu_in_use() -> bool:
    """Return True if somebody computes on the CPU, as a verb that waits would see."""
    with ExitStack() as probe:
        return not card_lock._take(probe, card_lock.locks_folder() / "cpu.use", fcntl.LOCK_EX)
