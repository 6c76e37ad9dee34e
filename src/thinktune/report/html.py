"""Fills a page's template: self-contained HTML whose only script is bundled and named by its hash in the policy."""

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup, escape

from thinktune.files import atomic_write_text


class BilingualText(NamedTuple):
    """The same said in both languages; both may hold the same `{names}` for values."""

    en: str
    zh: str


Label = BilingualText | str  # a plain text is the same in both


def both(label: Label, tag: Literal["span", "tspan"] = "span", **values: Any) -> Markup:
    """HTML that holds both languages, the values put in and everything escaped; inside SVG the tag is `tspan`."""
    if isinstance(label, str):
        return escape(label.format(**values) if values else label)
    texts = [escape(text).format(**values) if values else escape(text) for text in label]
    return Markup('<{0} class="en">{1}</{0}><{0} class="zh" lang="zh">{2}</{0}>').format(tag, *texts)


def both_texts(en: str, zh: str, **values: Any) -> Markup:
    """`both`, as templates call it."""
    return both(BilingualText(en, zh), **values)


TEMPLATES_FOLDER = Path(__file__).parent / "templates"


def write_page(target: Path, template: str, **values: Any) -> None:
    """Write a page, whole or not at all."""
    # A half of a surrogate pair, which JSON can spell, has no UTF-8 form; it must not cost the page.
    atomic_write_text(target, render_page(template, **values).encode("utf-8", errors="replace").decode())


def render_page(template: str, **values: Any) -> str:
    """A page as text; everything in `values` that is no Markup is escaped."""
    style, script = (Markup((TEMPLATES_FOLDER / name).read_text(encoding="utf-8")) for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return render_template(template, style=style, script=script, script_hash=f"sha256-{digest}", **values)


def render_template(template: str, **values: Any) -> Markup:
    """A template's safe HTML, a page's or that of a part of one."""
    return Markup(_templates().get_template(template).render(values))


@cache
def _templates() -> Environment:
    """All of them, each compiled when it is first filled."""
    made = Environment(loader=FileSystemLoader(TEMPLATES_FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    made.filters.update(number=format_number, count_of=format_count, rows=format_row_count)
    known: Any = made.globals  # whose declared type is that of what it holds at first
    known.update(t=both_texts, both=both)
    return made


def format_number(value: Any, digits: int = 3) -> str:
    """A figure as pages print it; what is no figure is a dash."""
    return f"{value:,.{digits}f}".replace("-", "−") if isinstance(value, int | float) else "–"


def format_count(value: Any) -> str:
    """A count, with its thousands apart."""
    return f"{value:,}" if isinstance(value, int) else format_number(value, 0)


def format_row_count(value: Any) -> Markup:
    """So many rows."""
    return both_texts("{n} row" if value == 1 else "{n} rows", "{n} 行", n=format_count(value))
