"""Measure our training loop against its peers on one CPU thread: work, overhead, memory and loss curves.

    python benchmarks/cpu_loops.py [--rounds N] [--quick] [--out FOLDER]

Every contender runs in a process of its own, one after another, on the same initial weights and rows and, except for
TRL's own packing, with the same rows in the same step. Ours runs first and last in every round: the difference of both
lines is the noise of the machine in every figure. Costs are CPU-seconds of the process, so that other work on the
machine counts as little as possible; only ratios within a run are worth quoting. Exits with code 1 if losses differ
that must be equal, or if ours is not the cheapest. Needs the extra `benchmark` and Linux.
"""

import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from suite import OURS, Budget, Contender, Line, commit, differences, markdown, run, versions, write

ROWS_PER_STEP = 4
# Of models with random weights; large enough that losses show a wrong update. A hundred steps of the tiny one at the
# larger rate end in chaos, where differences of the last digit grow a thousandfold.
LEARNING_RATES = {"work": 1e-3, "overhead": 1e-4}
JOBS = ("work", "overhead")  # where arithmetic dominates, and where only the loop around it is left
SAME_LOSS, SAME_PROBE = 2e-5, 0.01  # relative; the second for TRL's packing, because other rows share a step
TUTORIAL_RATIO = 1.2  # the tutorial's loop must cost at least this many times ours

CONTENDERS = (
    Contender(OURS, "ours.py", "plain"),
    Contender("Trainer 1 x 4", "peer_tutorial.py", "kept", "accelerate", same_steps=True),
    Contender(
        "Trainer 1 x 4, checkpointing (the tutorial)",
        "peer_tutorial.py",
        "checkpointing",
        "accelerate",
        same_steps=True,
    ),
    Contender("Trainer, flat batches", "peer_trainer.py", "tuned", "accelerate", same_steps=True),
    Contender("TRL, padding-free", "peer_trl.py", "same-steps", "trl", same_steps=True),
    Contender("TRL, packing", "peer_trl.py", "packing", "trl"),
    Contender("TRL, packing, checkpointing (its default)", "peer_trl.py", "packing-checkpointing", "trl"),
    Contender(f"{OURS}, last", "ours.py", "plain", same_steps=True),
)
TUTORIAL = CONTENDERS[2].name


def main() -> None:
    """Run the rounds, print the table and what it was measured on, and check the demands."""
    parser = ArgumentParser(description=__doc__, formatter_class=lambda prog: _wide(prog))
    parser.add_argument("--rounds", type=int, default=3, help="how often every contender runs; medians are printed")
    parser.add_argument(
        "--quick", action="store_true", help="few steps, to see that everything runs; checks losses only"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmark-results"), help="folder of table, JSON and chart")
    arguments = parser.parse_args()
    budget = Budget(3600 * arguments.rounds)
    rounds: list[list[Line]] = []
    with tempfile.TemporaryDirectory() as folder:
        jobs = _write_jobs(Path(folder), arguments.quick)
        for number in range(arguments.rounds):
            rounds.append([])
            for contender in CONTENDERS:
                line = run(contender, jobs, budget, threads=1)
                if line.absent.startswith(("failed", "stopped")):
                    sys.exit(f"{contender.name} {line.absent}")
                rounds[-1].append(line)
                outcome = line.absent or f"{line.results[0]['cpu_seconds']:.2f} CPU-seconds"
                print(f"round {number + 1}: {contender.name}: {outcome}", file=sys.stderr, flush=True)
    took = budget.seconds - budget.left
    facts = {"commit": commit(), "versions": versions(), "rounds": arguments.rounds, "seconds": round(took)}
    text = f"{table(rounds)}\n\nCommit {facts['commit']}; {facts['versions']}; one thread, fp32, median of "
    text += f"{arguments.rounds} rounds, {took:.0f} s in all."
    write(arguments.out, "cpu", rounds[-1], facts, text)
    print(text)
    print(f"\nloss curves: {arguments.out / 'cpu.html'}", file=sys.stderr)
    if found := faults(rounds, losses_only=arguments.quick):
        sys.exit("\n".join(["failed:", *found]))


def table(rounds: Sequence[Sequence[Line]]) -> str:
    """Return the medians of all rounds as Markdown, each with its ratio to ours, first and last taken together."""
    head = (
        *("loop", "CPU-s per 1,000 tokens", "ratio", "of it system", "MiB above start", "ratio", "process peak MiB"),
        *("ms a step, tiny model", "ratio", "probe loss", "largest difference of a logged loss", "first gradient norm"),
    )
    ours, differ = costs_of_ours(rounds), differences(rounds[0])
    lines: list[list[str]] = []
    for number, contender in enumerate(CONTENDERS):
        if absent := rounds[0][number].absent:
            lines.append([contender.name, absent, *[""] * (len(head) - 2)])
            continue
        cost = costs([turn[number] for turn in rounds])
        difference = differ.get(contender.name)
        lines.append(
            [
                contender.name,
                f"{cost['work']:.3f}",
                f"{cost['work'] / ours['work']:.2f}",
                f"{cost['system']:.1%}",
                f"{cost['memory']:.0f}",
                f"{cost['memory'] / ours['memory']:.2f}",
                f"{cost['peak']:.0f}",
                f"{cost['overhead']:.2f}",
                f"{cost['overhead'] / ours['overhead']:.2f}",
                f"{cost['probe']:.5f}",
                "" if difference is None else f"{difference:.1e}",
                f"{rounds[0][number].results[0]['gradient_norms'][0]:.3f}",
            ]
        )
    return markdown(head, lines)


def costs(lines: Sequence[Line]) -> dict[str, float]:
    """Return the medians of a contender's rounds."""
    work, tiny = ([line.results[job] for line in lines] for job in range(2))
    return {
        "work": median(1000 * each["cpu_seconds"] / each["timed_tokens"] for each in work),
        "system": median(each["system_seconds"] / each["cpu_seconds"] for each in work),
        "memory": median(each["memory"]["above_start_mib"] for each in work),
        "peak": median(each["memory"]["process_peak_mib"] for each in work),
        "overhead": median(1000 * each["cpu_seconds"] / each["timed_steps"] for each in tiny),
        "probe": median(each["probe_loss"] for each in work),
    }


def costs_of_ours(rounds: Sequence[Sequence[Line]]) -> dict[str, float]:
    """Return the medians of ours, first and last in all rounds."""
    return costs([line for turn in rounds for line in turn if line.contender.name.startswith(OURS)])


def faults(rounds: Sequence[Sequence[Line]], *, losses_only: bool) -> list[str]:
    """Return the broken demands: equal computations give equal losses, and ours costs the least."""
    found = [
        f"{name}: a logged loss differs from ours by {difference:.1e}, more than {SAME_LOSS:.0e}"
        for job in range(2)
        for name, difference in differences(rounds[0], job).items()
        if difference > SAME_LOSS
    ]
    ours = costs_of_ours(rounds)
    for number, contender in enumerate(CONTENDERS):
        if rounds[0][number].absent or contender.name.startswith(OURS):
            continue
        cost = costs([turn[number] for turn in rounds])
        if abs(cost["probe"] / ours["probe"] - 1) > SAME_PROBE:
            found.append(f"{contender.name}: probe loss {cost['probe']:.4f}, ours {ours['probe']:.4f}")
        if losses_only:
            continue
        if cost["overhead"] <= ours["overhead"]:
            found.append(f"{contender.name}: {cost['overhead']:.2f} ms a step, ours {ours['overhead']:.2f}")
        least = TUTORIAL_RATIO if contender.name == TUTORIAL else 1.0
        if cost["work"] < least * ours["work"]:
            found.append(f"{contender.name}: {cost['work'] / ours['work']:.2f} of our cost, not {least}")
    return found


def _write_jobs(folder: Path, quick: bool) -> list[Path]:
    """Write all jobs; in this process, so that no contender's memory holds what making them took."""
    import torch  # imported late: --help should not wait for it
    from jobs import Lengths, Plan, Shape, write_job, write_model

    plan = Plan(steps=10, warm_up=0, learning_rate=0.0, device="cpu", rows_per_step=ROWS_PER_STEP)
    made = {  # lengths spread so that the 95th percentile is 1.38 times the mean, as in the medical rows
        "work": (Shape(256, 768, 4, 4, 2, 64, 8192), Lengths(800, 0.21, 2048), 3 if quick else 10, 1),
        "overhead": (Shape(32, 64, 1, 2, 1, 16, 320), Lengths(20, 0.21, 40), 10 if quick else 100, 10),
    }
    return [
        write_job(
            folder / name,
            write_model(folder / f"{name}-model", shape, "cpu", torch.float32),
            replace(plan, steps=steps, log_every=log_every, learning_rate=LEARNING_RATES[name]),
            lengths,
            steps * ROWS_PER_STEP,
        )
        for name, (shape, lengths, steps, log_every) in ((name, made[name]) for name in JOBS)
    ]


def _wide(prog: str) -> Any:
    from argparse import RawDescriptionHelpFormatter

    return RawDescriptionHelpFormatter(prog, width=120)


if __name__ == "__main__":
    main()
