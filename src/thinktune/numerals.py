"""Chinese numerals to numbers: 一百二十三, 两万, 三点一四."""

from fractions import Fraction

_DIGITS = {digit: value for value, digit in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}
_TENS = {"十": 10, "百": 100, "千": 1000}


def read_numeral(text: str) -> Fraction | None:
    """The value of a Chinese numeral, or none where the characters are no number (a lone 点, 一一, 百百)."""
    whole, point, fraction = text.removeprefix("负").partition("点")
    value = _whole(whole)
    if value is None or (point and not fraction) or any(character not in _DIGITS for character in fraction):
        return None
    digits = "".join(str(_DIGITS[character]) for character in fraction)
    total = Fraction(f"{value}.{digits}") if digits else Fraction(value)
    return -total if text.startswith("负") else total


def _whole(text: str) -> int | None:
    total = section = 0
    digit: int | None = None
    least = 10**5  # of the tens in this section: they come from large to small
    for character in text:
        if character in _DIGITS:
            if digit:
                return None
            digit = _DIGITS[character]
        elif character in _TENS:
            unit = _TENS[character]
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
