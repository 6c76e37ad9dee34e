"""The first minutes on a card: tests, speed, traces, micro-measurements, peers, memory; each finding kept at once.

    python benchmarks/first_card.py [--stages GROUP ...] [--seconds 530] [--out FOLDER] [--work FOLDER] [--tiny]

This process leads and has no CUDA. Stages are child processes that import and load before their turn; timed windows
never overlap. `card.jsonl` gets each finding as a line, flushed; `card.md` is the table, written again after each
stage; `errors.log` holds what stages wrote to standard error; the tests add `tests.xml` and `tests.log`, the trace
`kernels.txt` and `trace.json.gz`. Exit code 1 if a stage failed or did not run. --tiny runs the same on the CPU with
tiny shapes, to see that everything works; its figures mean nothing.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from argparse import ArgumentParser, Namespace
from collections.abc import Collection
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

from card.leader import Leader, Limits, Stage
from card.places import Places
from card.stages import LATER, all_stages, choose, groups, missing_packages
from card.summary import Line, summary
from suite import HERE, commit, environment, kernel, versions

ENDING_SECONDS = 6.0  # for ending what runs, and for the table
ERRORS_BYTES, SHM_BYTES = 20_000, 24 * 2**30
PACKAGES = ("pydantic", "trl", "datasets", "accelerate", "liger_kernel", "pytest", "xdist", "pytest_timeout")


class Record:
    """The findings: kept, and written line by line; the table and the errors follow each stage's end.

    What an earlier call found in the same folder stays, in the table too, but for the stages that run `again`.
    """

    def __init__(self, out: Path, stderr: Path, head: str, again: Collection[str] = ()) -> None:
        file = out / "card.jsonl"
        self.lines = [line for line in _read(file) if line["stage"] not in again]
        self._out, self._stderr, self._head = out, stderr, head
        cut = file.is_file() and not file.read_text(encoding="utf-8").endswith("\n")
        self._file = file.open("a", encoding="utf-8")
        self._file.write("\n" if cut else "")

    def add(self, line: Line) -> None:
        """Keep a finding."""
        self.lines.append(line)
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        if "ended" in line:
            print(f"{line['at_s']:6.1f} s  {line['stage']}: {line['ended']}", flush=True)
            self._keep_errors(line["stage"])
            self.write_page()
        elif "tokens_per_s" in line:
            print(f"{line['at_s']:6.1f} s  {line['stage']}: {line['tokens_per_s']:,.0f} tokens/s", flush=True)

    def write_page(self) -> str:
        """Write the table, and return it; a fault in it must not end what is measured."""
        try:
            page = summary(self.lines, self._head)
        except Exception as error:
            page = f"{self._head}\n\nNo table, {type(error).__name__}: {error}; all findings are in card.jsonl.\n"
            traceback.print_exc()
        (self._out / "card.md").write_text(page, encoding="utf-8")
        return page

    def _keep_errors(self, stage: str) -> None:
        file = self._stderr / f"{stage.replace(' ', '-')}.stderr"
        if file.is_file() and (text := file.read_text(encoding="utf-8", errors="replace")[-ERRORS_BYTES:].strip()):
            with (self._out / "errors.log").open("a", encoding="utf-8") as log:
                log.write(f"===== {stage}\n{text}\n")


def main() -> None:
    started = time.monotonic()
    arguments = _arguments()
    out, work = arguments.out, arguments.work or _work_folder()
    stderr = work / "stderr"
    for folder in (out, stderr):
        folder.mkdir(parents=True, exist_ok=True)
    known = all_stages(Places(out.resolve(), work.resolve(), arguments.tiny))
    if unknown := {*arguments.stages} - {*groups(known)}:
        sys.exit(f"--stages: {', '.join(sorted(unknown))} is unknown; known are {', '.join(groups(known))}")
    stages = choose(known, arguments.stages)
    machine = describe_machine(work, arguments.tiny)
    if machine["card_gib"] is None and not arguments.tiny:
        sys.exit("no NVIDIA card here (nvidia-smi finds none); --tiny runs the same on the CPU with tiny shapes")
    again = {"machine", *(name for stage in stages for name in _names(stage))}
    record = Record(out, stderr, _head(machine, arguments.tiny), again)
    record.add({"stage": "machine", "group": "about", "at_s": 0.0, "item": "machine", **machine})
    here = [stage for stage in stages if not _is_missing(stage, record)]
    limits = Limits(
        arguments.seconds - ENDING_SECONDS - (time.monotonic() - started),
        card_gib=(machine["card_gib"] or 1e6) - 4,
        ahead=2 if arguments.tiny else 4,
        host_seconds=900 if arguments.tiny else 120,
    )
    leader = Leader(here, limits, record.add, folder=stderr, environment=_environment(work, arguments.tiny))
    signal.signal(signal.SIGTERM, _stop)
    try:
        well = leader.run()
    finally:
        print(f"\n{record.write_page()[:11_000]}", flush=True)
    sys.exit(0 if well and len(here) == len(stages) else 1)


def describe_machine(work: Path, tiny: bool) -> dict[str, Any]:
    """Return versions, processors, memory, room on the disk, packages, and what nvidia-smi says of the card."""
    fields = "name,memory.total,memory.used,driver_version,clocks.sm,clocks.mem,power.limit"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    card: list[str] = []
    if not tiny:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
            card = [part.strip() for part in done.stdout.splitlines()[0].split(",")]
        except (OSError, subprocess.SubprocessError, IndexError):
            card = []
    memory = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    return {
        "versions": versions(),
        "commit": commit(),
        "attention": kernel(),
        "processors": os.cpu_count(),
        "host_gib": round(int(memory["MemTotal"].split()[0]) / 2**20, 1),
        "work_free_gib": round(shutil.disk_usage(work).free / 2**30, 1),
        "packages": [name for name in PACKAGES if find_spec(name)],
        "nvidia_smi": dict(zip(fields.split(","), card, strict=False)),
        "card_gib": float(card[1]) / 1024 if len(card) > 1 else None,
    }


def _stop(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)  # through `finally`, which ends the stages and writes the table


def _read(file: Path) -> list[Line]:
    """Read the lines of an earlier call, if there was one; a cut may have left half a line."""
    lines: list[Line] = []
    for text in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
        with suppress(json.JSONDecodeError):
            lines.append(json.loads(text))
    return lines


def _names(stage: Stage | None) -> list[str]:
    return [stage.name, *_names(stage.smaller)] if stage else []


def _is_missing(stage: Stage, record: Record) -> bool:
    missing = missing_packages(stage, lambda name: find_spec(name) is not None)
    if missing:
        ended = f"missing: {', '.join(missing)} is not installed here"
        record.add({"stage": stage.name, "group": stage.group, "at_s": 0.0, "ended": ended})
    return bool(missing)


def _environment(work: Path, tiny: bool) -> dict[str, str]:
    """Return the environment of the stages: this tree, no network, caches that a second call finds."""
    found = environment(1 if tiny else None)
    found["PYTHONPATH"] = os.pathsep.join([str(HERE), found["PYTHONPATH"]])
    caches = {
        "TORCHINDUCTOR_CACHE_DIR": "inductor",
        "TRITON_CACHE_DIR": "triton",
        "THINKTUNE_CACHE": "plans",
        "HF_DATASETS_CACHE": "datasets",
    }
    for name, folder in caches.items():
        found.setdefault(name, str(work / folder))
    found.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    found.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "6")  # several stages compile side by side
    return found | {"PYTHONUNBUFFERED": "1"}


def _work_folder() -> Path:
    """Return a folder in memory if it has room for the weights, else one for temporary files."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free >= SHM_BYTES
    return (memory if roomy else Path(tempfile.gettempdir())) / "thinktune-card"


def _head(machine: dict[str, Any], tiny: bool) -> str:
    card = "CPU, tiny shapes: these figures mean nothing" if tiny else machine["nvidia_smi"].get("name", "?")
    return f"# {card}\n\nCommit {machine['commit']}; {machine['versions']}; attention: {machine['attention']}."


def _arguments() -> Namespace:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--stages", nargs="+", default=[], help=f"groups of stages; without it all but {', '.join(LATER)}"
    )
    parser.add_argument("--seconds", type=float, default=530, help="seconds after which the command has ended")
    parser.add_argument("--out", type=Path, default=Path("benchmark-results/card"), help="folder of the results")
    parser.add_argument("--work", type=Path, help="folder of weights and caches, which are kept for a second call")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes on the CPU")
    return parser.parse_args()


if __name__ == "__main__":
    main()
