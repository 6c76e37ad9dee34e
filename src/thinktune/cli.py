"""The command line: verbs in, exit codes out. The only file that prints errors."""

import importlib.metadata
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thinktune import arguments
from thinktune.errors import UserError, redact
from thinktune.exit_codes import error_messages, exit_when_stopped, exit_written, lost_output, require_output
from thinktune.help_pages import run_app
from thinktune.library_output import captured_output, set_environment, silence_libraries
from thinktune.terminal import (
    drop_unwritten_output,
    guarded_output,
    make_console,
    open_closed_streams,
    print_json,
    say,
    say_to_stderr,
    translated,
)
from thinktune.translation import translate
from thinktune.verb_help import VerbGroup

# What a verb needs is imported inside it, so that help and a bad recipe are answered without loading torch. What the
# libraries print meanwhile is captured.
if TYPE_CHECKING:
    from thinktune.config import Recipe
    from thinktune.distributed import World
    from thinktune.progress import Say


app = typer.Typer(
    cls=VerbGroup,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def show_version(wanted: bool) -> None:
    """Print the version and end, if it is wanted."""
    if wanted:
        say(f"thinktune {importlib.metadata.version('thinktune')}")
        raise typer.Exit


@app.callback()
def thinktune(
    language: arguments.TerminalLanguage = None,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=show_version, is_eager=True)
    ] = False,
) -> None:
    """Fine-tune all parameters of an open language model on question/reasoning/answer rows."""


@app.command()
def demo(folder: arguments.DemoFolder = Path("runs/demo")) -> None:
    """Run the whole pipeline with a tiny Qwen3. Takes a few minutes on a CPU."""
    with captured_output():
        from thinktune.demo import demo as run_demo

    with exit_when_stopped():
        run_demo(folder, make_console())


@app.command()
def init(
    rows: arguments.Rows,
    model: arguments.BaseModel = None,
    hub: arguments.ModelHub = "modelscope",
    card: arguments.PlannedCard = None,
    output: arguments.RecipeOutput = None,
    yes: arguments.AskNothing = False,
) -> None:
    """Write a recipe that suits your rows and your card. Exit code 0 if it is ready, 2 if not."""
    from thinktune.commands import InitOptions, refuse_options

    refuse_options(options := InitOptions(rows, model, hub, card, output))
    with captured_output():
        from thinktune.commands.init import ask_on_terminal, init_recipe

    console = make_console()
    ask = None if yes else ask_on_terminal(lambda question: console.input(translate(question), markup=False))
    with exit_when_stopped("stopped; nothing was written"):
        if not init_recipe(options, say, ask):
            raise typer.Exit(2)


@app.command()
def check(  # noqa: PLR0913 (each parameter is an option)
    recipe: arguments.RecipePath,
    overrides: arguments.Overrides = None,
    as_json: arguments.AsJson = False,
    write: arguments.CleanedRows = None,
    fix: arguments.FixRecipe = False,
    doubts: arguments.DoubtsFolder = None,
    strict: arguments.Strict = False,
    price: arguments.HourlyPrice = None,
) -> None:
    """Show what a recipe will train, before you spend GPU time. Exit code 0 if ready, 2 if not."""
    try:
        with exit_when_stopped("stopped; nothing was written"):
            ready = _check(recipe, overrides or [], as_json, _CheckOptions(write, doubts, fix, strict, price))
    except (UserError, OSError) as error:
        if not as_json:
            raise
        print_json({"verdict": "not ready", "stops": error_messages(error)})
        ready = False
    require_output()
    if not ready:
        raise typer.Exit(2)


@dataclass(frozen=True, slots=True)
class _CheckOptions:
    """Options of `check`: folders for cleaned rows and for doubts, whether to fix the recipe, and how it judges."""

    rows: Path | None
    doubts: Path | None
    fixed: bool
    strict: bool
    price: str | None


def _check(recipe: Path, overrides: list[str], as_json: bool, options: _CheckOptions) -> bool:
    loaded = _load_recipe(recipe, overrides, say_to_stderr)
    write, doubts, written = options.rows, options.doubts, list[str]()
    with captured_output():
        from thinktune.data.export import export_rows, refuse_existing
        from thinktune.data.rows_first import prepare_rows_first

    if write:
        refuse_existing(write)
    first = None if options.fixed else prepare_rows_first(loaded, say_to_stderr)
    with captured_output():
        from thinktune.commands import check as checks
        from thinktune.commands.fix import fix_recipe

    price = checks.read_price(options.price)
    if options.fixed:
        recipe, loaded, written = fix_recipe(recipe, loaded, say_to_stderr)
        overrides = []  # which the fixed recipe holds
    try:
        prepared, facts = checks.check_recipe(loaded, say_to_stderr, first, price)
    except UserError:
        for line in written:
            say_to_stderr(line)
        raise
    if write and not prepared.stop_reasons:
        written += export_rows(prepared, write, None if loaded.is_mixture else loaded.data.system)
    elif write:
        written.append(f"{write}: nothing was written, because the rows are not ready")
    if doubts:
        written += checks.write_doubts_page(loaded, doubts)
    facts |= {"written": written} if written else {}
    facts |= checks.finish_facts(facts, recipe, overrides, strict=options.strict)
    if as_json:
        print_json(facts | {"peak_memory_mib": checks.peak_memory_mib()})
    else:
        checks.print_check(facts, make_console())
    return facts["verdict"] == "ready"


@app.command()
def think(  # noqa: PLR0913 (each parameter is an option)
    recipe: arguments.RecipePath,
    overrides: arguments.Overrides = None,
    teacher: arguments.Teacher = None,
    tries: Annotated[int, typer.Option(help="Replies to each question.")] = 4,
    keep: Annotated[int, typer.Option(help="Correct replies to keep as rows, at most, for each question.")] = 1,
    tokens: Annotated[int | None, typer.Option(help="Token limit for all prompts and replies together.")] = None,
    price: Annotated[str | None, typer.Option(help="Price of a million tokens, in/out, as in 2/8CNY.")] = None,
    budget: Annotated[float | None, typer.Option(help="Spending limit, in the currency of --price.")] = None,
    temperature: Annotated[float, typer.Option(min=0, help="Sampling temperature.")] = 0.6,
    seed: Annotated[int, typer.Option(help="Random seed of the first try; the next tries count up from it.")] = 0,
    reply_tokens: Annotated[int | None, typer.Option(help="Token limit of a reply; default: data.max_tokens.")] = None,
    length: Annotated[str | None, typer.Option(help="Fewest and most reasoning tokens, as in 50:1500.")] = None,
    instruct: Annotated[bool, typer.Option("--instruct", help="Prompt the teacher to think first.")] = False,
    hints: Annotated[bool, typer.Option("--hints", help="Show the answer where no reply was correct.")] = False,
    shorten: arguments.Shorten = False,
    judge: Annotated[str | None, typer.Option(help="URL[#MODEL] of a judge model for free-text answers.")] = None,
    teacher_answers: arguments.TeacherAnswers = False,
    concurrency: Annotated[int, typer.Option(min=1, max=1024, help="Requests sent at the same time.")] = 16,
    to: Annotated[Path | None, typer.Option(help="Folder; default: thought/NAME.", callback=arguments.at_home)] = None,
    wait: arguments.WaitForCard = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print only the summary, as JSON.")] = False,
) -> None:
    """Write reasoning for rows that have none, with a teacher model. Resumes where it stopped."""
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
        wait=wait,
    )
    with exit_when_stopped("stopped; run the same command to continue after the last saved reply"):
        account = think_about_rows(loaded, options, (price, length), concurrency, say_to_stderr if as_json else say)
    if as_json:
        print_json(account)
        require_output()
    else:
        print_account(account, say)
    if not account["kept_replies"]:
        raise typer.Exit(2)


@app.command()
def train(
    recipe: arguments.RecipePath,
    overrides: arguments.Overrides = None,
    wait: arguments.WaitForCard = False,
    finish: arguments.Finish = False,
) -> None:
    """Train, or resume a run that was stopped (exit code 75). Uses all GPUs here, or those that torchrun gives it."""
    if "RANK" in os.environ:  # set by torchrun and similar launchers
        with exit_when_stopped(announce=os.environ["RANK"] == "0"):
            with captured_output():
                from thinktune.model.device import hold_own_cards
                from thinktune.train import process_group

            with hold_own_cards(say, wait=wait), process_group() as world:
                _train(recipe, overrides or [], world, finish=finish)
        return
    with exit_when_stopped():
        loaded = _load_recipe(recipe, overrides or [])  # mistakes are reported once, before any process is started
        with captured_output():
            from thinktune.data.rows_first import prepare_new_run
            from thinktune.run.resume import recipe_changes

        recipe_changes(loaded, loaded.run_folder)  # which refuses to resume a run that began with other settings
        prepare_new_run(loaded, say)
        with captured_output():
            from thinktune.model.device import hold_own_cards
            from thinktune.train import launch_workers

        with hold_own_cards(say, wait=wait) as gpus:
            if gpus > 1:
                say(f"starting torchrun with one process for each of {gpus} GPUs")
                raise typer.Exit(launch_workers(gpus, recipe, [*(overrides or []), *["--finish"] * finish]))
            _train(recipe, overrides or [], finish=finish)


def _train(recipe: Path, overrides: list[str], world: "World | None" = None, *, finish: bool) -> None:
    loaded = _load_recipe(recipe, overrides, say if world is None or world.is_main else None)
    with captured_output():
        from thinktune.distributed import SINGLE
        from thinktune.progress import progress_bar
        from thinktune.run import RunFolder
        from thinktune.run.environment import shell_command
        from thinktune.train import train as run_train

    world = world or SINGLE
    with progress_bar() as (say_above, bar):
        folder = run_train(loaded, say_above, bar=bar, world=world, finish=finish)
    if world.is_main:
        following = "\n        ".join(shell_command(verb, folder) for verb in ("eval", "chat"))
        say(f"report: {RunFolder(folder).report}\nnext:   {following}")


@app.command()
def pilot(  # noqa: PLR0913 (each parameter is an option)
    recipe: arguments.RecipePath,
    overrides: arguments.Overrides = None,
    rates: arguments.PilotRates = None,
    epochs: arguments.PilotEpochs = None,
    share: arguments.PilotShare = None,
    minutes: arguments.PilotMinutes = 60.0,
    wait: arguments.WaitForCard = False,
) -> None:
    """Find the learning rate and epochs with short runs. Uses a share of the rows; resumes where it stopped."""
    with exit_when_stopped("stopped; run the same command to resume"):
        loaded = _load_recipe(recipe, overrides or [], say)
        with captured_output():
            from thinktune.commands.pilot import run_pilot

        run_pilot(loaded, (recipe, overrides or []), (rates, epochs, share, minutes, wait), make_console())


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
    tasks: arguments.TaskFiles = None,
    exam: arguments.Exams = None,
    exam_questions: arguments.ExamQuestions = arguments.EXAM_QUESTIONS,
    exam_hub: arguments.ExamHub = None,
    harness: arguments.Harness = None,
    probe: arguments.Probe = True,
    thinking: arguments.Thinking = None,
    regrade: arguments.Regrade = False,
    endpoint: arguments.EvaluatedEndpoints = None,
    judge: arguments.Judge = None,
    temperature: arguments.Temperature = 0.0,
    seed: arguments.SamplingSeed = 0,
    wait: arguments.WaitForCard = False,
    as_json: arguments.ReportAsJson = False,
) -> None:
    """Compare the tuned model with its base, with confidence intervals. Resumes where it stopped."""
    sides = arguments.endpoints_by_side(endpoint or [])
    with captured_output():
        from thinktune.commands.evaluated import show_evaluation
        from thinktune.commands.harness import parse_benchmarks, run_benchmarks
        from thinktune.eval import comparison_tables
        from thinktune.eval.exams import ExamRequest
        from thinktune.eval.runner import EvalOptions, evaluate_run, rescore_run
        from thinktune.run.folder import find_run
    benchmarks = parse_benchmarks(harness or [], run)
    asks = tasks or exam or exam_hub or harness or sides or judge or temperature or seed or not probe
    if regrade and (asks or exam_questions != arguments.EXAM_QUESTIONS):
        raise UserError(arguments.REGRADE_ALONE)

    tell = say_to_stderr if as_json else say
    with exit_when_stopped("stopped; run the same command to continue after the last saved reply"):
        if regrade:
            result = rescore_run(run, thinking=thinking)
        else:
            exams = ExamRequest(tuple(exam), exam_questions, exam_hub) if exam else None
            options = EvalOptions(tuple(tasks or ()), probe, thinking, temperature, seed, sides, judge, exams, wait)
            result = evaluate_run(run, tell, options)
        if benchmarks:
            result |= {"harness": run_benchmarks(run, benchmarks, tell, wait=wait)}
        show_evaluation(run, tell)
    if as_json:
        print_json(result)
        require_output()
        return
    make_console().print(translated(comparison_tables(result)))
    found, of_average = find_run(run)
    say(f"card:   {run / 'README.md'}" if of_average else f"report: {found.report}")


@app.command()
def average(run: arguments.RunPath, weight: arguments.AverageWeight) -> None:
    """Average the base and the tuned model. Takes WEIGHT of the tuned weights and the rest of the base's."""
    with captured_output():
        from thinktune.commands.average import average_run

    with exit_when_stopped("stopped; the unfinished model was removed"):
        average_run(run, weight, say)


@app.command()
def report(
    runs: arguments.RunPaths,
    price: Annotated[str | None, typer.Option(help="Price of one card hour, as in 12CNY: adds the cost.")] = None,
) -> None:
    """Rewrite the report page of a run. For several runs, also write a page that compares them."""
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
    run: arguments.PushedFolder,
    name: arguments.PushedName,
    hub: arguments.PushHub,
    public: Annotated[bool, typer.Option("--public", help="Make it public; default: private.")] = False,
) -> None:
    """Push a run's final model, with its card, to a hub. Resumes where it stopped."""
    with captured_output():
        from thinktune.export.push import push_model

    with exit_when_stopped("stopped; the repository is unchanged; run the same command to continue"):
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
    say("starting; this may take a minute")
    with captured_output():
        from thinktune import serve as serving
        from thinktune.http.listening import find_access_here

    access = find_access_here(host, allow_host, allow_origin, root_path)
    serving.serve(serving.find_models(run, endpoint, model, engine, say), host, port, say, access)


@app.command()
def studio(
    folder: arguments.StudioFolder = Path(),
    host: arguments.ListenHost = "127.0.0.1",
    port: arguments.ListenPort = 8430,
    allow_host: arguments.AllowHosts = None,
    root_path: arguments.RootPath = "",
) -> None:
    """Do everything in a browser: rows, plan, training, proof, talk. What you start there keeps running without it."""
    with captured_output():
        from thinktune.http.listening import find_access_here
        from thinktune.studio import run_studio

    run_studio(folder, host, port, say, find_access_here(host, allow_host, None, root_path))


@app.command()
def export(run: arguments.ModelPath, targets: arguments.ExportTargets, to: arguments.ExportFolder = None) -> None:
    """Export the model for other engines. Each export is loaded and asked questions to check it."""
    with captured_output():
        from thinktune.commands.export import export_run

    with exit_when_stopped("stopped; the unfinished export was removed"):
        export_run(run, targets, to, say, say_to_stderr)


def main() -> None:
    """Run a verb; errors of the user or the system are printed as sentences, with exit code 2 and no traceback.

    Output that cannot be written harms nothing but itself: `terminal.TolerantStream`.
    """
    open_closed_streams()
    silence_libraries()
    set_environment()
    try:
        with exit_written(), guarded_output():
            _run_verb()
    finally:
        drop_unwritten_output()


def _run_verb() -> None:
    try:
        run_app(app)
    except BaseException as error:  # Rust's panics, as of threads that cannot be started, are no Exception
        if isinstance(error, SystemExit | KeyboardInterrupt) or not (faults := error_messages(error)):
            raise
    else:
        return
    finally:
        if failure := lost_output():
            say_to_stderr(f"standard output: {failure}; what was printed after that is missing there")
    from rich.markup import escape

    console = make_console(stderr=True)
    for fault in faults:
        console.print(f"[bold red]{translate('error:')}[/] {escape(redact(translate(fault)))}", soft_wrap=True)
    raise SystemExit(2)
