"""Arguments that several verbs of the command line take."""

from pathlib import Path
from typing import Annotated

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
