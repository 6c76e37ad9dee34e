"""Work of one rank in the tests of ranks that could part: what only one of them meets while it trains."""

import errno
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from support.many_ranks import train_here
from thinktune.inference import kv_cache
from thinktune.inference.engine import Engine
from thinktune.inference.generation_proof import require_generation
from thinktune.model.admission import meta_model, read_config

WRITING = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate"}


@dataclass
class Fault:
    """What happens to the rank `at`: `kind`, with a number or a file operation that says where."""

    kind: str
    at: int = 1
    number: int = 0
    operation: str = ""  # an audit event, a blank, and a part of the path, or of path and mode
    skip: int = 0  # so many such operations succeed first
    errno: int = errno.ENOSPC


def train_with(tree: dict[str, Any], fault: Fault) -> tuple[list[str], list[str]]:
    """Train where one rank meets a fault; return what this rank printed, and its operations on the run's folder."""
    folder = Path(tree["model"]["name"])
    require_generation(meta_model(folder, read_config(folder), torch.float32))  # before a fault that it would meet
    here = int(os.environ["RANK"]) == fault.at
    seen: list[str] = []
    match fault.kind:
        case "slow to submit" if here:
            _submit_slowly()
        case "rounds otherwise" if here:
            _change_logits()
        case "no memory to grow":
            _grow_in_small_steps(fault.number if here else None)
        case "no memory in a pass" if here:
            _fail_pass(fault.number)
        case "disk" if here:
            _fail_operation(Path(tree["runs_folder"]), fault, seen)
        case _:
            pass
    return train_here(tree), seen


def _submit_slowly() -> None:
    """Prepare each request late, as on a busy machine."""
    real = Engine._make_sequence

    def make(*arguments: Any, **options: Any) -> Any:
        time.sleep(0.1)
        return real(*arguments, **options)

    Engine._make_sequence = make


def _change_logits() -> None:
    """Change the logits of generation a little, as another card would."""
    real = kv_cache.KVCache._logits

    def logits(self: Any, hidden: torch.Tensor) -> torch.Tensor:
        found = real(self, hidden)
        return found + 0.5 * torch.rand(found.shape, generator=torch.Generator().manual_seed(len(self.lengths)))

    kv_cache.KVCache._logits = logits


def _grow_in_small_steps(most_rows: int | None) -> None:
    """Have the cache grow often; on the rank with a limit, only as far as so many rows once it is there."""
    kv_cache.GROW_COLUMNS = 4
    real = kv_cache._grown

    def grown(buffer: torch.Tensor, required: tuple[int, int], like: torch.Tensor) -> torch.Tensor:
        if most_rows is not None and buffer.shape[0] and required[0] > most_rows:
            raise torch.OutOfMemoryError("planted")
        return real(buffer, required, like)

    kv_cache._grown = grown


def _fail_pass(number: int) -> None:
    """Run out of memory before the `number`th pass of generation."""
    real, passes = kv_cache.KVCache._forward, []

    def forward(*arguments: Any, **options: Any) -> Any:
        passes.append(None)
        if len(passes) == number:
            raise torch.OutOfMemoryError("planted")
        return real(*arguments, **options)

    kv_cache.KVCache._forward = forward


def _fail_operation(folder: Path, fault: Fault, seen: list[str]) -> None:
    """Fail a write of the given kind, or the `number`th of all, as the system would."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event in WRITING or (event == "open" and isinstance(arguments[2], int) and arguments[2] & 0o3)
        if not writes or not str(arguments[0]).startswith(str(folder)):
            return
        path = str(arguments[1] if event == "os.rename" else arguments[0])
        what = f"{path} {arguments[1]}" if event == "open" else path
        seen.append(f"{event} {what}")
        wanted, _, part = fault.operation.partition(" ")
        hit = len(seen) == fault.number
        if not fault.number and event == wanted and part in what:
            matches.append(path)
            hit = len(matches) == fault.skip + 1
        if hit:
            raise OSError(fault.errno, os.strerror(fault.errno), path)

    matches: list[str] = []
    sys.addaudithook(hook)
