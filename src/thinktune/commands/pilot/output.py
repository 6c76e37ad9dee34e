"""The verb pilot in the terminal: its runs as they go, a table of their figures, and what to paste into the recipe."""

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from thinktune.commands.pilot.race import PilotOptions, pilot
from thinktune.config import Recipe
from thinktune.progress import progress_bar
from thinktune.report.pilot_page import RunRow, list_rows
from thinktune.report.pilot_text import cautions, headline, next_command, reasons, recommended_lines
from thinktune.run.pilot_folder import PilotResult, pilot_folder
from thinktune.terminal import translated
from thinktune.translation import translate


def run_pilot(
    recipe: Recipe,
    typed: tuple[Path, Sequence[str]],
    options: tuple[str | None, str | None, float | None, float, bool],
    console: Console,
) -> PilotResult:
    """Run a recipe's pilot and print what it showed; `typed` are the recipe's path and overrides as they were typed."""
    with progress_bar(console) as (say, bar):
        result = pilot(recipe, typed, PilotOptions(*options), say, bar)
    print_result(result, console)
    page = pilot_folder(recipe.runs_folder, recipe.name or "run").report
    console.print(translate(f"report: {page}"), markup=False, highlight=False, soft_wrap=True)
    return result


def print_result(result: PilotResult, console: Console) -> None:
    """Print the figures of all runs, the recommendation, and what weakens it."""

    def say(text: str, style: str = "") -> None:
        console.print(translate(text), style=style, markup=False, highlight=False, soft_wrap=True)

    if result.runs:
        console.print(translated(_table(result)))
    say(headline(result).for_terminal(), "bold")
    for sentence in reasons(result):
        say(sentence.for_terminal())
    for sentence in cautions(result):
        say(f"- {sentence.for_terminal()}")
    if lines := recommended_lines(result):
        say(f"\nunder train: in {result.recipe}")
        for line in lines:
            say(f"  {line}", "bold")
        say(f"next:   {next_command(result)}")


def _table(result: PilotResult) -> Table:
    table = Table("rate", box=box.SIMPLE_HEAD)
    asked = any(each.run.right for each in result.runs)
    for name in ("epochs", "loss", "above the lowest", *(["general"] if asked else [])):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for row in list_rows(result):
        table.add_row(*_cells(row, asked=asked), style="bold" if row.is_chosen else "")
    return table


def _cells(row: RunRow, *, asked: bool) -> list[str]:
    run, difference = row.compared.run, row.compared.difference
    loss = "–" if run.loss is None else f"{run.loss:.4f}"
    above = f"{difference.value:.4f} ({difference.low:.4f} to {difference.high:.4f})" if difference else "–"
    notes = [
        *(["recommended"] if row.is_chosen else ["level"] if row.compared.level else []),
        *([f"ended early: {row.ended.for_terminal()}"] if row.ended else []),
        *([f"best at epoch {row.best_epoch:.1f}"] if row.best_epoch else []),
    ]
    known = [f"{sum(run.right)}/{len(run.right)}" if run.right else "–"] if asked else []
    return [row.rate, str(run.epochs), loss, above.replace("-", "−"), *known, ", ".join(notes)]
