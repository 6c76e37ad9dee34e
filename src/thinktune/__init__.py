"""Turn an open base model into a domain expert that reasons before it answers.

The command line in four lines of Python; each line loads what it needs when it is called:

    >>> facts = thinktune.check("mine.yaml")
    >>> run = thinktune.train("mine.yaml", "train.epochs=1")
    >>> report = thinktune.evaluate(run)
    >>> print(thinktune.load(run).ask("What does insulin do?").answer)
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thinktune.config import Recipe
    from thinktune.inference.session import Chat
    from thinktune.synthesis import ThinkOptions

__version__ = "0.1.0"
__all__ = ["check", "evaluate", "load", "think", "train"]


def check(recipe: str | Path, *overrides: str) -> dict[str, Any]:
    """Return what a recipe will train: `facts["verdict"]` is ready or not ready, `facts["stops"]` are the reasons.

    The facts are those of `thinktune check --json`; overrides are written `train.epochs=1`. Raises UserError if the
    recipe, the rows or the model cannot be read.
    """
    from thinktune.data.rows_first import prepare_rows_first
    from thinktune.terminal import say

    loaded = _load_recipe(recipe, overrides)
    first = prepare_rows_first(loaded, say)
    from thinktune.commands.check import check_recipe

    return check_recipe(loaded, say, first)[1]


def think(recipe: str | Path, *overrides: str, options: "ThinkOptions | None" = None) -> dict[str, Any]:
    """Give reasoning to the rows of a recipe that have none; `account["recipe"]` trains on them.

    The account is that of `thinktune think --json`. `options` (a `thinktune.synthesis.ThinkOptions`) say whom to ask,
    how often and for how much at most; without them the recipe's base is asked. A call that was stopped goes on where
    it was. Raises UserError for what the user must fix.
    """
    from thinktune.synthesis import ThinkOptions
    from thinktune.synthesis import think as think_about_rows
    from thinktune.terminal import say

    return think_about_rows(_load_recipe(recipe, overrides), options or ThinkOptions(), say)


def train(recipe: str | Path, *overrides: str) -> Path:
    """Train in this process and return the run's folder; a run that was stopped is resumed.

    Raises UserError for what the user must fix, and Stopped if a signal or the time limit ended the run.
    """
    from thinktune.progress import progress_bar
    from thinktune.terminal import guarded_output
    from thinktune.train import train as run_training

    loaded = _load_recipe(recipe, overrides)
    with guarded_output(), progress_bar() as (say, bar):
        return run_training(loaded, say, bar=bar)


def evaluate(run: str | Path, *, tasks: tuple[str | Path, ...] = (), thinking: bool | None = None) -> dict[str, Any]:
    """Compare base and tuned model on held-out rows, task files and the bundled probe; return `eval/report.json`.

    Both models are asked with thinking and without (under `silent`), or in the one mode that `thinking` names. Writes
    the run's page as well. An evaluation that was interrupted is resumed.
    """
    from thinktune.eval.runner import EvalOptions, evaluate_run
    from thinktune.files import expand_home
    from thinktune.report import write_final_card, write_run_page
    from thinktune.terminal import say

    folder = expand_home(Path(run))
    files = tuple(expand_home(Path(file)) for file in tasks)
    report = evaluate_run(folder, say, EvalOptions(files, thinking=thinking))
    write_run_page(folder)
    if kept := write_final_card(folder):
        say(kept)
    return report


def load(run: str | Path) -> "Chat":
    """Load a run's final model, or any model folder, to talk to: `load(run).ask("…")` returns reasoning and answer."""
    from thinktune.checkpoint import model_warning
    from thinktune.files import expand_home
    from thinktune.inference.session import open_chat
    from thinktune.terminal import say

    folder = expand_home(Path(run))
    if warning := model_warning(folder):
        say(warning)
    return open_chat(folder)


def _load_recipe(path: str | Path, overrides: tuple[str, ...]) -> "Recipe":
    from thinktune.config import load_recipe
    from thinktune.data.reading.sources import refuse_missing_paths
    from thinktune.terminal import say

    recipe = load_recipe(Path(path), overrides, say)
    refuse_missing_paths(recipe)
    return recipe
