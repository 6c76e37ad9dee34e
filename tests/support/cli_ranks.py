"""What a rank does in the tests of who speaks, and of what waits for whom: the command line among ranks, heard."""

import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import thinktune.train.loop as room
import thinktune.train.setup as opening
from support.cuda_calls import cuda_calls
from thinktune.cli import main
from thinktune.errors import UserError

FAULTS = {
    "user": lambda: UserError("rows.jsonl:3: answer: is empty; write one"),
    "unexpected": lambda: ValueError("a bug of ours"),
    "system": lambda: PermissionError(13, "Permission denied", "rows.jsonl"),
    "stop": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "none": lambda: None,
}


def command(recipe: str, fault: str, at_rank: int) -> tuple[int, str]:
    """`thinktune train` with a fault on one rank in its second step: its exit code, and all that it said."""
    rank, heard = int(os.environ["RANK"]), Path(f"{recipe}.{os.environ['RANK']}.txt")
    os.environ["TORCHELASTIC_ERROR_FILE"] = f"{recipe}.{rank}.json"
    with heard.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    taken, calls = room.step, []

    def stepping(*given: Any) -> Any:
        calls.append(None)
        if rank == at_rank and len(calls) == 2 and (error := FAULTS[fault]()):
            raise error
        return taken(*given)

    room.step = stepping
    sys.argv = ["thinktune", "train", recipe]
    code = 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code
    except Exception:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    return code, heard.read_text()


def slow_to_prepare(recipe: str, seconds: float) -> tuple[int, str]:
    """`thinktune train` where the first rank prepares for longer than a rank may be silent."""
    os.environ["THINKTUNE_TIMEOUT_SECONDS"] = str(seconds)
    read = opening._read_rows

    def reading(*given: Any) -> Any:
        if os.environ["RANK"] == "0":
            time.sleep(1.5 * seconds)
        return read(*given)

    opening._read_rows = reading
    return command(recipe, "none", 0)


def without_cuda(recipe: str, fault: str) -> tuple[int, str, list[str]]:
    """`thinktune train` with a fault on the second rank: how it ended, what it said, and our calls of torch.cuda."""
    with cuda_calls() as found:
        code, said = command(recipe, fault, 1)
    return code, said, found
