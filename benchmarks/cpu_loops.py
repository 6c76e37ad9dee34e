"""Measures our training loop against the tutorial's and TRL's on one CPU thread, and prints a table in Markdown.

    python benchmarks/cpu_loops.py [--rounds N] [--quick]

Every contender runs in a process of its own, one after another, on the same first weights and the same rows. Ours runs
first and last in every round: how far the two lines differ is what the machine's unrest does to every figure. Needs
the extra `benchmark` and Linux.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
OURS = "thinktune"
Results = dict[str, dict[str, float]]  # of one process: job to the fields of common.Result


@dataclass(frozen=True, slots=True)
class Contender:
    """A line of the table: the file and the variant that make it."""

    name: str
    file: str
    variant: str


CONTENDERS = (
    Contender(OURS, "ours.py", "plain"),
    Contender("Trainer 1 x 4", "peer_trainer.py", "plain"),
    Contender("Trainer 1 x 4, checkpointing (the tutorial)", "peer_trainer.py", "checkpointing"),
    Contender("TRL packing", "peer_trl.py", "plain"),
    Contender("TRL packing, checkpointing (its default)", "peer_trl.py", "checkpointing"),
    Contender("thinktune, recompute", "ours.py", "recompute"),
    Contender(f"{OURS}, last", "ours.py", "plain"),
)


def main() -> None:
    """Run the rounds and print the table, what it was measured on, and how long it took."""
    parser = ArgumentParser()
    parser.add_argument("--rounds", type=int, default=2, help="how often every contender runs; medians are quoted")
    parser.add_argument("--quick", action="store_true", help="few steps, to see that everything runs")
    arguments = parser.parse_args()
    begun = time.monotonic()
    runs: dict[Contender, list[Results]] = {contender: [] for contender in CONTENDERS}
    with tempfile.TemporaryDirectory() as folder:
        _make_jobs(Path(folder), arguments.quick)
        for turn in range(arguments.rounds):
            for contender in CONTENDERS:
                runs[contender].append(_run(contender, Path(folder)))
                cost = runs[contender][-1]["work"]["cpu_seconds"]
                print(f"round {turn + 1}: {contender.name}: {cost:.2f} CPU-seconds", file=sys.stderr, flush=True)
    print(table(runs))
    print(
        f"\n{', '.join(f'{name} {version(name)}' for name in ('torch', 'transformers', 'trl', 'thinktune'))}; "
        f"one thread, fp32, median of {arguments.rounds} rounds, {time.monotonic() - begun:.0f} s in all"
    )


def table(runs: dict[Contender, list[Results]]) -> str:
    """The medians of all rounds as Markdown, each with its ratio to ours, first and last taken together."""
    head = (
        "| loop | CPU-s per 1,000 tokens | ratio | of it system | MiB above start | ratio | process peak MiB "
        "| ms per step, tiny model | ratio | probe loss | first gradient norm | weights moved |"
    )
    lines = [head, "|---" + "|---:" * (head.count("|") - 2) + "|"]
    ours = _medians(runs[CONTENDERS[0]] + runs[CONTENDERS[-1]])
    for contender, results in runs.items():
        line = _medians(results)
        cells = [
            contender.name,
            f"{line['cost']:.3f}",
            f"{line['cost'] / ours['cost']:.2f}",
            f"{line['system']:.1%}",
            f"{line['memory']:.0f}",
            f"{line['memory'] / ours['memory']:.2f}",
            f"{line['peak']:.0f}",
            f"{line['overhead']:.2f}",
            f"{line['overhead'] / ours['overhead']:.2f}",
            f"{line['loss']:.5f}",
            f"{line['norm']:.3f}",
            f"{line['moved']:.1%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _medians(results: list[Results]) -> dict[str, float]:
    work = [result["work"] for result in results]
    tiny = [result["overhead"] for result in results]
    return {
        "cost": median(1000 * run["cpu_seconds"] / run["tokens"] for run in work),
        "system": median(run["system_seconds"] / run["cpu_seconds"] for run in work),
        "memory": median(run["above_start_mib"] for run in work),
        "peak": median(run["process_peak_mib"] for run in work),
        "overhead": median(1000 * run["cpu_seconds"] / run["steps"] for run in tiny),
        "loss": median(run["probe_loss"] for run in work),
        "norm": median(run["gradient_norm"] for run in work),
        "moved": median(run["weights_moved"] for run in work),
    }


def _make_jobs(folder: Path, quick: bool) -> None:
    """Write all jobs; in this process, so that no contender's memory holds what making them took."""
    from common import QUICK_STEPS, SHAPES, make_job  # imported late: --help should not wait for torch

    for name, shape in SHAPES.items():
        (folder / name).mkdir()
        make_job(folder / name, shape, QUICK_STEPS[name] if quick else shape.steps)


def _run(contender: Contender, folder: Path) -> Results:
    """One process from start to end; its last line of output is its results. Stops the suite where it fails."""
    command = [sys.executable, str(HERE / contender.file), str(folder), contender.variant]
    settings = {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{contender.name} failed:\n{done.stderr[-4000:]}")
    results: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return results


if __name__ == "__main__":
    main()
