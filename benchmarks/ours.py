"""Our loop as `thinktune train` runs it, between two evaluations: packed, chunked loss, one fused update."""

import tempfile
from pathlib import Path

import torch
from common import (
    BETAS,
    CLIP_NORM,
    LEARNING_RATE,
    ROWS_PER_STEP,
    STEPS_PER_LOG,
    WEIGHT_DECAY,
    Clock,
    Job,
    Trained,
    main,
)

from thinktune import track
from thinktune.knobs import Train
from thinktune.model import apply_activation_budget, load_model
from thinktune.optim import Update, learning_rate_share
from thinktune.pack import Step, pack
from thinktune.parallel import World
from thinktune.step import StepReport, step

FLOOR_TOKENS = 1024  # as thinktune.run.batch_capacity has it on the CPU


def train(job: Job, variant: str, clock: Clock) -> Trained:
    """One pass over the job's rows; with variant `recompute`, activations are made again in the backward pass."""
    settings = Train(
        epochs=1,
        rows_per_step=ROWS_PER_STEP,
        learning_rate=LEARNING_RATE,
        schedule="constant",
        warmup_fraction=0,
        weight_decay=WEIGHT_DECAY,
        betas=BETAS,
        clip_norm=CLIP_NORM,
    )
    model = load_model(job.model, torch.device("cpu"))
    apply_activation_budget(model, 0.0 if variant == "recompute" else 1.0, compiled=False)
    update = Update(model, settings)
    with tempfile.TemporaryDirectory() as folder:
        clock.start()
        norm = _loop(job, settings, model, update, Path(folder))
        clock.stop()
    return Trained(model, job.steps, norm)


def _loop(job: Job, settings: Train, model: torch.nn.Module, update: Update, folder: Path) -> float:
    """All steps, as thinktune.train takes and logs them; returns the gradient norm of the first."""
    pending: list[StepReport] = []
    norms: list[float] = []
    dealt = _steps_in_order(job)
    capacity = max(FLOOR_TOKENS, *map(len, job.rows))
    for number, share in enumerate(dealt, start=1):
        batches = pack([job.rows[index] for index in share.rows], capacity)
        rate = learning_rate_share(number, len(dealt), settings.warmup_fraction, settings.schedule)
        update.begin(number, settings.learning_rate * rate)
        made = step(model, batches, update, World(), torch.float32)
        assert made.learned_tokens == share.learned_tokens
        pending.append(made)
        if number % STEPS_PER_LOG == 0 or number == len(dealt):
            norms += torch.stack([report.gradient_norm for report in pending]).tolist()
            lines = [{"kind": "train", "step": number, **report.losses.values()} for report in pending]
            track.append(folder, track.METRICS, lines)
            pending = []
    return norms[0]


def _steps_in_order(job: Job) -> list[Step]:
    """What thinktune.pack.deal returns, but without the shuffle: every contender takes the rows as they stand."""
    groups = [tuple(range(start, start + ROWS_PER_STEP)) for start in range(0, len(job.rows), ROWS_PER_STEP)]
    return [Step(group, sum(job.rows[index].learned_tokens for index in group)) for group in groups]


if __name__ == "__main__":
    main(train)
