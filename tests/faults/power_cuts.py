"""Cut the power of training runs that write to an ext4 disk, and check what the disk holds afterwards.

`python tests/faults/power_cuts.py FOLDER --minutes 10`, as root. The disk is a file behind a loop device. A cut stops
the process and copies that file: what the kernel has not written to the disk by then is lost. The copy is mounted in
its place, and the run is started again. It prints what was tried and lost, and exits with 1 if a promise was broken.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent))
os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}  # a fork takes no threads along

import torch
from kills import broken_promises, differences, exit_code, last_logged_step
from support.runs import last_step, settings, small_tree

from thinktune.train import loop, train

DISK_BYTES = 120 * 2**20
# Journals that write late and out of order: what was not flushed is lost for minutes.
MOUNTS = (
    "noauto_da_alloc,data=writeback,commit=300",
    "noauto_da_alloc,data=ordered,commit=300",
    "noauto_da_alloc,data=journal,commit=300",
    "nodelalloc,noauto_da_alloc,data=ordered,commit=300",
    "noauto_da_alloc,data=ordered,commit=1",
)


@dataclass
class Ledger:
    cuts: int = 0
    whole_runs: int = 0
    repeated_steps: int = 0
    most_repeated: int = 0
    broken: list[str] = field(default_factory=list)
    mounts: dict[str, int] = field(default_factory=dict)


class Disk:
    """An ext4 disk in a file, mounted at a place."""

    def __init__(self, folder: Path) -> None:
        self.image, self.place = folder / "disk", folder / "mounted"
        self.place.mkdir(exist_ok=True)

    def make(self) -> None:
        with self.image.open("wb") as file:
            file.truncate(DISK_BYTES)
        call("mkfs.ext4", "-q", "-F", str(self.image))

    def mount(self, options: str) -> None:
        call("mount", "-o", f"loop,{options}", str(self.image), str(self.place))

    def unmount(self) -> None:
        call("umount", str(self.place))

    def copy(self) -> Path:
        """Copy what is on the disk now, without what the kernel still holds."""
        copied = self.image.with_name("copy")
        call("cp", "--sparse=always", str(self.image), str(copied))
        return copied


def call(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def fork(recipe, said: Path) -> int:
    """Fork a child that trains and writes its lines to a file; return its process id."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        file = os.open(said, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        os.dup2(file, 1)
        os.dup2(file, 2)
        loop.SLOW_SAVE_SECONDS = 0  # each save is told
        train(recipe, lambda line: print(line, flush=True))
        code = 0
    finally:
        os._exit(code)


def saved_steps(said: Path) -> int:
    """Return the last step that the run said it had saved."""
    lines = said.read_text(encoding="utf-8", errors="replace").splitlines() if said.exists() else []
    return max([0, *(int(line.split("/")[0].split()[1]) for line in lines if " saved " in line)])


def cut_one_run(ledger: Ledger, disk: Disk, tree, whole: Path, generator: random.Random) -> None:
    """Cut the power of one run again and again, until a start comes to its end."""
    options = generator.choice(MOUNTS)
    disk.make()
    disk.mount(options)
    recipe = settings(tree, name="cut", runs_folder=str(disk.place / "runs"))
    run, said, before = recipe.run_folder, disk.image.with_name("said.txt"), 0
    while not ledger.broken:
        said.unlink(missing_ok=True)
        pid, lines, delay = fork(recipe, said), generator.randint(1, 24), generator.uniform(0, 0.15)
        while not has_lines(said, lines) and not has_ended(pid):
            time.sleep(0.005)
        time.sleep(delay)
        if has_ended(pid):
            code = exit_code(pid)
            if code:
                ledger.broken.append(f"{options}: a start ended with {code}: {said.read_text()[-700:]}")
            else:
                ledger.whole_runs += 1
                ledger.broken += [f"{options}: {each}" for each in differences(run, whole)]
            break
        os.kill(pid, signal.SIGSTOP)
        promised, reached, copied = saved_steps(said), last_logged_step(run), disk.copy()
        os.kill(pid, signal.SIGKILL)
        exit_code(pid)
        disk.unmount()
        copied.replace(disk.image)
        disk.mount(options)
        ledger.cuts += 1
        ledger.mounts[options] = ledger.mounts.get(options, 0) + 1
        ledger.broken += [f"{options}: {promise}" for promise in broken_promises(run)] if run.exists() else []
        kept = last_step(run)
        if kept < max(before, promised):
            ledger.broken.append(f"{options}: step {max(before, promised)} was saved, and step {kept} is there")
        before, lost = kept, max(0, reached - kept)
        ledger.repeated_steps += lost
        ledger.most_repeated = max(ledger.most_repeated, lost)
    disk.unmount()


def has_lines(said: Path, lines: int) -> bool:
    return said.exists() and said.read_bytes().count(b"\n") >= lines


def has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cuts", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=1e6, help="stop after so long, even with fewer cuts")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["THINKTUNE_CACHE"] = str(chosen.folder / "cache")
    tree = small_tree(chosen.folder)
    whole = settings(tree, name="whole")
    assert exit_code(fork(whole, chosen.folder / "whole.txt")) == 0
    disk, ledger, generator = Disk(chosen.folder), Ledger(), random.Random(chosen.seed)
    disk.make()
    try:
        disk.mount(MOUNTS[-1])
    except subprocess.CalledProcessError as error:
        print(f"skip: loop mounts are not allowed here ({error.stderr.decode().strip()})")
        return 0
    disk.unmount()
    until = time.monotonic() + 60 * chosen.minutes
    try:
        while ledger.cuts < chosen.cuts and not ledger.broken and time.monotonic() < until:
            cut_one_run(ledger, disk, tree, whole.run_folder, generator)
    finally:
        if os.path.ismount(disk.place):
            disk.unmount()
    print(json.dumps(ledger.__dict__, ensure_ascii=False))
    shutil.rmtree(chosen.folder / "runs")
    return 1 if ledger.broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
