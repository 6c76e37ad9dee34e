"""Mojibake: texts whose bytes were decoded by another encoding, found at their place and decoded again.

Text that is valid UTF-8 by chance is rare: where all of a text decodes, that is proof; within a text, only pieces that
no language writes count.
"""

import re

from thinktune.data.faults.turn_faults import CheckResult, FieldNames, TurnFault, Turns

REPLACEMENT_CHARACTER = "\ufffd"


# What the bytes of a lost character (U+FFFD in UTF-8) look like in other encodings, and memory that was never written.
_LOST = re.compile("\ufffd|锟斤拷|锟斤|斤拷|ï¿½|пїЅ|烫烫烫烫|屯屯屯屯")


# Characters that Windows-1252 gives to bytes for which Latin-1 has no visible one.
_WINDOWS_1252 = {
    bytes((byte,)).decode("cp1252"): byte for byte in range(0x80, 0xA0) if byte not in b"\x81\x8d\x8f\x90\x9d"
}


_NEXT = f"[\x80-\xbf{''.join(_WINDOWS_1252)}]"  # a later byte of a character in UTF-8


_MISREAD = re.compile(f"[\xc2-\xf4]{_NEXT}")


# Within a text that has other letters too: only what is never written. A capital before a quotation mark is written.
_MISREAD_PIECE = re.compile(
    f"(?:\xc3[\x80-\x91\x95\x98-\xba\xbc-\xbf€ƒ„†‡ˆ‰Š‹ŒŽ˜™š›œžŸ]|\xc2[\xa0-\xba\xbc-\xbf]|\xe2[\x80-\x84€‚„]{_NEXT}|\xef\xbb\xbf"
    f"|\xf0[\x90\x9f\x9dŸ]{_NEXT}{{2}}|(?:[\xd0\xd1]{_NEXT}){{3,}}|(?:[\xe3-\xef]{_NEXT}{{2}}){{2,}})+"
)


# UTF-8 as Mac Roman and as Windows-1251 reads it.
_MAC_PIECE = re.compile("‚Ä[\xa0-\uffff]|(?<=[A-Za-z])√[©®†¢ß∂º]")
_CYRILLIC_PIECE = re.compile("(?:вЂ[\x80-\uffff]|(?:[РС][Ђ-џ\xa0-\xbb‚-›€™№Ё]){3,})+")


_HAN_RUN = re.compile("[\u3000-\u30ff\u3400-\u9fff\ue000-\uf8ff\uff01-\uffee\u2010-\u2642€]{3,}")


def _first_characters(encoding: str) -> str:
    """List what an encoding of two bytes a character makes of the first bytes of Chinese and Japanese in UTF-8."""
    pairs = (bytes((lead, byte)) for lead in (*range(0xE3, 0xEA), 0xEF) for byte in range(0x80, 0xC0))
    characters: list[str] = [pair.decode(encoding, "ignore") for pair in pairs]
    return "".join(sorted({character for character in characters if len(character) == 1}))


# By encoding: characters that only such text has often, the first halves of ，。“ and of kana; and where it may begin,
# with one of these or with two first bytes, six bytes apart.
_MARKS = {"gb18030": "锛銆鈥鐨涓鍙鏄浜", "cp932": "縺繧繝"}
_BEGINS = {
    encoding: re.compile(f"[{marks}]|[{first}][^\x00-\x7f]{{2}}[{first}]")
    for encoding, marks in _MARKS.items()
    for first in (_first_characters(encoding),)
}


# One look at a text that tells whether any of the others is worth it.
_SUSPECT = re.compile(
    f"[\xa1-\xf4\ufffd锟斤烫屯‚√РСв{''.join(map(_first_characters, ('gbk', 'cp932')))}{''.join(_MARKS.values())}]"
)


_MIN_RUN = 6  # characters that decode by chance less than once in a billion


_MIN_CUT_BYTES = 9  # three characters


_LATIN_RUN = re.compile("[\xa1-\xfe]{8,}")  # GBK as Latin-1 reads it


_MAX_TIMES = 3  # that a text was misread


_CONTEXT, _SHOWN = 12, 20  # characters before the damage, and of each text in a sentence


def fix_mojibake(text: str) -> str:
    """Decode what was misread; other texts are returned unchanged."""
    if text.isascii() or not _SUSPECT.search(text):
        return text
    for _ in range(_MAX_TIMES):
        fixed = _fix_once(text)
        if fixed == text:
            break
        text = fixed
    return text


def describe_garbled(text: str) -> str:
    """Describe what `fix_mojibake` repairs in a text, or cannot repair, at its place."""
    if lost := _LOST.search(text):
        shown = text[max(lost.start() - _CONTEXT, 0) : lost.end() + _CONTEXT]
        how = f"U+FFFD, where a character was lost in decoding ({shown!r})"
        return f"contains {how}" if lost[0] == REPLACEMENT_CHARACTER else f"contains {lost[0]!r}, what is left of {how}"
    fixed = fix_mojibake(text)
    if fixed == text:
        return f"is UTF-8 that was read as GBK, and cannot be read back ({text[:_SHOWN]!r})"
    same = next((place for place, (a, b) in enumerate(zip(text, fixed, strict=False)) if a != b), 0)
    start = max(same - _CONTEXT, 0)
    wrong, right = text[start : start + _SHOWN], fixed[start : start + _SHOWN]
    return f"is {_name_misreading(text)} ({wrong!r} should be {right!r})"


def find_garbled(turns: Turns, field_names: FieldNames) -> CheckResult:
    """Find characters lost or mistaken in decoding; a lost one cannot be repaired."""
    lost, mended, repaired = list[TurnFault](), list[TurnFault](), list(turns)
    for index, (turn, fields) in enumerate(zip(turns, field_names, strict=False)):
        texts: list[str] = []
        for field, text in zip(reversed(fields), (turn.reasoning, turn.content), strict=True):
            fixed = fix_mojibake(text)
            texts.append(fixed)
            if fixed != text or _is_lost(text):
                (lost if _is_lost(fixed) else mended).append(TurnFault(index, f"{field}: {describe_garbled(text)}"))
        if texts != [turn.reasoning, turn.content]:
            repaired[index] = type(turn)(turn.role, texts[1], texts[0], turn.trained, turn.mode)
    return lost + mended, None if lost else tuple(repaired)


def _is_lost(text: str) -> bool:
    """Return True for text with characters that no decoding brings back."""
    if text.isascii() or not _SUSPECT.search(text):
        return False
    if _LOST.search(text):
        return True
    # Of UTF-8 read as GBK, an odd last byte takes the next character with it.
    return bool(_BEGINS["gb18030"].search(text)) and any(_is_cut_run(found[0]) for found in _HAN_RUN.finditer(text))


def _is_cut_run(run: str) -> bool:
    raw = run.encode("gb18030", "ignore")
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        return error.start >= max(_MIN_CUT_BYTES, len(raw) - 3) and min(map(ord, raw[: error.start].decode())) >= 0x2000
    return False


def _fix_once(text: str) -> str:
    text = _LATIN_RUN.sub(_fix_latin_run, text)
    if _MISREAD.search(text):
        whole = _decode(text)
        if whole is not None:
            return whole
        text = _MISREAD_PIECE.sub(lambda found: _decode(found[0]) or found[0], text)
    if "‚Ä" in text or "√" in text:
        text = _MAC_PIECE.sub(lambda found: _redecode(found[0], "mac_roman"), text)
    if "Р" in text or "С" in text or "вЂ" in text:
        text = _CYRILLIC_PIECE.sub(lambda found: _redecode(found[0], "cp1251"), text)
    for encoding, begins in _BEGINS.items():
        if begins.search(text):
            text = _HAN_RUN.sub(lambda found, by=encoding: _fix_han_run(found[0], by), text)
    return text


def _decode(text: str) -> str | None:
    try:
        return bytes(_WINDOWS_1252.get(character, ord(character)) for character in text).decode()
    except ValueError:  # another character, or bytes that are not UTF-8: this was not misread
        return None


def _redecode(text: str, encoding: str) -> str:
    try:
        return text.encode(encoding).decode()
    except ValueError:
        return text


def _fix_latin_run(found: re.Match[str]) -> str:
    """Decode a run that is GBK throughout, and whose characters are common ones."""
    raw = found[0].encode("latin-1")
    common = all(lead <= 0xD7 and (lead >= 0xB0 or lead in b"\xa1\xa3") for lead in raw[::2])
    try:
        return raw.decode("gb2312") if common and len(raw) % 2 == 0 else found[0]
    except ValueError:
        return found[0]


def _fix_han_run(run: str, encoding: str) -> str:
    if len(run) < _MIN_RUN and not set(_MARKS[encoding]).intersection(run):
        return run
    try:
        # Browsers read GBK's unused byte 80 as the euro sign.
        fixed = b"\x80".join(part.encode(encoding) for part in run.split("€")).decode()
    except ValueError:
        return run
    # Rarer scripts come by chance: each character of GBK is a letter in UTF-8 one time in seven.
    return fixed if len(fixed) < len(run) and all(ord(character) >= 0x2000 for character in fixed) else run


def _name_misreading(text: str) -> str:
    if _LATIN_RUN.sub(_fix_latin_run, text) != text:
        return "GBK that was read as Latin-1"
    if _MISREAD.search(text) and (_decode(text) is not None or _MISREAD_PIECE.search(text)):
        return "UTF-8 that was read as Windows-1252"
    if _MAC_PIECE.search(text):
        return "UTF-8 that was read as Mac Roman"
    if _CYRILLIC_PIECE.search(text):
        return "UTF-8 that was read as Windows-1251"
    return f"UTF-8 that was read as {'Shift-JIS' if set(_MARKS['cp932']).intersection(text) else 'GBK'}"
