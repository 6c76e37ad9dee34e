"""The table of what the stages found, beside what was predicted before any card was seen, and the goals."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from suite import markdown

Line = dict[str, Any]

# Tokens/s on an H200 with steps of 32,768 tokens, in thousands: poor, expected, good. From counted bytes and launches
# of commit 8ca20c9, before a card was seen; nothing here was measured.
PREDICTED_THOUSANDS = {
    "ours 1.7B": (40, 46, 51),
    "ours 1.7B, whole step": (44, 49.5, 55),
    "ours 1.7B, 4 rows a step": (22, 30, 42),
    "ours 1.7B, fp8": (58, 60, 64),
    "ours 0.6B": (77, 91, 103),
    "ours 4B": (17.4, 19.9, 22.1),
    "ours 8B": (10.5, 11.9, 13.1),
    "Trainer, tuned": (37, 38, 40),
    "TRL, tuned, bf16 weights": (31, 34, 37),
    "TRL, tuned, fp32 weights": (27, 30, 33),
    "the tutorial's loop": (12, 14, 17),
}
PEERS = ("Trainer, tuned", "TRL, tuned, bf16 weights", "TRL, tuned, fp32 weights")
SMALL_CARDS = ("1.7B in 8 GiB", "1.7B in 6 GiB", "4B in 16 GiB", "8B in 24 GiB")
SHOWN_STEPS = (1, 2, 3, 10, 50, 100, 150, 200)
SAME_LOSS = 0.01  # relative, in bf16; only the rounding differs


class Goal(NamedTuple):
    """A goal: what it is, its least value, what was predicted, and what was measured."""

    what: str
    least: float
    predicted: str
    measured: float | None


def summary(lines: Sequence[Line], head: str) -> str:
    """Return the whole page in Markdown; it is written again after every stage, so that no cut loses it."""
    parts = [head, "## Goals", goals_table(goals(lines)), "## Speed", speed_table(lines)]
    for title, table in (
        ("Losses beside ours", losses_table(lines)),
        ("Memory, predicted and measured", memory_table(lines)),
        ("Where a token's time goes", kernels_table(lines)),
        ("Micro-measurements", probe_table(lines)),
        ("Stages", stages_table(lines)),
    ):
        parts += [f"## {title}", table] if table else []
    return "\n\n".join(parts) + "\n"


def goals(lines: Sequence[Line]) -> list[Goal]:
    """Return all goals; ratios are to the fastest of ours, peers and the tutorial's loop."""
    rate = {name: _best(lines, name) for name in PREDICTED_THOUSANDS}
    fastest = max((rate[name] or 0.0 for name in PEERS), default=0.0) or None
    tutorial = rate["the tutorial's loop"]
    ours, fp8 = rate["ours 1.7B"], rate["ours 1.7B, fp8"]
    found = [
        Goal("1.7B in bf16, tokens/s", 45_000, _range("ours 1.7B"), ours),
        Goal("1.7B in bf16 after less work in the layers, tokens/s", 50_000, "50,700", ours),
        Goal("1.7B in fp8, tokens/s", 58_000, _range("ours 1.7B, fp8"), fp8),
        Goal("0.6B, tokens/s", 90_000, _range("ours 0.6B"), rate["ours 0.6B"]),
        Goal("4B, tokens/s", 20_000, _range("ours 4B"), rate["ours 4B"]),
        Goal("8B, tokens/s", 12_000, _range("ours 8B"), rate["ours 8B"]),
        Goal("times the fastest peer in Python, bf16", 1.3, "1.2 to 1.5", _ratio(ours, fastest)),
        Goal("times the fastest peer in Python, fp8", 1.5, "1.5 to 1.6", _ratio(fp8, fastest)),
        Goal(
            "times the tutorial's loop at its own step", 3, "2 to 3", _ratio(rate["ours 1.7B, 4 rows a step"], tutorial)
        ),
        Goal("times the tutorial's loop a GPU-hour, at our step", 8, "3 to 4", _ratio(ours, tutorial)),
    ]
    fits = {line["stage"]: 0.0 if line.get("absent") else 1.0 for line in _items(lines, "case")}
    return found + [Goal(f"{name} (1 fits, 0 does not)", 1, "1", fits.get(name)) for name in SMALL_CARDS]


def goals_table(found: Sequence[Goal]) -> str:
    """Return the goals in Markdown."""
    rows = [
        [
            goal.what,
            f"{goal.least:,g}",
            goal.predicted,
            "not measured" if goal.measured is None else f"{goal.measured:,.2f}".removesuffix(".00"),
            "" if goal.measured is None else "met" if goal.measured >= goal.least else "missed",
        ]
        for goal in found
    ]
    return markdown(("goal", "least", "predicted", "measured", ""), rows)


def speed_table(lines: Sequence[Line]) -> str:
    """Return tokens/s of ours and of peers beside the plan's prediction and that of the study."""
    head = ("stage", "setting", "tokens/s", "the plan's prediction", "the study's", "MFU", "before the clock, s")
    rows: list[list[str]] = []
    for line in (*_items(lines, "training"), *_items(lines, "contender")):
        if line.get("absent"):
            rows.append([line["stage"], _settings(line), line["absent"], *[""] * 4])
            continue
        planned = (line.get("predicted") or {}).get("tokens_per_s_range")
        rows.append(
            [
                line["stage"],
                f"{_settings(line)} {line['setting']}".strip(),
                f"{line['tokens_per_s']:,.0f}",
                " to ".join(f"{end:,.0f}" for end in planned) if planned else "",
                _range(line["stage"]),
                f"{line['mfu']:.1%}" if line.get("mfu") else "",
                f"{line['warm_up_seconds']:.1f}",
            ]
        )
    return markdown(head, rows)


def losses_table(lines: Sequence[Line]) -> str:
    """Return logged losses of the contenders that compute the same as ours, and of all tiers."""
    all_found = [line for line in (*_items(lines, "training"), *_items(lines, "contender")) if "losses" in line]
    ours = next((dict(line["losses"]) for line in all_found if line["stage"] == "ours 1.7B"), {})
    rows: list[list[str]] = []
    for line in all_found:
        losses = dict(line["losses"])
        shared = [step for step in losses if step in ours]
        same = line["stage"] in ("ours 1.7B", "ours 1.7B, fp8") or line["stage"].startswith("Trainer, tuned")
        differs = max((abs(losses[step] / ours[step] - 1) for step in shared), default=None) if same else None
        verdict = "" if differs is None else f"{differs:.1e}{'' if differs <= SAME_LOSS else ' (more than 1 %)'}"
        shown = ", ".join(f"{step}: {loss:.4f}" for step, loss in losses.items() if step in SHOWN_STEPS)
        rows.append([line["stage"], _settings(line), shown, verdict, f"{line['gradient_norms'][0]:.3f}"])
    return markdown(("stage", "setting", "losses by step", "differs from ours", "first norm"), rows) if rows else ""


def memory_table(lines: Sequence[Line]) -> str:
    """Return predicted and measured GiB of training stages and of small_cards.py's cases."""
    rows: list[list[str]] = []
    for line in _items(lines, "training"):
        if not line.get("absent"):
            memory, predicted = line["memory"], line["predicted"]["train_gib"]
            rows.append([line["stage"], line["setting"], *_beside(predicted, memory.get("allocated_gib"))])
            rows[-1] += [_number(memory.get("reserved_gib")), ""]
    for line in _items(lines, "case"):
        case = line["case"]
        setting = f"{case['memory']}{' inside' if case['update_in_backward'] else ''}, {case['tokens']:,}"
        if line.get("absent"):
            rows.append([line["stage"], setting, "", line["absent"], "", "", ""])
            continue
        rows.append([line["stage"], setting, *_beside(line["predicted_gib"], line.get("measured_gib"))])
        rows[-1] += [_number(line.get("reserved_gib")), _number(case["limit_gib"])]
    head = ("stage", "setting", "predicted", "allocated", "predicted / allocated", "reserved", "limit")
    return markdown(head, rows) if rows else ""


def kernels_table(lines: Sequence[Line]) -> str:
    """Return microseconds a token by kind of work."""
    rows: list[list[str]] = []
    for line in _items(lines, "kernels"):
        if not line.get("absent"):
            kinds = ", ".join(f"{kind} {us:.2f}" for kind, us in line["us_per_token"].items())
            rows.append([line["stage"], kinds, f"{line['launches']:,}", f"{line['kernels_busy_share']:.1%}"])
    return markdown(("stage", "us a token", "launches a step", "card busy"), rows) if rows else ""


def probe_table(lines: Sequence[Line]) -> str:
    """Return the items of card_probe.py, one a row."""
    rows = [
        [line["item"], "; ".join(_flat(line["found"])) if isinstance(line["found"], dict) else str(line["found"])]
        for line in lines
        if line["stage"] == "probe" and "found" in line
    ]
    return markdown(("item", "found"), rows) if rows else ""


def stages_table(lines: Sequence[Line]) -> str:
    """Return how each stage ended, and its seconds."""
    rows = [
        [
            line["stage"],
            line["ended"],
            *(f"{line.get(key, 0):.0f}" for key in ("host_s", "card_s", "timed_s")),
            _wait(line),
        ]
        for line in lines
        if "ended" in line
    ]
    return markdown(("stage", "ended", "before the card, s", "on the card", "timed", "waited"), rows)


def _wait(line: Line) -> str:
    return f"{line.get('waited_card_s', 0) + line.get('waited_timed_s', 0):.0f}"


def _items(lines: Sequence[Line], item: str) -> list[Line]:
    return [line for line in lines if line.get("item") == item]


def _best(lines: Sequence[Line], stage: str) -> float | None:
    """Return the best tokens/s of a stage, whichever setting or batch gave it."""
    found = [
        line["tokens_per_s"]
        for line in lines
        if line["stage"].removesuffix(", half the batch") == stage and line.get("tokens_per_s")
    ]
    return max(found, default=None)


def _ratio(mine: float | None, theirs: float | None) -> float | None:
    return mine / theirs if mine and theirs else None


def _range(name: str) -> str:
    found = PREDICTED_THOUSANDS.get(name.removesuffix(", half the batch"))
    return " – ".join(f"{each:g}k" for each in found) if found else ""


def _settings(line: Line) -> str:
    if "settings" not in line:
        return ""
    return ", ".join(f"{key} {value}" for key, value in line["settings"].items()) or "the plan's:"


def _beside(predicted: float, measured: float | None) -> list[str]:
    return [_number(predicted), _number(measured), f"{predicted / measured:.3f}" if measured else ""]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _flat(found: dict[str, Any]) -> Iterable[str]:
    for key, value in found.items():
        inner = f"({', '.join(_flat(value))})" if isinstance(value, dict) else value
        yield f"{key} {inner}"
