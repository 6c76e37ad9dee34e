"""The model card, README.md of a model's folder: written from records, rewritten with them, never over people's own."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from jinja2 import Environment, FileSystemLoader

from thinktune import __version__
from thinktune.checkpoint.manifest import CARD_FILE, MANIFEST, checksum
from thinktune.errors import UserError, redact
from thinktune.eval.general_probe import PROBE_SET
from thinktune.files import atomic_write_text, name_path, read_json
from thinktune.hub.card_metadata import hub_license
from thinktune.report.card_commands import Command, default_commands
from thinktune.report.card_facts import CardFacts, read_facts, settings_text
from thinktune.report.card_words import (
    duration_text,
    figure_text,
    forgetting_sentence,
    judge_sentence,
    measure_name,
    set_sentence,
    switch_sentence,
    truncation_sentences,
    ungraded_sentence,
)
from thinktune.report.diagnosis_text import advice_sentence, reason_sentence, state_name
from thinktune.report.html import TEMPLATES_FOLDER, BilingualText, format_count, format_number
from thinktune.report.run_sections.data_words import action_name, fault_name
from thinktune.run import RunFolder
from thinktune.run.reading import refuse_damage

Hub = Literal["modelscope", "huggingface"]


# Of all that an evaluation measures; report.json has the rest.
SHOWN_MEASURES = (
    *("right", "preferred", "chrf", "keypoint_recall", "rouge_l", "loss"),
    *("well_formed", "ended", "cut", "empty_answer", "loops", "language_switch", "tokens"),
)


# The last line of a card says that every byte before it is ours: what people changed is theirs, and stays.
_SIGNATURE = re.compile(r"<!-- thinktune card ([0-9a-f]{16}) -->\n*\Z")


_MARKDOWN = re.compile(r"([\\`*_{}\[\]#|~$])")


@dataclass(frozen=True, slots=True)
class ModelCard:
    """A card's text, signed, and a sentence for each record that was damaged and is left out."""

    text: str
    damages: tuple[str, ...] = ()


def write_final_card(run_folder: Path) -> str | None:
    """Write the card of a run's final model, if there is one; return a sentence where people's own is in its place.

    Theirs stays; the new one is then `model-card.md` of the run's folder. Raises UserError after writing where a record
    is damaged and left out.
    """
    run = RunFolder(run_folder)
    if not run.final.is_dir():
        return None
    card = render_model_card(run.final, run)
    if is_edited(run.final):
        _write_if_new(run.card, card.text)
        kept = f"{run.final / CARD_FILE}: was edited, so it is kept; the card that thinktune wrote is {run.card}"
    else:
        _write_if_new(run.final / CARD_FILE, card.text)
        with suppress(FileNotFoundError):
            if _is_signed(run.card.read_text(encoding="utf-8", errors="replace")):
                run.card.unlink()
        kept = None
    if card.damages:
        raise UserError([f"{damage}; the model card was written without it" for damage in card.damages])
    return kept


def write_model_card(
    model_folder: Path,
    run: RunFolder | None,
    name: str | None = None,
    commands: Sequence[Command] = (),
    source: Path | None = None,
) -> bool:
    """Write the card of a model folder or of an export; return False where one is there that stays.

    That is one which is not as thinktune wrote it, and, where no run is known, any: it says more than a new one could.

    Args:
        model_folder: the folder; what it holds decides what the card says of its form.
        run: the run that made the model, where one did.
        name: what the model is called; None means the name of its run, or of its folder.
        commands: how engines use it; none means those that its form allows.
        source: the folder that an export was made from, which has the model's small files.
    """
    if is_edited(model_folder) or (run is None and (model_folder / CARD_FILE).is_file()):
        return False
    _write_if_new(model_folder / CARD_FILE, render_model_card(model_folder, run, name, commands, source=source).text)
    return True


def render_model_card(
    model_folder: Path,
    run: RunFolder | None,
    name: str | None = None,
    commands: Sequence[Command] = (),
    *,
    source: Path | None = None,
    repository: tuple[Hub, str] | None = None,
) -> ModelCard:
    """Return the card of a model folder (see `write_model_card`).

    Args:
        model_folder: the folder.
        run: the run that made the model, where one did.
        name: what the model is called.
        commands: how engines use it.
        source: the folder that an export was made from.
        repository: the hub and the `owner/name` from which readers load it; None: they have the folder.
    """
    named = name or (run.path.resolve().name if run else model_folder.resolve().name)
    facts = read_facts(model_folder, run, named, source)
    with refuse_damage(run.path if run else model_folder):  # whatever a value of another type raises where it is used
        values = _template_values(facts, commands or default_commands(facts, repository))
        texts = [_templates().get_template(f"card.{language}.md.jinja").render(values) for language in ("en", "zh")]
    # Half a surrogate pair, which JSON can hold, has no UTF-8 form.
    body = f"---\n{front_matter(facts)}---\n\n{texts[0].strip()}\n\n{texts[1].strip()}\n\n"
    body = redact(body).encode("utf-8", errors="replace").decode()
    return ModelCard(f"{body}<!-- thinktune card {_digest(body)} -->\n", tuple(facts.damages))


def is_edited(model_folder: Path) -> bool:
    """Return True if a folder has a card that is not as thinktune wrote it."""
    card = model_folder / CARD_FILE
    if not card.is_file():
        return False
    with name_path(card):
        text = card.read_text(encoding="utf-8", errors="replace")
    if _is_signed(text):
        return False
    with suppress(OSError, ValueError, AttributeError):  # an earlier release listed the note that it wrote
        return read_json(model_folder / MANIFEST).get(CARD_FILE) != checksum(card)
    return True


def edited_card(model_folder: Path) -> str | None:
    """Return the text of a folder's card that is not as thinktune wrote it; None where there is none."""
    card = model_folder / CARD_FILE
    return card.read_text(encoding="utf-8", errors="replace") if is_edited(model_folder) else None


def front_matter(facts: CardFacts) -> str:
    """Return a card's metadata as YAML: the keys that Hugging Face reads, and ModelScope's `tasks` and `frameworks`."""
    recipe, plain = facts.recipe, not facts.weights
    metadata: dict[str, Any] = {
        **hub_license(facts.license),
        "language": facts.languages,
        "base_model": facts.base_repository,
        "base_model_relation": "finetune" if facts.base_repository else None,
        "datasets": list(dict.fromkeys(each.name for each in recipe.sources if each.hub)) if recipe else None,
        "library_name": "transformers" if plain else None,
        "pipeline_tag": "text-generation",
        "tasks": ["text-generation"],
        "frameworks": ["Pytorch"] if plain else None,
        "tags": ["thinktune", *(["reasoning", "sft"] if facts.run else []), *([] if plain else ["gguf"])],
    }
    return yaml.safe_dump({key: value for key, value in metadata.items() if value}, allow_unicode=True, sort_keys=False)


def _template_values(facts: CardFacts, commands: Sequence[Command]) -> dict[str, Any]:
    diagnosis, trained = facts.diagnosis, facts.trained or {}
    doubtful = diagnosis is not None and diagnosis.state in ("worse", "no_gain")
    return {
        "facts": facts,
        "commands": commands,
        "version": __version__,
        "warning": [
            state_name(diagnosis),
            reason_sentence(diagnosis, "finished"),
            advice_sentence(diagnosis, "finished"),
        ]
        if diagnosis and doubtful
        else [],
        "modes": {mode: _mode_values(report) for mode, report in facts.evaluations.items()},
        "switches": [switch_sentence(one) for one in _switches(facts)],
        "faults": [fault for fault in facts.data.get("faults") or [] if fault["actions"]],
        "action_name": action_name,
        "fault_name": fault_name,
        "hardware": _hardware(facts),
        "time": duration_text(trained["seconds"]) if trained.get("seconds") else None,
        "licenses": _licenses(facts),
        "settings": settings_text(facts.recipe) if facts.recipe else "",
    }


def _licenses(facts: CardFacts) -> BilingualText | None:
    """Return the licence of the rows; of several sources those that are named, and how many name none."""
    if facts.recipe is None:
        return None
    named = [source.license for source in facts.recipe.sources]
    kinds = ", ".join(dict.fromkeys(name for name in named if name))
    if not kinds or None not in named:
        return _same(kinds) if kinds else None
    missing, count = named.count(None), len(named)
    return BilingualText(
        f"{kinds}; none is named for {missing} of {count} sources", f"{kinds}；{count} 个来源中有 {missing} 个未注明"
    )


def _hardware(facts: CardFacts) -> BilingualText | None:
    """Describe what trained: accelerators by the name that they give themselves."""
    environment = facts.environment
    name = str(environment.get("device_name") or environment.get("device") or "")
    if name == "cpu":
        processors = environment.get("processor_count")
        return (
            BilingualText(f"CPU, {processors} processors", f"CPU，{processors} 个处理器")
            if processors
            else _same("CPU")
        )
    ranks = environment.get("world_size")
    named = f"{ranks} x {name}" if isinstance(ranks, int) and ranks > 1 else name
    return _same(named) if name else None


def _same(text: str) -> BilingualText:
    return BilingualText(text, text)


def _switches(facts: CardFacts) -> list[Mapping[str, Any]]:
    """List the switches of both evaluations, each mode once: the figure of more rows counts."""
    most: dict[str, Mapping[str, Any]] = {}
    for report in facts.evaluations.values():
        for switch in report.get("switches") or []:
            if switch["rows"] > most.get(switch["mode"], {"rows": 0})["rows"]:
                most[switch["mode"]] = switch
    return list(most.values())


def _mode_values(report: Mapping[str, Any]) -> dict[str, Any]:
    sets = [one for one in report["sets"] if one["measures"]]
    return {
        "sets": [_set_values(one) for one in sets if one["name"] != PROBE_SET],
        "general": [_set_values(one) for one in sets if one["name"] == PROBE_SET],
        "judge": judge_sentence(report["judge"]) if "judge" in report else None,
        "sampling": report["settings"]["sampling"],
        "by_server": "://" in report["settings"]["models"]["tuned"]["print"],
        "limits": {
            line["measure"]: line["tuned"]["value"]
            for one in sets
            if one["name"] != PROBE_SET
            for line in one["measures"]
            if line["measure"] in ("cut", "loops", "empty_answer") and line["tuned"]["value"] > 0
        },
    }


def _set_values(scored: Mapping[str, Any]) -> dict[str, Any]:
    lines = [line for line in scored["measures"] if line["measure"] in SHOWN_MEASURES]
    general = scored["name"] == PROBE_SET
    return {
        "name": scored["name"],
        "rows": scored["rows"],
        "apart": scored["apart"],
        "notes": [
            *truncation_sentences(scored),
            *([ungraded_sentence(scored["ungraded"])] if scored["ungraded"] else []),
        ],
        "verdict": forgetting_sentence(scored["measures"]) if general else set_sentence(scored),
        "lines": [
            {
                "name": measure_name(line["measure"]),
                "base": figure_text(line["measure"], line["base"]),
                "tuned": figure_text(line["measure"], line["tuned"]),
                "difference": figure_text(line["measure"], line["difference"], signed=True),
                "verdict": line["verdict"],
            }
            for line in lines
        ],
    }


def _write_if_new(path: Path, text: str) -> None:
    with suppress(FileNotFoundError, UnicodeDecodeError):
        if path.read_text(encoding="utf-8") == text:
            return
    atomic_write_text(path, text)


def _is_signed(text: str) -> bool:
    found = _SIGNATURE.search(text)
    return found is not None and found[1] == _digest(text[: found.start()])


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode("utf-8", errors="replace")).hexdigest()[:16]


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES_FOLDER),
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(inline=escape_inline, fenced=fence, count_of=format_count, number=format_number)
    return environment


def escape_inline(value: Any) -> str:
    """Return a text for a line or a table's cell of Markdown: all of it is shown, and none of it is markup."""
    text = " ".join(str(value).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN.sub(r"\\\1", text)


def fence(text: str, language: str = "") -> str:
    """Return a text as a block of code, whatever backticks are in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    ticks = "`" * max(3, longest + 1)
    return f"{ticks}{language}\n{text}\n{ticks}"
