"""Damage that spreadsheets do to texts: error values, cut cells, numbers and dates in another form."""

import re
from dataclasses import replace

from thinktune.data.faults.prose import mask_code
from thinktune.data.faults.repairs import excerpt
from thinktune.data.faults.turn_faults import CheckResult, FieldNames, TurnFault, Turns

MAX_CELL_CHARACTERS = 32767  # of UTF-16, the most that a cell of Excel holds


_ERROR = re.compile(r"#(?:NAME\?|REF!|VALUE!|DIV/0!|NUM!|NULL!|N/A|SPILL!|CALC!|FIELD!)|(?<![#\w])#{6,}(?![#\w ])")


_ESCAPED_CHARACTER = re.compile(r"_x00(?:0[dDaA]|09)_")  # how a workbook's XML spells a carriage return, newline or tab


_SCIENTIFIC = re.compile(r"\s*-?\d(?:\.\d+)?E\+\d{2,3}\s*")


_DAY_NUMBER = re.compile(r"\s*(?:[1-6]\d{4})(?:\.\d+)?\s*")  # days since 1900, up to 2091


_ASKS_DATE = re.compile(
    r"哪一?[天日年]|几[月号日]|什么时候|何时|日期|(?i:\bwhen\b|\bdates?\b|\bwhat day\b|\bwhich day\b)"
)


_APOSTROPHE = re.compile(r"\A['’](?=[=+@-]|\d(?!\d?s\b))")


_FORMULA = re.compile(r"\A=[A-Z]{2,}\(")


_ABOUT_SPREADSHEETS = re.compile(
    r"表格|单元格|公式|工作表|函数"
    r"|(?i:excel|spreadsheet|google sheets|\bcells?\b|formula|vlookup|\bsheet\b|worksheet|workbook|\bwps\b)"
)


def find_spreadsheet_damage(turns: Turns, field_names: FieldNames) -> CheckResult:
    """Find what a spreadsheet has done to texts.

    A text that is only an error value, or as long as a cell can be, is lost. Repaired are escaped characters and an
    apostrophe before a number or formula. What may be meant stays: a number in scientific form, a date as a number, an
    error value inside a text.
    """
    lost, told, repaired = list[TurnFault](), list[TurnFault](), list(turns)
    asked = ""
    for index, (turn, (content_field, reasoning_field)) in enumerate(zip(turns, field_names, strict=False)):
        for field, text in ((reasoning_field, turn.reasoning), (content_field, turn.content)):
            if turn.role == "assistant" and not turn.trained:
                continue
            if what := _what_is_lost(text):
                lost.append(TurnFault(index, f"{field}: {what}"))
            elif what := _what_is_odd(text, asked if field == content_field else ""):
                told.append(TurnFault(index, f"{field}: {what}"))
        mended = [_mend(text) for text in (turn.reasoning, turn.content)]
        if mended != [turn.reasoning, turn.content]:
            repaired[index] = replace(turn, reasoning=mended[0], content=mended[1])
        asked = turn.content if turn.role == "user" else ""
    if told and any(_ABOUT_SPREADSHEETS.search(turn.content) for turn in turns if turn.role != "assistant"):
        return lost, None
    changed = tuple(repaired) != turns
    return lost + told, None if lost else tuple(repaired) if changed else turns


def _what_is_lost(text: str) -> str | None:
    if len(text) < 12 and _ERROR.fullmatch(text.strip()):
        return f"is {text.strip()}, an error value of a spreadsheet"
    if len(text) <= MAX_CELL_CHARACTERS < 2 * len(text) + 1:
        characters = len(text) + sum(character > "\uffff" for character in text)
        if characters == MAX_CELL_CHARACTERS:
            most = f"{MAX_CELL_CHARACTERS:,} characters, the most that a cell of Excel holds"
            return f"breaks off at {most} ({text[-20:]!r})"
    return None


def _what_is_odd(text: str, question: str) -> str | None:
    """Describe what a spreadsheet may have done to a text."""
    if "_x00" in text and (found := _ESCAPED_CHARACTER.search(text)):
        return f"contains {found[0]}, a character as a workbook spells it ({excerpt(text, found)})"
    if _has_apostrophe(text):
        return f"begins with an apostrophe, as a spreadsheet marks a text ({text[:20]!r})"
    if found := _FORMULA.match(text):
        return f"begins with a formula of a spreadsheet ({text[:20]!r}); it stays, since it may be meant"
    if len(text) < 24 and _SCIENTIFIC.fullmatch(text):
        return f"is {text.strip()}, perhaps a long number that a spreadsheet has rounded; it stays"
    if len(text) < 24 and _DAY_NUMBER.fullmatch(text) and _ASKS_DATE.search(question):
        return f"is {text.strip()}, perhaps a date that a spreadsheet has made a number; it stays"
    if "#" in text and (found := _ERROR.search(mask_code(text))):
        return f"contains {found[0]}, an error value of a spreadsheet ({excerpt(text, found)}); it stays"
    return None


def _mend(text: str) -> str:
    if "_x00" in text:
        text = _ESCAPED_CHARACTER.sub(
            lambda found: "\t" if found[0].endswith("09_") else "\n", text.replace("_x000D_\n", "\n")
        )
    return text[1:] if _has_apostrophe(text) else text


def _has_apostrophe(text: str) -> bool:
    """Return True for a text with an apostrophe before a number or formula, and no second one to close a quotation."""
    return bool(_APOSTROPHE.match(text)) and "'" not in text[1:] and "’" not in text[1:]
