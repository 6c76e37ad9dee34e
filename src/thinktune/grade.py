"""Is an answer right? One row's answer against what its row says a right answer is, as people compare texts."""

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

from thinktune import extract

Grader = Literal["choice", "number", "short", "text", "keypoints", "refusal", "format"]
IDEOGRAPHS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
SHORT_CHARACTERS = 40
_ASIDE = re.compile(
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


def bare(text: str) -> str:
    """Normal text without punctuation, English articles and words that only lead in ("The answer is ...")."""
    plain = _ASIDE.sub("", normalise(text).strip("*_` "))
    words = re.sub(r"[^\w%.+/-]|(?<!\d)\.|\.(?!\d)|[-/](?!\w)|_", " ", plain)
    return " ".join(word for word in words.split() if word not in ("a", "an", "the"))


def holds(answer: str, keypoint: str) -> bool:
    """Whether the answer holds the key point as a whole word or number (12 is not in 120, iron not in environment).

    Chinese has no spaces between words, so there a run of characters is enough.
    """
    pattern = re.escape(normalise(keypoint))
    before = r"(?<![0-9a-z])" if re.match(r"[0-9a-z]", normalise(keypoint)) else ""
    after = r"(?![0-9a-z])" if re.search(r"[0-9a-z]$", normalise(keypoint)) else ""
    return re.search(before + pattern + after, normalise(answer)) is not None


def recall(answer: str, keypoints: Sequence[str]) -> float:
    """The share of key points that an answer holds; alternatives of one stand between bars ("iron|Fe")."""
    return sum(any(holds(answer, way) for way in point.split("|") if way.strip()) for point in keypoints) / len(
        keypoints
    )


def pick_grader(reference: str) -> Grader:
    """How a reference without options or key points is compared: as a number, as a short answer, or as free text."""
    if re.fullmatch(
        r"\s*[-+−]?[\d.,/]*\d\s*(?:%|[a-zA-Z°℃]{1,12}|[\u4e00-\u9fff]{1,3})?\s*",
        unicodedata.normalize("NFKC", reference),
    ):
        return "number"
    return "short" if len(reference.strip()) <= SHORT_CHARACTERS and "\n" not in reference.strip() else "text"


def is_choice(answer: str, wanted: str, options: Sequence[str]) -> bool:
    """Whether an answer settles on exactly the wanted letters."""
    return extract.letters(answer, options) == "".join(sorted(wanted))


def is_number(answer: str, wanted: str) -> bool:
    """Whether an answer settles on the wanted number; units are converted, and may be left out."""
    found, reference = extract.number(answer), extract.number(wanted)
    return found is not None and reference is not None and extract.same_number(found, reference)


def is_short(answer: str, wanted: Sequence[str]) -> bool:
    """Whether an answer is one of the wanted texts, but for width, case, punctuation, articles and a lead-in."""
    return bare(answer) in {bare(text) for text in wanted}


def refuses(answer: str) -> bool:
    """Whether an answer to a question that makes no sense says so; by common words of refusal, so roughly."""
    return _REFUSAL.search(normalise(answer).replace("’", "'")) is not None


def words(text: str) -> list[str]:
    """Words, and Chinese or Japanese characters one by one: what ROUGE-L is counted on."""
    return re.findall(rf"[{IDEOGRAPHS}]|[^\W{IDEOGRAPHS}_]+", normalise(text))


def rouge_l(answer: str, reference: str) -> float:
    """ROUGE-L (F1 of the longest common subsequence), 0 to 1, on `words`; by Google's rouge-score."""
    return float(_rouge().score(reference, answer)["rougeL"].fmeasure)


def chrf(answer: str, reference: str) -> float:
    """chrF2 (F-score of character runs up to six), 0 to 1; by sacrebleu. Blind to word borders, so fit for Chinese."""
    return _chrf().sentence_score(normalise(answer), [normalise(reference)]).score / 100


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=_Tokens())


class _Tokens:
    """What rouge-score asks for; its own tokenizer keeps Latin letters alone and gives 0 for all Chinese."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


@cache
def _chrf() -> Any:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()
