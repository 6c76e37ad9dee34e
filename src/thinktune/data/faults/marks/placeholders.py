"""Placeholders: slots of a template that nobody filled, and blanks that a text leaves to its reader."""

import re
from collections.abc import Iterator

from thinktune.data.faults.prose import is_code, mask_code, mask_code_and_formulas
from thinktune.data.faults.repairs import excerpt
from thinktune.data.faults.turn_faults import CheckResult, FieldNames, TurnFault, Turns

_WORD = r"[A-Za-z_\u4e00-\u9fff][\w.\u4e00-\u9fff-]{0,40}"


_DOUBLE_SLOT = re.compile(rf"(?<![\\A-Za-z0-9}}{{^_]){{{{ ?{_WORD}(?: {_WORD}){{0,3}} ?}}}}(?!}})")


# One letter may be a set; after a letter, `\`, `^`, `_`, `=` or `}` it is LaTeX, BibTeX or code.
_SINGLE_SLOT = re.compile(
    r"(?<![\\A-Za-z0-9}{^_=$:(\"'])"
    r"\{(?:[A-Za-z][A-Za-z0-9]+(?:[_ .-][A-Za-z0-9]+){0,3}|[\u4e00-\u9fff]{2,12})\}"
    r"(?![A-Za-z0-9}{^_(\[\"'])"
)


_OTHER_SLOT = re.compile(
    r"\$\{[A-Za-z_]\w{1,40}\}|(?<![A-Za-z0-9_%])%\([A-Za-z_]\w*\)[sd]"
    r"|(?<![A-Za-z0-9_%）)])%s(?![A-Za-z0-9_])|<%=? ?\w[\w .]{0,40} ?%>"
)


# Rows about templates, and rows that ask for a text to be taken over or written as code, speak of slots.
_ABOUT_SLOTS = re.compile(
    r"模板|模版|占位符|变量|字符串|代码|翻译|格式化|函数|(?i:templat|placeholder|variable|format|f-string|string|jinja|mustache|"
    r"handlebars|\bcode\b|translat|function|json|regex|latex|script|curly|brace)"
)


_WEB_TAGS = "BR|P|DIV|TABLE|TR|TD|TH|UL|OL|LI|HR|HTML|BODY|PRE|CODE|SUB|SUP|SPAN|IMG|HEAD|EOS|BOS|PAD|UNK|SEP|CLS|MASK"


# Each kind after texts of which it has one: most rows have none, and need no search.
_BLANKS = tuple(
    (signs, re.compile(pattern))
    for signs, pattern in (
        (
            ("[",),
            r"\[(?i:your|insert|enter|company|recipient|sender|customer|client|full|first|last)\b[^\[\]\n]{0,40}\](?!\()"
            r"|\[[A-Z][A-Z_ ]{2,24}\](?!\()",
        ),
        (("<",), rf"<(?i:your|insert|enter)[ _-][^<>\n]{{1,40}}>|<(?!(?:{_WEB_TAGS})>)[A-Z][A-Z_ ]{{2,24}}>"),
        (
            ("插入", "填", "输入", "您的", "你的", "姓名", "公司名", "日期"),
            r"[\[【（(<《](?:请?在?此处?)?"
            r"(?:插入|填写|填入|输入|待填|待补充|您的|你的|姓名|公司名称?|日期|患者姓名)"
            r"[^\[\]【】（）()<>《》\n]{0,20}[\]】）)>》]",
        ),
        (("请在此", "请于此", "请在这里"), r"请(?:在此|于此|在这里)处?(?:填写|输入|插入|补充|作答)"),
        (
            ("TODO", "TBD", "FIXME", "待补充", "待完善", "此处省略", "orem ipsum", "OREM IPSUM"),
            r"(?<![A-Za-z])(?:TODO|TBD|FIXME|待补充|待完善|此处省略)(?![A-Za-z])|(?i:lorem ipsum)",
        ),
        (
            ("XX", "xxx", "××", "ＸＸ"),
            r"(?<![A-Za-z0-9\\.])(?:X{3,}|xxx+(?=[\u4e00-\u9fff])|[×Ｘ]{2,})(?![A-Za-z0-9.\\])"
            r"|(?<=[\u4e00-\u9fff])(?:X{2}(?=[\u4e00-\u9fff])|xxx+(?![A-Za-z0-9.\\]))",
        ),
    )
)


def find_placeholders(turns: Turns, field_names: FieldNames) -> CheckResult:
    """Find slots of a template that were never filled, as in "I am {{name}}", where the row is not about templates."""
    return [
        TurnFault(index, f"{field}: contains the unfilled placeholder {found[0]} ({excerpt(text, found)})")
        for index, field, text, found in _slots(turns, field_names)
        if not _is_meant(found[0], index, turns)
    ], None


def find_blanks_to_fill(turns: Turns, field_names: FieldNames) -> CheckResult:
    """Find blanks such as [Your Name], TODO or 请在此填写, and slots in rows that may be about them."""
    faults = [
        TurnFault(index, f"{field}: contains {found[0]}, which may be a placeholder ({excerpt(text, found)})")
        for index, field, text, found in _slots(turns, field_names)
        if _is_meant(found[0], index, turns)
    ]
    for index, field, text in _texts(turns, field_names):
        if found := _find_blank(text):
            what = f"leaves a blank to fill in, {found[0]} ({excerpt(text, found)})"
            faults.append(TurnFault(index, f"{field}: {what}"))
    return faults, None


def _find_blank(text: str) -> re.Match[str] | None:
    """Return a blank outside code and formulas."""
    patterns = [pattern for signs, pattern in _BLANKS if any(sign in text for sign in signs) and pattern.search(text)]
    if not patterns or is_code(text):
        return None
    prose = mask_code_and_formulas(text)
    return next((found for pattern in patterns if (found := pattern.search(prose))), None)


def _slots(turns: Turns, field_names: FieldNames) -> Iterator[tuple[int, str, str, re.Match[str]]]:
    """Yield the first slot of each text outside code and formulas."""
    for index, field, text in _texts(turns, field_names):
        if "{" not in text and "%" not in text:
            continue
        if not any(pattern.search(text) for pattern in (_DOUBLE_SLOT, _SINGLE_SLOT, _OTHER_SLOT)):
            continue
        prose, no_code = mask_code_and_formulas(text), mask_code(text)
        found = _DOUBLE_SLOT.search(prose) or _SINGLE_SLOT.search(prose) or _OTHER_SLOT.search(no_code)
        if found and not is_code(text):
            yield index, field, text, found


def _texts(turns: Turns, field_names: FieldNames) -> Iterator[tuple[int, str, str]]:
    """Yield the texts that are learned or asked."""
    for index, (turn, (content_field, reasoning_field)) in enumerate(zip(turns, field_names, strict=False)):
        if turn.role == "user" or turn.is_trained_reply:
            yield index, content_field, turn.content
            if turn.reasoning:
                yield index, reasoning_field, turn.reasoning


def _is_meant(slot: str, index: int, turns: Turns) -> bool:
    """Return True if the row speaks of slots: by its words, or since its reply repeats one of its question."""
    around = turns[max(index - 1, 0) : index + 2]
    if any(_ABOUT_SLOTS.search(mask_slots(turn.content)) for turn in around if turn.role == "user"):
        return True
    asked = any(slot in turn.content for turn in around if turn.role == "user")
    return asked and any(slot in turn.content for turn in around if turn.role == "assistant")


def mask_slots(text: str) -> str:
    """Return a text without its slots, whose names are no words of it."""
    for pattern in (_DOUBLE_SLOT, _SINGLE_SLOT, _OTHER_SLOT):
        text = pattern.sub(" ", text)
    return text
