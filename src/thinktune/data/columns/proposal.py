"""Propose what a file's columns mean from their names and from what is in them, where usual names do not tell."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from thinktune.data.columns.content import decode_text, kind_of
from thinktune.data.columns.messages import is_blank, normalize_key

MAX_CANDIDATES = 12  # columns that are weighed against each other


MAX_PROPOSALS = 4


MAX_WEIGHED_CHARACTERS = 4000  # of a text


SURE_NAME_SCORE = 4  # of a name that is hardly ever given to anything else


MIN_THINKING_SHARE = 0.3  # of texts that speak as reasoning does, where the name does not say that they are


PROPOSED_PARTS = ("question", "reasoning", "answer")


# Words in names, and what a column with such a name is; a name may have several of them.
_NAME_WORDS: dict[str, tuple[tuple[str, float], ...]] = {
    "question": (
        (r"question|query|prompt|problem|instruction|提问|问题|题目|题干|指令|wen_?ti|ti_?mu|frage|^ask$|_ask$", 4),
        (r"input|user|human|patient|request|task|src|context|患者|病人|用户|输入|咨询|案情|^问$|^q$", 2.5),
        (r"title|标题", 1.5),
        (r"system|meta|_id$|^id$", -4),
    ),
    "reasoning": (
        (r"reason|think|thought|\bcot\b|_cot|cot_|chain|rationale|trajectory|思考|推理|思维|思路", 5),
        (r"analysis|analyse|explanation|explain|justif|deliberat|steps|monolog|分析|解析|解题过程|推导|si_?kao", 3),
    ),
    "answer": (
        (r"answer|response|output|reply|completion|chosen|答案|回答|回复|输出|答复|hui_?da|da_?an|antwort", 4),
        (r"solution|target|final|assistant|attempt|content|result|label|doctor|conclusion|医生|结论|^答$|^a$", 2.5),
        (r"reject|worse|wrong|incorrect|错误", -6),
        (r"score|count|_len|length|metric|评分", -4),
    ),
}  # fmt: skip


_NAME_PATTERNS = {
    part: [(re.compile(pattern), weight) for pattern, weight in words] for part, words in _NAME_WORDS.items()
}


_ASKS = re.compile(
    r"[?？]\s*\Z|\A\s*(?:what|which|how|why|who|when|where|explain|write|please|请|如何|为什么|什么|怎)", re.IGNORECASE
)


_THINKS = re.compile(
    r"\b(?:let me|let's|wait|hmm|first,|i need to|i should|the (?:user|question|problem) (?:asks|is|wants))"
    r"|让我|首先|我需要|用户(?:问|想|需要)|题目(?:问|要求)|问的是|接下来|嗯|所以答案|我们(?:需要|来)",
    re.IGNORECASE,
)


_NUMBER = re.compile(r"\s*[-+]?[\d.,]*(?:[eE][-+]?\d+)?\s*")


_TAGGED = re.compile(
    r"</think>|</?(?:thought|reasoning|thinking)>|<\|(?:begin|end)_of_thought\|>|## ?Thinking", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class _ColumnTexts:
    """Texts of a column, and how they look: shares of the texts, and the mean characters of one."""

    name: str
    texts: tuple[str, ...]
    filled: float
    distinct: float
    asks: float
    thinks: float
    tagged: float
    characters: float


def propose_columns(values: Mapping[str, Sequence[Any]], given: Mapping[str, Any]) -> list[dict[str, str]]:
    """Propose mappings of question, reasoning and answer to columns, the most likely first; none where nothing fits.

    `values` are sample values by column; `given` are parts that the recipe, or usual names, settle.
    """
    rows = max((len(sample) for sample in values.values()), default=0)
    columns = [_describe(name, sample, rows) for name, sample in values.items() if _is_text_column(sample)]
    columns = sorted(columns, key=lambda column: -column.filled)[:MAX_CANDIDATES]
    taken = {name for name in given.values() if isinstance(name, str)}
    choices: dict[str, list[_ColumnTexts | None]] = {}
    for part in PROPOSED_PARTS:
        fixed = [column for column in columns if column.name == given.get(part)]
        free = [column for column in columns if column.name not in taken and not _is_other(part, column)]
        choices[part] = [*fixed] if fixed else [None] if part in given else [*free]
        if part == "reasoning" and not fixed:
            choices[part].append(None)
    scored: list[tuple[float, dict[str, str]]] = []
    order = {name: place for place, name in enumerate(values)}
    for found in product(*(choices[part] for part in PROPOSED_PARTS)):
        names = [column.name for column in found if column is not None]
        if len(set(names)) < len(names) or (found[0] is None and "question" not in given):
            continue
        score = _score(dict(zip(PROPOSED_PARTS, found, strict=True)), order)
        mapping = {part: column.name for part, column in zip(PROPOSED_PARTS, found, strict=True) if column is not None}
        scored.append((score, {**mapping, **{part: given[part] for part in given if part in PROPOSED_PARTS}}))
    scored.sort(key=lambda one: -one[0])
    best = scored[0][0] if scored else 0
    likely = [mapping for score, mapping in scored if score > best - 3]
    return [{part: mapping[part] for part in PROPOSED_PARTS if part in mapping} for mapping in likely[:MAX_PROPOSALS]]


def _is_other(part: str, column: _ColumnTexts) -> bool:
    """Return True for a column that is surely another part, such as reasoning, which is no answer; no number asks."""
    name = column.name
    if part == "question" and all(map(_NUMBER.fullmatch, column.texts)):
        return True
    others = (name_score(other, name) for other in PROPOSED_PARTS if other != part)
    return part != "reasoning" and name_score(part, name) <= 0 and max(others) >= SURE_NAME_SCORE


def name_score(part: str, name: str) -> float:
    """Weigh a column's name for a part; above 0 where it speaks for it."""
    key = normalize_key(name)
    return sum(weight for pattern, weight in _NAME_PATTERNS[part] if pattern.search(key))


def _is_text_column(sample: Sequence[Any]) -> bool:
    filled = [value for value in sample if not is_blank(value)][:20]
    kinds = {kind_of(value) for value in filled}
    return bool(kinds & {"text", "word", "text as bytes", "number", "list of texts"}) and not kinds & {
        "messages",
        "tools",
    }


def _describe(name: str, sample: Sequence[Any], rows: int) -> _ColumnTexts:
    filled = [value for value in sample if not is_blank(value)]
    texts = tuple(_as_text(value)[:MAX_WEIGHED_CHARACTERS] for value in filled[:50])
    count = max(1, len(texts))
    return _ColumnTexts(
        name,
        texts,
        len(filled) / max(1, rows),
        len(set(texts)) / count,
        sum(bool(_ASKS.search(text[:40]) or _ASKS.search(text[-3:])) for text in texts) / count,
        sum(bool(_THINKS.search(text)) for text in texts) / count,
        sum(bool(_TAGGED.search(text)) for text in texts) / count,
        sum(map(len, texts)) / count,
    )


def _as_text(value: Any) -> str:
    if isinstance(value, bytes):
        return decode_text(value) or ""
    if isinstance(value, list):
        return "\n".join(part for part in value if isinstance(part, str))
    return str(value)


def _score(found: Mapping[str, _ColumnTexts | None], order: Mapping[str, int]) -> float:
    """Weigh a whole mapping: names, looks, lengths against each other, and the columns' order in the file."""
    question, reasoning, answer = (found[part] for part in PROPOSED_PARTS)
    score = sum(name_score(part, column.name) + 2 * column.filled for part, column in found.items() if column)
    if question is not None:
        score += 2 * question.asks + 2 * question.distinct - 2 * question.thinks - 6 * question.tagged
        score -= 4 if question.characters < 2 else 0
    if answer is not None:
        score += 6 * answer.tagged - 2 * answer.asks + answer.distinct
    if reasoning is None:
        score += 1 + (3 * answer.tagged if answer is not None else 0)  # nothing speaks for one
    else:
        score += 3 * reasoning.thinks - 4 * reasoning.tagged * bool(answer and answer.tagged) - 2 * reasoning.asks
        score -= 3 if reasoning.characters < 12 else 0
        if name_score("reasoning", reasoning.name) <= 0 and reasoning.thinks < MIN_THINKING_SHARE:
            score -= 6  # any other text would be learned as the reasoning
        if answer is not None:
            score += 1.5 if reasoning.characters > answer.characters else -1.5
            score += 2 * _shared_beginning(reasoning.name, answer.name)
    places = [order[column.name] for column in found.values() if column is not None]
    return score + (1 if places == sorted(places) else 0)


def _shared_beginning(first: str, second: str) -> bool:
    """Return True for columns of one source among several, as in deepseek_thinking and deepseek_attempt."""
    head = re.split(r"[_\- .]", normalize_key(first), maxsplit=1)[0]
    return head != normalize_key(first) and head == re.split(r"[_\- .]", normalize_key(second), maxsplit=1)[0]
