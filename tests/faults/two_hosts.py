"""Train on two hosts at once, kill a process and cut the network, and check the results.

`python tests/faults/two_hosts.py FOLDER` as root, on Linux with `ip`: the hosts are network namespaces, made and removed
here; torchrun is started in each, as a user would start it. It prints what was tested, what was lost, and how long it
took, and exits with 1 if a promise was broken. `--cases undisturbed killed cut` chooses.
"""

import argparse
import json
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from safetensors.torch import load_file
from support.network_namespaces import Command, Host, start, two_hosts
from support.runs import last_step, small_tree, without_times

from thinktune.run import journal

TIMEOUT = 15.0  # THINKTUNE_TIMEOUT_SECONDS
MARGIN = 20.0  # after the timeout, within which a rank that lost the other has reported it and exited
STARTS_IN = 120.0  # seconds for two processes to load everything on a busy machine
CASES = ("undisturbed", "killed", "cut")
STEPS = 120


@dataclass
class Ledger:
    tried: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    equal: list[str] = field(default_factory=list)

    def hold(self, promise: bool, otherwise: str) -> bool:
        if not promise:
            self.broken.append(otherwise)
        return promise


def write_recipe(folder: Path, tree: dict, name: str) -> tuple[str, Path]:
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps({**tree, "name": name}), encoding="utf-8")
    return str(path), Path(tree["runs_folder"]) / name


def train_on(hosts: tuple[Host, Host], recipe: str, only: int | None = None) -> list[Command]:
    chosen = hosts if only is None else [hosts[only]]
    return [start(host, "train", recipe, THINKTUNE_TIMEOUT_SECONDS=str(TIMEOUT)) for host in chosen]


def within(seconds: float, condition) -> bool:
    """Return True if a condition becomes true in time."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if condition():
            return True
        time.sleep(0.02)
    return False


def last_logged_step(folder: Path) -> int:
    """Return the last step in the run's journal."""
    return max([0, *(record["step"] for record in journal.read_metrics(folder))]) if folder.exists() else 0


def runs_past_a_checkpoint(folder: Path) -> bool:
    return 0 < last_step(folder) < min(last_logged_step(folder), STEPS - 30)


def ends_well(ledger: Ledger, commands: list[Command], case: str) -> bool:
    codes = [command.wait(2 * STARTS_IN) for command in commands]
    said = "\n\n".join(command.text[-3000:] for command in commands)
    return ledger.hold(codes == [0, 0], f"{case}: ended with {codes}\n{said}")


def compare(ledger: Ledger, folder: Path, whole: Path, case: str) -> None:
    """Record how a disturbed run differs from an undisturbed one."""
    names = [str(path.relative_to(whole)) for path in whole.rglob("*.safetensors")]
    names = sorted(name for name in names if name.startswith("final/") or f"step-{STEPS:06d}" in name)
    ledger.hold(len(names) > 2, f"{case}: the whole run lacks files: {names}")
    for name in names:
        ledger.hold((folder / name).is_file() and same(folder / name, whole / name), f"{case}: {name} differs")
    metrics = [without_times(metrics_without_events(run)) for run in (folder, whole)]
    ledger.hold(metrics[0] == metrics[1], f"{case}: metrics.jsonl differs")
    ledger.hold(journal.read_samples(folder) == journal.read_samples(whole), f"{case}: samples.jsonl differs")
    if not ledger.broken:
        ledger.equal.append(f"{case}: {', '.join(names)} bit for bit; metrics without times; samples")


def same(one: Path, other: Path) -> bool:
    """Return True if two files hold the same tensors, bit for bit; those of the state may be in another order."""
    if "state" not in one.parts:
        return one.read_bytes() == other.read_bytes()
    mine, theirs = load_file(one), load_file(other)
    return mine.keys() == theirs.keys() and all(mine[name].equal(theirs[name]) for name in mine)


def metrics_without_events(run: Path) -> list[dict]:
    """Return the metrics without the events, which record the restart itself."""
    return [record for record in journal.read_metrics(run) if record["kind"] != "event"]


def undisturbed(ledger: Ledger, hosts: tuple[Host, Host], recipe: str) -> None:
    began, commands = time.monotonic(), train_on(hosts, recipe)
    if ends_well(ledger, commands, "undisturbed"):
        ledger.seconds["undisturbed: the whole run, start included"] = time.monotonic() - began
        ledger.tried.append("two hosts train whose own names resolve to loopback addresses, with no variable for Gloo")
        silent = [line for _, line in commands[1].lines if "step" in line or "loss" in line]
        ledger.hold(not silent, f"undisturbed: the second host prints: {silent}")


def killed(ledger: Ledger, hosts: tuple[Host, Host], recipe: str, folder: Path) -> None:
    commands = train_on(hosts, recipe)
    if not ledger.hold(
        within(STARTS_IN, lambda: runs_past_a_checkpoint(folder)), "killed: nothing was running to be killed"
    ):
        ledger.broken += [command.text[-3000:] for command in commands]
        return
    [worker] = commands[1].workers()
    at, kept, lost = time.monotonic(), last_step(folder), last_logged_step(folder)
    os.kill(worker, signal.SIGKILL)
    if not ends_well(ledger, commands, "killed"):
        return
    ledger.seconds["killed: until the run had finished, restart included"] = time.monotonic() - at
    again = commands[0].said("resumed after step", at)
    ledger.hold(len(again) == 1, f"killed: restarted {len(again)} times")
    if again:
        ledger.seconds["killed: until the run resumed"] = again[0][0] - at
        ledger.hold(f"after step {kept} of" in again[0][1], f"killed: at step {kept}, but {again[0][1]}")
    ledger.tried.append(f"SIGKILL of one host's process at step {lost}: resumed after step {kept}, 1 restart")


def cut(ledger: Ledger, hosts: tuple[Host, Host], recipe: str, folder: Path) -> None:
    commands = train_on(hosts, recipe)
    if not ledger.hold(
        within(STARTS_IN, lambda: runs_past_a_checkpoint(folder)), "cut: nothing was running to be cut off"
    ):
        return
    at, kept = time.monotonic(), last_step(folder)
    before = [command.workers() for command in commands]
    hosts[1].link("down")
    for host, command, [worker] in zip(hosts, commands, before, strict=True):
        gone = within(TIMEOUT + MARGIN, lambda worker=worker: is_gone(worker))
        ledger.seconds[f"cut: until the process on {host.name} had ended"] = time.monotonic() - at
        ledger.hold(gone, f"cut: {host.name} still waits after {TIMEOUT + MARGIN:.0f} s")
        said = command.said("lost the other ranks", at)
        if ledger.hold(
            len(said) == 1, f"cut: {host.name} reports {len(said)} times that it lost the other\n{command.text[-3000:]}"
        ):
            ledger.seconds[f"cut: until {host.name} reported it"] = said[0][0] - at
            ledger.hold(f" of 2 on {host.name}: " in said[0][1], f"cut: {said[0][1]}")
    hosts[1].link("up")
    at, starts = time.monotonic(), 0
    while not ended_well(commands) and starts < 6:
        for index, command in enumerate(commands):
            if command.wait(1):  # torchrun itself lost the other machine: its user starts it again
                commands[index], starts = train_on(hosts, recipe, index)[0], starts + 1
        if time.monotonic() > at + 4 * STARTS_IN:
            break
    if ends_well(ledger, commands, "cut"):
        ledger.seconds["cut: from the network's return to the end of the run"] = time.monotonic() - at
        ledger.tried.append(
            f"the network cut after the checkpoint of step {kept}, and restored: the same command, started again "
            f"{starts} times, trained to the end"
        )


def ended_well(commands: list[Command]) -> bool:
    return all(command.wait(0) == 0 for command in commands)


def is_gone(worker: int) -> bool:
    """Return True if a process has ended, even if its parent has not waited for it yet."""
    try:
        return Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    chosen = parser.parse_args()
    os.environ["THINKTUNE_CACHE"] = str(chosen.folder / "cache")
    tree = small_tree(chosen.folder)
    tree["train"] |= {"epochs": 40, "evaluate_every_steps": 20}
    tree["generate"]["sample_share"] = 1  # otherwise the machine's speed decides whether there are samples
    ledger = Ledger()
    with two_hosts() as hosts:
        whole = None
        for case in chosen.cases:
            recipe, folder = write_recipe(chosen.folder, tree, case)
            match case:
                case "undisturbed":
                    undisturbed(ledger, hosts, recipe)
                    whole = folder
                case "killed":
                    killed(ledger, hosts, recipe, folder)
                case _:
                    cut(ledger, hosts, recipe, folder)
            if whole and whole != folder and not ledger.broken:
                compare(ledger, folder, whole, case)
            for host in hosts:
                host.kill_all()
            if ledger.broken:
                break
    ledger.seconds = {what: round(seconds, 1) for what, seconds in ledger.seconds.items()}
    print(json.dumps(ledger.__dict__, ensure_ascii=False))
    return 1 if ledger.broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
