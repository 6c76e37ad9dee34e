"""The rounds section of a run's page: pass@n of each round of `think` that its rows came from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from thinktune.files import read_json
from thinktune.report.html import BilingualText
from thinktune.report.svg_charts import Axes, Series, line_chart
from thinktune.run import RunFolder
from thinktune.run.reading import refuse_damage
from thinktune.run.thought_folder import Round, Rounds


@dataclass(frozen=True, slots=True)
class RoundsSection:
    """Rounds, oldest first, the numbers n of tries that any of them has, and pass@n by round as a chart."""

    rounds: Sequence[Round]
    tries: Sequence[int]
    chart: Markup


def read_rounds_section(run: Path) -> RoundsSection:
    """Read the rounds that a run recorded; raises UserError where their file is damaged."""
    file = RunFolder(run).rounds
    if not file.is_file():
        return RoundsSection((), (), Markup())
    with refuse_damage(file):
        rounds = Rounds.validate_python(read_json(file))
    tries = sorted({n for each in rounds for n in each.pass_at})
    return RoundsSection(rounds, tries, _chart(rounds, tries) if len(rounds) > 1 else Markup())


def _chart(rounds: Sequence[Round], tries: Sequence[int]) -> Markup:
    """Draw pass@n of the fewest and of the most tries by round: what is right at once, and what can be found at all."""
    styles = {tries[-1]: "eval", tries[0]: "train"} if tries else {}
    lines = [
        Series(
            f"pass@{n}",
            [(number, 100 * each.pass_at[n][0]) for number, each in enumerate(rounds, 1) if n in each.pass_at],
            styles[n],
            has_markers=True,
        )
        for n in sorted(styles)
    ]
    axes = Axes(
        BilingualText("pass@n", "pass@n"),
        BilingualText("round", "轮"),
        BilingualText("% of questions, higher is better", "问题的百分比，越高越好"),
        y_from_zero=True,
        over="other",
    )
    return line_chart(lines, axes)
