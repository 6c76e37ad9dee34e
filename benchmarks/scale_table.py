"""Plans for Qwen3's sizes on 1 to 512 cards and their predicted speed, as a Markdown table: computed, not measured.

`python benchmarks/scale_table.py [--card H200]`: 16,384 tokens per step for each card, rows of up to 2,048 tokens,
compiled layers. Needs no accelerator; a few minutes, and less the second time, because traced layers are cached.
"""

from argparse import ArgumentParser

from jobs import QWEN3
from small_cards import LONGEST, PROMPT_SHARE

from thinktune.config.schema import TrainConfig
from thinktune.planner.hardware import GIB, Card, find_card
from thinktune.planner.layer_calls import META
from thinktune.planner.memory import Workload
from thinktune.planner.plan import make_plan
from thinktune.planner.speed import format_speeds

CARD_TOKENS = 16_384  # of a step
ROW_LENGTHS = [1199]  # as in what_fits.py
NODES = ((1, 1), (1, 8), (8, 1), (8, 8), (64, 8))  # machines, and cards of each
HEAD = """\
| model | cards | strategy | tier, budget, batch | GiB a card | sent in / between | as inside | 200 Gb/s | 25 Gb/s |
|---|---|---|---|---:|---:|---:|---:|---:|"""


def row(name: str, nodes: int, per_node: int, card: Card) -> str:
    """Return a row: setting, memory and traffic of a card; and for each network seconds, tokens/s, efficiency."""
    ranks = nodes * per_node
    workload = Workload(
        QWEN3[name].config(),
        META,
        False,
        True,
        CARD_TOKENS * ranks,
        LONGEST,
        1 - PROMPT_SHARE,
        ROW_LENGTHS,
        ranks=ranks,
        per_node=per_node,
    )
    plan = make_plan(TrainConfig(tokens_per_step=workload.step_tokens), workload, card)
    cards = f"{ranks}" if ranks == 1 else f"{nodes}×{per_node}"
    if plan.chosen is None:
        least = min(option.needed_bytes for option in plan.options) / GIB
        return f"| {name} | {cards} | nothing fits: {least:.0f} GiB at least | | | | | | |"
    option, setting = plan.chosen, plan.chosen.setting
    inside = ", inside" if setting.update_in_backward else ""
    size = f"{setting.batch_tokens // 1024}k"
    sent = f"{option.volume.intra_node / GIB:.1f} / {option.volume.inter_node / GIB:.1f}" if ranks > 1 else ""
    speeds = [
        f"{each.seconds_per_step:.2f} s, {format_speeds(each.poor, each.good)}, {each.efficiency:.0%}"
        for each in plan.throughputs
    ]
    if ranks == 1 and option.tokens_per_second and option.speed_range:
        seconds = workload.step_tokens / option.tokens_per_second
        speeds = [f"{seconds:.2f} s, {format_speeds(*option.speed_range)}"]
    cells = [
        name,
        cards,
        setting.strategy if ranks > 1 else "",
        f"{setting.memory}{inside}, {setting.activation_budget:g}, {size}",
    ]
    cells += [f"{option.needed_bytes / GIB:.1f}", sent, *speeds, *[""] * (3 - len(speeds))]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print one row per model and number of cards."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--card", default="H100")
    card = find_card(parser.parse_args().card)
    print(HEAD)
    for name in QWEN3:
        for nodes, per_node in NODES:
            print(row(name, nodes, per_node, card), flush=True)


if __name__ == "__main__":
    main()
