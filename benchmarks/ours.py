"""thinktune as a contender: the run that `thinktune train` opens, and its steps, on rows that are token ids already.

Only `prepare`, which turns text into rows, is replaced and returns the job's rows, and no disk is asked for its room;
everything else is the package's own: plan, model, optimizer, steps and their metrics.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from common import Clock, Options, Trained, main
from jobs import SEED, Job

from thinktune.config.loading import validate_recipe
from thinktune.config.schema import Recipe
from thinktune.data.dataset import DatasetWriter, example_to_json, open_dataset, select
from thinktune.data.pipeline import Prepared
from thinktune.tokenization import Example, Rendered, TokenKind, Turn
from thinktune.train.loop import _compile, _train_step
from thinktune.train.setup import open_run
from thinktune.train.state import Run
from thinktune.train.step import StepReport


def train(job: Job, options: Options, clock: Clock) -> Trained:
    """Take the job's steps as `thinktune train` takes them; `options.settings` are settings of `train`."""
    with tempfile.TemporaryDirectory() as folder:
        run = open_job(job, options, Path(folder))
        reports = take_steps(run, job, clock)
        return trained(run, job, reports, masters=True)


def open_job(job: Job, options: Options, folder: Path) -> Run:
    """Open the run that `thinktune train` would open on the job's rows, in a folder.

    It writes no checkpoint, so the room that checkpoints take is not asked for: a rented machine may not have it.
    """
    rows = _prepared(job, Path(tempfile.mkdtemp(dir=folder)))
    with (
        patch("thinktune.train.setup.prepare", lambda *_: rows),
        patch("thinktune.planner.disk_space.require_disk_space", lambda *_: None),
    ):
        run = open_run(_recipe(job, options, folder), _print_to_stderr, ["benchmark"])
    assert [list(step.rows) for step in run.context.steps[: job.plan.steps]] == job.steps
    return run


def take_steps(run: Run, job: Job, clock: Clock) -> list[StepReport]:
    """Take the steps of the job, by its clock, and return their reports."""
    context = run.context
    reports: list[StepReport] = []
    run.metrics.start_clock()
    clock.begin()
    if context.compiled:
        _compile(run)
    for number in range(1, job.plan.steps + 1):
        _train_step(run, number)
        if number % job.plan.log_every == 0 or number == job.plan.steps:
            reports += run.metrics.pending
            run.metrics.log(context, number, run.anomalies)
        clock.step(number, job.plan.steps)
    return reports


def trained(run: Run, job: Job, reports: Sequence[StepReport], *, masters: bool) -> Trained:
    """Return what the run did, with its exact weights if they are asked for."""
    context = run.context
    losses = [(number, report.losses.mean_losses()["loss"]) for number, report in enumerate(reports, start=1)]
    norms = [float(report.gradient_norm) for report in reports]
    memory, compiled = context.optimizer.memory, "compiled" if context.compiled else "eager"
    setting = f"{memory}, batches of {context.capacity:,}, {compiled}"
    weights = context.optimizer.master_weights() if masters else None
    return Trained(context.model, job.step_tokens, norms, _as_logged(losses, job), setting, weights)


def _recipe(job: Job, options: Options, folder: Path) -> Recipe:
    plan = job.plan
    longest = max(len(row) for row in job.rows)
    train = {
        "epochs": 1,
        "tokens_per_step": plan.tokens_per_step,
        "rows_per_step": plan.rows_per_step,
        "learning_rate": plan.learning_rate,
        "schedule": "constant",
        "warmup_fraction": 0.0,
        "log_every_steps": plan.log_every,
        "seed": SEED,
    }
    tree = {
        "name": "benchmark",
        "runs_folder": str(folder / "runs"),
        "model": {"name": str(job.model)},
        "data": {"name": "rows.jsonl", "max_tokens": longest, "validation": 0.0},
        "train": train | options.settings,
    }
    return validate_recipe(tree, "benchmark")


def _prepared(job: Job, folder: Path) -> Prepared:
    """Return the job's rows as `prepare` does: tokenized, on the disk, memory-mapped."""
    text = example_to_json(Example((Turn("user", "?"), Turn("assistant", "!")), "rows.jsonl:1"))
    with DatasetWriter(folder) as writer:
        for number, row in enumerate(job.rows):
            kinds = np.full(len(row), TokenKind.REASONING, np.uint8)
            kinds[: row.prompt], kinds[-1] = TokenKind.PROMPT, TokenKind.END
            source = f"rows.jsonl:{number + 1}"
            writer.add(number, source, text, [Rendered(np.asarray(row.ids, np.int32), kinds, source)])
    store = open_dataset(folder)
    train, empty = select(store, np.arange(len(job.rows))), select(store, np.arange(0))
    return Prepared(train, empty, _summary(job, train), "benchmark")


def _summary(job: Job, rows: Any) -> dict[str, Any]:
    """Return the summary of the data that a run reads when it opens."""
    return {
        "files": [],
        "rows_read": len(job.rows),
        "train_rows": len(job.rows),
        "train_tokens": int(rows.lengths.sum()),
        "train_learned_tokens": int(rows.label_tokens.sum()),
        "validation_rows": 0,
        "dropped_rows": 0,
        "stopping_rows": 0,
        "validation": 0.0,
        "faults": [],
        "own_system_rows": 0,
        "over": {},
        "largest_token": max(int(row.ids.max()) for row in job.rows),
    }


def _as_logged(losses: list[tuple[int, float]], job: Job) -> list[tuple[int, float]]:
    """Return the first step's loss, then the mean since the last entry, as transformers' Trainer logs it."""
    entries, since = [losses[0]], 1
    for number in range(job.plan.log_every, job.plan.steps + 1, job.plan.log_every):
        if number == since:
            continue
        entries.append((number, float(np.mean([loss for _, loss in losses[since:number]]))))
        since = number
    return entries


def _print_to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


if __name__ == "__main__":
    main(train)
