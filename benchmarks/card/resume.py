"""Stage: half the steps, a checkpoint, a new start and the other half, against all steps at once: the same bits?

`python -m card.resume JOB [--staged] [--tiny]`: with deterministic operations, in the plan's own setting.
"""

import gc
import hashlib
import logging
import tempfile
import warnings
from argparse import ArgumentParser
from pathlib import Path

import torch
from common import Options
from jobs import Job, read_job
from ours import open_job

from card.turns import turns
from thinktune.train.loop import _compile, _save_blocking, _train_step
from thinktune.train.state import Run

OPTIONS = Options("resume", settings={"deterministic": True})


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job", type=Path)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--staged", action="store_true", help="a stage of first_card.py: it waits for turns")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    line = turns(arguments.staged)
    line.wait("card")
    job = read_job(arguments.job)
    half = job.plan.steps // 2
    with tempfile.TemporaryDirectory(dir=arguments.job) as folder:
        straight = _steps(job, Path(folder), 2 * half)
    with tempfile.TemporaryDirectory(dir=arguments.job) as folder:
        _steps(job, Path(folder), half, saves=True)
        resumed = _steps(job, Path(folder), 2 * half)
    differ = [name for name in straight if straight[name] != resumed[name]]
    line.find("resume", steps=half, tensors=len(straight), differ=len(differ), first=differ[:5])


def _steps(job: Job, folder: Path, last: int, *, saves: bool = False) -> dict[str, str]:
    """Open a run, or go on with it, take its steps up to the last, and return a digest of each weight and state."""
    run = open_job(job, OPTIONS, folder)
    if run.context.compiled:
        _compile(run)
    for number in range(run.state.step + 1, last + 1):
        _train_step(run, number)
        run.metrics.log(run.context, number, run.anomalies)
    if saves and not _save_blocking(run):
        raise OSError("no room for the checkpoint")
    found = _digests(run)
    del run
    gc.collect()
    torch._dynamo.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return found


def _digests(run: Run) -> dict[str, str]:
    tensors = dict(run.context.model.named_parameters()) | run.context.optimizer.state_dict()
    return {
        name: hashlib.sha256(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()).hexdigest()
        for name, tensor in tensors.items()
    }


if __name__ == "__main__":
    main()
