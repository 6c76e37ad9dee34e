"""The longest row that each card trains, by model and by the way, as a Markdown table: computed, not measured.

`python benchmarks/long_rows.py [8B ...]`: steps of one row. On the card: the plan without inputs on the host; on the
host: with them and MLPs in tiles; 8 cards: those of one machine share the row's tokens (`expert.context_parallel: 8`),
each with a shard of the weights and with inputs on the host. With a compiler. Takes minutes for each model.
"""

import sys
from dataclasses import replace
from typing import Any

from jobs import QWEN3
from small_cards import PROMPT_SHARE

from thinktune.config.schema import TrainConfig
from thinktune.planner.hardware import Card, find_card
from thinktune.planner.layer_calls import META
from thinktune.planner.memory import Workload
from thinktune.planner.plan import make_plan

CARDS = ("8GiB", "16GiB", "24GiB", "48GiB", "80GiB", "H200")
UNIT_TOKENS = 2048
LONGEST_UNITS = 512  # of a million tokens; no model reads more


def one_token(name: str, ranks: int) -> Workload:
    """Describe a run of rows of one token, of which the layers of all others are known."""
    config: Any = QWEN3[name].config()
    learned = 1 - PROMPT_SHARE
    return Workload(config, META, False, True, 1, 1, learned, [1], ranks=ranks, per_node=ranks, context=ranks)


def tier_of(workload: Workload, card: Card, units: int, offloads: bool) -> str | None:
    """Return the tier in which a row of so many units of tokens is trained; None where it does not fit."""
    tokens = units * UNIT_TOKENS
    made = replace(workload, step_tokens=tokens, longest_row_tokens=tokens, row_lengths=[tokens])
    for name in ("layers_by_budget", "recomputed_layers", "long_row_layers", "tiled_passes", "_traced_model"):
        made.__dict__[name] = getattr(workload, name)  # no layer depends on the tokens
    strategy = "shard" if workload.ranks > 1 else None
    asked = TrainConfig(tokens_per_step=tokens, offload_activations=offloads)
    chosen = make_plan(asked, made, card, strategy).chosen
    return chosen and chosen.setting.memory


def longest(workload: Workload, card: Card, offloads: bool) -> str:
    """Return the most tokens of a row that fits, in thousands, with its tier."""
    found, low, high = None, 0, LONGEST_UNITS + 1
    while high - low > 1:
        middle = (low + high) // 2
        tier = tier_of(workload, card, middle, offloads)
        low, high, found = (middle, high, tier) if tier else (low, middle, found)
    return f"{low * UNIT_TOKENS // 1024}k, {found}" if found else "–"


def main() -> None:
    """Print one row per card, with a column for each way, for the models that are named, or for all three."""
    names, ways = sys.argv[1:] or ["1.7B", "4B", "8B"], {"on the card": (False, 1), "on the host": (True, 1)}
    ways["8 cards"] = (True, 8)
    print("| card | " + " | ".join(f"{name}, {way}" for name in names for way in ways) + " |")
    print("|---|" + "---|" * len(names) * len(ways))
    workloads = {(name, ranks): one_token(name, ranks) for name in names for ranks in (1, 8)}
    for card in CARDS:
        cells = [
            longest(workloads[name, ranks], find_card(card), offloads)
            for name in names
            for offloads, ranks in ways.values()
        ]
        print(f"| {card} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
