"""Detect the script of a text, quickly, by the first bytes of its letters in UTF-8."""

# The first byte of a letter in UTF-8 gives its script. E3 is kana or Chinese punctuation, which the next byte decides.
_LEAD_BYTES = {
    "Latin": bytes((*range(0x41, 0x5B), *range(0x61, 0x7B), *range(0xC3, 0xCA), 0xE1)),
    "Greek": bytes(range(0xCE, 0xD0)),
    "Cyrillic": bytes(range(0xD0, 0xD4)),
    "Hebrew": bytes(range(0xD6, 0xD8)),
    "Arabic": bytes(range(0xD8, 0xDC)),
    "Indic": bytes(range(0xE0, 0xE1)),
    "Japanese": bytes(range(0xE3, 0xE4)),
    "Chinese": bytes(range(0xE4, 0xEA)),
    "Korean": bytes(range(0xEA, 0xEE)),
}


_NON_LEAD_BYTES = bytes(set(range(256)).difference(*_LEAD_BYTES.values()))


_MIN_LETTERS = 20  # a shorter text has no script


def main_script(text: str) -> str | None:
    """Return the script of at least 60 % of a text's letters, or None; Chinese, Japanese and Korean ones count as 3."""
    raw = text.encode("utf-8", "ignore")
    leads = raw.translate(None, _NON_LEAD_BYTES)
    letters = {script: len(leads) - len(leads.translate(None, delete)) for script, delete in _LEAD_BYTES.items()}
    kana = letters.pop("Japanese")
    if kana * 5 > letters["Chinese"]:
        kana -= raw.count(b"\xe3\x80")
    letters["Korean"] *= 3
    letters["Chinese"] *= 3
    if kana * 12 > letters["Chinese"]:  # Japanese also uses Chinese characters: a fifth of kana is enough
        letters["Japanese"] = 3 * kana + letters.pop("Chinese")
    script = max(letters, key=letters.__getitem__)
    enough = max(_MIN_LETTERS, 0.6 * sum(letters.values()))
    return script if letters[script] >= enough else None
