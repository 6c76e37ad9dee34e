"""What the plan predicts of an open run, to be put beside what is measured."""

from typing import Any

import torch

from thinktune.planner.hardware import GIB, Card, find_card
from thinktune.planner.memory import memory_peaks
from thinktune.planner.resolve import local_card, make_workload
from thinktune.planner.speed import speed_range, tokens_per_second
from thinktune.train.state import Run


def predict(run: Run) -> dict[str, Any]:
    """Return the memory and the tokens/s that are predicted for the setting of a run on this card.

    Without a card, those of an H200, so that the code is tried.
    """
    context = run.context
    workload = make_workload(context.plan_inputs)
    peaks = memory_peaks(workload, context.setting)
    card = _card(context.device)
    speeds = {
        "tokens_per_s": tokens_per_second(workload, context.setting, card),
        "tokens_per_s_range": speed_range(workload, context.setting, card),
    }
    gib = {"train_gib": peaks.train / GIB, "evaluate_gib": peaks.evaluate / GIB, "host_gib": peaks.host / GIB}
    return gib | speeds | {"batches": workload.batches(context.setting.batch_tokens).number}


def _card(device: torch.device) -> Card:
    return find_card("H200") if device.type == "cpu" else local_card(device)
