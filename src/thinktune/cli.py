"""The command line: verbs in, exit codes out. The only file that prints errors or exits."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from thinktune.errors import Stopped, UserError, redact
from thinktune.terminal import guard_streams, make_console, print_json, say, say_to_stderr

# What a verb needs is imported inside it, so that help and a bad recipe are answered without loading torch.
if TYPE_CHECKING:
    from thinktune.config import Recipe
    from thinktune.distributed import World
    from thinktune.progress import Say


app = typer.Typer(
    help="Fine-tune all parameters of an open language model on question/reasoning/answer rows.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="Recipe file, such as one in recipes/.")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, such as runs/NAME.")]
RunPaths = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, such as runs/NAME.")]
ModelPath = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, or any model folder.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY.PATH=VALUE]...", help="Settings to override, as in train.epochs=1.")
]


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="Output folder.")] = Path("runs/demo"),
) -> None:
    """Run the whole pipeline on a tiny Qwen3, in minutes on a CPU."""
    from thinktune.demo import demo as run_demo

    with _exit_when_stopped():
        run_demo(folder, make_console())


@app.command()
def check(
    recipe: RecipePath,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print only the facts, as JSON.")] = False,
    write: Annotated[Path | None, typer.Option(help="Folder for the cleaned train.jsonl and val.jsonl.")] = None,
) -> None:
    """Show what a recipe will train, before any GPU time is spent. Exit code 0 if ready, 2 if not."""
    try:
        with _exit_when_stopped("stopped; nothing was written"):
            ready = _check(recipe, overrides or [], as_json, write)
    except (UserError, OSError) as error:
        if not as_json:
            raise
        print_json({"verdict": "not ready", "stops": _error_messages(error)})
        ready = False
    if not ready:
        raise typer.Exit(2)


def _check(recipe: Path, overrides: list[str], as_json: bool, write: Path | None) -> bool:
    loaded = _load_recipe(recipe, overrides, say_to_stderr)
    from thinktune.commands import check_recipe, print_check
    from thinktune.data.export import export_rows, refuse_existing

    if write:
        refuse_existing(write)
    prepared, facts = check_recipe(loaded, say_to_stderr)
    ready = facts["verdict"] == "ready"
    if write and not prepared.stop_reasons:
        facts["written"] = export_rows(prepared, write, loaded.data.system)
    elif write:
        facts["written"] = [f"{write}: nothing is written, because the rows are not ready"]
    if as_json:
        print_json(facts)
    else:
        print_check(facts, make_console())
    return ready


@app.command()
def train(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Train, or resume where the last run stopped. Uses all GPUs of this machine, or those of torchrun."""
    if "RANK" in os.environ:  # set by torchrun and similar launchers
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # or every rank prints warnings about intended settings
        from thinktune.train import process_group

        with _exit_when_stopped(announce=os.environ["RANK"] == "0"), process_group() as world:
            _train(recipe, overrides or [], world)
        return
    _load_recipe(recipe, overrides or [])  # mistakes are reported once, before any process is started
    from thinktune.train import device_count, launch_workers

    if (gpus := device_count()) > 1:
        say(f"starting torchrun with one process for each of {gpus} GPUs")
        raise typer.Exit(launch_workers(gpus, recipe, overrides or []))
    with _exit_when_stopped():
        _train(recipe, overrides or [])


def _train(recipe: Path, overrides: list[str], world: "World | None" = None) -> None:
    loaded = _load_recipe(recipe, overrides, say if world is None or world.is_main else None)
    from thinktune.distributed import SINGLE
    from thinktune.progress import progress_bar
    from thinktune.run import RunFolder
    from thinktune.train import train as run_train

    world = world or SINGLE
    with progress_bar() as (say_above, bar):
        folder = run_train(loaded, say_above, bar=bar, world=world)
    if world.is_main:
        say(f"report: {RunFolder(folder).report}\nnext:   thinktune eval {folder}\n        thinktune chat {folder}")


def _load_recipe(path: Path, overrides: list[str], tell: "Say | None" = None) -> "Recipe":
    """Load a recipe and refuse paths that do not exist; `tell` prints which settings have a new place."""
    from thinktune.config import load_recipe
    from thinktune.data.sources import refuse_missing_paths
    from thinktune.progress import say_nothing

    recipe = load_recipe(path, overrides, tell or say_nothing)
    refuse_missing_paths(recipe)
    return recipe


@app.command(name="eval")
def evaluate(  # noqa: PLR0913 (each parameter is an option)
    run: RunPath,
    tasks: Annotated[
        list[Path] | None, typer.Option(help="File of questions with answers; may be given several times.")
    ] = None,
    probe: Annotated[bool, typer.Option(help="Ask the bundled general questions, to see what was forgotten.")] = True,
    thinking: Annotated[bool, typer.Option(help="Let both models reason before they answer.")] = True,
    regrade: Annotated[bool, typer.Option("--regrade", help="Grade the saved replies again, without a model.")] = False,
    endpoint: Annotated[
        list[str] | None, typer.Option(help="Servers that reply: base=URL[#MODEL] and tuned=URL[#MODEL].")
    ] = None,
    judge: Annotated[str | None, typer.Option(help="URL[#MODEL] of a judge model that compares the answers.")] = None,
    temperature: Annotated[float, typer.Option(min=0, help="Sampling temperature; 0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Sampling seed.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print only the report, as JSON.")] = False,
) -> None:
    """Compare the tuned model with its base, with confidence intervals. Resumes where it stopped."""
    sides = _endpoints_by_side(endpoint or [])
    from thinktune.config import load_recipe
    from thinktune.eval import comparison_tables
    from thinktune.eval.runner import EvalOptions, evaluate_run, rescore_run
    from thinktune.report import write_run_page
    from thinktune.run import RunFolder
    from thinktune.tracking import update_trackers

    tell = say_to_stderr if as_json else say
    with _exit_when_stopped("stopped; the same command continues after the last saved reply"):
        if regrade:
            result = rescore_run(run, thinking=thinking)
        else:
            options = EvalOptions(tuple(tasks or ()), probe, thinking, temperature, seed, sides, judge)
            result = evaluate_run(run, tell, options)
        write_run_page(run)
    update_trackers(run, load_recipe(RunFolder(run).recipe).track, tell)
    if as_json:
        print_json(result)
        return
    make_console().print(comparison_tables(result))
    say(f"report: {RunFolder(run).report}")


def _endpoints_by_side(endpoints: list[str]) -> dict[str, str]:
    """Parse SIDE=URL options."""
    sides = {side: url for side, _, url in (text.partition("=") for text in endpoints)}
    if set(sides) - {"base", "tuned"} or len(sides) < len(endpoints):
        raise UserError(f"--endpoint: write base=URL and tuned=URL, each once; got {', '.join(endpoints)}")
    return sides


@app.command()
def report(runs: RunPaths) -> None:
    """Rewrite a run's report page. For several runs, also write a page that compares them."""
    from thinktune.checkpoint import require_run_folder
    from thinktune.report import write_comparison, write_run_page

    for run in runs:
        require_run_folder(run)
    for run in runs:
        say(f"report: {write_run_page(run)}")
    if len(runs) > 1:
        say(f"comparison: {write_comparison(runs)}")


@app.command()
def chat(run: ModelPath) -> None:
    """Chat with a model in the terminal, with its reasoning dimmed."""
    from thinktune.commands import chat_in_terminal

    console = make_console()
    chat_in_terminal(run, console, lambda: console.input("[bold]› [/]"))


@app.command()
def serve(
    run: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="Run folder, or any model folder.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="Use this OpenAI-compatible server instead.")] = None,
    model: Annotated[str | None, typer.Option(help="Model of the endpoint; all that it lists by default.")] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; beyond loopback, THINKTUNE_API_KEY must be set.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.")] = 8420,
    engine: Annotated[
        Literal["auto", "here", "vllm"],
        typer.Option(help="Inference engine; auto is vLLM if it is installed and there is a GPU."),
    ] = "auto",
) -> None:
    """Serve a chat page and an OpenAI-compatible API."""
    from thinktune.serve import find_models
    from thinktune.serve import serve as run_serve

    run_serve(find_models(run, endpoint, model, engine, say), host, port, say)


def main() -> None:
    """Run a verb; errors of the user or the system are printed as sentences, with exit code 2 and no traceback."""
    guard_streams()
    os.environ.setdefault("PYTHON_COLORS", "0")  # the escape codes of a coloured traceback would be shown
    try:
        app()
    except (UserError, OSError) as error:
        faults = _error_messages(error)
    else:
        return
    from rich.markup import escape

    console = make_console(stderr=True)
    for fault in faults:
        console.print(f"[bold red]error:[/] {escape(redact(fault))}", soft_wrap=True)
    raise SystemExit(2)


def _error_messages(error: UserError | OSError) -> list[str]:
    if isinstance(error, UserError):
        return error.faults
    place = ": ".join([*getattr(error, "__notes__", ()), str(error.filename or "the system")])
    return [f"{place}: {error.strerror or error}; check the path, its permissions and the free disk space"]


@contextmanager
def _exit_when_stopped(
    message: str = "stopped; the same command resumes from the last checkpoint", *, announce: bool = True
) -> Generator[None]:
    """Turn a requested stop into exit code 75, or 130 if nothing was saved, and print how to continue.

    Typer alone would exit without a word.
    """
    try:
        yield
    except Stopped as stopped:
        if announce:
            say_to_stderr(str(stopped))
        raise typer.Exit(stopped.exit_code) from None
    except KeyboardInterrupt:
        if announce:
            say_to_stderr(message)
        raise typer.Exit(130) from None
