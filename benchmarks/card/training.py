"""Stage: thinktune on a job, by the plan's own choice and then by others, in one process; a trace of a step.

`python -m card.training JOB OUT [--settings JSON ...] [--trace] [--staged]`: each `--settings` is one run of all steps
with these settings of `train`, the first of which is usually `{}`, the plan's own choice. One that the plan took
already is not run twice, and `--most` of them run at most.
"""

import gc
import json
import logging
import sys
import tempfile
import traceback
import warnings
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from common import Clock, Options, staged_result
from jobs import Job, read_job
from ours import open_job, take_steps, trained

from card.kernels import trace_step
from card.predicted import predict
from card.turns import Turns, turns
from thinktune.errors import UserError
from thinktune.train.state import Run


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--settings", type=json.loads, action="append", default=[], help="settings of train, as JSON")
    parser.add_argument("--most", type=int, default=99, help="settings that run at most")
    parser.add_argument("--trace", action="store_true", help="trace one more step of the first settings")
    parser.add_argument("--staged", action="store_true", help="a stage of first_card.py: it waits for turns")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    line = turns(arguments.staged)
    line.wait("card")
    job, taken = read_job(arguments.job), list[dict[str, Any]]()
    broken = False
    for number, settings in enumerate(arguments.settings or [{}]):
        if len(taken) == arguments.most:
            break
        if any(settings.items() <= setting.items() for setting in taken):
            line.find("training", settings=settings, absent="the plan's own choice is the same")
            continue
        if number:
            line.wait("card")  # the settings before may have failed in their timed window
        try:
            taken.append(_measure(job, settings, line, arguments if arguments.trace and not number else None))
        except UserError as error:  # it does not fit, or this machine cannot: a finding
            line.find("training", settings=settings, absent="; ".join(error.faults)[:300])
        except Exception as error:  # the other settings are still worth their time
            traceback.print_exc()
            broken = True
            line.find("training", settings=settings, absent=f"failed: {type(error).__name__}: {error}"[:300])
        _release()
    sys.exit(broken)


def _measure(job: Job, settings: dict[str, Any], line: Turns, tracing: Namespace | None) -> dict[str, Any]:
    """Take the job's steps with some settings, hand over what was measured, and return the plan's setting."""
    torch.manual_seed(0)
    free_gib = torch.cuda.mem_get_info()[0] / 2**30 if job.on_card else None
    with tempfile.TemporaryDirectory() as folder:
        run = open_job(job, Options("staged", settings=settings), Path(folder))
        predicted = predict(run)
        clock = Clock(job, line.wait)
        reports = take_steps(run, job, clock)
        done = trained(run, job, reports, masters=False)
        losses = [report.losses.mean_losses()["loss"] for report in reports]
        setting = asdict(run.context.setting)
        line.find(
            "training",
            settings=settings,
            plan=setting,
            compiled=run.context.compiled,
            predicted=predicted,
            card_free_gib=free_gib,
            all_losses=losses,
            **staged_result(job, clock, done),
        )
        if tracing:
            line.find("kernels", **_trace(run, job, tracing.out))
    return setting


def _trace(run: Run, job: Job, out: Path) -> dict[str, Any]:
    """Trace the step after the last one."""
    number = job.plan.steps + 1
    if number > len(run.context.steps):
        return {"absent": "the job has no step left"}
    rows = run.context.steps[number - 1].rows
    return trace_step(run, number, sum(len(job.rows[row]) for row in rows), out)


def _release() -> None:
    """Free what a run held on the card, and what was compiled for it."""
    gc.collect()
    torch._dynamo.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
