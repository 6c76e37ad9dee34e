"""Forms of replies that hold reasoning in other marks than think tags, and answers inside tags of their own."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from thinktune.data.faults.prose import mask_code
from thinktune.data.faults.turn_faults import CheckResult, FieldNames, TurnFault, Turns

# A tag is what stands between these; its name may be a word or several.
_MARK = re.compile(r"<\|[^<>|\n]{1,40}\|>|</?[^<>/|\n]{1,40}>|\[[^\[\]\n]{1,40}\]|【[^【】\n]{1,20}】|◁[^◁▷\n]{1,40}▷")


_REASONING_WORDS = re.compile(
    r"think|thought|reason|(?:\b|_)cot(?:\b|_)|rationale|scratch_?pad|reflect|monologue|deliberat|analysis|思考|推理|思维|思路|分析",
    re.IGNORECASE,
)


_ANSWER_WORDS = re.compile(
    r"answer|final|solution|response|output|conclusion|result|reply|答案|回答|回复|结论|答复|解答|输出", re.IGNORECASE
)


# Marks that no rule pairs: what opens the reasoning, and what stands between it and the answer.
_PAIRS = tuple(
    (re.compile(opening), re.compile(between))
    for opening, between in (
        # harmony (gpt-oss), also where the special tokens before it were left out
        (
            r"(?:<\|start\|>assistant)?<\|channel\|>analysis<\|message\|>",
            r"(?:<\|end\|>)?(?:<\|start\|>assistant)?<\|channel\|>final(?: ?<\|constrain\|>\w+)?<\|message\|>",
        ),
        (r"<\|channel>thought\n?", r"<channel\|>"),
        (r"<\|inner_prefix\|>", r"<\|inner_suffix\|>"),
        # sections after the mark of a turn, as budget-forcing sets write them
        (r"(?:<\|im_start\|>)think(?:ing)?\n", r"(?:<\|im_end\|>)?\s*<\|im_start\|>answer\n"),
    )
)


_END_MARKS = re.compile(r"(?<!\s)\s*+(?:<\|(?:return|end|im_end|eot_id|end_of_text|endoftext|END_RESPONSE)\|>\s*)+\Z")


# A heading: a line of its own in one of the usual styles, and the words in it.
_HEADING = re.compile(
    r"^(?:(#{1,6}) *(?:\*\*)?([^\n*#]{1,40}?)(?:\*\*)?[:：]?"
    r"|(\*\*)([^\n*]{1,40}?)(?:\*\*[:：]?|[:：]\*\*)"
    r"|()([A-Za-z][A-Za-z ]{1,30}|[\u4e00-\u9fff]{2,8})[:：])[ \t]*(?:$|(?<=[:：*]))",
    re.MULTILINE,
)


# "Analysis" is not among them: as a heading it is often a part of a plain answer.
_THINKING_HEADING = re.compile(
    r"(?:my |the )?(?:(?:thinking|thought|reasoning)(?: process)?|thoughts|chain of thought|internal monologue)"
    r"|思考|思考过程|思维链|思维过程|推理过程|内心独白",
    re.IGNORECASE,
)


_ANSWER_HEADING = re.compile(
    r"(?:my |the )?(?:final )?(?:answer|response|solution|output|reply)"
    r"|(?:最终|正式|最后)?的?(?:答案|回答|回复|答复|结论)|正文",
    re.IGNORECASE,
)


# Tags of web pages, which open a text and not its reasoning.
_WEB_TAG = re.compile(
    r"<(?:p|div|span|br|b|i|u|em|strong|h[1-6]|ul|ol|li|table|html|body|a|code|pre|sub|sup|center|font)[ >]",
    re.IGNORECASE,
)


HABIT_SHARE = 0.9  # of a file's replies, from which a form is theirs and no accident


@dataclass(frozen=True, slots=True)
class ReplyForms:
    """What a file's replies have in common: forms that only some of them have are no form of the file."""

    some_headings: bool = False
    some_answer_tags: bool = False


NO_FORMS = ReplyForms()


def measure_reply_forms(replies: Iterable[tuple[str, bool]]) -> ReplyForms:
    """Measure contents of sample replies, each with whether it has reasoning of its own."""
    plain = headed = tagged = count = 0
    for content, has_reasoning in replies:
        count += 1
        tagged += unwrap_answer(_last_part(content, has_reasoning)) is not None
        if not has_reasoning:
            plain += 1
            headed += _split_headings(content.strip()) is not None
    return ReplyForms(0 < headed < HABIT_SHARE * plain, 0 < tagged < HABIT_SHARE * count)


def _last_part(content: str, has_reasoning: bool) -> str:
    form = None if has_reasoning else split_form(content)
    return form[2] if form else content


def find_reasoning_tags(
    think_tags: tuple[str, ...], forms: ReplyForms, turns: Turns, field_names: FieldNames
) -> CheckResult:
    """Find replies whose reasoning stands in other marks than think tags; repaired, it is their reasoning.

    `think_tags`: the pair that the recipe names, or empty. Not repaired where the marks do not close, or no answer
    follows.
    """
    safe, unsafe, repaired = list[TurnFault](), list[TurnFault](), list(turns)
    for index, (turn, (field, _)) in enumerate(zip(turns, field_names, strict=False)):
        if turn.role != "assistant" or turn.has_reasoning:
            continue
        form = split_form(turn.content, think_tags, by_headings=not forms.some_headings)
        if form is None:
            continue
        mark, reasoning, answer = form
        if answer:
            safe.append(TurnFault(index, f"{field}: holds its reasoning in {mark}, which is read as the reasoning"))
            repaired[index] = replace(turn, reasoning=reasoning, content=answer)
        elif turn.is_trained_reply:
            unsafe.append(TurnFault(index, f"{field}: begins with {mark}, but {_what_lacks(reasoning)}"))
    return unsafe + safe, None if unsafe else tuple(repaired)


def _what_lacks(reasoning: str) -> str:
    return "no answer follows its reasoning" if reasoning else "nothing shows where its reasoning ends"


def split_form(
    content: str, think_tags: Sequence[str] = (), *, by_headings: bool = True
) -> tuple[str, str, str] | None:
    """Split a reply that begins with marks of reasoning into the mark, the reasoning and the answer, else None.

    The reasoning is empty where the marks do not close, and the answer also where none follows.
    """
    text = content.strip()
    if think_tags:
        opening, closing = think_tags
        return _cut(text, opening, closing) if text.startswith(opening) else None
    for opens, between in _PAIRS:
        if found := opens.match(text):
            return _cut_between(text, found, between)
    return _split_tags(text) or (_split_headings(text) if by_headings else None)


def _split_tags(text: str) -> tuple[str, str, str] | None:
    mark = _MARK.match(text)
    if mark is None or not _REASONING_WORDS.search(mark[0]) or len(text) == mark.end():
        return None
    if mark[0][0] in "【[":
        if closing := next((each for each in _closings(mark[0]) if each in text), None):
            return _cut(text, mark[0], closing)
        # Without a closing mark, only a heading of the same kind shows where the answer begins.
        answers = [found for found in _MARK.finditer(text, mark.end()) if found[0][0] == mark[0][0]]
        answers = [found for found in answers if _ANSWER_WORDS.search(found[0])]
        if len(answers) != 1 or not _is_alone(mark[0]):
            return None
        return mark[0], text[mark.end() : answers[0].start()].strip(), text[answers[0].end() :].strip()
    lowered = text.lower()
    closing = next((each for each in _closings(mark[0]) if each.lower() in lowered), None)
    if closing is None:
        return (mark[0], "", "") if _is_alone(mark[0]) else None
    place = lowered.index(closing.lower())
    return _cut(text, mark[0], text[place : place + len(closing)])


def _is_alone(mark: str) -> bool:
    """Return True for a mark whose whole name is a word of reasoning."""
    name = mark.strip("<>[]【】|◁▷ ")
    return " " not in name and "=" not in name and len(name) <= 24


def _closings(mark: str) -> list[str]:
    """List the marks that may close one."""
    match mark[:2], mark[:1]:
        case "<|", _:
            name = mark[2:-2]
            swaps = (("begin", "end"), ("start", "end"), ("START", "END"), ("Begin", "End"), ("BEGIN", "END"))
            found = [f"<|{name.replace(a, b)}|>" for a, b in swaps if a in name]
            return [*found, f"<|/{name}|>", f"</|{name}|>", f"<|end_{name}|>", f"<|end_of_{name}|>"]
        case _, "<":
            return [f"</{mark[1:-1].split()[0]}>"]
        case _, "[":
            return [f"[/{mark[1:-1]}]"]
        case _, "【":
            return [f"【/{mark[1:-1]}】", f"【{mark[1:-1]}结束】"]
        case _:
            return [f"◁/{mark[1:-1]}▷"]


def _cut(text: str, opening: str, closing: str) -> tuple[str, str, str]:
    body, found, answer = text[len(opening) :].partition(closing)
    if not found:
        return opening, "", ""
    if closing in answer or opening in body:
        return f"{opening} twice", "", ""  # nobody knows which text was meant
    return f"{opening} … {closing}", body.strip(), _unwrap_special(answer)


def _cut_between(text: str, opens: re.Match[str], between: re.Pattern[str]) -> tuple[str, str, str]:
    found = between.search(text, opens.end())
    if found is None:
        return opens[0].strip(), "", ""
    mark = f"{opens[0].strip()} … {found[0].strip()}"
    return mark, text[opens.end() : found.start()].strip(), _unwrap_special(text[found.end() :])


def _unwrap_special(answer: str) -> str:
    """Remove the marks of special tokens around an answer: they belong to the form of the reply."""
    answer = _END_MARKS.sub("", answer).strip()
    if (mark := _MARK.match(answer)) and mark[0].startswith("<|") and _ANSWER_WORDS.search(mark[0]):
        closing = next((each for each in _closings(mark[0]) if answer.endswith(each)), "")
        return answer[mark.end() : len(answer) - len(closing)].strip()
    return answer


def _split_headings(text: str) -> tuple[str, str, str] | None:
    """Split at a heading of thinking at the start and the one heading of the answer in the same style."""
    first = _HEADING.match(text)
    if first is None:
        return None
    style, name = _heading_parts(first)
    if not _THINKING_HEADING.fullmatch(name):
        return None
    answers = [
        found
        for found in _HEADING.finditer(mask_code(text), first.end())
        if _heading_parts(found)[0] == style and _ANSWER_HEADING.fullmatch(_heading_parts(found)[1])
    ]
    if len(answers) != 1:
        return None
    reasoning, answer = text[first.end() : answers[0].start()].strip(), text[answers[0].end() :].strip()
    mark = f"{first[0].strip()!r} … {answers[0][0].strip()!r}"
    return (mark, reasoning, answer) if reasoning and answer else None


def _heading_parts(found: re.Match[str]) -> tuple[str, str]:
    style = next(group for group in (found[1], found[3], found[5]) if group is not None)
    return style, (found[2] or found[4] or found[6] or "").strip(" :：*")


def find_answer_tags(forms: ReplyForms, turns: Turns, field_names: FieldNames) -> CheckResult:
    """Find answers that stand in tags such as <answer>.

    Repaired, the tags go, unless the row itself asks for them or other replies of the file have none.
    """
    faults, repaired = list[TurnFault](), list(turns)
    asked = "\n".join(turn.content for turn in turns if turn.role != "assistant")
    for index, (turn, (field, _)) in enumerate(zip(turns, field_names, strict=False)):
        wrapped = unwrap_answer(turn.content) if turn.role == "assistant" else None
        if wrapped is None:
            continue
        tag, answer = wrapped
        if forms.some_answer_tags:
            faults.append(TurnFault(index, f"{field}: is in {tag}, which stays, since other answers have no tags"))
        elif tag in asked:
            faults.append(TurnFault(index, f"{field}: is in {tag}, which stays, since the row's prompt asks for it"))
        else:
            faults.append(TurnFault(index, f"{field}: is in {tag} ({turn.content[:20]!r})"))
            repaired[index] = replace(turn, content=answer)
    changed = any(new is not old for new, old in zip(repaired, turns, strict=True))
    return faults, tuple(repaired) if changed else turns


def unwrap_answer(content: str) -> tuple[str, str] | None:
    """Return the tag in which the whole of an answer stands, and the answer without it; None without such a tag."""
    text = content.strip()
    mark = _MARK.match(text)
    if mark is None or mark[0].startswith("</") or not _ANSWER_WORDS.search(mark[0]) or not _is_alone(mark[0]):
        return None
    closing = next((each for each in _closings(mark[0]) if text.lower().endswith(each.lower())), None)
    inner = text[mark.end() : len(text) - len(closing or "")]
    lowered = inner.lower()
    if closing is None or not inner.strip() or closing.lower() in lowered or mark[0].lower() in lowered:
        return None
    return mark[0], inner.strip()


def suggest_think_tags(content: str) -> str:
    """Suggest the setting for a reply that begins with a pair of tags that this module does not know; else ''."""
    text = content.strip()
    mark = _MARK.match(text)
    if mark is None or mark[0].startswith("</") or _WEB_TAG.match(text) or unwrap_answer(text):
        return ""
    closing = next((each for each in _closings(mark[0]) if each in text), None)
    if closing is None or not text.partition(closing)[2].strip():
        return ""
    pair = f'["{mark[0]}", "{closing}"]'
    return f" (it begins with {mark[0]} … {closing}; if that is its reasoning, write expert: {{think_tags: {pair}}})"
