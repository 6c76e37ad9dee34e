"""The plan's setting for Qwen3's sizes on cards of each size, as a Markdown table: computed, not measured.

`python benchmarks/what_fits.py`: steps of 16,384 tokens, rows of up to 2,048; what does not fit so, with steps of
2,048 tokens. Takes seconds for each model on a quiet machine.
"""

from jobs import QWEN3
from small_cards import LONGEST, PROMPT_SHARE

from thinktune.config.schema import TrainConfig
from thinktune.planner.hardware import GIB, find_card
from thinktune.planner.layer_calls import META
from thinktune.planner.memory import Workload
from thinktune.planner.plan import make_plan

CARDS = ("6GiB", "8GiB", "12GiB", "16GiB", "24GiB", "48GiB", "80GiB", "H200")
STEPS = (16_384, LONGEST)


def cell(workloads: list[Workload], card: str) -> str:
    """Return tier, kind of update, activation budget, batch and GiB needed, for the first size of a step that fits."""
    for workload in workloads:
        chosen = make_plan(TrainConfig(tokens_per_step=workload.step_tokens), workload, find_card(card)).chosen
        if chosen:
            setting = chosen.setting
            inside = ", inside" if setting.update_in_backward else ""
            size = f"{setting.batch_tokens // 1024}k" + ("*" if workload.step_tokens == STEPS[1] else "")
            needed = chosen.needed_bytes / GIB
            return f"{setting.memory}{inside}, {setting.activation_budget:g}, {size}: {needed:.1f}"
    return "–"


def main() -> None:
    """Print one row per card, with one column per model."""
    workloads = {
        name: [Workload(shape.config(), META, False, False, step, LONGEST, 1 - PROMPT_SHARE, [1199]) for step in STEPS]
        for name, shape in QWEN3.items()
    }
    print("| card | " + " | ".join(workloads) + " |\n|---|" + "---|" * len(workloads))
    for card in CARDS:
        print(f"| {card} | " + " | ".join(cell(found, card) for found in workloads.values()) + " |", flush=True)


if __name__ == "__main__":
    main()
