"""Fail system calls of training runs, forked from one process that has everything loaded; check what they leave.

`LD_PRELOAD=LIBRARY python tests/faults/injected_errors.py FOLDER --library LIBRARY`, where LIBRARY is made from
failing_calls.c, fails every kind of call with every error, at places by chance, once or from then on. Then the run
is started again, without a failure. It prints what was tried, and exits with 1 if a promise was broken.
"""

import argparse
import ctypes
import errno
import json
import os
import random
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent))
os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}  # a fork takes no threads along

import torch
from kills import broken_promises, exit_code
from safetensors.torch import load_file
from support.runs import settings, small_tree, without_times

from thinktune.cli import main as command_line
from thinktune.run import journal
from thinktune.train import train  # noqa: F401 (loaded before the forks)

CALLS = ("write", "fsync", "rename", "mkdir", "open", "mmap")
ERRORS = ("ENOSPC", "EDQUOT", "EIO", "EROFS", "EACCES", "ESTALE", "EMFILE")
FOR_EVER = 10**9


@dataclass
class Ledger:
    injected: int = 0
    ended_at_once: int = 0
    ended_with_an_error: int = 0
    broken: list[str] = field(default_factory=list)
    tracebacks: list[str] = field(default_factory=list)


class Runs:
    """Starts of one recipe, each in a fork with its own failure."""

    def __init__(self, folder: Path, library: Path) -> None:
        tree = small_tree(folder)
        self.folder = folder
        self.recipe = folder / "mine.yaml"
        self.recipe.write_text(json.dumps(tree), encoding="utf-8")
        self.path = lambda name: settings(tree, name=name).run_folder
        self.library = ctypes.CDLL(str(library))
        self.library.calls_met.restype = ctypes.c_long

    def start(self, name: str, call: str = "", error: int = 0, first: int = FOR_EVER, last: int = FOR_EVER):
        """Start the command; return its exit code, what it said, and how many such calls it made."""
        said, counted = self.folder / "said.txt", self.folder / "counted.txt"
        if not (pid := os.fork()):
            code = 99
            try:
                file = os.open(said, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
                os.dup2(file, 1)
                os.dup2(file, 2)
                sys.argv = ["thinktune", "train", str(self.recipe), f"name={name}"]
                below = str(self.path(name)).encode()
                self.library.fail_calls(below, call.encode(), error, ctypes.c_long(first), ctypes.c_long(last))
                try:
                    command_line()
                    code = 0
                except SystemExit as ended:
                    code = ended.code if isinstance(ended.code, int) else 0
                sys.stdout.flush()
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                counted.write_text(str(self.library.calls_met()))
                os._exit(code)
        return exit_code(pid), said.read_text(errors="replace"), int(counted.read_text())


def differences(run: Path, whole: Path) -> list[str]:
    """Return how a run that met a failure differs from one that met none; its own notes of it do not count."""
    found: list[str] = []
    for part in (
        "final/model.safetensors",
        *(f"checkpoints/step-000009/{name}" for name in ("model.safetensors", "state/state.safetensors")),
    ):
        mine, theirs = load_file(run / part), load_file(whole / part)
        if mine.keys() != theirs.keys() or not all(mine[name].equal(theirs[name]) for name in theirs):
            found.append(f"{part} differs")
    mine, theirs = (
        without_times([line for line in journal.read_metrics(each) if line["kind"] != "event"]) for each in (run, whole)
    )
    if mine != theirs:
        found.append("metrics.jsonl differs")
    if journal.read_samples(run) != journal.read_samples(whole):
        found.append("samples.jsonl differs")
    return found + [f"left behind: {path.name}" for path in run.rglob("*.partial")]


def try_failure(ledger: Ledger, runs: Runs, name: str, case: tuple[str, str, int, int]) -> None:
    """Meet one failure, start again without it, and compare the end."""
    call, error, first, last = case
    text = f"{call} {error} from {first}{' on' if last == FOR_EVER else ''}"
    code, said, _ = runs.start(name, call, getattr(errno, error), first, last)
    ledger.injected += 1
    ledger.ended_at_once += code == 0
    ledger.ended_with_an_error += code == 2
    if "Traceback" in said or code not in (0, 2):
        ledger.tracebacks.append(f"{text}: exit code {code}: {said[-700:]}")
    run = runs.path(name)
    if run.is_dir():
        ledger.broken += [f"{text}: {promise}" for promise in broken_promises(run)]
    code, said, _ = runs.start(name)
    if code != 0:
        ledger.broken.append(f"{text}: the next start ended with {code}: {said[-700:]}")
    else:
        ledger.broken += [f"{text}: {each}" for each in differences(run, runs.path("whole"))]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--library", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--places", type=int, default=2, help="places at which each call fails with each error")
    parser.add_argument("--minutes", type=float, default=1e6, help="stop after so long")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["THINKTUNE_CACHE"] = str(chosen.folder / "cache")
    runs, ledger, generator = Runs(chosen.folder, chosen.library), Ledger(), random.Random(chosen.seed)
    code, said, _ = runs.start("whole")
    assert code == 0, said
    counts = {call: runs.start(f"count-{call}", call)[2] for call in CALLS}
    assert all(counts.values()), counts
    cases: list[tuple[str, str, int, int]] = []
    for call in CALLS:
        for error in ERRORS:
            for number in range(chosen.places):
                first = generator.randint(1, counts[call])
                cases.append((call, error, first, FOR_EVER if number % 2 else first))
    generator.shuffle(cases)
    until = time.monotonic() + 60 * chosen.minutes
    for number, case in enumerate(cases):
        if time.monotonic() > until:
            break
        try_failure(ledger, runs, f"run-{number}", case)
        if number % 10 == 9:
            print(
                f"{number + 1} of {len(cases)}: {len(ledger.tracebacks)} tracebacks, {len(ledger.broken)} broken",
                file=sys.stderr,
                flush=True,
            )
    print(json.dumps(ledger.__dict__, ensure_ascii=False))
    return 1 if ledger.broken or ledger.tracebacks else 0


if __name__ == "__main__":
    raise SystemExit(main())
