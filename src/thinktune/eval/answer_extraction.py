"""Extraction of the final answer from a reply: the letters of options, or a number with its unit."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

_DIGITS = {digit: value for value, digit in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}
_MULTIPLIERS = {"十": 10, "百": 100, "千": 1000}


def parse_chinese_numeral(text: str) -> Fraction | None:
    """Parse a Chinese numeral; None if the characters are not a number (a lone 点, 一一, 百百)."""
    whole, point, fraction = text.removeprefix("负").partition("点")
    value = _parse_chinese_integer(whole)
    if value is None or (point and not fraction) or any(character not in _DIGITS for character in fraction):
        return None
    digits = "".join(str(_DIGITS[character]) for character in fraction)
    total = Fraction(f"{value}.{digits}") if digits else Fraction(value)
    return -total if text.startswith("负") else total


def _parse_chinese_integer(text: str) -> int | None:
    total = section = 0
    digit: int | None = None
    least = 10**5  # smallest multiplier of this section so far: they must come from large to small
    for character in text:
        if character in _DIGITS:
            if digit:
                return None
            digit = _DIGITS[character]
        elif character in _MULTIPLIERS:
            unit = _MULTIPLIERS[character]
            if unit >= least or digit == 0:
                return None
            section, digit, least = section + (1 if digit is None else digit) * unit, None, unit
        else:
            value = section + (digit or 0)
            if not value and not total:
                return None
            total = total + value * 10**4 if character == "万" else (total + value) * 10**8
            section, digit, least = 0, None, 10**5
    return total + section + (digit or 0) if text else None


OPTION_LETTERS = "ABCDEFGHIJ"
_ANSWER_LEAD_IN = (
    r"(?:\b(?:final\s+)?answers?(?:\s+(?:is|are|would\s+be|should\s+be))?|\b(?:correct|right|best)\s+(?:options?|choices?)"
    r"(?:\s+(?:is|are))?|答案(?:应该|应当|应)?(?:选择|选|是|为)?|(?<!不)(?<!能)选择?(?:项)?(?:是|为)?|而是)\s*[:：=]?\s*"
)
_OPENING_MARKS = r"[\s(\[{「『【*\"'$]*(?:\\boxed\{|\\text\{)*"
_NUMBER = re.compile(
    r"(?<![\d.])(?P<sign>[-+]?)(?P<digits>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
    r"(?:\s*(?:[eE]|[×x*]\s*10\^?)\s*\{?(?P<power>[-+]?\d+)\}?)?"
    r"(?:\s*/\s*(?P<below>\d+(?:\.\d+)?))?\s*(?P<scale>[万亿千百](?!\w*分))?"
)
_CHINESE_NUMERAL = re.compile(
    "(?P<share>百分之)?(?P<numeral>负?[零〇一二两三四五六七八九十][零〇一二两三四五六七八九十百千万亿点]*)"
)
_DASHES = str.maketrans("−–—", "---")
_NEAR_CHARACTERS = 16  # at most between "the answer is" and its number
MAX_POWER_OF_TEN = 300  # a larger exponent would only cost memory
_UNIT = re.compile(r"\s*(%|‰|°c|°f|℃|[a-z]+(?:/[a-z]+)?|[\u4e00-\u9fff]{1,2})", re.IGNORECASE)
_SCALES = {"百": 100, "千": 1000, "万": 10**4, "亿": 10**8}


def _units(table: dict[str, dict[str, str]]) -> dict[str, tuple[str, Fraction]]:
    return {
        name: (dimension, Fraction(factor))
        for dimension, factors in table.items()
        for names, factor in factors.items()
        for name in names.split()
    }


_UNITS = _units(
    {
        "mass": {
            "mcg ug microgram micrograms 微克": "1e-6",
            "mg milligram milligrams 毫克": "1e-3",
            "g gram grams 克": "1",
            "kg kilogram kilograms 公斤 千克": "1e3",
            "t ton tons tonne tonnes 吨": "1e6",
        },
        "length": {
            "mm millimeter millimeters millimetre millimetres 毫米": "1e-3",
            "cm centimeter centimeters centimetre centimetres 厘米": "1e-2",
            "m meter meters metre metres 米": "1",
            "km kilometer kilometers kilometre kilometres 公里 千米": "1e3",
        },
        "volume": {
            "ml milliliter milliliters millilitre millilitres 毫升": "1e-3",
            "l liter liters litre litres 升": "1",
        },
        "time": {
            "s sec second seconds 秒": "1",
            "min minute minutes 分钟": "60",
            "h hr hour hours 小时": "3600",
            "day days 天 日": "86400",
            "week weeks 周": "604800",
            "month months 个月 月": "2592000",
            "year years 年 岁": "31536000",
        },
        "share": {"% percent 百分": "1/100", "‰ permille": "1/1000"},
        "money": {"yuan rmb cny 元 块": "1"},
        "dollars": {"dollar dollars usd 美元": "1"},
        "celsius": {"°c ℃ 度": "1"},
        "fahrenheit": {"°f": "1"},
    }
)


@dataclass(frozen=True, slots=True)
class Number:
    """A number with its unit."""

    written_value: Fraction
    dimension: str  # of the unit; "" without one
    value: Fraction  # in the first unit of the dimension
    decimals: int  # digits written after the point


def extract_letters(answer: str, options: Sequence[str]) -> str:
    """Extract the letters of the options that an answer chooses, in order ("C", "ABD"); "" if it is unclear.

    Tried in this order: a statement ("the answer is C", 「故选C」), letters at the beginning, an option that is called
    correct, the only letter mentioned, the only option whose words are repeated.
    """
    known = OPTION_LETTERS[: len(options)]
    text = unicodedata.normalize("NFKC", answer).strip()
    separator = r"(?:\s*(?:[,、/&;]|\band\b|和|与|及)\s*(?:and\s+)?)?"
    no_subject = r"(?![a-z']|\s*(?:项|选项|错|不)|\s+(?!are\b|and\b|both\b)[a-z])"  # "C, A is wrong" chooses C alone
    further = rf"{separator}{_OPENING_MARKS}[{known}]{no_subject}"
    several = rf"[{known}](?![a-z'])(?:{further})*(?![A-Za-z'])"
    stated = re.findall(rf"(?i:{_ANSWER_LEAD_IN}){_OPENING_MARKS}({several})", text) or re.findall(
        rf"\\boxed\{{{_OPENING_MARKS}({several})", text
    )
    if stated:
        return _sort_letters(stated[-1])
    leading = re.match(rf"{_OPENING_MARKS}({several})(?=[\s)\]}}」』】*\"'$]*(?:$|[.,;:、。\n]|\)|\]))", text)
    if leading:
        return _sort_letters(leading[1])
    alone = re.fullmatch(rf"\W*([{known.lower()}])\W*", text)
    if alone:
        return alone[1].upper()
    praise = rf"(?<![A-Za-z])([{known}])\)?\s*(?:选项|项)?\s*(?:is|是|为)?\s*(?:the\s+)?(?:correct|right|正确)"
    praised = re.findall(praise, text)
    return praised[-1] if praised else _only_candidate(text, options, known)


def extract_number(text: str) -> Number | None:
    """Extract a text's final number: the last one stated as the answer, else the last after "=" or "equals".

    Without either, it is the last number of the text; None if there is no number.
    """
    plain = unicodedata.normalize("NFKC", text).translate(_DASHES).replace("\\%", "%")
    found = _find_numbers(plain)
    for lead in (rf"{_ANSWER_LEAD_IN}|\\boxed\{{|####", r"等于|=|≈|约为"):
        for statement in reversed(list(re.finditer(lead, plain, re.IGNORECASE))):
            near = [number for place, number in found if statement.end() <= place <= statement.end() + _NEAR_CHARACTERS]
            if near:
                return near[0]
    return found[-1][1] if found else None


def same_number(found: Number, wanted: Number) -> bool:
    """Return True if two numbers are equal, to the decimals of `wanted` and in the same unit if both have one."""
    if found.dimension and wanted.dimension:
        return found.dimension == wanted.dimension and (found.value == wanted.value or _rounds_to(found, wanted))
    if {found.dimension, wanted.dimension} == {"", "share"} and found.value == wanted.value:
        return True  # 0.2 for 20 %
    return found.written_value == wanted.written_value or _rounds_to(found, wanted)


def _rounds_to(found: Number, wanted: Number) -> bool:
    """Return True if `found` has more decimals than `wanted` and rounds to it."""
    return 0 < wanted.decimals < found.decimals and round(found.written_value, wanted.decimals) == wanted.written_value


def _find_numbers(text: str) -> list[tuple[int, Number]]:
    """Find numbers and their positions in a text: digits, and Chinese numerals that are clearly numbers."""
    found: list[tuple[int, Number]] = []
    for match in _NUMBER.finditer(text):
        digits = match["digits"].replace(",", "")
        value = Fraction(f"{match['sign'] if _is_sign(text, match.start()) else ''}{digits}")
        if match["power"] and abs(int(match["power"])) <= MAX_POWER_OF_TEN:
            value *= Fraction(10) ** int(match["power"])
        if match["below"] and Fraction(match["below"]):
            value /= Fraction(match["below"])
        value *= _SCALES.get(match["scale"] or "", 1)
        found.append((match.start(), _with_unit(value, text[match.end() :], len(digits.partition(".")[2]))))
    for match in _CHINESE_NUMERAL.finditer(text):
        value = parse_chinese_numeral(match["numeral"])
        number = _with_unit(value, text[match.end() :], 0) if value is not None else None
        if number is None or value is None or text[: match.start()][-1:].isdigit():
            continue
        if match["share"]:
            found.append((match.start(), Number(value, "share", value / 100, 0)))
        elif len(match["numeral"]) > 1 or number.dimension or match[0] == text.strip(" .。"):
            found.append((match.start(), number))
    return sorted(found, key=lambda pair: pair[0])


def _with_unit(value: Fraction, rest: str, decimals: int) -> Number:
    """Make a number with the unit that follows it; a word that is not a unit is ignored."""
    match = _UNIT.match(rest)
    word = match[1].casefold() if match else ""
    for name in (word,) if word.isascii() else (word, word[:1]):
        if name in _UNITS:
            dimension, factor = _UNITS[name]
            return Number(value, dimension, value * factor, decimals)
    return Number(value, "", value, decimals)


def _is_sign(text: str, start: int) -> bool:
    """Return True if a dash before digits is a minus sign, not the dash of a range or a subtraction."""
    return not re.search(r"[\d)]\s*$|[A-Za-z_]$", text[:start])


def _only_candidate(text: str, options: Sequence[str], known: str) -> str:
    """Return the only letter mentioned alone in the text, else the letter of the only option quoted in it, else ""."""
    mentioned = {
        match[1]
        for match in re.finditer(rf"(?<![A-Za-z'])([{known}])(?![A-Za-z'])", text)
        if not (match[1] in "AI" and re.match(r" +(?!or\b|and\b|nor\b|is\b|are\b)[a-z]", text[match.end() :]))
    }
    if mentioned:
        return mentioned.pop() if len(mentioned) == 1 else ""
    plain = " ".join(text.casefold().split())
    words = {letter: " ".join(option.casefold().split()) for letter, option in zip(known, options, strict=False)}
    quoted = {letter: option for letter, option in words.items() if option and option in plain}
    longest = [
        letter
        for letter, option in quoted.items()
        if not any(option != other and option in other for other in quoted.values())
    ]
    return longest[0] if len(longest) == 1 else ""


def _sort_letters(text: str) -> str:
    return "".join(sorted(set(re.sub(r"and|[^A-J]", "", text))))
