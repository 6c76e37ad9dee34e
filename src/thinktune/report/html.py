"""Fill page templates: self-contained HTML whose only script is bundled and allowed by hash in its policy."""

import base64
import hashlib
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup, escape

from thinktune.files import atomic_write_text
from thinktune.translation import find_language, translate


class BilingualText(NamedTuple):
    """A text in both languages; both may hold the same `{names}` for values."""

    en: str
    zh: str

    def for_terminal(self) -> str:
        """Return the text in the terminal's language."""
        return self.zh if find_language() == "zh" else self.en


Label = BilingualText | str  # a plain string is the same in both languages


def both(label: Label, tag: Literal["span", "tspan"] = "span", **values: Any) -> Markup:
    """Render a text as HTML in both languages, values filled in and everything escaped; inside SVG `tag` is `tspan`."""
    if isinstance(label, str):
        return escape(label.format(**values) if values else label)
    texts = [escape(text).format(**values) if values else escape(text) for text in label]
    return Markup('<{0} class="en">{1}</{0}><{0} class="zh" lang="zh">{2}</{0}>').format(tag, *texts)


def both_texts(en: str, zh: str, **values: Any) -> Markup:
    """Call `both` as templates do."""
    return both(BilingualText(en, zh), **values)


def recorded(text: str) -> Markup:
    """Render a sentence that a run recorded in English; in both languages where it is one of the catalogue's."""
    chinese = translate(str(text), "zh")
    return both(str(text)) if chinese == text else both(BilingualText(str(text), chinese))


TEMPLATES_FOLDER = Path(__file__).parent / "templates"


def write_page(target: Path, template: str, *, scripts: Sequence[str] = ("page.js",), **values: Any) -> None:
    """Write a page, whole or not at all; `scripts` are joined to its only one."""
    # Half a surrogate pair, which JSON can hold, has no UTF-8 form; the page must not fail for it.
    atomic_write_text(
        target, render_page(template, scripts=scripts, **values).encode("utf-8", errors="replace").decode()
    )


def render_page(template: str, *, scripts: Sequence[str] = ("page.js",), **values: Any) -> str:
    """Render a page; everything in `values` that is not Markup is escaped."""
    style, script = (
        Markup("").join(Markup((TEMPLATES_FOLDER / name).read_text(encoding="utf-8")) for name in names)
        for names in (("charts.css", "page.css"), scripts)
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return render_template(template, style=style, script=script, script_hash=f"sha256-{digest}", **values)


def render_template(template: str, **values: Any) -> Markup:
    """Render a template, of a page or of a part of one, as safe HTML."""
    return Markup(_templates().get_template(template).render(values))


@cache
def _templates() -> Environment:
    """Load the templates; each is compiled when it is first rendered."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES_FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(recorded=recorded, number=format_number, count_of=format_count, rows=format_row_count)
    known: Any = environment.globals  # declared with the type of its first content
    known.update(t=both_texts, both=both)
    return environment


def format_number(value: Any, digits: int = 3) -> str:
    """Format a finite number; anything else is a dash."""
    known = isinstance(value, int | float) and math.isfinite(value)
    return f"{value:,.{digits}f}".replace("-", "−") if known else "–"


def format_count(value: Any) -> str:
    """Format a count with thousands separators."""
    return f"{value:,}" if isinstance(value, int) else format_number(value, 0)


def format_row_count(value: Any) -> Markup:
    """Format a number of rows, in both languages."""
    return both_texts("{n} row" if value == 1 else "{n} rows", "{n} 行", n=format_count(value))
