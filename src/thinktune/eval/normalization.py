"""Unicode normalization of replies, in time linear in their length whatever they hold."""

import re
import unicodedata

MAX_MARKS = 30  # combining marks in a row that are sorted together, as in UAX #15's stream-safe text format
_GRAPHEME_JOINER = "\u034f"  # has no width, and no mark is sorted across it
_MAX_GROWTH = 2  # times that NFKC may lengthen a text; one character can become 18
_ALWAYS_FOLDED_CHARACTERS = 10_000  # a text this long after NFKC is never too long


def fold_compatibility(text: str) -> str:
    """Normalize a text to NFKC: full-width letters, ligatures and superscripts become plain ones.

    NFKC sorts the combining marks that follow each other, which takes quadratic time, so long runs of them are broken
    up. A long text that would grow to more than twice its length is left as NFC.
    """
    if text.isascii():
        return text
    marks = "".join(letter for letter in set(text) if unicodedata.combining(unicodedata.normalize("NFKD", letter)[0]))
    if marks:
        mark = f"[{re.escape(marks)}]"
        text = re.sub(rf"{mark}{{{MAX_MARKS}}}(?={mark})", rf"\g<0>{_GRAPHEME_JOINER}", text)
    folded = unicodedata.normalize("NFKC", text)
    if len(folded) > max(_MAX_GROWTH * len(text), _ALWAYS_FOLDED_CHARACTERS):
        return unicodedata.normalize("NFC", text)
    return folded
