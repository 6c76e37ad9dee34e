"""Agreement of free text with a right answer, without a judge: every fact of it shows, and nothing speaks against it.

Words are compared, not meanings, so long answers are left to a judge (None).
"""

import re
from collections.abc import Sequence

from thinktune.eval.grading import normalize
from thinktune.synthesis.handed_traces import split_sentences

MAX_KEY_TERMS = 16  # of an answer without its question; a longer one can be said in too many ways
MAX_OTHER_SHARE = 0.5  # of an answer's terms, in the sentences with key facts, that neither reference nor question has
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_PIECE = re.compile(rf"\d+(?:[.,]\d+)*%?|[a-z][a-z0-9+'’-]*|[{_CJK}]+|[^\W\d_a-z{_CJK}]+", re.IGNORECASE)
_COMMON = frozenset(
    [
        "the",
        "a",
        "an",
        "of",
        "and",
        "to",
        "in",
        "is",
        "that",
        "it",
        "for",
        "with",
        "as",
        "was",
        "on",
        "are",
        "this",
        "be",
        "by",
        "an",
        "at",
        "from",
        "has",
        "have",
        "had",
        "which",
        "its",
        "their",
        "there",
        "these",
        "those",
        "they",
        "he",
        "she",
        "we",
        "you",
        "i",
        "would",
        "will",
        "can",
        "may",
        "also",
        "such",
        "into",
        "than",
        "then",
        "so",
        "because",
        "since",
        "when",
        "where",
        "who",
        "what",
        "how",
        "why",
        "do",
        "does",
        "did",
        "been",
        "being",
        "were",
        "about",
        "called",
        "known",
        "answer",
        "answers",
        "final",
        "result",
        "therefore",
        "thus",
        "hence",
        "yes",
        "correct",
        "right",
        "it's",
        "that's",
    ]
)
_COMMON_HAN_RUN = re.compile("[的了是在和与及为其这那有就也而着被把对于以之所即该个]+")
_NEGATION = re.compile(
    r"\b(?:not|no|never|neither|nor|none|cannot|without|false|incorrect|wrong|unlikely|rather than|instead of|except)\b"
    r"|n['’]t\b|\bfails? to\b|不|没|无|非|未|否|勿|别|错|而不是|并非"
)
_DENIED = (
    r"(?:(?:\b(?:not|never|nor|neither|cannot be|rather than|instead of|except(?: for)?|other than|unlike|anything but)"
    r"|n['’]t)\s+(?:(?:be|equal|to|the|a|an|just|really|in)\s+)*+"
    r"|(?:不是|并非|不为|不等于|绝非|而非|不叫|不在|不会是|不可能是|除了)\s*)[\"'“*(\[]*"
)
_REJECTED_AFTER = (
    r"[\"'”*)\]]*\s*(?:\b(?:is|are|was|were|would be|seems)\s+(?:\w+\s+)?"
    r"(?:not|wrong|incorrect|false|unlikely|mistaken)\b"
    r"|(?:is|was|did|do|does)n['’]t\b|did not\b|(?:是|都)?(?:错误的|错的|不对|不正确))"
)
_HEDGE_BETWEEN = re.compile(
    r"\b(?:either|possibly|perhaps|maybe|might be|could be|not sure|unsure|don['’]t know|do not know|cannot say|"
    r"can['’]t say|hard to say|depends|i guess|impossible to (?:say|tell|know))\b"
    r"|可能是|也许|或许|大概是|不确定|不清楚|不知道|说不准|难以确定|视情况|无法(?:确定|判断|回答)|要么"
)
_RETRACTION = re.compile(
    r"\b(?:actually|wait|correction|scratch that|on second thought|sorry|i was wrong|i meant)"
    r"|[.!?] no,"
    r"|不对[,，。]|更正|抱歉|对不起|我错了|应该说|说错了|等等[,，]|其实(?:是|应)"
)
_ALTERNATIVE = r"\s*(?:,\s*)?(?:\bor\b|或者?是?|还是)\s*"
_POLAR = {
    **dict.fromkeys(("yes", "true", "correct", "right", "是", "是的", "对", "正确", "有", "能", "可以", "会"), True),
    **dict.fromkeys(("no", "false", "incorrect", "wrong", "否", "不是", "不", "错", "错误", "无", "没有"), False),
    **dict.fromkeys(("不能", "不可以", "不会"), False),
}


def contradicts(answer: str, references: Sequence[str]) -> str:
    """Return the words by which an answer leaves open, takes back or denies what it says, else "".

    Words that a reference has are its own: "it depends" may be right.
    """
    plain = normalize(answer)
    wanted = [normalize(reference).strip(" .。") for reference in references]
    for pattern in (_HEDGE_BETWEEN, _RETRACTION):
        for found in pattern.finditer(plain):
            if not any(found[0] in text for text in wanted):
                return f"says {found[0]!r}"
    for text in wanted:
        if not text or len(text) > 80:
            continue
        said = re.escape(text)
        edge = "(?<![a-z0-9])" if text[0].isascii() and text[0].isalnum() else ""
        end = r"(?![a-z0-9])" if text[-1].isascii() and text[-1].isalnum() else ""
        for pattern in (
            rf"{_DENIED}{edge}{said}{end}",
            rf"{edge}{said}{end}{_REJECTED_AFTER}",
            rf"{edge}{said}{end}{_ALTERNATIVE}",
            rf"{_ALTERNATIVE}(?:the\s+|a\s+|an\s+)?{edge}{said}{end}",
        ):
            if found := re.search(pattern, plain):
                return f"says {found[0].strip()[:60]!r}"
    return ""


def states_alone(question: str, reference: str, answer: str) -> tuple[bool | None, str]:
    """Return whether an answer states a short reference in a sentence that says nothing else, first or last of all.

    None where the reference is there among other words: they may say that it is not the answer.
    """
    polar = _POLAR.get(normalize(reference).strip(" .。!！"))
    if polar is not None:
        return _same_polarity(polar, answer)
    sentences = [sentence for sentence in split_sentences(normalize(answer)) if sentence.strip()]
    terms = key_terms(reference)
    known = {*terms, *key_terms(question)}
    if not sentences or not terms or not set(terms) <= set(key_terms(answer)):
        return False, f"does not say {reference[:40]!r}"
    for sentence in (sentences[0], sentences[-1]):
        said = key_terms(sentence)
        if _in_order(terms, said) and all(term in known for term in said):
            if bool(_NEGATION.search(sentence)) == bool(_NEGATION.search(normalize(reference))):
                return True, ""
            return False, f"says {sentence.strip()[:60]!r}"
    return None, "says it among other words; name a judge"


def holds_key_facts(question: str, reference: str, answer: str) -> tuple[bool | None, str]:
    """Return whether all that a reference adds to its question is in an answer, in its order, and nothing against it.

    None where the reference says too much to be compared by words, or an answer lacks some of them.
    """
    wanted, asked = key_terms(reference), set(key_terms(question))
    key = [term for term in dict.fromkeys(wanted) if term not in asked]
    if not key or len(key) > MAX_KEY_TERMS:
        return None, "is free text; name a judge"
    numbers = {term for term in key_terms(answer) if term[0].isdigit()} - {*wanted, *asked}
    if numbers or {term for term in key if term[0].isdigit()} - set(key_terms(answer)):
        return False, "has other numbers"
    said = key_terms(answer)
    if not set(key) <= set(said):
        return None, f"does not say {next(term for term in key if term not in said)!r} in these words; name a judge"
    if not _in_order(key, said):
        return None, "says it in another order; name a judge"
    if len(_NEGATION.findall(normalize(answer))) != len(_NEGATION.findall(normalize(reference))):
        return False, "denies what the row's own answer states, or the reverse"
    other = [term for term in dict.fromkeys(said) if term not in asked and term not in wanted]
    if len(other) > MAX_OTHER_SHARE * len(key):
        return None, "says more than the row's own answer; name a judge"
    return True, ""


def _same_polarity(wanted: bool, answer: str) -> tuple[bool | None, str]:
    plain = normalize(answer).lstrip("*\"'“ ").removeprefix("answer:").strip()
    plain = re.sub(r"^(?:the answer is|答案是|答案为|答案)\s*[:：]?\s*", "", plain)
    # The longest first: 不是 is not 是.
    first = next((word for word in sorted(_POLAR, key=len, reverse=True) if _begins(plain, word)), None)
    if first is None:
        return None, "says neither yes nor no at its beginning; name a judge"
    if _POLAR[first] != wanted:
        return False, f"says {first!r}"
    rest = plain[len(first) :]
    opposite = [
        word for word in ("yes", "no", "true", "false") if _POLAR[word] != wanted and re.search(rf"\b{word}\b", rest)
    ]
    return (False, f"also says {opposite[0]!r}") if opposite else (True, "")


def _begins(text: str, word: str) -> bool:
    after = text[len(word) : len(word) + 1]
    return text.startswith(word) and (not word.isascii() or not after.isalnum())


def key_terms(text: str) -> list[str]:
    """Split a text into what may carry facts: numbers, words without the commonest, and pairs of Han characters."""
    terms: list[str] = []
    for piece in _PIECE.findall(normalize(text)):
        if re.match(f"[{_CJK}]", piece):
            for run in _COMMON_HAN_RUN.split(piece):
                terms += [run[at : at + 2] for at in range(len(run) - 1)] or list(run)
        elif piece[0].isdigit():
            terms.append(piece.rstrip(".,").replace(",", ""))
        elif piece not in _COMMON:
            word = piece.removesuffix("'s").removesuffix("’s")
            terms.append(word.removesuffix("s") if len(word) > 3 else word)
    return terms


def _in_order(wanted: Sequence[str], said: Sequence[str]) -> bool:
    """Return True if the wanted terms are among those said, in their order."""
    rest = iter(said)
    return all(any(term == other for other in rest) for term in wanted)
