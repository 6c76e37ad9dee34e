"""Account for every column that is not used: what is in it, in how many rows, and what it may be."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from thinktune.data.columns.content import ColumnContent, printable, texts_in
from thinktune.data.columns.mapping import PART_OF_COLUMN, ColumnMapping, unused_values
from thinktune.data.columns.message_names import MessageNames, as_messages, is_blank, normalize_key
from thinktune.data.columns.paths import value_at
from thinktune.data.columns.provenance import is_provenance
from thinktune.data.types import RawRow

PART_MEANINGS = {
    "question": "be the question",
    "input": "be the rest of the question",
    "reasoning": "be the reasoning",
    "answer": "be the answer",
    "system": "be a system prompt",
    "history": "be earlier turns",
    "messages": "be a conversation",
    "keypoint": "be the key point of a right answer",
    "mode": "be the row's mode",
    "tools": "be definitions of tools, which cannot be trained yet",
    "label": "say whether the row is good",
}


SHORT_MATERIAL_CHARACTERS = 8  # a question that is answered from so little cannot be answered without it


_ANSWERED_FROM = ("may be material", "may be the options")


# What a column may be by a word in its name, the most telling first.
_MEANINGS_BY_NAME = (
    (r"(?:\b|_)(?:len|length|tokens?|num|count|字数|长度)(?:\b|_)", "be a count"),
    (r"reject|worse", "be a worse reply, which must not be trained"),
    (r"option|choice|选项", "be the options of the question"),
    (
        r"context|passage|document|background|reference|article|\blaws?\b|evidence|knowledge|material|abstract|paragraph"
        r"|材料|背景|资料|法条|法律|段落|参考|文章|知识|原文|病历",
        "be material that belongs before the question",
    ),
    (r"title|topic|subject|标题|主题", "be part of the question, or its topic"),
    (
        r"score|rating|quality|reward|label|correct|passed|verdict|评分|得分|标签|质量|正确",
        "say whether the row is good",
    ),
    (r"lang|语言|语种", "be a language"),
    (r"(?:\b|_)(?:u?u?id|hash|index|idx|no)(?:\b|_)|编号|序号", "be an identifier"),
    (r"source|origin|repo|url|link|license|author|来源|出处|作者", "say where the row comes from"),
    (r"date|time|created|日期|时间", "be a time"),
    (r"category|type|domain|subset|split|level|difficulty|类别|类型|难度|科室|领域", "be a class of rows"),
)


_MEANINGS_BY_KIND = {
    "image": "be images, which are not trained",
    "audio": "be audio, which is not trained",
    "video": "be videos, which are not trained",
    "tools": "be definitions of tools, which cannot be trained yet",
    "tool": "be definitions of tools, which cannot be trained yet",
    "messages": "be a conversation",
    "list of numbers": "be numbers such as token ids",
}


@dataclass(slots=True)
class UnusedColumns:
    """Content of columns, and of keys of messages, that are not used, by column or `column.key`.

    `rows` counts the rows that were added.
    """

    contents: dict[str, ColumnContent] = field(default_factory=dict[str, ColumnContent])
    rows: int = 0

    def add_row(self, row: RawRow, mapping: ColumnMapping) -> None:
        """Count a row's values."""
        self.rows += 1
        columns = row.columns or {}
        used_text: str | None = None
        for name, value in unused_values(columns, mapping):
            if is_blank(value) or value in ("[]", "{}") or is_provenance(name, value):
                continue
            if used_text is None and (isinstance(value, str) or not isinstance(value, int | float)):
                used_text = _used_text(columns, mapping)
            self.contents.setdefault(name, ColumnContent()).add(value, used_text)

    def merge(self, other: "UnusedColumns") -> None:
        """Add the content of other rows of the same file."""
        self.rows += other.rows
        for name, content in other.contents.items():
            self.contents.setdefault(name, ColumnContent()).merge(content)

    def refused(self, mapping: ColumnMapping) -> list[str]:
        """Return the columns that must not be left out untold: prose, and text under a usual column name."""
        return sorted(
            name
            for name, content in self.contents.items()
            if not is_ignored(name, mapping) and not content.is_copy and _must_be_named(name, content)
        )

    def describe(self, name: str) -> str:
        """Describe a column's content: its kind, the share of rows that have one, an example and what it may be."""
        facts = self.facts_of(name)
        size = f" of {facts['characters_per_row']} characters a row" if facts["characters_per_row"] else ""
        may_be = f", {facts['may_be']}" if facts["may_be"] else ""
        return f"{facts['kind']}{size}, in {_percent(facts['filled'])} of the rows, as in {facts['example']}{may_be}"

    def facts_of(self, name: str) -> dict[str, Any]:
        """Return a column's content as plain values."""
        content = self.contents[name]
        return {
            "column": printable(name),
            "kind": content.kind,
            "filled": min(1.0, content.filled / max(1, self.rows)),
            "characters_per_row": content.characters_per_row,
            "example": content.example,
            "may_be": _may_be(name, content),
        }

    def facts(self, mapping: ColumnMapping) -> list[dict[str, Any]]:
        """Return the content of every column that is not used, ignored ones too, in the file's order."""
        return [self.facts_of(name) | {"ignored": is_ignored(name, mapping)} for name in self.contents]


def is_ignored(name: str, mapping: ColumnMapping) -> bool:
    """Return True for a column, or a key of a column's messages, that the recipe leaves out on purpose."""
    return name in mapping.ignored or name.partition(".")[0] in mapping.ignored


def unused_lines(facts: list[dict[str, Any]], limit: int = 12) -> list[str]:
    """Describe in a line each the columns that are not used and, of the ignored ones, those that rows may need."""
    shown = [one for one in facts if not one["ignored"] or "not trained" in one["may_be"] or "tools" in one["may_be"]]
    lines: list[str] = []
    for one in shown[:limit]:
        word = "ignored" if one["ignored"] else "not used"
        may_be = f"; {one['may_be']}" if one["may_be"] else ""
        if one["ignored"] and "tools" in one["may_be"]:
            may_be += "; a reply that mentions them learns to mention what its prompt lacks"
        filled = _percent(one["filled"])
        lines.append(
            f"  {word}: {one['column']} ({one['kind']}, in {filled} of the rows, as in {one['example']}){may_be}"
        )
    more = len(shown) - limit
    return lines + ([f"  not used: {more} more columns; check --json lists them"] if more > 0 else [])


def _used_text(columns: dict[str, Any], mapping: ColumnMapping) -> str:
    """Join the texts of a row that are used, of its messages only those under keys that are read."""
    texts: list[str] = []
    for name in filter(None, mapping.used_columns):
        value = value_at(columns, name)
        messages = as_messages(value) if name in mapping.message_columns else None
        if isinstance(messages, list):
            for message in messages:
                texts += _read_texts(message, mapping.message_names)
        else:
            texts += texts_in(value)
    return "\n".join(texts)


def _read_texts(message: Any, names: MessageNames) -> Iterator[str]:
    """Yield the texts of a message under the keys that are read."""
    unused = set(names.unused_keys(message)) if isinstance(message, dict) else set()
    for key, part in message.items() if isinstance(message, dict) else (("", message),):
        if key not in unused:
            yield from texts_in(part)


def _must_be_named(name: str, content: ColumnContent) -> bool:
    if content.is_prose:
        return True
    if content.characters_per_row >= SHORT_MATERIAL_CHARACTERS and _may_be(name, content).startswith(_ANSWERED_FROM):
        return True
    has_text = content.text_rows or any(kind not in ("number", "true or false") for kind in content.kinds)
    return normalize_key(name) in PART_OF_COLUMN and bool(has_text)


def _may_be(name: str, content: ColumnContent) -> str:
    """Say what a column may be, by its content and its name."""
    if content.is_copy:
        return "a copy of text that is used"
    key = normalize_key(name.rpartition(".")[2])
    kind = next((kind for kind in content.kinds if kind in _MEANINGS_BY_KIND), None)
    if kind is not None:
        return f"may {_MEANINGS_BY_KIND[kind]}"
    if part := PART_OF_COLUMN.get(key):
        return f"may {PART_MEANINGS[part]}"
    meaning = next((meaning for pattern, meaning in _MEANINGS_BY_NAME if re.search(pattern, key)), "")
    if meaning.startswith(("be material", "be part")) and not content.text_rows:
        return ""
    if meaning.startswith("say whether") and content.distinct >= {"True", "False"} and "." not in name:
        return f"may {meaning}; data.columns.label: {printable(name)} leaves out the rows that it calls false"
    if content.is_prose and not meaning.startswith(("be material", "be part", "be the options", "be a worse")):
        return "may be text that is meant to be trained"
    return f"may {meaning}" if meaning else ""


def _percent(share: float) -> str:
    """Write a share as a percentage that is 0 or 100 only where it is none or all."""
    if 0 < share < 0.01:
        return "under 1 %"
    return "over 99 %" if 0.99 < share < 1 else f"{round(share * 100)} %"
