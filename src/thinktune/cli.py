"""The command line: verbs in, exit codes out. The only file that prints errors or exits."""

import math
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from thinktune import arguments
from thinktune.errors import Stopped, UserError, redact
from thinktune.files import describe_system_error, system_error
from thinktune.library_output import captured_output, set_environment, silence_libraries
from thinktune.terminal import (
    describe_failure,
    drop_unwritten_output,
    guarded_output,
    make_console,
    open_closed_streams,
    output_failure,
    print_json,
    say,
    say_to_stderr,
)
from thinktune.termination import Terminated, catch_termination

# What a verb needs is imported inside it, so that help and a bad recipe are answered without loading torch. What the
# libraries print meanwhile is captured.
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


@app.command()
def demo(
    folder: Annotated[
        Path, typer.Argument(metavar="[FOLDER]", help="Output folder.", callback=arguments.at_home)
    ] = Path("runs/demo"),
) -> None:
    """Run the whole pipeline on a tiny Qwen3, in minutes on a CPU."""
    with captured_output():
        from thinktune.demo import demo as run_demo

    with _exit_when_stopped():
        run_demo(folder, make_console())


@app.command()
def check(
    recipe: arguments.RecipePath,
    overrides: arguments.Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print only the facts, as JSON.")] = False,
    write: Annotated[
        Path | None, typer.Option(help="Folder for the cleaned train.jsonl and val.jsonl.", callback=arguments.at_home)
    ] = None,
    fix: Annotated[
        bool, typer.Option("--fix", help="Write the recipe that it would choose beside this one, and check that.")
    ] = False,
    doubts: Annotated[
        Path | None,
        typer.Option(
            help="Folder for doubts.html: doubtful rows beside their repair, to decide.", callback=arguments.at_home
        ),
    ] = None,
) -> None:
    """Show what a recipe will train, before any GPU time is spent. Exit code 0 if ready, 2 if not."""
    try:
        with _exit_when_stopped("stopped; nothing was written"):
            ready = _check(recipe, overrides or [], as_json, _Outputs(write, doubts, fix))
    except (UserError, OSError) as error:
        if not as_json:
            raise
        print_json({"verdict": "not ready", "stops": _error_messages(error)})
        ready = False
    _require_output()
    if not ready:
        raise typer.Exit(2)


@dataclass(frozen=True, slots=True)
class _Outputs:
    """What `check` writes besides its facts: folders for cleaned rows and for doubts, and a fixed recipe."""

    rows: Path | None
    doubts: Path | None
    fixed: bool


def _check(recipe: Path, overrides: list[str], as_json: bool, outputs: _Outputs) -> bool:
    loaded = _load_recipe(recipe, overrides, say_to_stderr)
    write, doubts, written = outputs.rows, outputs.doubts, list[str]()
    with captured_output():
        from thinktune.data.export import export_rows, refuse_existing
        from thinktune.data.rows_first import prepare_rows_first

    if write:
        refuse_existing(write)
    first = None if outputs.fixed else prepare_rows_first(loaded, say_to_stderr)
    with captured_output():
        from thinktune.commands import check_recipe, print_check
        from thinktune.commands.check import peak_memory_mib, write_doubts_page
        from thinktune.commands.fix import fix_recipe

    if outputs.fixed:
        loaded, written = fix_recipe(recipe, loaded, say_to_stderr)
    try:
        prepared, facts = check_recipe(loaded, say_to_stderr, first)
    except UserError:
        for line in written:
            say_to_stderr(line)
        raise
    ready = facts["verdict"] == "ready"
    if write and not prepared.stop_reasons:
        written += export_rows(prepared, write, None if loaded.other_sources else loaded.data.system)
    elif write:
        written.append(f"{write}: nothing is written, because the rows are not ready")
    if doubts:
        written += write_doubts_page(loaded, doubts)
    facts |= {"written": written} if written else {}
    if as_json:
        print_json(facts | {"peak_memory_mib": peak_memory_mib()})
    else:
        print_check(facts, make_console())
    return ready


@app.command()
def think(  # noqa: PLR0913 (each parameter is an option)
    recipe: arguments.RecipePath,
    overrides: arguments.Overrides = None,
    teacher: arguments.Teacher = None,
    tries: Annotated[int, typer.Option(help="Replies to each question.")] = 4,
    keep: Annotated[int, typer.Option(help="Right replies that become rows, at most, of each question.")] = 1,
    tokens: Annotated[int | None, typer.Option(help="The most tokens of all prompts and replies.")] = None,
    price: Annotated[str | None, typer.Option(help="Price of a million tokens, in/out, as in 2/8CNY.")] = None,
    budget: Annotated[float | None, typer.Option(help="The most money, in the currency of --price.")] = None,
    temperature: Annotated[float, typer.Option(min=0, help="Sampling temperature.")] = 0.6,
    seed: Annotated[int, typer.Option(help="Seed of the first try; each other has the next one.")] = 0,
    reply_tokens: Annotated[int | None, typer.Option(help="Tokens of a reply; default: data.max_tokens.")] = None,
    length: Annotated[str | None, typer.Option(help="Fewest and most tokens of reasoning, as in 50:1500.")] = None,
    instruct: Annotated[bool, typer.Option("--instruct", help="Ask the teacher in words to think first.")] = False,
    hints: Annotated[bool, typer.Option("--hints", help="Show the answer where no reply was right.")] = False,
    shorten: arguments.Shorten = False,
    judge: Annotated[str | None, typer.Option(help="URL[#MODEL] of a judge of answers in free text.")] = None,
    teacher_answers: arguments.TeacherAnswers = False,
    concurrency: Annotated[int, typer.Option(min=1, max=1024, help="Requests in flight.")] = 16,
    to: Annotated[Path | None, typer.Option(help="Folder; default: thought/NAME.", callback=arguments.at_home)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print only the account, as JSON.")] = False,
) -> None:
    """Give reasoning to rows that have none: ask a teacher, keep what is right. Resumes where it stopped."""
    loaded = _load_recipe(recipe, overrides or [], say_to_stderr if as_json else say)
    with captured_output():
        from thinktune.commands.think import print_account, think_about_rows
        from thinktune.synthesis import ThinkOptions

    options = ThinkOptions(
        *(teacher, tries, keep, tokens, None, budget, temperature, seed, reply_tokens),
        instruct=instruct,
        hints=hints,
        shorten=shorten,
        judge=judge,
        own_answers=not teacher_answers,
        folder=to,
    )
    with _exit_when_stopped("stopped; the same command continues after the last saved reply"):
        account = think_about_rows(loaded, options, (price, length), concurrency, say_to_stderr if as_json else say)
    if as_json:
        print_json(account)
        _require_output()
    else:
        print_account(account, say)
    if not account["kept_replies"]:
        raise typer.Exit(2)


@app.command()
def train(recipe: arguments.RecipePath, overrides: arguments.Overrides = None) -> None:
    """Train, or resume where the last run stopped. Uses all GPUs of this machine, or those of torchrun."""
    if "RANK" in os.environ:  # set by torchrun and similar launchers
        with _exit_when_stopped(announce=os.environ["RANK"] == "0"):
            with captured_output():
                from thinktune.train import process_group

            with process_group() as world:
                _train(recipe, overrides or [], world)
        return
    with _exit_when_stopped():
        loaded = _load_recipe(recipe, overrides or [])  # mistakes are reported once, before any process is started
        with captured_output():
            from thinktune.data.rows_first import prepare_new_run

        prepare_new_run(loaded, say)
        with captured_output():
            from thinktune.train import device_count, launch_workers

        if (gpus := device_count()) > 1:
            say(f"starting torchrun with one process for each of {gpus} GPUs")
            raise typer.Exit(launch_workers(gpus, recipe, overrides or []))
        _train(recipe, overrides or [])


def _train(recipe: Path, overrides: list[str], world: "World | None" = None) -> None:
    loaded = _load_recipe(recipe, overrides, say if world is None or world.is_main else None)
    with captured_output():
        from thinktune.distributed import SINGLE
        from thinktune.progress import progress_bar
        from thinktune.run import RunFolder
        from thinktune.run.environment import shell_command
        from thinktune.train import train as run_train

    world = world or SINGLE
    with progress_bar() as (say_above, bar):
        folder = run_train(loaded, say_above, bar=bar, world=world)
    if world.is_main:
        following = "\n        ".join(shell_command(verb, folder) for verb in ("eval", "chat"))
        say(f"report: {RunFolder(folder).report}\nnext:   {following}")


def _load_recipe(path: Path, overrides: list[str], tell: "Say | None" = None) -> "Recipe":
    """Load a recipe and refuse paths that do not exist; `tell` prints which settings have a new place."""
    with captured_output():
        from thinktune.config import load_recipe
        from thinktune.data.reading.sources import refuse_missing_paths
        from thinktune.progress import say_nothing

    recipe = load_recipe(path, overrides, tell or say_nothing)
    refuse_missing_paths(recipe)
    return recipe


@app.command(name="eval")
def evaluate(  # noqa: PLR0913 (each parameter is an option)
    run: arguments.RunPath,
    tasks: Annotated[
        list[Path] | None,
        typer.Option(help="File of questions with answers; may be given several times.", callback=arguments.at_home),
    ] = None,
    probe: Annotated[bool, typer.Option(help="Ask the bundled general questions, to see what was forgotten.")] = True,
    thinking: Annotated[
        bool | None, typer.Option(help="Ask both models only with thinking, or only without; default: both.")
    ] = None,
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
    sides = arguments.endpoints_by_side(endpoint or [])
    with captured_output():
        from thinktune.config import load_recipe
        from thinktune.eval import comparison_tables
        from thinktune.eval.runner import EvalOptions, evaluate_run, rescore_run
        from thinktune.report import write_final_card, write_run_page
        from thinktune.run import RunFolder
        from thinktune.tracking import update_trackers
    if not math.isfinite(temperature):
        raise UserError(f"--temperature: is {temperature}; give a number, 0 for greedy")

    tell = say_to_stderr if as_json else say
    with _exit_when_stopped("stopped; the same command continues after the last saved reply"):
        if regrade:
            result = rescore_run(run, thinking=thinking)
        else:
            options = EvalOptions(tuple(tasks or ()), probe, thinking, temperature, seed, sides, judge)
            result = evaluate_run(run, tell, options)
        write_run_page(run)
        if kept := write_final_card(run):
            tell(kept)
    update_trackers(run, load_recipe(RunFolder(run).recipe).track, tell)
    if as_json:
        print_json(result)
        _require_output()
        return
    make_console().print(comparison_tables(result))
    say(f"report: {RunFolder(run).report}")


@app.command()
def report(
    runs: arguments.RunPaths,
    price: Annotated[str | None, typer.Option(help="Price of an hour of one card, as in 12CNY: adds the cost.")] = None,
) -> None:
    """Rewrite a run's report page. For several runs, also write a page that compares them."""
    with captured_output():
        from thinktune.checkpoint import require_run_folder
        from thinktune.report import write_comparison, write_final_card, write_run_page
        from thinktune.report.run_sections.cost import parse_hourly_price
        from thinktune.run.base_model import describe_other_weights

    hourly = None if price is None else parse_hourly_price(price)
    for run in runs:
        require_run_folder(run)
    for run in runs:
        say(f"report: {write_run_page(run, price=hourly)}")
        if kept := write_final_card(run):
            say_to_stderr(kept)
        if warning := describe_other_weights(run):
            say_to_stderr(warning)
    if len(runs) > 1:
        say(f"comparison: {write_comparison(runs)}")


@app.command()
def push(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="Run folder, an export's, or any model folder.", callback=arguments.at_home),
    ],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Repository on the hub, as OWNER/NAME.")],
    hub: Annotated[
        Literal["modelscope", "huggingface"],
        typer.Option(help="The hub; its token is read from MODELSCOPE_API_TOKEN or HF_TOKEN."),
    ],
    public: Annotated[bool, typer.Option("--public", help="Let everybody see it; by default it is private.")] = False,
) -> None:
    """Push a run's final model, with its card, to a hub. The same command continues where it stopped."""
    with captured_output():
        from thinktune.export.push import push_model

    with _exit_when_stopped("stopped; the repository is as it was, and the same command continues"):
        say(f"pushed: {push_model(run, hub, name, public=public, say=say)}")


@app.command()
def chat(run: arguments.ModelPath) -> None:
    """Chat with a model in the terminal, with its reasoning dimmed."""
    with captured_output():
        from thinktune.commands.chat import chat_in_terminal

    console = make_console()
    chat_in_terminal(run, console, lambda: console.input("[bold]› [/]"))


@app.command()
def serve(  # noqa: PLR0913 (each parameter is an option)
    run: arguments.MaybeModelPath = None,
    endpoint: arguments.ServedEndpoint = None,
    model: arguments.EndpointModel = None,
    host: arguments.ListenHost = "127.0.0.1",
    port: arguments.ListenPort = 8420,
    engine: arguments.ServeEngine = "auto",
    allow_origin: arguments.AllowOrigins = None,
    allow_host: arguments.AllowHosts = None,
    root_path: arguments.RootPath = "",
) -> None:
    """Serve a chat page and an OpenAI-compatible API."""
    with captured_output():
        from thinktune.serve import API_KEY_VARIABLE, find_access, find_models
        from thinktune.serve import serve as run_serve

    access = find_access(os.environ.get(API_KEY_VARIABLE), host, allow_host or (), allow_origin or (), root_path)
    run_serve(find_models(run, endpoint, model, engine, say), host, port, say, access)


@app.command()
def export(
    run: arguments.ModelPath,
    targets: Annotated[
        list[str],
        typer.Argument(metavar="TARGET...", help="hf, fp8, gguf or ollama (-KIND, as in -q8_0), vllm, sglang, mlx."),
    ],
    to: Annotated[
        Path | None,
        typer.Option(
            help="Folder in which each target gets a folder; default: RUN/export.", callback=arguments.at_home
        ),
    ] = None,
) -> None:
    """Write the model as other engines load it; each export is loaded back and asked before it counts."""
    with captured_output():
        from thinktune.commands.export import export_run

    with _exit_when_stopped("stopped; nothing of the unfinished export is kept"):
        export_run(run, targets, to, say, say_to_stderr)


def main() -> None:
    """Run a verb; errors of the user or the system are printed as sentences, with exit code 2 and no traceback.

    Output that cannot be written harms nothing but itself: `terminal.TolerantStream`.
    """
    open_closed_streams()
    silence_libraries()
    set_environment()
    try:
        with guarded_output():
            _run_verb()
    finally:
        drop_unwritten_output()


def _run_verb() -> None:
    try:
        app()
    except BaseException as error:  # Rust's panics, as of threads that cannot be started, are no Exception
        if isinstance(error, SystemExit | KeyboardInterrupt) or not (faults := _error_messages(error)):
            raise
    else:
        return
    finally:
        if failure := _lost_output():
            say_to_stderr(f"standard output: {failure}; what was printed since then is missing there")
    from rich.markup import escape

    console = make_console(stderr=True)
    for fault in faults:
        console.print(f"[bold red]error:[/] {escape(redact(fault))}", soft_wrap=True)
    raise SystemExit(2)


def _error_messages(error: BaseException) -> list[str]:
    """Return the sentences of an error of the user or the system, none of any other."""
    if isinstance(error, UserError):
        return error.faults
    if isinstance(error, MemoryError):
        return ["memory: is full; close other programs, or use a machine with more"]
    found = system_error(error)
    if found is None:
        return []
    return [": ".join([*getattr(error, "__notes__", ()), describe_system_error(found)])]


def _lost_output() -> str | None:
    """Return why lines are missing from standard output, unless its reader left on purpose, as `head` does."""
    sys.stdout.flush()
    failure = output_failure(sys.stdout)
    return None if failure is None or isinstance(failure, BrokenPipeError) else describe_failure(failure)


def _require_output() -> None:
    """Exit with 2 where standard output, which is what a verb is for, could not be written."""
    if _lost_output():
        raise typer.Exit(2)


@contextmanager
def _exit_when_stopped(
    message: str = "stopped; the same command resumes from the last checkpoint", *, announce: bool = True
) -> Generator[None]:
    """Turn a requested stop into exit code 75, or 130 if nothing was saved, and print how to continue.

    SIGTERM and SIGHUP count as such from the first import on; training then takes them over. Typer alone would exit
    without a word.
    """
    try:
        with catch_termination():
            yield
    except Terminated as terminated:
        if announce:
            say_to_stderr(f"{terminated}: {message}")
        raise typer.Exit(Stopped.EXIT_CODE) from None
    except Stopped as stopped:
        if announce:
            say_to_stderr(str(stopped))
        raise typer.Exit(stopped.exit_code) from None
    except KeyboardInterrupt:
        if announce:
            say_to_stderr(message)
        raise typer.Exit(130) from None
