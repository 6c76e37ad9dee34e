"""Command lines that serve a model in vLLM, SGLang and mlx_lm as it was trained, and the script that holds one.

No engine has an option for a system prompt, so that one is put into a chat template of its own, which is the model's
with a few lines before it; so is the thinking mode where a template is silent unless it is asked. Every sampling value
is named: engines read `generation_config.json`, but take their own defaults (a temperature of 1) for what it leaves
out.
"""

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, assert_never

from thinktune.export.serving_settings import ServingSettings, read_serving_settings
from thinktune.export.source import ModelSource
from thinktune.files import atomic_write_text

EngineName = Literal["vllm", "sglang", "mlx"]

SCRIPT, TEMPLATE_FILE = "serve.sh", "chat_template.jinja"
_HERE = "$here"  # the script's own folder, in its lines

ENGINE_TITLES: dict[EngineName, str] = {"vllm": "vLLM", "sglang": "SGLang", "mlx": "mlx_lm"}
_TRY_SECONDS = 300  # vLLM takes a minute to print its options
_OPENED_BY_MODEL, _OPENED_BY_PROMPT = "model", "prompt"

# Reasoning parsers by opening tag and by who opens the reasoning. vLLM's `qwen3` and SGLang's know the switch.
_VLLM_PARSERS = {
    ("<think>", _OPENED_BY_MODEL): "qwen3",
    ("<think>", _OPENED_BY_PROMPT): "deepseek_r1",
    ("<seed:think>", _OPENED_BY_MODEL): "seed_oss",
    ("<|START_THINKING|>", _OPENED_BY_MODEL): "cohere_command3",
    ("<|channel>thought", _OPENED_BY_MODEL): "gemma4",
}
_SGLANG_PARSERS = {
    ("<think>", _OPENED_BY_MODEL): "qwen3",
    ("<think>", _OPENED_BY_PROMPT): "deepseek-r1",
    ("[THINK]", _OPENED_BY_MODEL): "mistral",
    ("◁think▷", _OPENED_BY_MODEL): "kimi",
    ("<|channel>thought", _OPENED_BY_MODEL): "gemma4",
}
_MLX_TAGS = ("<think>", "<|channel>thought")  # which it finds by itself

# Before the model's own template: the system prompt of a conversation that has none; an empty one takes it away.
_SYSTEM_LINES = """\
{%- if not messages or messages[0].role != 'system' -%}
  {%- set messages = [{'role': 'system', 'content': SYSTEM}] + messages -%}
{%- elif not messages[0].content -%}
  {%- set messages = messages[1:] -%}
{%- endif %}
"""  # no sign at its end: white space at the start of the model's own template counts
_THINKING_LINES = """\
{%- if enable_thinking is not defined -%}{%- set enable_thinking = true -%}{%- endif %}
"""


@dataclass(frozen=True, slots=True)
class ServingCommand:
    """A command line by its words, of which those with `$here` name the script's folder, and what it does not carry."""

    engine: EngineName
    words: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def program(self) -> tuple[str, ...]:
        """The words before the first option: the program and what it is to do."""
        first = next(place for place, word in enumerate(self.words) if word.startswith("--"))
        return self.words[:first]

    @property
    def options(self) -> tuple[str, ...]:
        """The names of the options."""
        return tuple(word for word in self.words if word.startswith("--"))

    def line(self, folder: Path) -> str:
        """Return the line as it is typed, for a script's folder."""
        return " ".join(shlex.quote(word.replace(_HERE, str(folder))) for word in self.words)


def write_serving_script(source: ModelSource, engine: EngineName, folder: Path) -> ServingCommand:
    """Write the script that serves a model into a folder, with the chat template that carries its system prompt."""
    settings = read_serving_settings(source)
    command = serving_command(settings, engine)
    if template := serving_template(settings):
        atomic_write_text(folder / TEMPLATE_FILE, template)
    atomic_write_text(folder / SCRIPT, _script(command))
    return command


def serving_template(settings: ServingSettings) -> str | None:
    """Return the chat template that carries system prompt and mode; None where the model's own does as it is."""
    lines = _SYSTEM_LINES.replace("SYSTEM", _jinja_string(settings.system)) if settings.system else ""
    lines += _THINKING_LINES if settings.unasked else ""
    return lines + settings.template if lines else None


def serving_command(settings: ServingSettings, engine: EngineName) -> ServingCommand:
    """Return the command line of an engine; a template that carries more is beside the script."""
    match engine:
        case "vllm":
            return _vllm_command(settings)
        case "sglang":
            return _sglang_command(settings)
        case "mlx":
            return _mlx_command(settings)
        case _:
            assert_never(engine)


def try_engine(command: ServingCommand) -> str:
    """Return a sentence that says whether the engine is installed here and knows every option of the command."""
    if not _is_installed(command.engine):
        return f"not tested, because {ENGINE_TITLES[command.engine]} is not installed here"
    asked = ["vllm", "serve", "--help=all"] if command.engine == "vllm" else [*command.program, "--help"]
    try:
        shown = subprocess.run(
            asked,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TRY_SECONDS,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"not tested, because `{shlex.join(asked)}` did not end within {_TRY_SECONDS} seconds"
    if shown.returncode != 0:
        return f"not tested, because `{shlex.join(asked)}` failed with exit code {shown.returncode}"
    known = set(re.findall(r"--[a-z][a-z0-9-]*", shown.stdout))
    if unknown := [option for option in command.options if option not in known]:
        return f"the {ENGINE_TITLES[command.engine]} here does not know {', '.join(unknown)}: install a newer one"
    return f"the {ENGINE_TITLES[command.engine]} here knows every option; no question was asked"


def _is_installed(engine: EngineName) -> bool:
    if engine == "sglang":
        return importlib.util.find_spec("sglang") is not None
    return shutil.which("vllm" if engine == "vllm" else "mlx_lm.server") is not None


def _vllm_command(settings: ServingSettings) -> ServingCommand:
    notes: list[str] = []
    words = ["vllm", "serve", str(settings.folder), "--served-model-name", settings.name]
    words += ["--max-model-len", str(settings.context_tokens)]
    words += ["--override-generation-config", json.dumps(_sampling(settings) | _longest_reply(settings))]
    if settings.tags:
        parser = _VLLM_PARSERS.get((settings.tags.opening, _opener(settings)))
        if parser and settings.single_tags:
            words += ["--reasoning-parser", parser]
        else:
            notes.append(_without_parser(settings, "vLLM", unknown=parser is None))
    if serving_template(settings):
        words += ["--chat-template", f"{_HERE}/{TEMPLATE_FILE}"]
    return ServingCommand("vllm", tuple(words), tuple(notes))


def _sglang_command(settings: ServingSettings) -> ServingCommand:
    notes: list[str] = []
    words = ["python", "-m", "sglang.launch_server", "--model-path", str(settings.folder)]
    words += ["--served-model-name", settings.name, "--context-length", str(settings.context_tokens)]
    words += ["--sampling-defaults", "model"]
    notes.append(
        f"SGLang has no option for sampling: it reads generation_config.json; send {json.dumps(_sampling(settings))} "
        "with each request, to be sure"
    )
    if settings.tags:
        opener = _OPENED_BY_MODEL if settings.switched else _opener(settings)
        if parser := _SGLANG_PARSERS.get((settings.tags.opening, opener)):
            words += ["--reasoning-parser", parser]
        else:
            notes.append(_without_parser(settings, "SGLang", unknown=True))
    if serving_template(settings):
        words += ["--chat-template", f"{_HERE}/{TEMPLATE_FILE}"]
    return ServingCommand("sglang", tuple(words), tuple(notes))


def _mlx_command(settings: ServingSettings) -> ServingCommand:
    notes: list[str] = []
    sampling = _sampling(settings)
    words = ["mlx_lm.server", "--model", str(settings.folder), "--temp", f"{sampling['temperature']:g}"]
    words += ["--top-p", f"{sampling['top_p']:g}", "--top-k", str(max(0, sampling["top_k"]))]
    words += ["--max-tokens", str(settings.sampling.max_new_tokens)]
    if settings.tags and not (settings.tags.opening in _MLX_TAGS and settings.single_tags):
        notes.append(_without_parser(settings, "mlx_lm", unknown=settings.tags.opening not in _MLX_TAGS))
    if settings.switched:  # mlx_lm asks for silence where it finds no tags
        words += ["--chat-template-args", json.dumps({"enable_thinking": True})]
    if template := serving_template(settings):
        words += ["--chat-template", template]  # it takes the text itself
    return ServingCommand("mlx", tuple(words), tuple(notes))


def _opener(settings: ServingSettings) -> str:
    return _OPENED_BY_PROMPT if settings.opened else _OPENED_BY_MODEL


def _without_parser(settings: ServingSettings, engine: str, *, unknown: bool) -> str:
    opening = settings.tags.opening if settings.tags else ""
    why = f"has no reasoning parser for {opening}" if unknown else f"finds {opening} only where it is one token"
    return f"{engine} {why}, so that the reasoning comes inside the answer's text, with its tags"


def _sampling(settings: ServingSettings) -> dict[str, Any]:
    """Return the sampling values as vLLM and SGLang call them; -1 keeps every token."""
    sampling = settings.sampling
    if sampling.is_greedy:
        return {"temperature": 0.0, "top_p": 1.0, "top_k": -1}
    return {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k or -1}


def _longest_reply(settings: ServingSettings) -> dict[str, int]:
    return {"max_new_tokens": settings.sampling.max_new_tokens}


def _script(command: ServingCommand) -> str:
    lines: Sequence[str] = (
        "#!/bin/sh",
        *(f"# {note}" for note in command.notes),
        'here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)',
        " ".join(["exec", *map(_shell_word, command.words), '"$@"']),
    )
    return "\n".join(lines) + "\n"


def _shell_word(word: str) -> str:
    if word.startswith(f"{_HERE}/"):
        return f'"{word}"'
    return shlex.quote(word)


def _jinja_string(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r")
    return f"'{escaped}'"
