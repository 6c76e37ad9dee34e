"""Stage: what the card is, what a process takes of it before it does anything, and weights and rows of one size.

`python -m card.weights WORK SIZE [--about] [--staged] [--tiny]`
"""

import shutil
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import torch
from jobs import QWEN3, Lengths, Plan, Shape, write_job, write_model

from card.places import TOKENS_PER_STEP, TUTORIAL_ROWS, job_folder, model_folder
from card.turns import turns

GIB = 2**30
STEPS, WARM_UP, PARITY_STEPS, PARITY_TOKENS = 13, 3, 200, 8192
LENGTHS, TINY_LENGTHS = Lengths(900, 0.55, 2048), Lengths(60, 0.55, 128)
TINY_SHAPE = Shape(64, 128, 2, 4, 2, 16, 512)


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("size")
    parser.add_argument("--about", action="store_true", help="first say what the card is, with no other process on it")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--staged", action="store_true", help="a stage of first_card.py: it waits for turns")
    arguments = parser.parse_args()
    line, work, size, tiny = turns(arguments.staged), arguments.work, arguments.size, arguments.tiny
    if arguments.about:
        line.wait("timed")
        found = about(tiny)
        line.find("about", facts=found, **found)
    line.wait("card")
    started_at = time.monotonic()
    device, dtype = ("cpu", torch.float32) if tiny else ("cuda", torch.bfloat16)
    model = write_model(model_folder(work, size), TINY_SHAPE if tiny else QWEN3[size], device, dtype)
    for name, plan in plans(tiny).items():
        count = 96 if tiny else 2000
        write_job(job_folder(work, size, name), model, plan, TINY_LENGTHS if tiny else LENGTHS, count)
    line.find("weights", size=size, seconds=time.monotonic() - started_at, free_gib=shutil.disk_usage(work).free / GIB)


def plans(tiny: bool) -> dict[str, Plan]:
    """Return the jobs that are written for a size, by name.

    `steps` is the benchmark's own step, `rows` the tutorial's four rows, and `parity` a longer run of smaller steps.
    """
    if tiny:
        return {
            "steps": Plan(4, 1, 1e-3, "cpu", tokens_per_step=256, log_every=2),
            "rows": Plan(4, 1, 1e-3, "cpu", rows_per_step=TUTORIAL_ROWS, log_every=2),
            "parity": Plan(4, 1, 1e-3, "cpu", tokens_per_step=128, log_every=2),
        }
    return {
        "steps": Plan(STEPS, WARM_UP, 1e-5, "cuda", tokens_per_step=TOKENS_PER_STEP),
        "rows": Plan(STEPS, WARM_UP, 1e-5, "cuda", rows_per_step=TUTORIAL_ROWS),
        "parity": Plan(PARITY_STEPS, WARM_UP, 1e-5, "cuda", tokens_per_step=PARITY_TOKENS),
    }


def about(tiny: bool) -> dict[str, Any]:
    """Return the card's name, memory and driver bytes; this process must be the only one on it."""
    if tiny:
        return {"card": "CPU: these figures mean nothing", "context_gib": 0.0}
    before, total = torch.cuda.mem_get_info()  # makes the context
    torch.empty(1, device="cuda")
    product = torch.randn(256, 256, device="cuda", dtype=torch.bfloat16)
    product @= product  # brings cuBLAS with its workspace, which torch reserves
    torch.cuda.synchronize()
    after, _ = torch.cuda.mem_get_info()
    found = torch.cuda.get_device_properties(0)
    return {
        "card": found.name,
        "capability": f"{found.major}.{found.minor}",
        "processors": found.multi_processor_count,
        "card_gib": total / GIB,
        "context_gib": (total - before) / GIB,
        "context_with_cublas_gib": (total - after - torch.cuda.memory_reserved()) / GIB,
        "cudnn": torch.backends.cudnn.version(),
    }


if __name__ == "__main__":
    main()
