"""The table of settings at the widths of terminals: no cell is cut or broken, whatever has to go is a whole column."""

import io

import pytest
from rich.console import Console

from thinktune.commands.check import plan_table

TIERS = ["exact", "exact-bf16", "8bit", "8bit-streamed", "4bit"]


def option(tier, **facts):
    sizes = {f"{name}_gib": 59.3 for name in ("train", "evaluate", "sample", "host")}
    volumes = {"sent_inside_gib": 51.4, "sent_between_gib": 60.1, "strategy": "replicate"}
    setting = {"memory": tier, "update_in_backward": True, "offload_activations": True, "batch_tokens": 16384}
    state = {"chosen": False, "fits": True, "predicted_range": (323_260.0, 383_260.0), "activation_budget": 0.5}
    return sizes | volumes | setting | state | facts


def lines_of(columns, ranks=1, **facts):
    console = Console(file=io.StringIO(), width=columns)
    console.print(plan_table({"ranks": ranks, "options": [option(tier, **facts) for tier in TIERS]}, columns))
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("ranks", [1, 8])
@pytest.mark.parametrize("columns", [80, 100, 130, 160])
@pytest.mark.parametrize("facts", [{}, {"fits": False}, {"chosen": True}], ids=["fits", "too large", "chosen"])
def test_each_setting_is_one_line_with_whole_cells(columns, ranks, facts):
    head, *rows = lines_of(columns, ranks, **facts)
    assert len(rows) == len(TIERS)
    for tier, row in zip(TIERS, rows, strict=True):
        assert f"{tier} " in row
        assert "in backward" in row
        assert ("too large" if facts.get("fits") is False else "320–380k") in row
    assert "…" not in "".join((head, *rows))
    assert max(map(len, (head, *rows))) <= columns


def test_a_wide_terminal_shows_every_column():
    wide = lines_of(100)[0].split()
    assert lines_of(80)[0].split() == wide
    assert set(lines_of(60)[0].split()) < set(wide)
    assert {"strategy", "intra-node", "inter-node"} <= set(lines_of(80, ranks=8)[0].split())
