"""One process per card, started and ended by PyTorch's torchrun; each runs `train`."""

import logging
import os
import signal
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from uuid import uuid4

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from thinktune.distributed import World, destroy_distributed, init_distributed, report_first_error
from thinktune.errors import Stopped
from thinktune.model import pick_device
from thinktune.train.interrupt import SIGNALS


def launch_workers(processes: int, recipe: Path, overrides: Sequence[str]) -> int:
    """Train with so many processes on this machine, and return the exit code.

    It is 0, or that of the first process that failed. The processes print their errors themselves.
    """
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        signals_to_handle="SIGQUIT",  # the others are forwarded to the processes, which save before they end
    )
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _forward_signal) for number in heard}
    try:
        elastic_launch(config, sys.executable)("-m", "thinktune", "train", str(recipe), *overrides)
    except ChildFailedError as failed:
        # Processes that ended because another one failed have left no error file.
        first = min(failed.failures.values(), key=lambda failure: (failure.error_file == "<N/A>", failure.timestamp))
        return first.exitcode if first.exitcode > 0 else 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


@contextmanager
def process_group() -> Generator[World]:
    """Join the process group, leave it at the end, and report the first error with its rank."""
    world = init_distributed(pick_device())
    try:
        with report_first_error(world):
            yield world
    except Stopped:
        destroy_distributed()
        raise
    destroy_distributed()


def _forward_signal(number: int, _frame: FrameType | None) -> None:
    """Forward a signal to the workers, which torchrun keeps apart from the terminal.

    The first one asks them to save and end; SIGINT after that, to end at once.
    """
    again = signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for process in _child_pids():
        with suppress(ProcessLookupError):
            os.kill(process, number if again else signal.SIGTERM)


def _child_pids() -> list[int]:
    """Return the process ids of this process's children, as Linux lists them."""
    lists = Path("/proc/self/task").glob("*/children")
    return [int(number) for path in lists for number in path.read_text().split()]
