"""The jobs of the stages: row lengths, steps and their folders, for each size."""

from pathlib import Path

from jobs import Lengths, Plan, Shape

TOKENS_PER_STEP, TUTORIAL_ROWS = 32_768, 4
STEPS, WARM_UP, PARITY_STEPS, PARITY_TOKENS = 13, 3, 200, 8192
LENGTHS, TINY_LENGTHS = Lengths(900, 0.55, 2048), Lengths(60, 0.55, 128)
TINY_SHAPE = Shape(64, 128, 2, 4, 2, 16, 512)


def plans(tiny: bool) -> dict[str, Plan]:
    """Return the jobs that are written for a size, by name.

    `steps` is the benchmark's own step, `rows` the tutorial's four rows, and `parity` a longer run of smaller steps.
    """
    if tiny:
        steps, rows, parity = ({"tokens_per_step": 256}, {"rows_per_step": TUTORIAL_ROWS}, {"tokens_per_step": 128})
        return {
            name: Plan(3, 1, 1e-3, "cpu", log_every=2, **size)
            for name, size in zip(("steps", "rows", "parity"), (steps, rows, parity), strict=True)
        }
    return {
        "steps": Plan(STEPS, WARM_UP, 1e-5, "cuda", tokens_per_step=TOKENS_PER_STEP),
        "rows": Plan(STEPS, WARM_UP, 1e-5, "cuda", rows_per_step=TUTORIAL_ROWS),
        "parity": Plan(PARITY_STEPS, WARM_UP, 1e-5, "cuda", tokens_per_step=PARITY_TOKENS),
    }


def model_folder(work: Path, size: str) -> Path:
    """Return where the weights of a size are."""
    return work / f"model-{size}"


def job_folder(work: Path, size: str, name: str) -> Path:
    """Return where a job of a size is."""
    return work / f"job-{size}-{name}"
