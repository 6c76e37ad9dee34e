"""Arguments that several verbs of the command line take."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from thinktune.errors import UserError
from thinktune.files import expand_home


def at_home(paths: Path | list[Path] | None) -> Path | list[Path] | None:
    """Replace a leading `~`, which not every shell does, as in --write=~/cleaned."""
    return [expand_home(path) for path in paths] if isinstance(paths, list) else paths and expand_home(paths)


RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="Recipe file, such as one in recipes/.")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, such as runs/NAME.", callback=at_home)]
RunPaths = Annotated[
    list[Path], typer.Argument(metavar="RUN...", help="Run folders, such as runs/NAME.", callback=at_home)
]
ModelPath = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, or any model folder.", callback=at_home)]
MaybeModelPath = Annotated[
    Path | None, typer.Argument(metavar="[RUN]", help="Run folder, or any model folder.", callback=at_home)
]
AverageWeight = Annotated[
    float, typer.Argument(metavar="WEIGHT", help="The tuned model's share, between 0 and 1, such as 0.7.")
]
ServedEndpoint = Annotated[str | None, typer.Option("--endpoint", help="Use this OpenAI-compatible server instead.")]
EndpointModel = Annotated[
    str | None, typer.Option("--model", help="Model of the endpoint; all that it lists by default.")
]
ListenPort = Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 picks a free one.")]
ListenHost = Annotated[
    str, typer.Option("--host", help="Address to listen on; beyond loopback, THINKTUNE_API_KEY must be set.")
]
ServeEngine = Annotated[
    Literal["auto", "here", "vllm"],
    typer.Option("--engine", help="Inference engine; auto is vLLM if it is installed and there is a GPU."),
]
AllowOrigins = Annotated[
    list[str] | None,
    typer.Option("--allow-origin", help="Origin of another page that may call the API; once for each."),
]
AllowHosts = Annotated[
    list[str] | None,
    typer.Option("--allow-host", help="Another name of this server, as host.docker.internal; once for each."),
]
RootPath = Annotated[str, typer.Option("--root-path", help="Path below which a proxy offers the server.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY.PATH=VALUE]...", help="Settings to override, as in train.epochs=1.")
]
Teacher = Annotated[
    str | None, typer.Option(help="URL[#MODEL] of a server, or a run's or model's folder; default: the base.")
]
Shorten = Annotated[bool, typer.Option("--shorten", help="Rewrite reasoning that is longer than --length allows.")]
TeacherAnswers = Annotated[
    bool, typer.Option("--teacher-answers", help="Train the teacher's answers, not the rows' own.")
]


def endpoints_by_side(endpoints: list[str]) -> dict[str, str]:
    """Parse SIDE=URL options."""
    sides = {side: url for side, _, url in (text.partition("=") for text in endpoints)}
    if set(sides) - {"base", "tuned"} or len(sides) < len(endpoints):
        raise UserError(f"--endpoint: write base=URL and tuned=URL, each once; got {', '.join(endpoints)}")
    return sides
