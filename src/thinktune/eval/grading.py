"""Grading of one answer against its references, and format metrics of one reply."""

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import Annotated, Any, Literal

import regex
from pydantic import BaseModel, ConfigDict, Field, field_validator

from thinktune.data.faults.language import main_script
from thinktune.data.faults.loops import ends_in_loop
from thinktune.eval import answer_extraction
from thinktune.eval.normalization import fold_compatibility
from thinktune.tokenization.tags import Tags

DEFAULT_TAGS = Tags()
MAX_SHORT_CHARACTERS = 40  # of a reference that is compared whole
MAX_PATTERN_SECONDS = 0.25  # of CPU time for a task's own pattern on one answer
_MAX_CACHED_MASKS = 1024
CJK_CHARACTERS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"

Grader = Literal["choice", "number", "short", "text", "keypoints", "refusal", "format"]


def format_metrics(
    question: str, reply: Mapping[str, Any], thinking: bool, think_tags: Tags = DEFAULT_TAGS
) -> dict[str, float]:
    """Measure the format of a saved completion: rates as 0 or 1, lengths as numbers.

    `well_formed`: with thinking, the reasoning was opened and closed once; without, there are no tags of the model's.
    """
    reasoning, answer = str(reply["reasoning"]), str(reply["answer"])
    tags = any(tag in text for tag in (think_tags.opening, think_tags.closing) for text in (reasoning, answer))
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


def switches_language(question: str, text: str) -> bool:
    """Return True if a text is in another script than its question; False if either is too short or mixed."""
    expected, actual = main_script(question), main_script(text)
    return expected is not None and actual is not None and expected != actual


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


def normalize(text: str) -> str:
    """Normalize width, case and white space."""
    return " ".join(fold_compatibility(text).casefold().split())


def normalize_answer(text: str) -> str:
    """Normalize an answer, also without punctuation, English articles and lead-in words ("The answer is ...")."""
    plain = _LEAD_IN.sub("", normalize(text).strip("*_` "))
    words = re.sub(r"[^\w%.+/-]|(?<!\d)\.|\.(?!\d)|[-/](?!\w)|_", " ", plain)
    return " ".join(word for word in words.split() if word not in ("a", "an", "the"))


def contains_keypoint(answer: str, keypoint: str) -> bool:
    """Return True if the answer contains the key point as a whole word or number (12 is not in 120).

    Chinese has no spaces between words, so there a substring is enough.
    """
    return _mark_words(keypoint) in _mark_words(answer)


def _mark_words(text: str) -> str:
    """Normalize a text and mark both ends of its Latin words and numbers, so that `in` finds only whole ones."""
    return re.sub(r"[0-9a-z]+", "\0\\g<0>\0", normalize(text))


def keypoint_recall(answer: str, keypoints: Sequence[str]) -> float:
    """Return the share of key points that an answer contains; bars separate alternatives ("iron|Fe")."""
    marked = _mark_words(answer)
    return sum(any(_mark_words(way) in marked for way in point.split("|") if way.strip()) for point in keypoints) / len(
        keypoints
    )


def pick_grader(reference: str) -> Grader:
    """Choose the grader of a reference without options or key points: number, short answer or free text."""
    if re.fullmatch(
        r"\s*+[-+−]?[\d.,/]*\d\s*+(?:%|[a-zA-Z°℃]{1,12}|[\u4e00-\u9fff]{1,3})?\s*+",
        fold_compatibility(reference),
    ):
        return "number"
    return "short" if len(reference.strip()) <= MAX_SHORT_CHARACTERS and "\n" not in reference.strip() else "text"


def matches_choice(answer: str, wanted: str, options: Sequence[str]) -> bool:
    """Return True if an answer chooses exactly the wanted letters."""
    return answer_extraction.extract_letters(answer, options) == "".join(sorted(wanted))


def matches_number(answer: str, wanted: str) -> bool:
    """Return True if an answer's final number is the wanted one; units are converted, and may be missing."""
    found, reference = answer_extraction.extract_number(answer), answer_extraction.extract_number(wanted)
    return found is not None and reference is not None and answer_extraction.same_number(found, reference)


def matches_short_answer(answer: str, wanted: Sequence[str]) -> bool:
    """Return True if an answer, or what it puts into its last `\\boxed{…}`, is one of the wanted texts.

    Both are compared after `normalize_answer`.
    """
    accepted = {normalize_answer(text) for text in wanted}
    boxed = boxed_content(answer)
    return normalize_answer(answer) in accepted or (bool(boxed) and normalize_answer(boxed) in accepted)


def boxed_content(text: str) -> str:
    """Return what a text's last `\\boxed{…}` holds, with the braces inside it; "" where it has none that is closed."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return ""
    depth = 0
    for place in range(start + len("\\boxed"), len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            return text[start + len("\\boxed{") : place].strip()
    return ""


def is_refusal(answer: str) -> bool:
    """Return True if an answer to a nonsense question says so; a rough test by common words of refusal."""
    return _REFUSAL.search(normalize(answer).replace("’", "'")) is not None


def rouge_tokens(text: str) -> list[str]:
    """Split a text into words, and Chinese or Japanese characters, for ROUGE-L."""
    return re.findall(rf"[{CJK_CHARACTERS}]|[^\W{CJK_CHARACTERS}_]+", normalize(text))


def rouge_l(answer: str, *references: str) -> float:
    """Compute ROUGE-L (F1 of the longest common subsequence of `rouge_tokens`), 0 to 1, for the closest reference.

    F1 is that of Google's rouge-score. Its table for the subsequence has a cell for each pair of tokens, in plain
    Python, so the length comes from `lcs_length`.
    """
    from rouge_score.scoring import fmeasure

    said = rouge_tokens(answer)
    scores = [0.0]
    for wanted in map(rouge_tokens, references):
        common = lcs_length(said, wanted)
        scores.append(float(fmeasure(common / max(1, len(said)), common / max(1, len(wanted)))))
    return max(scores)


def lcs_length(one: Sequence[str], other: Sequence[str]) -> int:
    """Return the length of the longest common subsequence of two lists of tokens.

    Bit-parallel, as in Hyyrö, "Bit-parallel LCS-length computation revisited" (2004): each token of the shorter list
    takes four operations on an integer with a bit for each token of the longer one.
    """
    shorter, longer = sorted((one, other), key=len)
    places: dict[str, list[int]] = defaultdict(list)
    for place, token in enumerate(longer):
        places[token].append(place)

    @lru_cache(_MAX_CACHED_MASKS)
    def mask(token: str) -> int:
        bits = bytearray(len(longer) // 8 + 1)
        for place in places[token]:
            bits[place >> 3] |= 1 << (place & 7)
        return int.from_bytes(bits, "little")

    everything = row = (1 << len(longer)) - 1
    for token in shorter:
        if token in places:
            matched = row & mask(token)
            row = ((row + matched) | (row - matched)) & everything
    return len(longer) - row.bit_count()


def chrf(answer: str, *references: str) -> float:
    """Compute chrF2 (F-score of character n-grams up to six), 0 to 1, for the closest reference, with sacrebleu.

    It also suits Chinese.
    """
    return _chrf().sentence_score(normalize(answer), [normalize(wanted) for wanted in references]).score / 100


@cache
def _chrf() -> Any:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()


class FormatRules(BaseModel):
    """Verifiable rules for an answer's format (as in IFEval); all rules that are given must hold."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    lines: int | None = None
    """Number of lines that are not blank."""
    words: int | None = None
    """Number of words; a Chinese character counts as one."""
    most_words: int | None = None
    """Largest number of words."""
    json_keys: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """A JSON object with exactly these keys, in a code fence or not."""
    begins: str | None = None
    """Begins with this text."""
    ends: str | None = None
    """Ends with this text."""
    holds: tuple[str, ...] = ()
    """Contains each of these texts."""
    without: tuple[str, ...] = ()
    """Contains none of these texts."""
    numbered: int | None = None
    """A list numbered from 1 to this."""
    one_of: tuple[str, ...] = ()
    """Is one of these texts, apart from punctuation at the ends."""
    capitals: bool = False
    """All its Latin letters are capitals."""
    pattern: str | None = None
    """Matches this regular expression as a whole."""

    @field_validator("pattern")
    @classmethod
    def _check_pattern(cls, pattern: str | None) -> str | None:
        try:
            regex.compile(pattern or "")
        except regex.error as error:
            raise ValueError(f"is not a regular expression ({error})") from None
        return pattern


def follows_rules(answer: str, rules: FormatRules) -> bool:
    """Return True if an answer is not blank and follows every rule.

    Raises TimeoutError if the task's own pattern takes too long, as only its author can make it linear.
    """
    text = answer.strip()
    plain = normalize(text)
    count = len(rouge_tokens(text))
    checks = (
        rules.lines is None or len([line for line in text.splitlines() if line.strip()]) == rules.lines,
        rules.words is None or count == rules.words,
        rules.most_words is None or count <= rules.most_words,
        rules.json_keys is None or _json_keys(text) == sorted(rules.json_keys),
        rules.begins is None or plain.startswith(normalize(rules.begins)),
        rules.ends is None or plain.endswith(normalize(rules.ends)),
        all(normalize(piece) in plain for piece in rules.holds),
        not any(normalize(piece) in plain for piece in rules.without),
        rules.numbered is None or _list_numbers(text) == list(range(1, rules.numbered + 1)),
        not rules.one_of or plain.strip(" .。!！\"'“”") in {normalize(piece) for piece in rules.one_of},
        not rules.capitals or (text == text.upper() and text != text.lower()),
    )
    # The pattern comes last: a reply that other rules refuse, such as one that loops, takes none of its time.
    return bool(text) and all(checks) and (rules.pattern is None or _matches_pattern(rules.pattern, text))


def _matches_pattern(pattern: str, text: str) -> bool:
    return regex.fullmatch(pattern, text, timeout=MAX_PATTERN_SECONDS) is not None


def _json_keys(text: str) -> list[str] | None:
    if text.startswith("```") and text.endswith("```") and len(text) >= 6:
        text = text[3:-3].removeprefix("json").strip()
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):  # the latter of a hundred thousand brackets
        return None
    return sorted(value) if isinstance(value, dict) else None


def _list_numbers(text: str) -> list[int]:
    numbers = (
        re.match(rf"\s*+(\d{{1,3}})\s*+[.)、．](?=\s|[{CJK_CHARACTERS}]|\w)", line)
        for line in text.splitlines(keepends=True)
    )
    return [int(number[1]) for number in numbers if number]
