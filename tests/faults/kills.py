"""Kill training runs, forked from one process that has everything loaded, and check what they leave behind.

`python tests/faults/kills.py FOLDER --kills 200` kills at random moments; `--sweep` kills before every single file
operation of a run in turn. It prints what was tested and lost, and exits with 1 if a promise was broken. `--plant`
puts a fault into saving, which must be found.
"""

import argparse
import json
import os
import random
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}  # a fork takes no threads along

import torch
from support.runs import last_step, settings, small_tree, without_times

from thinktune.checkpoint import saving, store
from thinktune.checkpoint.manifest import manifest_mismatches
from thinktune.errors import UserError
from thinktune.files import read_json
from thinktune.run import journal
from thinktune.train import train

WRITING = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link"}


@dataclass
class Ledger:
    kills: int = 0
    whole_runs: int = 0
    repeated_steps: int = 0
    most_repeated: int = 0
    broken: list[str] = field(default_factory=list)
    kinds: dict[str, int] = field(default_factory=dict)


def fork(recipe, before=lambda: None) -> int:
    """Fork a child that trains; return its process id."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        before()
        train(recipe, lambda _: None)
        code = 0
    finally:
        os._exit(code)


def kill_before_operation(number: int, folder: Path, pipe: int):
    """Install a hook that kills the process before its `number`th change of the run folder."""
    seen = 0

    def hook(event, arguments):
        nonlocal seen
        writes = event in WRITING or (event == "open" and isinstance(arguments[2], int) and arguments[2] & 0o3)
        if writes and str(folder) in str(arguments[0]):
            seen += 1
            if seen == number:
                os.write(pipe, f"{event} {arguments[0]}".encode())
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def exit_code(pid: int) -> int | None:
    """Return the exit code of a child, or None if it was killed."""
    status = os.waitpid(pid, 0)[1]
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else None


def broken_promises(folder: Path) -> list[str]:
    """Return the promises that a killed run's folder breaks."""
    found = []
    for pointer in ("last", "best"):
        try:
            if kept := store.find_checkpoint(folder, pointer):
                store.verify(kept, with_state=pointer == "last")
        except (UserError, OSError, ValueError, KeyError) as error:
            found.append(f"{pointer}: {error}")
    if (folder / "final").is_dir() and manifest_mismatches(folder / "final"):
        found.append(f"final: {manifest_mismatches(folder / 'final')}")
    for path in folder.glob("*.json"):
        try:
            read_json(path)
        except ValueError as error:
            found.append(f"{path.name}: {error}")
    page = folder / "report.html"
    if page.exists() and not page.read_text(encoding="utf-8").rstrip().endswith("</html>"):
        found.append("report.html: is cut off")
    return found


def differences(folder: Path, whole: Path) -> list[str]:
    """Return how a run that was killed and resumed differs from an uninterrupted one."""
    found = [
        f"{name} differs"
        for name in ("checkpoints/step-000009/model.safetensors", "checkpoints/step-000009/state/state.safetensors")
        if (folder / name).read_bytes() != (whole / name).read_bytes()
    ]
    if (folder / "final/model.safetensors").read_bytes() != (whole / "final/model.safetensors").read_bytes():
        found.append("the final model differs")
    if without_times(journal.read_metrics(folder)) != without_times(journal.read_metrics(whole)):
        found.append("metrics.jsonl differs")
    if journal.read_samples(folder) != journal.read_samples(whole):
        found.append("samples.jsonl differs")
    mine, theirs = ({str(path.relative_to(run)) for path in run.rglob("*")} for run in (folder, whole))
    return found + [f"other files: {sorted(mine ^ theirs)}"] * (mine != theirs)


def last_logged_step(folder: Path) -> int:
    return max([0, *(record["step"] for record in journal.read_metrics(folder))]) if folder.exists() else 0


def record_kill(ledger: Ledger, folder: Path, kind: str, before: int) -> None:
    """Record a kill and what it cost."""
    ledger.kills += 1
    ledger.kinds[kind] = ledger.kinds.get(kind, 0) + 1
    ledger.broken += [f"after {kind}: {promise}" for promise in broken_promises(folder)] if folder.exists() else []
    if last_step(folder) < before:
        ledger.broken.append(f"after {kind}: the last checkpoint went back from step {before}")
    lost = max(0, last_logged_step(folder) - last_step(folder))
    ledger.repeated_steps += lost
    ledger.most_repeated = max(ledger.most_repeated, lost)


def record_finished(ledger: Ledger, folder: Path, whole: Path) -> None:
    ledger.whole_runs += 1
    ledger.broken += differences(folder, whole)


def kill_at_random(ledger: Ledger, tree, whole: Path, chosen: argparse.Namespace, seconds: float) -> None:
    generator, run, until = random.Random(chosen.seed), 0, time.monotonic() + 60 * chosen.minutes
    while ledger.kills < chosen.kills and not ledger.broken and time.monotonic() < until:
        recipe = settings(tree, name=f"random-{run}")
        before = last_step(recipe.run_folder)
        pid = fork(recipe)
        time.sleep(generator.uniform(0, seconds))
        os.kill(pid, signal.SIGKILL)  # harmless for a child that has ended and was not waited for
        code = exit_code(pid)
        seconds *= 1.05 if code is None else 0.9  # so that, however busy the machine is, most kills hit
        if code is None:
            record_kill(ledger, recipe.run_folder, "a random moment", before)
            if ledger.kills % 10 == 0:
                print(f"{ledger.kills} kills, {ledger.whole_runs} whole runs", file=sys.stderr, flush=True)
        elif code == 0:
            record_finished(ledger, recipe.run_folder, whole)
            run += 1
        else:
            ledger.broken.append(f"a start ended with {code}")
    recipe = settings(tree, name=f"random-{run}")
    if not ledger.broken and (code := exit_code(fork(recipe))) == 0:
        record_finished(ledger, recipe.run_folder, whole)
    elif not ledger.broken:
        ledger.broken.append(f"the last start ended with {code}")


def sweep(ledger: Ledger, tree, whole: Path, most: int, plant=lambda: None) -> None:
    """Kill before the first file operation, then the second, and so on; from the first again after each save."""
    recipe, number = settings(tree, name="swept"), 1
    folder = recipe.run_folder
    while not ledger.broken and ledger.kills < most:
        before, (reader, pipe) = last_step(folder), os.pipe()

        def begin(number=number, pipe=pipe):
            plant()
            kill_before_operation(number, folder, pipe)

        code = exit_code(fork(recipe, begin))
        os.close(pipe)
        where = os.read(reader, 4096).decode()
        os.close(reader)
        if code is None:
            event, _, path = where.partition(" ")
            kind = "".join("0" if letter.isdigit() else letter for letter in Path(path).name)
            record_kill(ledger, folder, f"{event} {kind}", before)
            number = 1 if last_step(folder) > before else number + 1
            continue
        if code == 0:
            record_finished(ledger, folder, whole)
        else:
            ledger.broken.append(f"a start ended with {code}")
        return


def plant_half_write() -> None:
    """Plant the fault that the tests must find: the pointer moves first, and the checkpoint is written in place."""
    save = saving.save

    def careless(run, model, base_files, optimizer, trainer_state, world):
        saving._partial_folder = lambda folder: folder.mkdir(parents=True, exist_ok=True) or folder
        saving._commit_folder = lambda partial, folder: saving.write_manifest(folder, exclude=(store.STATE_FOLDER,))
        store.shutil.rmtree, kept = lambda *_, **__: None, store.shutil.rmtree
        store.write_pointer(run, "last", trainer_state["step"])
        try:
            return save(run, model, base_files, optimizer, trainer_state, world)
        finally:
            store.shutil.rmtree = kept

    saving.save = careless


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=1e6, help="stop after so long, even with fewer kills")
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--plant", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["THINKTUNE_CACHE"] = str(chosen.folder / "cache")
    tree = small_tree(chosen.folder)
    whole = settings(tree, name="whole")
    assert exit_code(fork(whole)) == 0  # fills the cache of rows, too
    started_at = time.monotonic()
    assert exit_code(fork(settings(tree, name="timed"))) == 0
    seconds = time.monotonic() - started_at
    ledger = Ledger()
    if chosen.sweep:
        sweep(ledger, tree, whole.run_folder, chosen.kills, plant_half_write if chosen.plant else lambda: None)
    else:
        kill_at_random(ledger, tree, whole.run_folder, chosen, seconds)
    print(json.dumps(ledger.__dict__, ensure_ascii=False))
    return 1 if ledger.broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
