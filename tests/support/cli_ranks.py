"""Work of one rank in the tests of error reports and waits: the command line, with its output captured."""

import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch
import transformers

import thinktune
from support.cuda_calls import cuda_calls
from thinktune.cli import main
from thinktune.errors import UserError
from thinktune.train import loop, setup

RELEASES = {"torch": torch, "transformers": transformers, "thinktune": thinktune}
FAULTS = {
    "user": lambda: UserError("rows.jsonl:3: answer: is empty; write one"),
    "unexpected": lambda: ValueError("a bug of ours"),
    "system": lambda: PermissionError(13, "Permission denied", "rows.jsonl"),
    "stop": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "none": lambda: None,
}


def command(recipe: str, fault: str, at_rank: int) -> tuple[int, str]:
    """Run `thinktune train` with a fault on one rank in its second step; return exit code and output."""
    rank = int(os.environ["RANK"])
    real, calls = loop.step, []

    def stepping(*args: Any) -> Any:
        calls.append(None)
        if rank == at_rank and len(calls) == 2 and (error := FAULTS[fault]()):
            raise error
        return real(*args)

    loop.step = stepping
    return run_command([recipe])


def run_command(arguments: list[str]) -> tuple[int, str]:
    """Run `thinktune train` with a recipe and overrides; return this rank's exit code and output."""
    place = f"{arguments[0]}.{os.environ['RANK']}"
    os.environ["TORCHELASTIC_ERROR_FILE"] = f"{place}.json"
    output = Path(f"{place}.txt")
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    sys.argv = ["thinktune", "train", *arguments]
    code = 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code
    except Exception:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    return code, output.read_text()


def command_by_rank(commands: list[list[str]], variables: dict[str, str]) -> tuple[int, str]:
    """Run each rank's own command; the last rank also gets some variables, or another release of a library."""
    rank = int(os.environ["RANK"])
    if rank == len(commands) - 1:
        releases = {name: value for name, value in variables.items() if name in RELEASES}
        for name, release in releases.items():
            RELEASES[name].__version__ = release
        os.environ.update({name: value for name, value in variables.items() if name not in releases})
    return run_command(commands[rank])


def slow_main_rank(recipe: str, seconds: float) -> tuple[int, str]:
    """Run `thinktune train` where the main rank prepares for longer than the timeout."""
    os.environ["THINKTUNE_TIMEOUT_SECONDS"] = str(seconds)
    read = setup._read_rows

    def reading(*args: Any) -> Any:
        if os.environ["RANK"] == "0":
            time.sleep(1.5 * seconds)
        return read(*args)

    setup._read_rows = reading
    return command(recipe, "none", 0)


def without_cuda(recipe: str, fault: str) -> tuple[int, str, list[str]]:
    """Run `thinktune train` with a fault on the second rank; return exit code, output, and our calls of torch.cuda."""
    with cuda_calls() as found:
        code, said = command(recipe, fault, 1)
    return code, said, found
