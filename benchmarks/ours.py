"""Ours: the run that `thinktune train` opens and the steps it takes, on rows that are token ids already.

The only file here that knows thinktune from within. `run.prepare`, which makes rows from text, is answered with the
job's rows; everything after it is the package's own: plan, model, optimizer, steps and their log.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np

if TYPE_CHECKING:
    from common import Chosen, Clock, Trained
    from jobs import Job, Row

SEED = 42


def deal_rows(rows: Sequence["Row"], tokens_per_step: int | None, rows_per_step: int | None) -> list[list[int]]:
    """Which rows share a step in one epoch of ours: all contenders that can take the same."""
    from thinktune.data.packing import assign_rows

    lengths, learned = [len(row) for row in rows], [len(row) - row.prompt for row in rows]
    steps = assign_rows(
        lengths, learned, tokens_per_step=tokens_per_step, rows_per_step=rows_per_step, epochs=1, seed=SEED
    )
    return [list(step.rows) for step in steps]


def train(job: "Job", chosen: "Chosen", clock: "Clock") -> "Trained":
    """The job's steps as `thinktune train` takes them; `chosen.recipe` are knobs of `train`."""

    from common import Trained

    from thinktune.train.loop import _compile, _train_step
    from thinktune.train.setup import open_run

    with tempfile.TemporaryDirectory() as folder:
        rows = _prepared(job, Path(folder) / "store")
        with patch("thinktune.train.setup.prepare", lambda *_: rows):
            run = open_run(_recipe(job, chosen, Path(folder)), _quiet, ["benchmark"])
        context = run.context
        assert [list(step.rows) for step in context.steps[: job.plan.steps]] == job.steps
        reports = []
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
        losses = [(number, report.losses.mean_losses()["loss"]) for number, report in enumerate(reports, start=1)]
        norms = [float(report.gradient_norm) for report in reports]
        memory, compiled = context.optimizer.memory, "compiled" if context.compiled else "eager"
        setting = f"{memory}, batches of {context.capacity:,}, {compiled}"
        weights = context.optimizer.master_weights()
        return Trained(context.model, job.step_tokens, norms, _as_logged(losses, job), setting, weights)


def _recipe(job: "Job", chosen: "Chosen", folder: Path) -> Any:
    from thinktune.config.loading import validate_recipe

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
        "train": train | chosen.settings,
    }
    return validate_recipe(tree, "benchmark")


def _prepared(job: "Job", folder: Path) -> Any:
    """The job's rows as `prepare` hands them over: tokenized, on the disk, mapped."""
    from thinktune.data.chat_template import Rendered, TokenKind
    from thinktune.data.dataset import DatasetWriter, example_to_json, open_dataset, select
    from thinktune.data.pipeline import Prepared
    from thinktune.data.types import Example, Turn

    folder.mkdir()
    text = example_to_json(Example((Turn("user", "?"), Turn("assistant", "!")), "rows.jsonl:1"))
    with DatasetWriter(folder) as writer:
        for number, row in enumerate(job.rows):
            parts = np.full(len(row), TokenKind.REASONING, np.uint8)
            parts[: row.prompt], parts[-1] = TokenKind.PROMPT, TokenKind.END
            source = f"rows.jsonl:{number + 1}"
            writer.add(number, source, text, [Rendered(np.asarray(row.ids, np.int32), parts, source)])
    store = open_dataset(folder)
    train, nothing = select(store, np.arange(len(job.rows))), select(store, np.arange(0))
    return Prepared(train, nothing, _account(job, train), "benchmark")


def _account(job: "Job", rows: Any) -> dict[str, Any]:
    """What a run says of its rows when it opens."""
    return {
        "files": [],
        "rows_read": len(job.rows),
        "train_rows": len(job.rows),
        "train_tokens": int(rows.lengths.sum()),
        "train_learned_tokens": int(rows.learned.sum()),
        "validation_rows": 0,
        "dropped_rows": 0,
        "stopping_rows": 0,
        "validation": 0.0,
        "faults": [],
        "own_system_rows": 0,
        "over": {},
        "largest_token": max(int(row.ids.max()) for row in job.rows),
    }


def _as_logged(losses: list[tuple[int, float]], job: "Job") -> list[tuple[int, float]]:
    """The loss of the first step, then the mean since the last entry, as transformers' Trainer logs it."""
    entries, since = [losses[0]], 1
    for number in range(job.plan.log_every, job.plan.steps + 1, job.plan.log_every):
        if number == since:
            continue
        entries.append((number, float(np.mean([loss for _, loss in losses[since:number]]))))
        since = number
    return entries


def _quiet(line: str) -> None:
    """Lines go where nobody reads them, but are written."""
    print(line, file=sys.stderr)


if __name__ == "__main__":
    from common import main

    main(train)
