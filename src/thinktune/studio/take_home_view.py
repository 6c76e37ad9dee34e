"""The Take-home screen: a run's final model, its exports, its card, commands that use it, and the hubs."""

import os
import re
import shlex
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.responses import JSONResponse, Response

from thinktune.checkpoint.manifest import CARD_FILE
from thinktune.errors import UserError
from thinktune.export.source import FACTS_FILE
from thinktune.files import read_json
from thinktune.hub.verification import TOKEN_VARIABLES
from thinktune.report import render_model_card
from thinktune.report.card_commands import Command, default_commands
from thinktune.report.card_facts import read_facts
from thinktune.report.html import BilingualText
from thinktune.report.model_card import edited_card
from thinktune.run import RunFolder
from thinktune.run.environment import shell_command
from thinktune.studio.proof_view import to_json
from thinktune.studio.studio import Studio

# What is offered, what people take it for first; `export` knows more kinds of GGUF.
OFFERED_TARGETS = ("hf", "gguf-q8_0", "gguf", "ollama", "fp8", "vllm", "sglang", "mlx")
_NEED_GGUF = ("gguf", "ollama")  # targets that begin so need the package of that name

OWN_TITLE = BilingualText(
    "In the terminal; or on a page, base and tuned side by side, with an OpenAI-compatible API",
    "在终端里对话；或打开网页并排对比训练前后的模型（同时提供 OpenAI 兼容接口）",
)

_CHINESE_HALF = "\n# 中文说明\n"  # how a card's begins
_TO_CHINESE_HALF = "[中文说明](#中文说明)\n\n"  # which the page shows by its own switch
_CARD_SIGNATURE = re.compile(r"\n*<!-- thinktune card [0-9a-f]{16} -->\s*\Z")
_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n+", re.DOTALL)


def read_take_home(root: Path, name: str) -> dict[str, Any]:
    """Read what the screen shows of a run, by its name below a folder, as JSON values.

    Commands are typed in that folder. What is damaged is told in `damages` and left out.
    """
    run, named = RunFolder(root / name), RunFolder(Path(name))
    targets = [
        {"name": target, "missing": _missing_package(target), "made": read_export(root, named.exports / target)}
        for target in OFFERED_TARGETS
    ]
    if not run.final.is_dir():
        return {"final": None, "targets": targets, "hubs": _hubs(), "card": None, "commands": [], "damages": []}
    files = [path for path in run.final.rglob("*") if path.is_file()]
    damages: list[str] = []
    card: dict[str, Any] | None = None
    try:
        own = edited_card(run.final)
        rendered = render_model_card(run.final, run) if own is None else None
        damages += rendered.damages if rendered else ()
        card = {"text": _card_text(own or (rendered.text if rendered else "")), "edited": own is not None}
    except UserError as error:
        damages += error.faults
    return to_json(
        {
            "final": {
                "path": named.final.as_posix(),
                "bytes": sum(path.stat().st_size for path in files),
                "card": (named.final / CARD_FILE).as_posix(),
            },
            "targets": targets,
            "hubs": _hubs(),
            "card": card,
            "commands": _commands(run, named, damages),
            "damages": list(dict.fromkeys(damages)),
        }
    )


def _missing_package(name: str) -> str | None:
    """Return the extra that a target needs and that is not installed."""
    return "gguf" if name.startswith(_NEED_GGUF) and find_spec("gguf") is None else None


def read_export(root: Path, folder: Path) -> dict[str, Any] | None:
    """Read the facts of an export, by its path below `root`: its size, how it answered, and how it is used.

    None where there is none.
    """
    try:
        facts = read_json(root / folder / FACTS_FILE)
        check: Mapping[str, Any] | None = facts["check"]
        files: Mapping[str, Any] = facts["files"]
        return {
            "path": folder.as_posix(),
            **{key: facts[key] for key in ("made", "bytes", "engine", "unchecked", "notes", "seconds")},
            "check": check and {key: check[key] for key in ("questions", "equal", "kl", "kl_limit")},
            "command": _use_command(folder, str(facts["model"]), sorted(files)),
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _use_command(folder: Path, model: str, files: list[str]) -> str:
    """Return the line that uses an export where it is, by what it holds."""
    weights = next((name for name in files if name.endswith(".gguf")), None)
    if "Modelfile" in files:
        name = shlex.quote(model)
        return f"cd {shlex.quote(str(folder))} && ollama create {name} -f Modelfile && ollama run {name}"
    if weights:
        return shlex.join(["llama-server", "-m", str(folder / weights), "--jinja", "--alias", model])
    if "serve.sh" in files:
        return shlex.join(["sh", str(folder / "serve.sh")])
    if folder.name == "fp8":
        return shlex.join(["vllm", "serve", str(folder), "--served-model-name", model])
    return shell_command("chat", folder)


def _hubs() -> list[dict[str, Any]]:
    """Return the hubs and the variable of each one's token: whether it is set, never what it holds."""
    return [
        {"name": hub, "token_variable": name, "has_token": bool(os.environ.get(name, "").strip())}
        for hub, name in sorted(TOKEN_VARIABLES.items(), reverse=True)
    ]


def _card_text(text: str) -> BilingualText:
    """Return the half of a card in each language, without what programs read: its metadata and its signature.

    A card of somebody's own may have no such halves; then it is the same in both.
    """
    body = _CARD_SIGNATURE.sub("\n", _FRONT_MATTER.sub("", text, count=1))
    english, found, chinese = body.replace(_TO_CHINESE_HALF, "", 1).partition(_CHINESE_HALF)
    return BilingualText(english, _CHINESE_HALF.lstrip() + chinese) if found else BilingualText(body, body)


def _commands(run: RunFolder, named: RunFolder, damages: list[str]) -> list[dict[str, Any]]:
    """Return the commands that use the final model, typed where the studio was started."""
    own = "\n".join(shell_command(verb, named.path) for verb in ("chat", "serve"))
    commands = [Command(OWN_TITLE, own)]
    try:
        facts = read_facts(run.final, run, run.path.resolve().name)
        commands += default_commands(
            facts, ("huggingface", named.final.as_posix())
        )  # its libraries take a folder for a name
    except UserError as error:
        damages += error.faults
    return [{"title": each.title, "text": each.text, "language": each.language} for each in commands]


def add_take_home_routes(app: FastAPI, studio: Studio) -> None:
    """Add the route of the Take-home screen."""

    def show_take_home(name: str) -> Response:
        folder = studio.folder
        return JSONResponse(read_take_home(folder.path, folder.name_of(folder.find_run(name))))

    app.add_api_route("/studio/take-home/{name:path}", show_take_home, summary="Show a run's model and its exports.")
