"""What a reply's answer says in the end: the letters of options, or a number with its unit."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

_DIGITS = {digit: value for value, digit in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}


_MULTIPLIERS = {"十": 10, "百": 100, "千": 1000}


def parse_chinese_numeral(text: str) -> Fraction | None:
    """The value of a Chinese numeral, or none where the characters are no number (a lone 点, 一一, 百百)."""
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
    least = 10**5  # of the tens in this section: they come from large to small
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
            said = section + (digit or 0)
            if not said and not total:
                return None
            total = total + said * 10**4 if character == "万" else (total + said) * 10**8
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


_NUMERAL = re.compile(
    "(?P<share>百分之)?(?P<numeral>负?[零〇一二两三四五六七八九十][零〇一二两三四五六七八九十百千万亿点]*)"
)


_DASHES = str.maketrans("−–—", "---")


_NEAR_CHARACTERS = 16  # characters between a statement and its number


MAX_POWER_OF_TEN = 300  # of ten; a larger one would only cost memory


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
    """A number as written, the dimension of its unit ("" without one), its value there, and its decimals."""

    written_value: Fraction
    dimension: str
    value: Fraction
    decimals: int


def extract_letters(answer: str, options: Sequence[str]) -> str:
    """The letters of the options that an answer settles on, in order ("C", "ABD"), or "" where it cannot be told.

    Looked for in this order: a statement ("the answer is C", 「故选C」), letters that the answer begins with, an option
    that is called correct, the only letter that it mentions, the only option whose words it repeats.
    """
    known = OPTION_LETTERS[: len(options)]
    text = unicodedata.normalize("NFKC", answer).strip()
    joined = r"(?:\s*(?:[,、/&;]|\band\b|和|与|及)\s*(?:and\s+)?)?"
    no_subject = r"(?![a-z']|\s*(?:项|选项|错|不)|\s+(?!are\b|and\b|both\b)[a-z])"  # "C, A is wrong" settles on C alone
    further = rf"{joined}{_OPENING_MARKS}[{known}]{no_subject}"
    several = rf"[{known}](?![a-z'])(?:{further})*(?![A-Za-z'])"
    stated = re.findall(rf"(?i:{_ANSWER_LEAD_IN}){_OPENING_MARKS}({several})", text) or re.findall(
        rf"\\boxed\{{{_OPENING_MARKS}({several})", text
    )
    if stated:
        return _sort_letters(stated[-1])
    begun = re.match(rf"{_OPENING_MARKS}({several})(?=[\s)\]}}」』】*\"'$]*(?:$|[.,;:、。\n]|\)|\]))", text)
    if begun:
        return _sort_letters(begun[1])
    alone = re.fullmatch(rf"\W*([{known.lower()}])\W*", text)
    if alone:
        return alone[1].upper()
    praise = rf"(?<![A-Za-z])([{known}])\)?\s*(?:选项|项)?\s*(?:is|是|为)?\s*(?:the\s+)?(?:correct|right|正确)"
    praised = re.findall(praise, text)
    return praised[-1] if praised else _only_candidate(text, options, known)


def extract_number(text: str) -> Number | None:
    """The number that a text settles on: the last that it states as the answer, else the last equal to something.

    Without either it is the last number of the text; none where there is no number.
    """
    plain = unicodedata.normalize("NFKC", text).translate(_DASHES).replace("\\%", "%")
    found = _find_numbers(plain)
    for lead in (rf"{_ANSWER_LEAD_IN}|\\boxed\{{|####", r"等于|=|≈|约为"):
        for statement in reversed(list(re.finditer(lead, plain, re.IGNORECASE))):
            near = [made for place, made in found if statement.end() <= place <= statement.end() + _NEAR_CHARACTERS]
            if near:
                return near[0]
    return found[-1][1] if found else None


def same_number(found: Number, wanted: Number) -> bool:
    """Whether two numbers are equal, in the same unit where both name one, to the decimals that are wanted."""
    if found.dimension and wanted.dimension:
        return found.dimension == wanted.dimension and (found.value == wanted.value or _rounds_to(found, wanted))
    if {found.dimension, wanted.dimension} == {"", "share"} and found.value == wanted.value:
        return True  # 0.2 for 20 %
    return found.written_value == wanted.written_value or _rounds_to(found, wanted)


def _rounds_to(found: Number, wanted: Number) -> bool:
    """Whether a more exact number is the wanted one, rounded to its decimals."""
    return 0 < wanted.decimals < found.decimals and round(found.written_value, wanted.decimals) == wanted.written_value


def _find_numbers(text: str) -> list[tuple[int, Number]]:
    """Where numbers stand in a text, and what they are: in digits, or in Chinese numerals that are surely numbers."""
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
    for match in _NUMERAL.finditer(text):
        value = parse_chinese_numeral(match["numeral"])
        made = _with_unit(value, text[match.end() :], 0) if value is not None else None
        if made is None or value is None or text[: match.start()][-1:].isdigit():
            continue
        if match["share"]:
            found.append((match.start(), Number(value, "share", value / 100, 0)))
        elif len(match["numeral"]) > 1 or made.dimension or match[0] == text.strip(" .。"):
            found.append((match.start(), made))
    return sorted(found, key=lambda pair: pair[0])


def _with_unit(value: Fraction, rest: str, decimals: int) -> Number:
    """A number and the unit after it, in its dimension's first unit; a word that is no unit is left alone."""
    match = _UNIT.match(rest)
    word = match[1].casefold() if match else ""
    for name in (word,) if word.isascii() else (word, word[:1]):
        if name in _UNITS:
            dimension, factor = _UNITS[name]
            return Number(value, dimension, value * factor, decimals)
    return Number(value, "", value, decimals)


def _is_sign(text: str, start: int) -> bool:
    """Whether a dash before digits is a minus, and not the dash of a range or of a subtraction."""
    return not re.search(r"[\d)]\s*$|[A-Za-z_]$", text[:start])


def _only_candidate(text: str, options: Sequence[str], known: str) -> str:
    """The only letter that stands by itself in the text, else the only option whose words stand in it."""
    mentioned = {
        match[1]
        for match in re.finditer(rf"(?<![A-Za-z'])([{known}])(?![A-Za-z'])", text)
        if not (match[1] in "AI" and re.match(r" +(?!or\b|and\b|nor\b|is\b|are\b)[a-z]", text[match.end() :]))
    }
    if mentioned:
        return mentioned.pop() if len(mentioned) == 1 else ""
    plain = " ".join(text.casefold().split())
    words = {letter: " ".join(option.casefold().split()) for letter, option in zip(known, options, strict=False)}
    held = {letter: option for letter, option in words.items() if option and option in plain}
    longest = [
        letter
        for letter, option in held.items()
        if not any(option != other and option in other for other in held.values())
    ]
    return longest[0] if len(longest) == 1 else ""


def _sort_letters(text: str) -> str:
    return "".join(sorted(set(re.sub(r"and|[^A-J]", "", text))))
