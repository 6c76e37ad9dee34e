"""Is an answer right? One row's answer against what its row says a right answer is, as people compare texts."""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from thinktune.data.chat_template import THINK_CLOSE, THINK_OPEN
from thinktune.data.language import main_script
from thinktune.eval import answer_extraction as extract

MIN_LOOP_REPEATS = 4  # times that the same text stands at the end, one behind the other


MIN_LOOP_CHARACTERS = 40  # over all its repeats; shorter ones are emphasis, or rows of dashes


TAIL_CHARACTERS = 4000  # that are searched


def format_metrics(question: str, reply: Mapping[str, Any], thinking: bool) -> dict[str, float]:
    """Measures of a saved completion's form: rates as 0 or 1, lengths as numbers.

    `well_formed`: with thinking, the reasoning was opened and closed once; without, there are no tags at all.
    """
    reasoning, answer = str(reply["reasoning"]), str(reply["answer"])
    tags = any(tag in text for tag in (THINK_OPEN, THINK_CLOSE) for text in (reasoning, answer))
    return {
        "well_formed": not tags and bool(reply["closed"] if thinking else not reasoning.strip()),
        "ended": reply["finish"] in ("end", "stop"),
        "cut": reply["finish"] == "length",
        "empty_answer": not answer.strip(),
        "loops": ends_in_loop(reasoning) or ends_in_loop(answer),
        "language_switch": switches_language(question, reasoning) or switches_language(question, answer),
        "tokens": reply["tokens"],
        "reasoning_tokens": reply["reasoning_tokens"],
        "answer_characters": len(answer),
    }


def ends_in_loop(text: str) -> bool:
    """Whether a text ends in the same piece over and over: at least four times, 40 characters in all.

    One pass of Knuth, Morris and Pratt's failure function over the reversed end gives the shortest period of each of
    its beginnings. A last repeat that was cut off in its middle counts by its characters.
    """
    tail = text.rstrip()[-TAIL_CHARACTERS:][::-1]
    border = [0] * len(tail)
    matched = 0
    for place in range(1, len(tail)):
        while matched and tail[place] != tail[matched]:
            matched = border[matched - 1]
        matched += tail[place] == tail[matched]
        border[place] = matched
        length, period = place + 1, place + 1 - matched
        if length >= max(MIN_LOOP_CHARACTERS, MIN_LOOP_REPEATS * period) and len(set(tail[:period])) > 1:
            return True
    return False


def switches_language(question: str, text: str) -> bool:
    """Whether a text is in another script than its question; of short or mixed texts it cannot be told."""
    asked, written = main_script(question), main_script(text)
    return asked is not None and written is not None and asked != written


Grader = Literal["choice", "number", "short", "text", "keypoints", "refusal", "format"]


CJK_CHARACTERS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"


MAX_SHORT_CHARACTERS = 40


_LEAD_IN = re.compile(
    r"^(?:so|therefore|thus|所以|因此)?[\s,]*(?:the\s+)?(?:final\s+)?(?:answer\s+is|answer|答案是|答案为|答案)\s*:?\s*"
)


_REFUSAL = re.compile(
    "no sense|nonsens|meaningless|not meaningful|not possible|impossible|no such|not exist|n't exist|not real|"
    "n't a real|not a real|does not have|doesn't have|do not have|don't have|did not|didn't|cannot|can't|can not|"
    "unable|not valid|there (?:is|are|was) no |(?:has|have|had) no |not a valid|never |category error|"
    "(?:is|are|was|were)(?: not|n't) |"
    "没有|不存在|无法|不能|不可能|并不|并非|并未|不是|毫无意义|无意义|不成立|不合理|从未|未曾|说不通|不会|不具|不适用|不对"
)


def normalise(text: str) -> str:
    """Text without differences that mean nothing: width, case, white space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def normalize_answer(text: str) -> str:
    """Normal text without punctuation, English articles and words that only lead in ("The answer is ...")."""
    plain = _LEAD_IN.sub("", normalise(text).strip("*_` "))
    words = re.sub(r"[^\w%.+/-]|(?<!\d)\.|\.(?!\d)|[-/](?!\w)|_", " ", plain)
    return " ".join(word for word in words.split() if word not in ("a", "an", "the"))


def contains_keypoint(answer: str, keypoint: str) -> bool:
    """Whether the answer holds the key point as a whole word or number (12 is not in 120, iron not in environment).

    Chinese has no spaces between words, so there a run of characters is enough.
    """
    pattern = re.escape(normalise(keypoint))
    before = r"(?<![0-9a-z])" if re.match(r"[0-9a-z]", normalise(keypoint)) else ""
    after = r"(?![0-9a-z])" if re.search(r"[0-9a-z]$", normalise(keypoint)) else ""
    return re.search(before + pattern + after, normalise(answer)) is not None


def keypoint_recall(answer: str, keypoints: Sequence[str]) -> float:
    """The share of key points that an answer holds; alternatives of one stand between bars ("iron|Fe")."""
    return sum(
        any(contains_keypoint(answer, way) for way in point.split("|") if way.strip()) for point in keypoints
    ) / len(keypoints)


def pick_grader(reference: str) -> Grader:
    """How a reference without options or key points is compared: as a number, as a short answer, or as free text."""
    if re.fullmatch(
        r"\s*[-+−]?[\d.,/]*\d\s*(?:%|[a-zA-Z°℃]{1,12}|[\u4e00-\u9fff]{1,3})?\s*",
        unicodedata.normalize("NFKC", reference),
    ):
        return "number"
    return "short" if len(reference.strip()) <= MAX_SHORT_CHARACTERS and "\n" not in reference.strip() else "text"


def matches_choice(answer: str, wanted: str, options: Sequence[str]) -> bool:
    """Whether an answer settles on exactly the wanted letters."""
    return extract.extract_letters(answer, options) == "".join(sorted(wanted))


def matches_number(answer: str, wanted: str) -> bool:
    """Whether an answer settles on the wanted number; units are converted, and may be left out."""
    found, reference = extract.extract_number(answer), extract.extract_number(wanted)
    return found is not None and reference is not None and extract.same_number(found, reference)


def matches_short_answer(answer: str, wanted: Sequence[str]) -> bool:
    """Whether an answer is one of the wanted texts, but for width, case, punctuation, articles and a lead-in."""
    return normalize_answer(answer) in {normalize_answer(text) for text in wanted}


def is_refusal(answer: str) -> bool:
    """Whether an answer to a question that makes no sense says so; by common words of refusal, so roughly."""
    return _REFUSAL.search(normalise(answer).replace("’", "'")) is not None


def rouge_tokens(text: str) -> list[str]:
    """Words, and Chinese or Japanese characters one by one: what ROUGE-L is counted on."""
    return re.findall(rf"[{CJK_CHARACTERS}]|[^\W{CJK_CHARACTERS}_]+", normalise(text))


def rouge_l(answer: str, reference: str) -> float:
    """ROUGE-L (F1 of the longest common subsequence), 0 to 1, on `rouge_tokens`; by Google's rouge-score."""
    return float(_rouge().score(reference, answer)["rougeL"].fmeasure)


def chrf(answer: str, reference: str) -> float:
    """chrF2 (F-score of character runs up to six), 0 to 1; by sacrebleu. Blind to word borders, so fit for Chinese."""
    return _chrf().sentence_score(normalise(answer), [normalise(reference)]).score / 100


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=_RougeTokenizer())


class _RougeTokenizer:
    """What rouge-score asks for; its own tokenizer keeps Latin letters alone and gives 0 for all Chinese."""

    def tokenize(self, text: str) -> list[str]:
        return rouge_tokens(text)


@cache
def _chrf() -> Any:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()


class FormatRules(BaseModel):
    """What an answer must keep to; every rule given must hold."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    lines: int | None = None
    """So many lines that are not blank."""
    words: int | None = None
    """So many words, a Chinese character being one."""
    most_words: int | None = None
    """At most so many words."""
    json_keys: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """A JSON object with exactly these keys, in a code fence or not."""
    begins: str | None = None
    """Begins with this text."""
    ends: str | None = None
    """Ends with this text."""
    holds: tuple[str, ...] = ()
    """Holds each of these texts."""
    without: tuple[str, ...] = ()
    """Holds none of these texts."""
    numbered: int | None = None
    """A list numbered 1 to this."""
    one_of: tuple[str, ...] = ()
    """Is one of these texts, but for punctuation at its ends."""
    capitals: bool = False
    """All its Latin letters are capitals."""
    pattern: str | None = None
    """Matches this regular expression as a whole."""


def follows_rules(answer: str, rules: FormatRules) -> bool:
    """Whether an answer that is not blank keeps to every rule."""
    text = answer.strip()
    plain = normalise(text)
    count = len(rouge_tokens(text))
    checks = (
        rules.lines is None or len([line for line in text.splitlines() if line.strip()]) == rules.lines,
        rules.words is None or count == rules.words,
        rules.most_words is None or count <= rules.most_words,
        rules.json_keys is None or _json_keys(text) == sorted(rules.json_keys),
        rules.begins is None or plain.startswith(normalise(rules.begins)),
        rules.ends is None or plain.endswith(normalise(rules.ends)),
        all(normalise(piece) in plain for piece in rules.holds),
        not any(normalise(piece) in plain for piece in rules.without),
        rules.numbered is None or _list_numbers(text) == list(range(1, rules.numbered + 1)),
        not rules.one_of or plain.strip(" .。!！\"'“”") in {normalise(piece) for piece in rules.one_of},
        not rules.capitals or (text == text.upper() and text != text.lower()),
        rules.pattern is None or re.fullmatch(rules.pattern, text) is not None,
    )
    return bool(text) and all(checks)


def _json_keys(text: str) -> list[str] | None:
    fenced = re.fullmatch(r"```(?:json)?\s*(.*?)\s*```", text, re.DOTALL)
    try:
        value: Any = json.loads(fenced[1] if fenced else text)
    except ValueError:
        return None
    return sorted(value) if isinstance(value, dict) else None


def _list_numbers(text: str) -> list[int]:
    return [
        int(found)
        for found in re.findall(rf"^\s*(\d{{1,3}})\s*[.)、．](?=\s|[{CJK_CHARACTERS}]|\w)", text, re.MULTILINE)
    ]
