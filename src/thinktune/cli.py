"""The command line: verbs in, exit codes out. The only file that prints errors or exits."""

import json
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from thinktune.config import loading as recipes
from thinktune.config.schema import EngineChoice
from thinktune.data.sources import refuse_missing_paths
from thinktune.errors import Stopped, UserError, redact
from thinktune.run import RunFolder

if TYPE_CHECKING:
    from thinktune.distributed import World


app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe file, as in recipes/.")]


RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, as in runs/NAME.")]


RunPaths = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, as in runs/NAME.")]


ModelPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or any model folder.")]


Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY.PATH=VALUE]...", help="As in train.epochs=1.")]


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="Where it is written.")] = Path("runs/demo"),
) -> None:
    """Run the whole pipeline on a small Qwen3 made on the spot: CPU, minutes."""
    from thinktune.demo import demo as run_demo

    with _exit_when_stopped():
        run_demo(folder, _console())


@app.command()
def check(
    recipe: RecipePath,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the facts as JSON, and nothing else.")] = False,
    write: Annotated[Path | None, typer.Option(help="A folder for the cleaned train.jsonl and val.jsonl.")] = None,
) -> None:
    """Show what a recipe will train, before anything is spent; exit code 0 if it is ready, 2 if not."""
    try:
        with _exit_when_stopped("stopped; nothing was written, and the next check begins anew"):
            ready = _check(recipe, overrides or [], as_json, write)
    except (UserError, OSError) as error:
        if not as_json:
            raise
        print(json.dumps({"verdict": "not ready", "stops": _error_messages(error)}, ensure_ascii=False, indent=2))
        ready = False
    if not ready:
        raise typer.Exit(2)


def _check(recipe: Path, overrides: list[str], as_json: bool, write: Path | None) -> bool:
    loaded = recipes.load_recipe(recipe, overrides)
    refuse_missing_paths(loaded)
    from thinktune.commands import check_recipe as run_check
    from thinktune.commands import print_check
    from thinktune.data.export import export_rows, refuse_existing

    if write:
        refuse_existing(write)
    prepared, facts = run_check(loaded, _say_to_stderr)
    ready = facts["verdict"] == "ready"
    if write and not prepared.stop_reasons:
        facts["written"] = export_rows(prepared, write, loaded.data.system)
    elif write:
        facts["written"] = [f"{write}: nothing is written, for the rows are not ready"]
    if as_json:
        print(json.dumps(facts, ensure_ascii=False, indent=2))
    else:
        print_check(facts, _console())
    return ready


@app.command()
def train(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Train; the same command starts again where it stopped. Takes all cards of the machine, or torchrun's."""
    if "RANK" in os.environ:  # as torchrun and its kind say it
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # every rank would warn of what is meant
        from thinktune.train import process_group

        with _exit_when_stopped(announce=os.environ["RANK"] == "0"), process_group() as world:
            _train(recipe, overrides or [], world)
        return
    loaded = recipes.load_recipe(recipe, overrides or [])
    refuse_missing_paths(loaded)
    from thinktune.train import device_count, launch_workers

    if (cards := device_count()) > 1:
        _say(f"hands over to torchrun, one process for each of {cards} cards")
        raise typer.Exit(launch_workers(cards, recipe, overrides or []))
    with _exit_when_stopped():
        _train(recipe, overrides or [])


def _train(recipe: Path, overrides: list[str], world: "World | None" = None) -> None:
    loaded = recipes.load_recipe(recipe, overrides)
    refuse_missing_paths(loaded)
    from thinktune.distributed import SINGLE
    from thinktune.progress import progress_bar
    from thinktune.train import train as run_train

    world = world or SINGLE
    with progress_bar() as (say, bar):
        folder = run_train(loaded, say, bar=bar, world=world)
    if world.is_main:
        _say(f"report: {RunFolder(folder).report}\nnext:   thinktune eval {folder}\n        thinktune chat {folder}")


@app.command(name="eval")
def evaluate(
    run: RunPath,
    tasks: Annotated[
        list[Path] | None, typer.Option(help="A file of questions with answers; give it several times.")
    ] = None,
    probe: Annotated[bool, typer.Option(help="Ask the bundled general questions, to see what was forgotten.")] = True,
    thinking: Annotated[bool, typer.Option(help="Let both models reason first.")] = True,
    regrade: Annotated[bool, typer.Option("--regrade", help="Grade the saved replies again, without a model.")] = False,
    endpoint: Annotated[
        list[str] | None, typer.Option(help="base=URL[#MODEL] and tuned=URL[#MODEL] that reply.")
    ] = None,
    judge: Annotated[str | None, typer.Option(help="URL[#MODEL] of a judge that compares the answers.")] = None,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the sampling.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON, and nothing else.")] = False,
) -> None:
    """Measure base against tuned, with intervals; the same command goes on where it stopped."""
    sides = _endpoints_by_side(endpoint or [])
    from thinktune.eval import comparison_tables
    from thinktune.eval.runner import EvalOptions, evaluate_run, rescore_run
    from thinktune.report import write_run_page as write_page
    from thinktune.tracking import update_trackers

    say = _say_to_stderr if as_json else _say
    with _exit_when_stopped("stopped; the same command goes on after the last saved reply"):
        if regrade:
            found = rescore_run(run, thinking=thinking)
        else:
            options = EvalOptions(tuple(tasks or ()), probe, thinking, temperature, seed, sides, judge)
            found = evaluate_run(run, say, options)
        write_page(run)
    update_trackers(run, recipes.load_recipe(RunFolder(run).recipe).track, say)
    if as_json:
        print(json.dumps(found, ensure_ascii=False, indent=2))
        return
    _console().print(comparison_tables(found))
    _say(f"report: {RunFolder(run).report}")


def _endpoints_by_side(endpoints: list[str]) -> dict[str, str]:
    """Endpoints by the side that they stand for."""
    found = {side: url for side, _, url in (text.partition("=") for text in endpoints)}
    wrong = sorted(set(found) - {"base", "tuned"})
    if wrong or len(found) < len(endpoints):
        raise UserError(f"--endpoint: write base=URL and tuned=URL, each once; given were {', '.join(endpoints)}")
    return found


@app.command()
def report(runs: RunPaths) -> None:
    """Write a run's page again; of several runs, one page that shows them side by side."""
    from thinktune.checkpoint import require_run_folder
    from thinktune.report import write_comparison, write_run_page

    for run in runs:
        require_run_folder(run)
    for run in runs:
        _say(f"report: {write_run_page(run)}")
    if len(runs) > 1:
        _say(f"side by side: {write_comparison(runs)}")


@app.command()
def chat(run: ModelPath) -> None:
    """Talk to a model, its reasoning dimmed."""
    from thinktune.commands import chat_in_terminal as run_chat

    console = _console()
    run_chat(run, console, lambda: console.input("[bold]› [/]"))


@app.command()
def serve(
    run: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="A run's folder, or any model folder.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="Talk to this OpenAI-compatible server instead.")] = None,
    model: Annotated[str | None, typer.Option(help="The endpoint's model; by default all that it lists.")] = None,
    host: Annotated[
        str, typer.Option(help="Where to listen; beyond loopback THINKTUNE_API_KEY must be set.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8420,
    engine: Annotated[
        EngineChoice, typer.Option(help="What writes replies; auto is vLLM where it and a GPU are.")
    ] = "auto",
) -> None:
    """Open a chat page and an OpenAI-compatible API, reasoning and answer apart."""
    from thinktune.serve import find_models
    from thinktune.serve import serve as run_serve

    run_serve(find_models(run, endpoint, model, engine, _say), host, port, _say)


def main() -> None:
    """Run a verb. What is the user's or the system's fault becomes sentences and exit code 2, without a traceback."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="replace")  # pyright: ignore[reportAttributeAccessIssue]
    try:
        app()
    except (UserError, OSError) as error:
        faults = _error_messages(error)
    else:
        return
    for fault in faults:
        Console(stderr=True).print(f"[bold red]error:[/] {escape(redact(fault))}", highlight=False, soft_wrap=True)
    raise SystemExit(2)


def _error_messages(error: UserError | OSError) -> list[str]:
    if isinstance(error, UserError):
        return error.faults
    place = ": ".join([*getattr(error, "__notes__", ()), str(error.filename or "the system")])
    return [f"{place}: {error.strerror or error}; look at the path, its rights and the room on the disk"]


@contextmanager
def _exit_when_stopped(
    message: str = "stopped; the same command goes on from the last checkpoint", *, announce: bool = True
) -> Generator[None]:
    """A stop that was asked for ends with exit code 75, or 130 where nothing was saved, and says how to go on.

    Typer would end without a word.
    """
    try:
        yield
    except Stopped as stopped:
        if announce:
            Console(stderr=True).print(escape(str(stopped)), highlight=False, soft_wrap=True)
        raise typer.Exit(stopped.exit_code) from None
    except KeyboardInterrupt:
        if announce:
            Console(stderr=True).print(message, highlight=False)
        raise typer.Exit(130) from None


def _console() -> Console:
    return Console(highlight=False)


def _say(line: str) -> None:
    print(line, flush=True)


def _say_to_stderr(line: str) -> None:
    """Progress beside a result that others may read from the standard output."""
    print(line, file=sys.stderr, flush=True)
