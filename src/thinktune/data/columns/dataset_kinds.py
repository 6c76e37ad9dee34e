"""Kinds of data sets that are not made for fine-tuning, each by its name and with the way to use it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from thinktune.config.schema import ColumnsConfig
from thinktune.data.columns.content import kind_of, texts_in
from thinktune.data.columns.detection import find_mapping
from thinktune.data.columns.mapping import ColumnMapping
from thinktune.data.columns.message_names import MESSAGE_KEYS, ROLE_ALIASES, holds_messages, is_blank, normalize_key
from thinktune.data.columns.proposal import name_score
from thinktune.data.columns.recipe_change import RecipeChange
from thinktune.data.types import RawRow

# Words for the better and the worse of two replies.
_PAIR_WORDS = (
    ("chosen", "rejected"), ("chosen", "reject"), ("accepted", "rejected"), ("preferred", "rejected"),
    ("preferred", "dispreferred"), ("better", "worse"), ("winner", "loser"), ("win", "lose"), ("good", "bad"),
    ("positive", "negative"), ("优选", "劣选"), ("接受", "拒绝"), ("采纳", "拒绝"),
)  # fmt: skip


_TOKEN_COLUMNS = ("input_ids", "token_ids", "tokens", "labels", "prompt_ids", "completion_ids")


_REWARD_COLUMNS = (
    "reward_model",
    "ground_truth",
    "verification_info",
    "reward",
    "rewards",
    "verifier",
    "test_cases",
    "gold",
)


# Marks that chat templates write, and older prompts.
TEMPLATE_MARKS = re.compile(
    r"<\|im_start\|>|<\|start_header_id\|>|\[INST\]|<start_of_turn>|<\|(?:user|assistant|system|User|Assistant)\|>"
    r"|<｜(?:User|Assistant)｜>|<\|start\|>|<\|turn>|### ?(?:Instruction|Response|Human|Assistant|指令|回答) ?[:：]"
    r"|(?:\A|\n) ?(?:Human|User|Q) ?: (?=[^\n]{1,2000}\n{1,3} ?(?:Assistant|A|AI) ?:)"
)


_MARKED_CHARACTERS = 20_000  # of a text that is searched for marks


@dataclass(frozen=True, slots=True)
class DatasetKind:
    """A kind of data set: its name, what its columns are, and changes of the recipe that use it, if there are any.

    `use` says what the changes are for, and `otherwise` what to do where none works.
    """

    name: str
    sentence: str
    changes: tuple[RecipeChange, ...] = ()
    otherwise: str = ""
    use: str = ""


def find_pairs(values: Mapping[str, Sequence[Any]]) -> list[tuple[str, str]]:
    """Return pairs of columns that hold a better and a worse reply to one prompt."""
    by_key = {normalize_key(name): name for name in values}
    pairs: list[tuple[str, str]] = []
    for key, name in by_key.items():
        for better, worse in _PAIR_WORDS:
            mate = by_key.get(key.replace(better, worse)) if better in key else None
            if mate is not None and mate != name and all(_holds_replies(values[one]) for one in (name, mate)):
                pairs.append((name, mate))
    return pairs


def trains_pair_by_accident(values: Mapping[str, Sequence[Any]], mapping: ColumnMapping) -> bool:
    """Return True where a mapping trains something else than the better reply of pairs, unless both are ignored."""
    return any(
        better not in mapping.used_columns
        and not {better, worse} & {*mapping.ignored}
        and worse not in mapping.used_columns
        for better, worse in find_pairs(values)
    )


def recognize_dataset(values: Mapping[str, list[Any]], given: Mapping[str, Any]) -> DatasetKind | None:
    """Recognize sets of preferences, of prompts for RL, of tokens, and of texts without a question; None for others."""
    if pairs := find_pairs(values):
        return _preference(values, given, pairs[0])
    tokens = [
        name for name in values if normalize_key(name) in _TOKEN_COLUMNS and _is_kind(values[name], "list of numbers")
    ]
    texts = [name for name, sample in values.items() if _holds_replies(sample)]
    if tokens and not texts:
        sentence = f"holds token ids ({', '.join(tokens)}): it is already tokenized"
        return DatasetKind("tokenized", sentence, (), "name the file with the original texts")
    rewards = [name for name in values if normalize_key(name) in _REWARD_COLUMNS]
    prompts = [name for name in texts if _ends_on_prompt(name, values[name])]
    answers = [name for name in values if name not in (*rewards, *prompts) and name_score("answer", name) > 0]
    if prompts and not answers and len(texts) == len(prompts) + sum(name in rewards for name in texts):
        also = f" and something to check replies with ({', '.join(rewards)})" if rewards else ""
        sentence = f"holds prompts ({', '.join(prompts)}){also}, as for reinforcement learning, and no replies"
        return DatasetKind("prompts", sentence, (), "training needs a reply in every row; name a file that has them")
    if len(texts) == 1 and not answers and not hold_messages(values[texts[0]]):
        return _one_text(texts[0], values[texts[0]])
    return None


# A mark of a section at the start of a reply, as in <Thought>, <|begin_of_thought|>, [REASONING] or ## Thinking.
_SECTION = re.compile(r"\s*(?!<think>)(<\|?[A-Za-z_:]{2,30}\|?>|\[[A-Z_]{3,20}\]|#{1,4} ?[A-Z][A-Za-z ]{2,20}(?=\n))")


def recognize_replies(sample: Sequence[Any]) -> DatasetKind | None:
    """Recognize replies that are rendered already, or that begin with a mark of a section; `sample` is their column."""
    texts = [text for value in sample for text in _reply_texts(value)]
    if mark := _rendered_mark(texts):
        sentence = f"holds replies that already contain the marks of a chat template or a prompt ({mark!r})"
        return DatasetKind("rendered", sentence, (), "name the original rows, or remove the marks")
    begun = [found[1] for text in texts if (found := _SECTION.match(text))]
    if texts and begun and begun.count(begun[0]) * 5 >= len(texts) * 4:
        sentence = f"holds replies that begin with {begun[0]!r}, which may mark the reasoning"
        return DatasetKind("marked", sentence, (), "put the reasoning into <think> and </think>, or into a column")
    return None


def _reply_texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for part in value:
            if _role_of(part) == "assistant":
                yield from _contents(part)
    elif isinstance(value, dict):
        yield from _contents(value)


def _contents(message: dict[str, Any]) -> Iterator[str]:
    for key, text in message.items():
        if isinstance(text, str) and MESSAGE_KEYS.get(normalize_key(key)) in ("content", "assistant"):
            yield text


def _rendered_mark(sample: Sequence[Any]) -> str | None:
    """Return a mark that more than half of the texts have, as a chat template writes it."""
    texts = [value for value in sample if isinstance(value, str) and not is_blank(value)]
    marked = [found[0].strip() for text in texts if (found := TEMPLATE_MARKS.search(text[:_MARKED_CHARACTERS]))]
    return marked[0][:20] if len(marked) * 2 > len(texts) else None


def _one_text(name: str, sample: Sequence[Any]) -> DatasetKind | None:
    """Recognize rows of one text: rendered conversations, or plain text as for pretraining."""
    if mark := _rendered_mark(sample):
        sentence = f"holds one text a row ({name}), already rendered with a chat template or a prompt ({mark!r})"
        way = "name the original rows, or split each text into a question and an answer"
        return DatasetKind("rendered", sentence, (), way)
    if normalize_key(name) in ("text", "content", "raw_content", "document", "body", "正文", "文本", "内容"):
        sentence = f"holds plain text ({name}) without questions and answers, as for pretraining"
        return DatasetKind("plain text", sentence, (), "training needs a question and an answer in every row")
    return None


def _preference(values: Mapping[str, list[Any]], given: Mapping[str, Any], pair: tuple[str, str]) -> DatasetKind:
    better, worse = pair
    sentence = f"holds pairs of a better and a worse reply ({better}, {worse})"
    others = {name: sample for name, sample in values.items() if name not in pair}
    changes = [RecipeChange(columns, (worse,)) for columns in _pair_columns(others, better, values[better])]
    otherwise = f"to train on the better ones, make rows of a question and {better} as its answer"
    if rendered := _rendered_mark(values[better]):
        otherwise = f"each is a whole conversation in one text ({rendered!r}): split {better} into a list of messages"
        changes = []
    return DatasetKind("preference", sentence, tuple(changes), otherwise, "to train on the better ones, ")


def _pair_columns(others: Mapping[str, list[Any]], better: str, sample: list[Any]) -> Iterator[dict[str, str]]:
    """Yield mappings that train the better reply: a conversation by itself, or after the prompt beside it."""
    if _starts_with_prompt(sample):
        yield {"messages": better}
    for name, column in others.items():
        if hold_messages(column):
            yield {"question": name, "answer": better}
    columns = {**others, better: sample}
    rows = [RawRow("", dict(zip(columns, values, strict=True))) for values in zip_longest(*columns.values())]
    found = find_mapping(rows, ColumnsConfig(answer=better), ())
    if isinstance(found, ColumnMapping) and isinstance(found.question, str):
        yield {"question": found.question, "answer": better}
    texts = [name for name, column in others.items() if _is_kind(column, "text")]
    yield from ({"question": name, "answer": better} for name in texts)


def _starts_with_prompt(sample: Sequence[Any]) -> bool:
    """Return True for conversations that begin with a user's or a system's message."""
    first = next((value[0] for value in sample if isinstance(value, list) and value), None)
    return _role_of(first) in ("user", "system")


def _ends_on_prompt(name: str, sample: Sequence[Any]) -> bool:
    """Return True for a column of prompts: conversations that end with the user, or texts under a prompt's name."""
    lasts = [value[-1] for value in sample if isinstance(value, list) and value]
    if lasts:
        return all(_role_of(last) in ("user", "system") for last in lasts)
    return normalize_key(name) in (
        "prompt",
        "prompts",
        "question",
        "query",
        "problem",
        "instruction",
        "input",
        "提示词",
        "问题",
    )


def _role_of(message: Any) -> str | None:
    if not isinstance(message, dict):
        return None
    role = next((message[key] for key in message if MESSAGE_KEYS.get(normalize_key(str(key))) == "role"), None)
    return ROLE_ALIASES.get(role.strip().lower()) if isinstance(role, str) else None


def hold_messages(values: Sequence[Any]) -> bool:
    """Return True where a column's values are lists of messages, or single messages."""
    return any(map(holds_messages, values))


def _holds_replies(sample: Sequence[Any]) -> bool:
    """Return True for texts, messages or lists of messages."""
    filled = [value for value in sample if not is_blank(value)]
    return hold_messages(filled) or any(isinstance(value, str | bytes) and any(texts_in(value)) for value in filled)


def _is_kind(sample: Sequence[Any], kind: str) -> bool:
    filled = [value for value in sample if not is_blank(value)]
    return bool(filled) and sum(kind_of(value) == kind for value in filled) * 2 > len(filled)
