"""One process a card: PyTorch's own torchrun starts them and ends them; what each does is `train`."""

import logging
import os
import signal
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from uuid import uuid4

import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from thinktune.distributed import World, destroy_distributed, init_distributed, report_first_error
from thinktune.errors import Stopped
from thinktune.model import pick_device


def device_count() -> int:
    """How many cards this machine shows; the CPU is none."""
    return torch.accelerator.device_count() if torch.accelerator.is_available() else 0


def launch_workers(processes: int, recipe: Path, overrides: Sequence[str]) -> int:
    """Train by so many processes of this machine, and return the exit code: that of the first process that failed.

    What went wrong the processes say themselves.
    """
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        signals_to_handle="SIGQUIT",  # the others are for the processes, which save before they end
    )
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    before = {number: signal.signal(number, _forward_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        elastic_launch(config, sys.executable)("-m", "thinktune", "train", str(recipe), *overrides)
    except ChildFailedError as failed:
        # Those that another one took along have left no word, and no file.
        first = min(failed.failures.values(), key=lambda failure: (failure.error_file == "<N/A>", failure.timestamp))
        return first.exitcode if first.exitcode > 0 else 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


@contextmanager
def process_group() -> Generator[World]:
    """This process's world, met at the beginning and left at the end; of errors the first one is told, and by name."""
    world = init_distributed(pick_device())
    try:
        with report_first_error(world):
            yield world
    except Stopped:
        destroy_distributed()
        raise
    destroy_distributed()


def _forward_signal(number: int, _frame: FrameType | None) -> None:
    """A signal to the one that the user started is for its processes, which torchrun keeps apart from the terminal.

    The first one asks them to save and end; SIGINT after that, to end at once.
    """
    again = signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for process in _child_pids():
        with suppress(ProcessLookupError):
            os.kill(process, number if again else signal.SIGTERM)


def _child_pids() -> list[int]:
    """The processes that this one has started, as Linux lists them."""
    lists = Path("/proc/self/task").glob("*/children")
    return [int(number) for path in lists for number in path.read_text().split()]
