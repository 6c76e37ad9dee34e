"""What a run carries from step to step beside its weights, as JSON: numbers not logged yet, its clock, its losses."""

import time
from typing import Any

import torch
from torch import Tensor

from thinktune.run import Run
from thinktune.step import LossReport, StepReport


def down(run: Run) -> dict[str, Any]:
    """Everything that `up` needs; reading it waits for the device."""
    return {
        "pending": [_written(made) for made in run.pending],
        "trained_tokens": run.trained_tokens,
        "seconds": time.monotonic() - run.started,
        "logged": run.logged,
        "refused_in_a_row": run.refused_in_a_row,
        "recent_losses": run.recent_losses,
        "unsaved": run.unsaved,
    }


def up(run: Run, facts: dict[str, Any]) -> None:
    """Go on as if the run had never stopped: the next line of metrics covers the steps before the stop as well."""
    run.pending = [_read(made, run.device) for made in facts["pending"]]
    run.trained_tokens = facts["trained_tokens"]
    run.started = time.monotonic() - facts["seconds"]
    seconds, tokens = facts["logged"]
    run.logged = (seconds, tokens)
    run.refused_in_a_row = facts["refused_in_a_row"]
    run.recent_losses = facts["recent_losses"]
    run.unsaved = facts["unsaved"]


def _written(made: StepReport) -> dict[str, Any]:
    # A float of Python holds every fp32 exactly, and JSON as Python writes it every float.
    return {
        "sums": _tensor(made.losses.sums),
        "counts": _tensor(made.losses.counts),
        "gradient_norm": _tensor(made.gradient_norm),
        "learned_tokens": made.learned_tokens,
    }


def _read(written: dict[str, Any], device: torch.device) -> StepReport:
    sums, counts, norm = (
        torch.tensor(written[key]["values"], dtype=getattr(torch, written[key]["dtype"]), device=device)
        for key in ("sums", "counts", "gradient_norm")
    )
    return StepReport(LossReport(sums, counts), norm, written["learned_tokens"])


def _tensor(tensor: Tensor) -> dict[str, Any]:
    return {"dtype": str(tensor.dtype).removeprefix("torch."), "values": tensor.tolist()}
