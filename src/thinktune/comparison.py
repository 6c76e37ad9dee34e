"""What an evaluation found, as tables and sentences in the terminal."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from thinktune.compare import figure_and_interval, measure_of, shown

_STYLES = {"better": "green", "worse": "red", "": ""}


def comparison(report: Mapping[str, Any]) -> Group:
    """A table for each set (base, tuned, and the difference with its 95 % interval), and the verdicts.

    It fits 80 columns; the intervals of the two models' own figures stand on the page and in report.json.
    """
    parts: list[Table | Text] = [_table(found) for found in report["sets"] if found["measures"]]
    for found in report["sets"]:
        if found["apart"]:
            parts.append(Text(f"{found['name']}: {found['apart']} rows set apart, for they stand in the training rows"))
    if "judge" in report:
        parts.append(Text(judge_line(report["judge"])))
    parts += [Text(text, style="bold") for text in report["verdicts"]]
    return Group(*parts)


def judge_line(judged: Mapping[str, Any]) -> str:
    """What the judge said and cost, in a sentence."""
    unread = f", {judged['unread']} not readable" if judged["unread"] else ""
    return (
        f"judge {judged['model']}: of {judged['pairs']} pairs the tuned model won {judged['wins']}, "
        f"tied {judged['ties']}, lost {judged['losses']}{unread}; both orders agreed on {judged['orders_agreed']}; "
        f"{judged['prompt_tokens']:,} tokens read and {judged['tokens']:,} written"
    )


def _table(found: Mapping[str, Any]) -> Table:
    table = Table(f"{found['name']}, {found['rows']} rows", box=box.SIMPLE_HEAD)
    for name in ("base", "tuned", "difference"):
        table.add_column(name, justify="right")
    for row in found["measures"]:
        measure = measure_of(row["measure"])
        change = shown(measure, row["difference"], signed=True)
        sides = [figure_and_interval(measure, row[side])[0] for side in ("base", "tuned")]
        table.add_row(measure.label, *sides, Text(change, style=_STYLES[row["verdict"]]))
    return table
