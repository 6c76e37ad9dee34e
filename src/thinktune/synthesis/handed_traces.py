"""Traces of an answer that was handed to the teacher: found, taken out sentence by sentence, or reason to refuse."""

import re
from collections.abc import Sequence

from thinktune.eval.grading import contains_keypoint

MAX_REMOVED_SHARE = 0.3  # of a reasoning's characters; one that speaks more of its hint is built upon it
MAX_EARLY_SHARE = 0.25  # of a reasoning; an answer that is stated before it was not reasoned for

_HANDED = "given|provided|supplied|known|expected|reference|hinted|stated|official|gold|target|model|standard"
_RESULT = r"(?:answers?|solutions?|responses?)(?!\s+(?:choices?|options?))"
_TRACE = re.compile(
    rf"\b(?:{_HANDED})\s+(?:final\s+|correct\s+|right\s+)?{_RESULT}\b"
    rf"|\b{_RESULT}\s+(?:that\s+)?(?:(?:is|was|were|has\s+been|had\s+been|i\s+was|i\s+am|we\s+are|we\s+were)\s+)?"
    r"(?:already\s+)?(?:given|provided|supplied|handed|told|shown)\b"
    r"|\b(?:the|this|that|your|a|my|per|by)\s+hints?\b|\bhints?\s+(?:says?|states?|suggests?|gives?|is|was|tells?)\b"
    r"|\bhinted\b|\banswer\s+key\b|\bground[\s-]truth\b|\bcheat\s*sheet\b"
    r"|\b(?:given|told|shown|handed|provided\s+with|informed\s+of|supplied\s+with)\s+(?:that\s+)?(?:the|an)\s+"
    r"(?:right\s+|correct\s+|final\s+|true\s+)?(?:answer|solution)\b"
    r"|\b(?:already|happen\s+to)\s+know\s+(?:that\s+)?(?:the|what\s+the)\s+(?:right\s+|correct\s+|final\s+)?answer\b"
    r"|\bwork(?:ing)?\s+backwards?\s+from\s+(?:the|this|that)\s+(?:answer|result|solution)\b"
    r"|\b(?:according\s+to|based\s+on|consistent\s+with|agrees?\s+with|match(?:es|ing)?)\s+the\s+"
    r"(?:(?:right|correct|final)\s+)?(?:answer|solution|key)\b"
    r"|\b(?:arrive|get|lead|come)s?\s+(?:to|at)\s+the\s+(?:required|desired|expected|intended)\s+(?:answer|result)\b"
    r"|\b(?:justify|rationali[sz]e)\s+(?:the|this|that|why\s+the)\s+(?:given\s+)?(?:answer|result)\b"
    "|提示(?:中|里|说|给|告|的|我|已|答|显示|指出|为|是)|(?:根据|按照?|依据|如|由|从|看)(?:这个|该|此|上述)?提示"
    "|(?:给定|给出|提供|已知|参考|预期|期望|既定|标准|所给)的?(?:正确|最终|标准|参考)?的?答案"
    "|(?:告诉|告知|提供|透露|给)(?:了|过|我|我们|的|出|好|到)*(?:正确|标准|参考|最终)的?答案"
    "|答案(?:是|已|早已|已经|被|都)*(?:给出|给定|提供|告知|已知|知道)"
    "|(?:与|和|跟|同)(?:正确|最终|题目|这个|该)?的?答案(?:是|相|互|完全)?(?:一致|相符|符合|吻合|匹配)"
    "|从(?:正确|最终|这个|该)?的?答案(?:反推|倒推|出发|往回)|(?:反推|倒推)(?:出|回|得|上|一下)?(?:这个|该|正确)?答案"
    "|(?:已经|早就|事先|预先)知道(?:了)?(?:正确|最终)?的?答案",
    re.IGNORECASE,
)
_SENTENCE = re.compile(
    r"[^.!?。！？\n]*+(?:[.!?。！？]++(?:(?=\d)[^.!?。！？\n]*+[.!?。！？]*+)*+[\"'”’)）]*+|\n|$)\s*+"
)
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")


def find_trace(question: str, text: str) -> str:
    """Return the words by which a text admits that an answer or a hint was handed to it, else "".

    Words that the question itself has are no trace: it may speak of a hint, or ask about a given answer.
    """
    asked = question.casefold()
    return next((found[0] for found in _TRACE.finditer(text) if found[0].casefold() not in asked), "")


def without_traces(question: str, reasoning: str) -> str:
    """Return a reasoning without the sentences that hold a trace; as it is, if those are too much of it to be lost."""
    if not find_trace(question, reasoning):
        return reasoning
    kept = [sentence for sentence in split_sentences(reasoning) if not find_trace(question, sentence)]
    rest = "".join(kept).strip()
    return rest if len(rest) >= (1 - MAX_REMOVED_SHARE) * len(reasoning.strip()) else reasoning


def split_sentences(text: str) -> list[str]:
    """Split a text into sentences, which joined are the text again; the point of 3.5 ends none."""
    return [sentence for sentence in _SENTENCE.findall(text) if sentence]


def opens_with_answer(question: str, reasoning: str, references: Sequence[str]) -> str:
    """Return the first sentence of a reasoning if it states the answer before a word was said for it, else "".

    An answer that the question holds, as an option or a name, may stand there.
    """
    sentences = [sentence for sentence in split_sentences(reasoning) if sentence.strip()]
    if not sentences or len(sentences[0]) > MAX_EARLY_SHARE * len(reasoning):
        return ""
    numbers = [found[0] for reference in references if (found := _NUMBER.match(reference))]  # without their units
    early = any(
        contains_keypoint(sentences[0], text) and not contains_keypoint(question, text)
        for text in (*references, *numbers)
        if text.strip()
    )
    return sentences[0].strip()[:80] if early else ""
