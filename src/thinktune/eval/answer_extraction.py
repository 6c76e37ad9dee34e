"""Extraction of the final answer from a reply: the letters of options, or a number with its unit.

A reply may hold anything, so all here takes time linear in its length. Whatever repeats in a pattern is possessive
(`*+`): it never gives back what it took, so a pattern that fails does not try other ways to the same place. No two
places that a pattern is tried from read the same long run, and no text is copied for each match.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

from thinktune.eval.normalization import fold_compatibility

_DIGITS = {digit: value for value, digit in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}
_MULTIPLIERS = {"十": 10, "百": 100, "千": 1000}
_YEAR = re.compile("[〇零一二三四五六七八九]{4}")  # digit by digit, as years are read; 三三两两 is no number


MAX_DECIMALS = 1000  # digits behind the point; more are cut off
_MAX_CHINESE_NUMERAL = 10**48  # 亿亿亿 … is not a number any more
_MAX_DIGITS_AT_ONCE = 500  # of Python's own conversion, which is quadratic and refuses more than 4,300


def parse_chinese_numeral(text: str) -> Fraction | None:
    """Parse a Chinese numeral; None if the characters are not a number (a lone 点, 一一, 百百).

    Four digits are read one after the other, as in 一九三一.
    """
    whole, point, fraction = text.removeprefix("负").partition("点")
    value = _parse_chinese_integer(whole)
    if value is None or (point and not fraction) or any(character not in _DIGITS for character in fraction):
        return None
    digits = "".join(str(_DIGITS[character]) for character in fraction[:MAX_DECIMALS])
    total = value + Fraction(_parse_digits(digits), 10 ** len(digits))
    return -total if text.startswith("负") else total


def _parse_digits(digits: str) -> int:
    """Parse decimal digits, in any number, by halves; "" is 0."""
    if len(digits) <= _MAX_DIGITS_AT_ONCE:
        return int(digits or "0")
    half = len(digits) // 2
    return _parse_digits(digits[:half]) * 10 ** (len(digits) - half) + _parse_digits(digits[half:])


def _parse_chinese_integer(text: str) -> int | None:
    if _YEAR.fullmatch(text):
        return _parse_digits("".join(str(_DIGITS[character]) for character in text))
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
            if (not value and not total) or total > _MAX_CHINESE_NUMERAL:
                return None
            total = total + value * 10**4 if character == "万" else (total + value) * 10**8
            section, digit, least = 0, None, 10**5
    return total + section + (digit or 0) if text else None


OPTION_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_ANSWER_LEAD_IN = (
    r"(?:\b(?:final\s++)?answers?(?:\s++(?:is|are|would\s++be|should\s++be))?|\b(?:correct|right|best)\s++"
    r"(?:options?|choices?)(?:\s++(?:is|are))?|答案(?:应该|应当|应)?(?:选择|选|是|为)?"
    r"|(?<!不)(?<!能)选择?(?:项)?(?:是|为)?|而是"
    r"|(?:答え|解答|正解)(?:は)?|(?:정답|답)(?:은|는)?|\bantwort(?:\s++ist)?|\bréponse(?:\s++est)?"
    r"|\b(?:respuesta|resposta)(?:\s++(?:es|é))?|\brisposta(?:\s++è)?|\bantwoord(?:\s++is)?"
    r"|\b(?:ответ|відповідь|отговор)|الإجابة|תשובה|απάντηση|उत्तर|\u0e04\u0e4d\u0e32\u0e15\u0e2d\u0e1a)[\]】」』]?+\s*+[:：=]?+\s*+"
)
_OPENING_MARKS = r"[\s(\[{「『【*\"'$]*+(?:\\boxed\{|\\text\{){0,3}+"
_SEPARATOR = r"(?:\s*+(?:[,、/&;]|\band\b|和|与|及)\s*+(?:and\s++)?+)?+"
_NO_LETTER = r"(?![A-Za-z'])"
_NO_SUBJECT = r"(?!\s*+(?:项|选项|错|不)|\s++(?!are\b|and\b|both\b)[a-z])"  # "C, A is wrong" chooses C alone
_NUMBER = re.compile(
    r"(?<![\d.])(?P<sign>[-+]?)(?P<digits>\d{1,3}(?:,\d{3})++(?:\.\d++)?|\d++(?:\.\d++)?|\.\d++)"
    r"(?:\s*+(?:[eE]|[×x*]\s*+10\^?)\s*+\{?(?P<power>[-+]?\d++)\}?)?"
    r"(?:\s*+/\s*+(?P<below>\d++(?:\.\d++)?))?\s*+(?P<scale>[万亿千百](?![十百千万亿]{0,4}分))?"
)
_CHINESE_NUMERAL = re.compile(
    "(?P<share>百分之)?(?P<numeral>负?[零〇一二两三四五六七八九十][零〇一二两三四五六七八九十百千万亿点]*+)"
)
_NUMBER_LEAD_INS = (
    re.compile(rf"{_ANSWER_LEAD_IN}|\\boxed\{{|####", re.IGNORECASE),
    re.compile("等于|=|≈|约为"),
)
_CAPITALS = re.compile("(?<![A-Za-z])[A-Z]{2,}(?![A-Za-z])")
_DASHES = str.maketrans("−–—", "---")
_NEAR_CHARACTERS = 16  # at most between "the answer is" and its number
MAX_POWER_OF_TEN = 300  # a larger exponent would only cost memory
_UNIT = re.compile(r"\s*+(%|‰|°c|°f|℃|[a-z]++(?:/[a-z]++)?|[\u4e00-\u9fff]{1,2})", re.IGNORECASE)
_ARTICLE = re.compile(r" ++(?!or\b|and\b|nor\b|is\b|are\b)[a-z]")  # what follows A or I where it is a word
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


@dataclass(frozen=True, slots=True)
class _LetterPatterns:
    """Patterns of an answer's letters, for questions with the same number of options."""

    stated: re.Pattern[str]
    boxed: re.Pattern[str]
    leading: re.Pattern[str]
    alone: re.Pattern[str]
    praised: re.Pattern[str]
    mentioned: re.Pattern[str]


@cache
def _letter_patterns(known: str) -> _LetterPatterns:
    # One letter may be the subject of what follows ("The answer is C because"); further ones may not.
    word = rf"[{known}]++{_NO_LETTER}{_NO_SUBJECT}"
    further = rf"(?>{_SEPARATOR}{_OPENING_MARKS}{word})*"  # gives back whole words only, so that is linear, too
    several = rf"(?:[{known}]{_NO_LETTER}|{word}){further}"
    closed = r"(?=[\s)\]}」』】*\"'$]*(?:$|[.,;:、。\n]|\)|\]))"
    return _LetterPatterns(
        stated=re.compile(rf"(?i:{_ANSWER_LEAD_IN}){_OPENING_MARKS}({several})"),
        boxed=re.compile(rf"\\boxed\{{{_OPENING_MARKS}({several})"),
        leading=re.compile(rf"{_OPENING_MARKS}({several}){closed}"),
        alone=re.compile(rf"\W*+([{known.lower()}])\W*+"),
        praised=re.compile(
            rf"(?<![A-Za-z])([{known}])\)?+\s*+(?:选项|项)?+\s*+(?:is|是|为)?+\s*+(?:the\s++)?+(?:correct|right|正确)"
        ),
        mentioned=re.compile(rf"(?<![A-Za-z'])([{known}]){_NO_LETTER}"),
    )


def extract_letters(answer: str, options: Sequence[str]) -> str:
    """Extract the letters of the options that an answer chooses, in order ("C", "ABD"); "" if it is unclear.

    Tried in this order: a statement ("the answer is C", 「故选C」), letters at the beginning, an option that is called
    correct, the only letter mentioned, the only option whose words are repeated.
    """
    known = OPTION_LETTERS[: len(options)]
    patterns = _letter_patterns(known)
    text = fold_compatibility(answer).strip()
    if stated := _find_statement(text, patterns, options):
        return stated
    if alone := patterns.alone.fullmatch(text):
        return alone[1].upper()
    praised = patterns.praised.findall(text)
    return praised[-1] if praised else _only_candidate(text, options, patterns.mentioned)


def extract_stated_letters(text: str, options: Sequence[str]) -> str:
    """Extract letters as `extract_letters` does, but only those of a statement or at the beginning; else ""."""
    patterns = _letter_patterns(OPTION_LETTERS[: len(options)])
    return _find_statement(fold_compatibility(text).strip(), patterns, options)


def _find_statement(text: str, patterns: _LetterPatterns, options: Sequence[str]) -> str:
    """Return the letters of the last statement, else those at the beginning of a text, else ""."""
    words = {word for option in options for word in _CAPITALS.findall(option)}
    for pattern in (patterns.stated, patterns.boxed):
        # Capitals that an option is written with (AB型, CT) name that option, not the options A and B.
        if stated := [found for found in pattern.findall(text) if words.isdisjoint(_CAPITALS.findall(found))]:
            return _sort_letters(stated[-1])
    leading = patterns.leading.match(text)
    return _sort_letters(leading[1]) if leading and words.isdisjoint(_CAPITALS.findall(leading[1])) else ""


def extract_number(text: str) -> Number | None:
    """Extract a text's final number: the last one stated as the answer, else the last after "=" or "equals".

    Without either, it is the last number of the text; None if there is no number.
    """
    plain = fold_compatibility(text).translate(_DASHES).replace("\\%", "%")
    found = sorted((*_NUMBER.finditer(plain), *_CHINESE_NUMERAL.finditer(plain)), key=lambda match: match.start())
    starts = [match.start() for match in found]
    whole = plain.strip(" .。")
    for lead_in in _NUMBER_LEAD_INS:
        for end in reversed([statement.end() for statement in lead_in.finditer(plain)]):
            near = found[bisect_left(starts, end) : bisect_right(starts, end + _NEAR_CHARACTERS)]
            if number := _first_number(near, whole):
                return number
    return _first_number(reversed(found), whole)


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


def _first_number(matches: Iterable[re.Match[str]], whole: str) -> Number | None:
    """Return the first number of some matches in a text, which without spaces and full stops is `whole`."""
    numbers = (_parse_arabic(match) if match.re is _NUMBER else _parse_chinese(match, whole) for match in matches)
    return next((number for number in numbers if number is not None), None)


def _parse_arabic(match: re.Match[str]) -> Number:
    value, decimals = _parse_decimal(match["digits"].replace(",", ""))
    if match["sign"] == "-" and _is_sign(match.string, match.start()):
        value = -value
    power = (match["power"] or "").lstrip("+-0")
    if power and len(power) <= len(str(MAX_POWER_OF_TEN)) and int(power) <= MAX_POWER_OF_TEN:
        value *= Fraction(10) ** (-int(power) if match["power"].startswith("-") else int(power))
    if match["below"] and (below := _parse_decimal(match["below"])[0]):
        value /= below
    return _with_unit(value * _SCALES.get(match["scale"] or "", 1), match, decimals)


def _parse_decimal(text: str) -> tuple[Fraction, int]:
    """Parse digits with or without a point; returns their value and the number of decimals."""
    whole, _, fraction = text.partition(".")
    fraction = fraction[:MAX_DECIMALS]
    return Fraction(_parse_digits(whole + fraction), 10 ** len(fraction)), len(fraction)


def _parse_chinese(match: re.Match[str], whole: str) -> Number | None:
    """Make the number of Chinese characters; None if they are not clearly a number."""
    if match.start() and match.string[match.start() - 1].isdigit():
        return None
    if len(match[0]) == 1 and match[0] != whole and _find_unit(match) is None:
        return None
    value = parse_chinese_numeral(match["numeral"])
    if value is None:
        return None
    return Number(value, "share", value / 100, 0) if match["share"] else _with_unit(value, match, 0)


def _with_unit(value: Fraction, number: re.Match[str], decimals: int) -> Number:
    dimension, factor = _find_unit(number) or ("", 1)
    return Number(value, dimension, value * factor, decimals)


def _find_unit(number: re.Match[str]) -> tuple[str, Fraction] | None:
    """Find the unit that follows a number: its dimension and factor; None for a word that is not a unit."""
    match = _UNIT.match(number.string, number.end())
    word = match[1].casefold() if match else ""
    return _UNITS.get(word) or (None if word.isascii() else _UNITS.get(word[:1]))


def _is_sign(text: str, start: int) -> bool:
    """Return True if a dash before digits is a minus sign, not the dash of a range or a subtraction."""
    before = start
    while before and text[before - 1].isspace():
        before -= 1
    last = text[before - 1] if before else ""
    return not (last.isdecimal() or last == ")" or (before == start and re.match("[A-Za-z_]", last)))


def _only_candidate(text: str, options: Sequence[str], mentioned: re.Pattern[str]) -> str:
    """Return the only letter mentioned alone in the text, else the letter of the only option quoted in it, else ""."""
    letters: set[str] = set()
    for match in mentioned.finditer(text):
        if not (match[1] in "AI" and _ARTICLE.match(text, match.end())):
            letters.add(match[1])
    if letters:
        return letters.pop() if len(letters) == 1 else ""
    plain = " ".join(text.casefold().split())
    words = {
        letter: " ".join(option.casefold().split()) for letter, option in zip(OPTION_LETTERS, options, strict=False)
    }
    quoted = {letter: option for letter, option in words.items() if option and option in plain}
    longest = [
        letter
        for letter, option in quoted.items()
        if not any(option != other and option in other for other in quoted.values())
    ]
    return longest[0] if len(longest) == 1 else ""


def _sort_letters(text: str) -> str:
    return "".join(sorted(set(re.sub(r"and|[^A-Z]", "", text))))
