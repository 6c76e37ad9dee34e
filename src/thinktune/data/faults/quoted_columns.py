"""Find reasoning that quotes a column which the prompt lacks: what its writer saw, and the model will not."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from thinktune.data.columns.mapping import ColumnMapping, unused_values
from thinktune.data.faults.checks import CheckedExample
from thinktune.data.types import ACTION_OF_POLICY, Finding
from thinktune.tokenization import Example

MIN_QUOTED_SHARE = 0.2  # of the reasoning's probes that stand in the column; chance and names give a few


MAX_QUOTED_SHARE = 0.9  # from which the column is a copy of the whole reply, such as a rendered text


MIN_COLUMN_CHARACTERS = 20  # a shorter text is a label


MAX_PROBES = 64  # evenly spaced over the reasoning, so that a row takes linear time


_MIN_PROBES_FOUND = 3


_WIDE, _NARROW = 10, 24  # characters of a probe, in Chinese and in Latin script: no phrase of common speech


def unused_texts(columns: Mapping[str, Any], mapping: ColumnMapping) -> dict[str, str]:
    """Return the texts of what is not read of a row, those of lists and objects joined."""
    texts = {name: "\n".join(_texts(value)) for name, value in unused_values(columns, mapping)}
    return {name: text for name, text in texts.items() if len(text) >= MIN_COLUMN_CHARACTERS}


def with_unused_columns(
    checked: CheckedExample, columns: Mapping[str, Any], mapping: ColumnMapping, policies: Mapping[str, str]
) -> CheckedExample:
    """Name the columns that a row's reasoning may have been written from, though they are not used."""
    texts = unused_texts(columns, mapping)
    if not texts:
        return checked
    findings = tuple(_named(finding, texts) for finding in checked.findings)
    quoted = find_quoted_column(checked.example, texts) if checked.example else None
    if quoted is None:
        return replace(checked, findings=findings)
    quoted = replace(quoted, action=ACTION_OF_POLICY[policies[quoted.fault]])
    return CheckedExample(checked.example if quoted.action == "kept" else None, (*findings, quoted))


def find_quoted_column(example: Example, columns: Mapping[str, str]) -> Finding | None:
    """Find the column that a reply's reasoning quotes most; what the row itself holds elsewhere is no quotation."""
    last = max(index for index, turn in enumerate(example.turns) if turn.role == "assistant")
    reasoning = example.turns[last].reasoning
    shares = {name: share for name, text in columns.items() if (share := _share(reasoning, text, example, last))}
    if not shares:
        return None
    name = max(shares, key=shares.__getitem__)
    what = f"{name}: {shares[name]:.0%} of the reasoning quotes this column, which is not used"
    return Finding(
        "quoted_column",
        f"{example.source}: {what}; put it into the question, or the model will not see what the reasoning quotes",
    )


def _named(finding: Finding, columns: Mapping[str, str]) -> Finding:
    """Add to a sentence about handed context the unused columns that may be what it means."""
    if finding.fault != "handed_context":
        return finding
    names = " or ".join(sorted(columns, key=lambda name: -len(columns[name]))[:2])
    return replace(finding, sentence=f"{finding.sentence}; column {names}, which is not used, may be what is meant")


def _share(reasoning: str, column: str, example: Example, last: int) -> float:
    size = _NARROW if reasoning.isascii() else _WIDE
    if len(reasoning) < _MIN_PROBES_FOUND * size or column in reasoning[: len(column)]:
        return 0.0
    step = max(size, len(reasoning) // MAX_PROBES)
    probes = [reasoning[start : start + size] for start in range(0, len(reasoning) - size + 1, step)]
    found = [probe for probe in probes if probe in column]
    if len(found) < _MIN_PROBES_FOUND:
        return 0.0
    own = "\n".join((*(turn.content for turn in example.turns[:last]), example.turns[last].content))
    share = sum(probe not in own for probe in found) / len(probes)
    return share if share >= MIN_QUOTED_SHARE and len(found) < MAX_QUOTED_SHARE * len(probes) else 0.0


def _texts(value: Any, depth: int = 0) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict) and depth < 3:
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner, depth + 1)
