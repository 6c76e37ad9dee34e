"""Arguments that several verbs of the command line take."""

import math
from pathlib import Path
from typing import Annotated, Literal

import typer

from thinktune.errors import UserError
from thinktune.files import describe_given_rows, expand_home


def at_home(paths: Path | list[Path] | None) -> Path | list[Path] | None:
    """Replace a leading `~`, which not every shell does, as in --write=~/cleaned."""
    return [expand_home(path) for path in paths] if isinstance(paths, list) else paths and expand_home(paths)


def run_at_home(paths: Path | list[Path] | None) -> Path | list[Path] | None:
    """Expand paths as `at_home` does; raises UserError where one is a file of rows, which is no run."""
    found = at_home(paths)
    for path in found if isinstance(found, list) else filter(None, [found]):
        if fault := describe_given_rows(path, "a run's folder"):
            raise UserError(fault)
    return found


def finite_temperature(temperature: float) -> float:
    """Return a temperature; raises UserError where it is no number that can be used."""
    if not math.isfinite(temperature):
        raise UserError(f"--temperature: is {temperature}; give a number, 0 for greedy")
    return temperature


TerminalLanguage = Annotated[
    Literal["zh", "en"] | None, typer.Option("--lang", help="Language: zh or en; default: the system's.", is_eager=True)
]
DemoFolder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Output folder.", callback=at_home)]
PushedFolder = Annotated[
    Path, typer.Argument(metavar="RUN", help="Folder of a run, an export or a model.", callback=at_home)
]
PushedName = Annotated[str, typer.Argument(metavar="NAME", help="Repository on the hub, as OWNER/NAME.")]
PushHub = Annotated[
    Literal["modelscope", "huggingface"],
    typer.Option("--hub", help="Hub; reads its token from MODELSCOPE_API_TOKEN or HF_TOKEN."),
]
ExportTargets = Annotated[
    list[str],
    typer.Argument(metavar="TARGET", help="hf, fp8, gguf or ollama (-KIND, as in -q8_0), vllm, sglang, mlx."),
]
ExportFolder = Annotated[
    Path | None, typer.Option(help="Folder for the targets; default: RUN/export.", callback=at_home)
]
RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="Recipe file, such as one in recipes/.")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, such as runs/NAME.", callback=run_at_home)]
RunPaths = Annotated[
    list[Path], typer.Argument(metavar="RUN", help="Run folders, such as runs/NAME.", callback=run_at_home)
]
ModelPath = Annotated[
    Path, typer.Argument(metavar="RUN", help="Run folder, or any model folder.", callback=run_at_home)
]
MaybeModelPath = Annotated[
    Path | None, typer.Argument(metavar="RUN", help="Run folder, or any model folder.", callback=run_at_home)
]
AverageWeight = Annotated[
    float, typer.Argument(metavar="WEIGHT", help="Share of the tuned model, between 0 and 1, such as 0.7.")
]
ServedEndpoint = Annotated[str | None, typer.Option("--endpoint", help="Use this OpenAI-compatible server instead.")]
EndpointModel = Annotated[
    str | None, typer.Option("--model", help="Model at the endpoint; default: all that it lists.")
]
ListenPort = Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 picks a free one.")]
ListenHost = Annotated[
    str, typer.Option("--host", help="Address to listen on; one that other machines reach needs THINKTUNE_API_KEY.")
]
ServeEngine = Annotated[
    Literal["auto", "here", "vllm"],
    typer.Option("--engine", help="Inference engine; auto uses vLLM if it is installed and there is a GPU."),
]
AllowOrigins = Annotated[
    list[str] | None,
    typer.Option("--allow-origin", help="Origin of another page that may call the API; can be repeated."),
]
AllowHosts = Annotated[
    list[str] | None,
    typer.Option("--allow-host", help="Another name of this server, as host.docker.internal; can be repeated."),
]
RootPath = Annotated[str, typer.Option("--root-path", help="Path under which a proxy offers this server.")]
StudioFolder = Annotated[
    Path,
    typer.Argument(metavar="FOLDER", help="Folder of your rows, recipes and runs; made if missing.", callback=at_home),
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY.PATH=VALUE", help="Settings to override, as in train.epochs=1.")
]
WaitForCard = Annotated[
    bool, typer.Option("--wait", help="Wait until no other run, evaluation, pilot or teacher uses these cards.")
]
Finish = Annotated[
    bool, typer.Option("--finish", help="Train no further: end an unfinished run with its best checkpoint.")
]
Rows = Annotated[
    Path,
    typer.Argument(
        metavar="ROWS",
        help="File, folder or glob of rows, such as rows.jsonl, or OWNER/NAME on a hub.",
        callback=at_home,
    ),
]
BaseModel = Annotated[
    str | None, typer.Option("--model", help="Model folder, or OWNER/NAME on a hub; default: one that fits the card.")
]
ModelHub = Annotated[
    Literal["modelscope", "huggingface"], typer.Option("--hub", help="Hub to download model and rows from.")
]
PlannedCard = Annotated[
    str | None, typer.Option("--card", help="Card to plan for, as in 4090 or 24GiB; default: the card of this machine.")
]
RecipeOutput = Annotated[
    Path | None, typer.Option("--output", help="Recipe to write; default: named after the rows.", callback=at_home)
]
AskNothing = Annotated[bool, typer.Option("--yes", help="Ask nothing and use the most likely answers.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print only the facts, as JSON.")]
CleanedRows = Annotated[
    Path | None,
    typer.Option("--write", help="Folder for the cleaned train.jsonl and val.jsonl.", callback=at_home),
]
FixRecipe = Annotated[bool, typer.Option("--fix", help="Write a fixed recipe beside this one, and check that.")]
DoubtsFolder = Annotated[
    Path | None,
    typer.Option("--doubts", help="Folder for doubts.html, a page to decide about doubtful rows.", callback=at_home),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Treat warnings as errors: any warning makes the recipe not ready.")
]
HourlyPrice = Annotated[
    str | None, typer.Option("--price", help="Price of an hour, as in 2.5CNY: adds the run's cost.")
]
Teacher = Annotated[
    str | None,
    typer.Option(help="URL[#MODEL] of a server, or the folder of a run or a model; default: the base model."),
]
Shorten = Annotated[bool, typer.Option("--shorten", help="Rewrite reasoning that is longer than --length allows.")]
PilotRates = Annotated[
    str | None,
    typer.Option(
        "--rates", help="Learning rates, as in 5e-6,1e-5,2e-5; default: a quarter of the recipe's to four times it."
    ),
]
PilotEpochs = Annotated[
    str | None, typer.Option("--epochs", help="Epochs, as in 1,2,4; default: the recipe's, and half of them.")
]
PilotShare = Annotated[
    float | None, typer.Option("--share", help="Share of the training rows; default: what fits into --minutes.")
]
PilotMinutes = Annotated[float, typer.Option("--minutes", help="Time limit for all runs together, in minutes.")]
TeacherAnswers = Annotated[
    bool, typer.Option("--teacher-answers", help="Train the teacher's answers instead of the rows' own.")
]
EXAM_QUESTIONS = 400  # of each set: half the 95 % interval of a share is then at most 5 points
Exams = Annotated[
    list[str] | None,
    typer.Option("--exam", help="Public exam from a hub: medical-zh, medical-en, law-zh, finance, general, or a set."),
]
ExamQuestions = Annotated[
    int, typer.Option("--exam-questions", min=0, help="Questions drawn from each set of an exam; 0 asks all.")
]
ExamHub = Annotated[
    Literal["modelscope", "huggingface"] | None,
    typer.Option("--exam-hub", help="Hub to try first for exams; default: the model's."),
]
Harness = Annotated[
    list[str] | None,
    typer.Option(
        "--harness", help="Benchmark of another tool, run on this run's API: lm-eval:TASK or evalscope:DATASET."
    ),
]


TaskFiles = Annotated[
    list[Path] | None,
    typer.Option("--tasks", help="File of questions with answers; can be repeated.", callback=at_home),
]
Probe = Annotated[
    bool, typer.Option("--probe/--no-probe", help="Ask the bundled general questions, to see what the model forgot.")
]
Thinking = Annotated[
    bool | None,
    typer.Option(
        "--thinking/--no-thinking", help="Ask both models only with thinking, or only without; default: both."
    ),
]
Regrade = Annotated[bool, typer.Option("--regrade", help="Grade the saved replies again; loads no model.")]
REGRADE_ALONE = "--regrade: only grades the saved replies; leave out all other options except --thinking and --json"
EvaluatedEndpoints = Annotated[
    list[str] | None, typer.Option("--endpoint", help="Servers that answer: base=URL[#MODEL] and tuned=URL[#MODEL].")
]
Judge = Annotated[str | None, typer.Option("--judge", help="URL[#MODEL] of a judge model that compares the answers.")]
Temperature = Annotated[
    float,
    typer.Option("--temperature", min=0, help="Sampling temperature; 0 is greedy.", callback=finite_temperature),
]
SamplingSeed = Annotated[int, typer.Option("--seed", help="Random seed for sampling.")]
ReportAsJson = Annotated[bool, typer.Option("--json", help="Print only the report, as JSON.")]


def endpoints_by_side(endpoints: list[str]) -> dict[str, str]:
    """Parse SIDE=URL options."""
    sides = {side: url for side, _, url in (text.partition("=") for text in endpoints)}
    if set(sides) - {"base", "tuned"} or len(sides) < len(endpoints):
        raise UserError(f"--endpoint: write base=URL and tuned=URL, each once; got {', '.join(endpoints)}")
    return sides
