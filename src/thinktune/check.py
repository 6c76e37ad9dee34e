"""What a recipe will train, shown before anything is spent: the account of the rows, and one row's tokens in colour."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from thinktune.hub import locate_model
from thinktune.prepare import Prepared, prepare, read_tokenizer
from thinktune.recipe import Recipe
from thinktune.render import Part, Rendered
from thinktune.run import account_lines, deal_steps, evaluation_interval

STYLES = {Part.GIVEN: "dim", Part.REASONING: "cyan", Part.ANSWER: "green", Part.END: "bold red"}


def check(recipe: Recipe, console: Console) -> Prepared:
    """Print what the rows hold and what will be learned; raises UserError where the run could not start."""
    tokenizer = read_tokenizer(locate_model(recipe))
    prepared = prepare(recipe, tokenizer)
    for line in account_lines(prepared.account):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(_lengths(prepared.account["lengths"]))
    steps = deal_steps(recipe, prepared)
    interval = evaluation_interval(recipe, steps)
    console.print(
        f"{len(steps):,} steps in {recipe.train.epochs} epochs, an evaluation every {interval:,}", highlight=False
    )
    first = prepared.train.rendered[0]
    console.print(f"\nWhat is learned of {first.row} (grey is given, the rest is learned):", highlight=False)
    console.print(coloured(first, tokenizer), soft_wrap=True)
    console.print("\n[bold green]ready[/]")
    return prepared


def coloured(rendered: Rendered, tokenizer: Any) -> Text:
    """A row's text, coloured by what each run of tokens is: given, reasoning, answer or end."""
    text = Text()
    start = 0
    for stop in range(1, len(rendered) + 1):
        if stop == len(rendered) or rendered.parts[stop] != rendered.parts[start]:
            text.append(tokenizer.decode(rendered.ids[start:stop].tolist()), STYLES[Part(int(rendered.parts[start]))])
            start = stop
    return text


def _lengths(lengths: dict[str, dict[str, float]]) -> Table:
    table = Table("tokens of", "mean", "median", "95 % below", "longest", box=None, pad_edge=False)
    for name in ("prompt", "reasoning", "answer", "whole"):
        values = lengths[name]
        table.add_row(name, *(f"{values[key]:,.0f}" for key in ("mean", "median", "p95", "max")))
    return table
