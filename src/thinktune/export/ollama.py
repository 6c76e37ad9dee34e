"""The `ollama` target: a Modelfile beside a GGUF file, with template, stops, sampling and system prompt.

Ollama takes its template from the Modelfile or, from 0.30 on, from the GGUF file where that offers more (tools). Both
are right here: TEMPLATE is compared with the model's own chat template before it is written, and where the Go language
cannot say what that does, the line is left out, and the newer Ollama is required.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinktune.errors import UserError, shorten_error
from thinktune.export.go_template import is_kept, write_go_template
from thinktune.export.serving_settings import ServingSettings, read_serving_settings
from thinktune.export.source import ModelSource
from thinktune.files import atomic_write_text

MODELFILE = "Modelfile"
OWN_TEMPLATE_VERSION = "0.30.0"  # of Ollama: the first that renders by the GGUF file's own chat template

# Classes for which Ollama puts a renderer of its own in the place of any template, as GGUF names them.
_RENDERED_BY_OLLAMA = ("gemma4", "laguna", "nemotron_h", "nemotron_h_moe", "nemotron_h_omni")


@dataclass(frozen=True, slots=True)
class GgufFacts:
    """What a GGUF file says of itself: its class, and whether its tokenizer begins each prompt with a token."""

    architecture: str
    adds_bos: bool


@dataclass(frozen=True, slots=True)
class Modelfile:
    """A Modelfile's text, and sentences about what it does not carry."""

    text: str
    notes: tuple[str, ...]


def write_modelfile(source: ModelSource, gguf: Path, folder: Path) -> Modelfile:
    """Write the Modelfile of a GGUF file into a folder, which names the file relative to that folder."""
    made = compose_modelfile(read_serving_settings(source), os.path.relpath(gguf, folder), read_gguf_facts(gguf))
    atomic_write_text(folder / MODELFILE, made.text)
    return made


def read_gguf_facts(gguf: Path) -> GgufFacts:
    """Read a GGUF file's facts; raises UserError where the library is missing or the file is none."""
    try:
        from gguf import GGUFReader  # pyright: ignore  # imported late: an extra
    except ImportError:
        raise UserError('ollama: needs the package gguf; run pip install "thinktune[gguf]"') from None
    try:
        reader: Any = GGUFReader(gguf)
    except (OSError, ValueError, IndexError) as error:  # it reads past the end of a short file
        raise UserError(f"ollama: {gguf} is not a GGUF file ({shorten_error(error)}); export gguf again") from error

    def value(key: str) -> Any:
        return reader.fields[key].contents() if key in reader.fields else None

    adds = value("tokenizer.ggml.add_bos_token")
    # llama.cpp's own rule where the file does not say.
    adds_bos = value("tokenizer.ggml.model") == "llama" if adds is None else bool(adds)
    return GgufFacts(str(value("general.architecture")), adds_bos)


def compose_modelfile(settings: ServingSettings, gguf: str, facts: GgufFacts) -> Modelfile:
    """Compose the Modelfile of a GGUF file, named as it is to be written after FROM."""
    notes: list[str] = []
    lines = [f"FROM {gguf if Path(gguf).is_absolute() else f'./{gguf}'}"]
    system = settings.system or ""
    inside = system and not is_kept(system)  # in the template, whose strings have escapes
    if settings.form:
        form = settings.form.without(settings.bos or "") if facts.adds_bos else settings.form
        template = write_go_template(form, system if inside else None)
        lines.append(f'TEMPLATE """{template}"""')
    else:
        lines.append(f"REQUIRES {OWN_TEMPLATE_VERSION}")
        notes.append(
            "TEMPLATE is left out: Go's template language cannot express the model's own chat template "
            f"({settings.unformed}); Ollama {OWN_TEMPLATE_VERSION} and later use that template itself"
        )
    if system and not inside:
        lines.append(f'SYSTEM """{system}"""')
    elif system and settings.form:
        notes.append("the system prompt is inside TEMPLATE, because a SYSTEM line cannot hold its characters")
    elif system:
        notes.append(
            "the system prompt is left out, because a SYSTEM line cannot hold its characters; send it with each "
            "conversation"
        )
    notes += _other_notes(settings, facts)
    lines += [f"PARAMETER {name} {value}" for name, value in _parameters(settings)]
    lines += [f'PARAMETER stop "{stop}"' for stop in settings.stops]
    comments = [f"# {note}" for note in notes]
    return Modelfile("\n".join([*comments, *lines]) + "\n", tuple(notes))


def _parameters(settings: ServingSettings) -> list[tuple[str, str]]:
    """List the parameters by name; Ollama has defaults of its own for each, so that none is left out."""
    sampling = settings.sampling
    return [
        ("temperature", f"{0.0 if sampling.is_greedy else sampling.temperature:g}"),
        ("top_p", f"{1.0 if sampling.is_greedy else sampling.top_p:g}"),
        ("top_k", str(sampling.top_k)),
        ("min_p", "0"),
        ("repeat_penalty", "1"),
        ("num_predict", str(sampling.max_new_tokens)),
        ("num_ctx", str(settings.context_tokens)),
    ]


def _other_notes(settings: ServingSettings, facts: GgufFacts) -> list[str]:
    notes: list[str] = []
    form = settings.form
    if form and settings.trimmed:
        notes.append(
            "the model's own template strips white space from the ends of turns; TEMPLATE cannot, so send none"
        )
    if form and form.thinking.system is None:
        notes.append("the model's own template takes no system prompt, so TEMPLATE leaves one out")
    if facts.adds_bos and form and not (settings.bos and form.thinking.head.startswith(settings.bos)):
        notes.append(
            f"the GGUF file begins each prompt with {settings.bos}, which the model's own template does not write"
        )
    if facts.architecture in _RENDERED_BY_OLLAMA:
        notes.append(f"for {facts.architecture} Ollama uses its own renderer instead of a template")
    return notes


def create_in_ollama(folder: Path, name: str) -> str:
    """Run `ollama create` for a folder's Modelfile where Ollama is installed; returns a sentence of what was done.

    Raises UserError where Ollama refuses the Modelfile or the GGUF file.
    """
    command = f"ollama create {name} -f {MODELFILE}"
    if shutil.which("ollama") is None:
        return (
            f"not tested, because Ollama is not installed here; where it is, run this in the export's folder: {command}"
        )
    if _run_ollama(folder, "list").returncode != 0:
        return f"not tested, because no Ollama server answers here; start it (ollama serve), then run: {command}"
    made = _run_ollama(folder, "create", name, "-f", MODELFILE)
    if made.returncode != 0:
        said = " ".join((made.stderr or made.stdout).split())[-300:] or f"exit code {made.returncode}"
        raise UserError(f"ollama: `{command}` in {folder} failed: {said}")
    version = _run_ollama(folder, "--version").stdout.strip()
    return f"made by `{command}` ({version or 'ollama'}); run it with: ollama run {name}"


def _run_ollama(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["ollama", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        check=False,
    )
