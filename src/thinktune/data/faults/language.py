"""Detect the script of a text, quickly, by the first bytes of its letters in UTF-8, and its language where it shows."""

from collections import Counter
from collections.abc import Iterable

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


# ISO 639-1, by script: one language alone is written in it, as far as models and hubs go.
_LANGUAGE_OF_SCRIPT = {"Chinese": "zh", "Japanese": "ja", "Korean": "ko", "Greek": "el", "Hebrew": "he"}


# The commonest short words of languages that share a script. A text of any kind is full of those of its own language,
# a fifth to a half of its words, and has few of another's.
_FUNCTION_WORDS = {
    language: frozenset(words.split())
    for language, words in {
        "en": "the of and to in is that it for with as was on are this be by an not or from have has which you if",
        "de": "der die das und ist nicht ein eine einen mit den von zu auf für im dem sich des auch wird bei sind oder",
        "fr": "le la les des et est une un que dans pour qui pas sur du ce il au par avec plus sont ou cette",
        "es": "el la los las de que y en un una es por con para no se del su al lo como más si pero",
        "pt": "o a os as de que e em um uma não para com do da no na por se mais dos é ao como",
        "gl": "o a os as de que e en un unha non para con do da no na por se máis dos é ao como",
        "it": "il la di che e un una è per non con del della sono le si da nel al gli come anche i più",
        "nl": "de het een van en is dat niet op voor met zijn te aan er wordt bij ook als die of naar om",
        "ru": "и в не на что это как для с по из или то при а от к у его если также может о быть",
        "uk": "і в не на що це як для з та або до при від у його якщо також може є про бути",
        "bg": "и в не на се за да от с по като е са или при до това което който ще може че",
    }.items()
}


_MIN_WORDS = 8  # a shorter text has no language that function words could show


_MIN_FUNCTION_SHARE, _MIN_LEAD = 0.18, 1.25  # of a text's words; and over the language in the second place


LANGUAGE_SAMPLE_ROWS = 1000


def main_language(text: str) -> str | None:
    """Return the ISO 639-1 code of a text's language where its script or its function words show it, else None."""
    script = main_script(text)
    if script not in ("Latin", "Cyrillic"):
        return _LANGUAGE_OF_SCRIPT.get(script or "")
    words = [word.strip(".,;:!?()\"'«»“”„*") for word in text.casefold().split()]
    counts = Counter(word for word in words if word)
    if counts.total() < _MIN_WORDS:
        return None
    shares = {
        language: sum(counts[word] for word in function_words) / counts.total()
        for language, function_words in _FUNCTION_WORDS.items()
    }
    (best, share), (_, second) = sorted(shares.items(), key=lambda each: -each[1])[:2]
    return best if share >= max(_MIN_FUNCTION_SHARE, _MIN_LEAD * second) else None


def count_languages(texts: Iterable[str]) -> dict[str, int]:
    """Count texts by language, the commonest first; those whose language does not show under an empty name."""
    return dict(Counter(main_language(text) or "" for text in texts).most_common())
