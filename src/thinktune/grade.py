"""Is an answer right? Texts compared as people read them."""

import re
import unicodedata


def normalise(text: str) -> str:
    """Text without differences that mean nothing: width, case, white space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def holds(answer: str, keypoint: str) -> bool:
    """Whether the answer holds the key point as a whole word or number (12 is not in 120, iron not in environment).

    Chinese has no spaces between words, so there a run of characters is enough.
    """
    pattern = re.escape(normalise(keypoint))
    before = r"(?<![0-9a-z])" if re.match(r"[0-9a-z]", normalise(keypoint)) else ""
    after = r"(?![0-9a-z])" if re.search(r"[0-9a-z]$", normalise(keypoint)) else ""
    return re.search(before + pattern + after, normalise(answer)) is not None
