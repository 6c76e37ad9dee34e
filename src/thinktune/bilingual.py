"""Texts that a page holds in English and in Chinese; it shows those of the reader's language."""

from typing import Any, Literal, NamedTuple

from markupsafe import Markup, escape


class Words(NamedTuple):
    """The same said in both languages; both may hold the same `{names}` for values."""

    en: str
    zh: str


Label = Words | str  # a plain text is the same in both


def both(label: Label, tag: Literal["span", "tspan"] = "span", **values: Any) -> Markup:
    """HTML that holds both languages, the values put in and everything escaped; inside SVG the tag is `tspan`."""
    if isinstance(label, str):
        return escape(label.format(**values) if values else label)
    texts = [escape(text).format(**values) if values else escape(text) for text in label]
    return Markup('<{0} class="en">{1}</{0}><{0} class="zh" lang="zh">{2}</{0}>').format(tag, *texts)


def t(en: str, zh: str, **values: Any) -> Markup:
    """`both`, as templates call it."""
    return both(Words(en, zh), **values)
