"""What the plan takes for Qwen3's sizes on 1 to 512 cards, and how fast they should be, as a Markdown table: computed.

`python benchmarks/scale_table.py [--card H200]`: 16,384 tokens a step for each card, rows of up to 2,048 tokens, layers
compiled. Needs no accelerator; a few minutes, and less the second time, as traced layers are kept.
"""

from argparse import ArgumentParser

from jobs import QWEN3
from small_cards import LONGEST, PROMPT_SHARE

from thinktune.config.schema import TrainConfig
from thinktune.planner.hardware import GIB, Card, find_card
from thinktune.planner.memory import Workload
from thinktune.planner.plan import make_plan
from thinktune.planner.trace import META

CARD_TOKENS = 16_384  # of a step
MEAN_CONTEXT = 600.0  # as in what_fits.py
MACHINES = ((1, 1), (1, 8), (8, 1), (8, 8), (64, 8))  # so many, with so many cards each
HEAD = """\
| model | cards | strategy | tier, budget, batch | GiB a card | sent in / between | as inside | 200 Gb/s | 25 Gb/s |
|---|---|---|---|---:|---:|---:|---:|---:|"""


def row(name: str, machines: int, per_node: int, card: Card) -> str:
    """One line: what is taken, what a card holds and sends; over each network seconds a step, tokens/s, efficiency."""
    ranks = machines * per_node
    job = Workload(
        QWEN3[name].config(),
        META,
        False,
        True,
        CARD_TOKENS * ranks,
        LONGEST,
        1 - PROMPT_SHARE,
        MEAN_CONTEXT,
        ranks=ranks,
        per_node=per_node,
    )
    plan = make_plan(TrainConfig(tokens_per_step=job.step_tokens), job, card)
    cards = f"{ranks}" if ranks == 1 else f"{machines}×{per_node}"
    if plan.chosen is None:
        least = min(option.needed_bytes for option in plan.options) / GIB
        return f"| {name} | {cards} | nothing fits: {least:.0f} GiB at least | | | | | | |"
    option, setting = plan.chosen, plan.chosen.setting
    inside = ", inside" if setting.update_in_backward else ""
    size = f"{setting.batch_tokens // 1024}k"
    sent = f"{option.volume.intra_node / GIB:.1f} / {option.volume.inter_node / GIB:.1f}" if ranks > 1 else ""
    paces = [
        f"{pace.seconds_per_step:.2f} s, {short(pace.tokens_per_second)}, {pace.efficiency:.0%}"
        for pace in plan.throughputs
    ]
    if ranks == 1 and option.tokens_per_second:
        paces = [f"{job.step_tokens / option.tokens_per_second:.2f} s, {short(option.tokens_per_second)}"]
    cells = [
        name,
        cards,
        setting.strategy if ranks > 1 else "",
        f"{setting.memory}{inside}, {setting.activation_budget:g}, {size}",
    ]
    cells += [f"{option.needed_bytes / GIB:.1f}", sent, *paces, *[""] * (3 - len(paces))]
    return f"| {' | '.join(cells)} |"


def short(speed: float) -> str:
    """Tokens a second in thousands."""
    return f"{speed / 1000:,.0f}k" if speed >= 9_950 else f"{speed / 1000:.1f}k"


def main() -> None:
    """One row a model and number of cards."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--card", default="H100")
    card = find_card(parser.parse_args().card)
    print(HEAD)
    for name in QWEN3:
        for machines, per_node in MACHINES:
            print(row(name, machines, per_node, card), flush=True)


if __name__ == "__main__":
    main()
