"""Markup of web pages in prose: entities and tags that a reader would see as they are written."""

import html
import re

from thinktune.data.faults.marks.think_tags import THINK_TAG
from thinktune.data.faults.prose import is_code, mask_code
from thinktune.data.faults.repairs import excerpt
from thinktune.data.faults.turn_faults import CheckResult, FieldNames, TurnFault, Turns

_ENTITY = re.compile(r"&(?:[A-Za-z][A-Za-z0-9]{1,30}|#\d{1,7}|#[xX][0-9A-Fa-f]{1,6});")


# Without sub, sup, u and the like, which Markdown has no signs for and pages show.
_TAG = re.compile(
    r"<(/?)(br|p|div|span|font|center|b|i|em|strong|h[1-6]|ul|ol|li|table|tbody|thead|tr|td|th|a|img|hr|blockquote|pre|code|"
    r"strike|section|article|header|footer|nav|iframe|script|style|html|body|head|title|meta|link|input|form|button|label|dl|"
    r"dt|dd)(\s[^<>\n]{0,300})?/?>",
    re.IGNORECASE,
)


_LETTER_TAGS = frozenset("pbiau")  # alone they may be a formula: a<b>c


_BREAKS, _WRAPPERS = frozenset(("br", "p", "div")), frozenset(("span", "font", "center"))


_ABOUT_MARKUP = re.compile(
    r"网页|标签|标记语言|实体|前端|爬虫"
    r"|(?i:html|markup|web ?page|\bxml\b|\bcss\b|\btags?\b|entit|javascript|jsx|markdown)"
)


_TABLE_ROW = re.compile(r"^[^\S\n]*+\|.*\|[^\S\n]*$", re.MULTILINE)


_MANY_BREAKS = re.compile(r"(?<![ \t])[ \t]*+\n(?:[ \t]*+\n){2,}")


def find_markup(turns: Turns, field_names: FieldNames) -> CheckResult:
    """Find entities and tags outside code, in rows that are not about them.

    Repaired, entities become their characters, and br and p line breaks; a text with other tags stays as it is.
    """
    if any("<" in turn.content + turn.reasoning or "&" in turn.content + turn.reasoning for turn in turns) and any(
        _ABOUT_MARKUP.search(turn.content) for turn in turns if turn.role != "assistant"
    ):
        return [], None
    faults, repaired = list[TurnFault](), list(turns)
    for index, (turn, (content_field, reasoning_field)) in enumerate(zip(turns, field_names, strict=False)):
        texts: list[str] = []
        for field, text in ((reasoning_field, turn.reasoning), (content_field, turn.content)):
            found = find_mark(text)
            plain = _without_markup(text) if found else text
            texts.append(plain)
            if found:
                stays = "" if plain != text else "; it stays, since removing it may change the meaning"
                faults.append(TurnFault(index, f"{field}: contains markup, {found[0]} ({excerpt(text, found)}){stays}"))
        if texts != [turn.reasoning, turn.content]:
            repaired[index] = type(turn)(turn.role, texts[1], texts[0], turn.trained, turn.mode)
    return faults, tuple(repaired) if tuple(repaired) != turns else turns


def find_mark(text: str) -> re.Match[str] | None:
    """Return the first entity or tag of a text that is not code, outside code spans and table rows."""
    if ("<" not in text and "&" not in text) or (is_code(text) and not _TAG.search(text)):
        return None
    prose = _TABLE_ROW.sub(lambda found: " " * len(found[0]), mask_code(text))
    if "</script" in prose or "<!DOCTYPE" in prose or "<html" in prose:
        return None  # a page as a whole, written on purpose
    tag = next((found for found in _TAG.finditer(prose) if _is_tag(found, prose)), None)
    entity = next((found for found in _ENTITY.finditer(prose) if html.unescape(found[0]) != found[0]), None)
    return min((found for found in (tag, entity) if found), key=lambda found: found.start(), default=None)


def _is_tag(found: re.Match[str], prose: str) -> bool:
    return found[2].lower() not in _LETTER_TAGS or f"</{found[2]}>" in prose


def _without_markup(text: str) -> str:
    """Return a text without entities and the tags that say nothing; unchanged if there are others."""
    tags = {found[2].lower() for found in _TAG.finditer(text)}
    if not tags <= _BREAKS | _WRAPPERS or _TABLE_ROW.search(text) or "`" in text:
        return text
    plain = _TAG.sub(_replace_tag, text)
    plain = html.unescape(_ENTITY.sub(lambda found: html.unescape(found[0]).replace("\xa0", " "), plain))
    if ("<|" in plain and "<|" not in text) or THINK_TAG.search(plain):
        return text  # what a page escaped would be a control token
    return _MANY_BREAKS.sub("\n\n", plain).strip() if tags & _BREAKS else plain


def _replace_tag(found: re.Match[str]) -> str:
    name = found[2].lower()
    if name in _WRAPPERS:
        return ""
    return "\n" if name == "br" or not found[1] else "\n" * (name == "p")
