"""Page of doubts: the most suspicious rows side by side with their repair, to accept or refuse one by one."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from thinktune.data.doubts import DoubtfulRow, Doubts
from thinktune.data.faults.decisions import decisions_file, format_decisions
from thinktune.files import write_json
from thinktune.report.html import BilingualText, write_page
from thinktune.report.run_sections.data_words import fault_meaning, fault_name

PAGE, FACTS = "doubts.html", "doubts.json"
CONTEXT_CHARACTERS = 240  # shown around what a repair changes; the rest of a long text is folded
MAX_SHOWN_CHARACTERS = 1200
POLICY_NAMES = {
    "drop": BilingualText("leave the row out", "丢弃这一行"),
    "keep": BilingualText("train it as it is", "原样训练"),
    "repair": BilingualText("repair it", "修复后训练"),
    "silent": BilingualText("train it without thinking", "按不思考模式训练"),
    "trim-reasoning": BilingualText("shorten its reasoning", "缩短思考"),
}
ROLE_NAMES = {
    "system": BilingualText("system prompt", "系统提示词"),
    "user": BilingualText("question", "问题"),
    "assistant": BilingualText("reply", "回复"),
}


def write_doubts(doubts: Doubts, folder: Path) -> list[str]:
    """Write the page and its facts as JSON into a folder; return a line about each, and about what to do next.

    The page needs no server: it gives the file of decisions as a download and as text to copy.
    """
    page = folder / PAGE
    write_json(folder / FACTS, doubts.as_dict())
    write_page(
        page,
        "doubts.html.jinja",
        scripts=("page.js", "doubts.js"),
        title="thinktune",
        cards=[_card(row) for row in doubts.rows],
        counts=doubts.counts,
        shown=len(doubts.rows),
        total=sum(doubts.counts.values()),
        files=[_file(doubts, index) for index in range(len(doubts.files))],
        policy_names=POLICY_NAMES,
    )
    if not doubts.rows:
        return [f"{page}: every doubtful row is already decided"]
    return [
        f"{page}: {len(doubts.rows):,} of {sum(doubts.counts.values()):,} doubtful rows, each beside its repair; "
        f"decide there, and save {decisions_file(doubts.files[0].path).name} beside the rows",
        f"{folder / FACTS}: the same for programs",
    ]


def _file(doubts: Doubts, index: int) -> dict[str, Any]:
    """Return what the page needs to write a file of decisions: its place, and the decisions before."""
    file = doubts.files[index]
    target = decisions_file(file.path)
    kept = format_decisions(doubts.decisions[file.display_name], file.path, file.display_name)
    return {
        "name": target.name,
        "folder": target.parent.as_posix(),
        "rows": file.display_name,
        "row_prefix": file.path.name,
        "decisions": json.dumps(kept, ensure_ascii=False),
        "decided": len(kept["decisions"]),
        "cards": sum(row.file == file.display_name for row in doubts.rows),
    }


def _card(row: DoubtfulRow) -> dict[str, Any]:
    repaired = next((row.outcomes[policy] for policy in ("repair", row.policy) if row.outcomes.get(policy)), None)
    changed = repaired if repaired is not None and repaired != row.turns else None
    before = [_shown_turn(turn, _same_turn(changed, index)) for index, turn in enumerate(row.turns)]
    after = [_shown_turn(turn, _same_turn(row.turns, index)) for index, turn in enumerate(changed or ())]
    return {
        "row": row,
        "fault": fault_name(row.fault),
        "meaning": fault_meaning(row.fault, row.meaning),
        "key": f"{row.row} {row.fault}",
        "place": row.row.removeprefix(row.file),
        "before": before,
        "after": after,
        "choices": [
            {
                "policy": policy,
                "name": POLICY_NAMES[policy],
                "leaves_out": outcome is None,
                "proposed": policy == row.policy,
            }
            for policy, outcome in row.outcomes.items()
            if policy != "repair" or outcome is not None
        ],
    }


def _same_turn(turns: Sequence[Mapping[str, str]] | None, index: int) -> Mapping[str, str]:
    return turns[index] if turns is not None and index < len(turns) else {}


def _shown_turn(turn: Mapping[str, str], other: Mapping[str, str]) -> dict[str, Any]:
    """Return a turn's texts as HTML; where the other side has the turn too, what differs is marked."""
    role = turn["role"]
    texts = {
        name: _mark_change(turn[name], other.get(name, turn[name] if not other else ""))
        for name in ("reasoning", "content")
        if name in turn
    }
    return {"role": ROLE_NAMES[role], "texts": texts, "history": role == "assistant" and turn.get("trained") == "no"}


def _mark_change(text: str, other: str) -> Markup:
    """Return a text as HTML, the part that differs from the other marked, and long equal parts cut."""
    start = _common_length(text, other)
    end = _common_length(text[start:][::-1], other[start:][::-1]) if text != other else 0
    stop = len(text) - end
    if text == other:
        if len(text) <= MAX_SHOWN_CHARACTERS:
            return escape(text)
        half = MAX_SHOWN_CHARACTERS // 2
        return escape(f"{text[:half]} […] {text[-half:]}")
    before, after = text[:start], text[stop:]
    before = before if len(before) <= CONTEXT_CHARACTERS else f"[…] {before[-CONTEXT_CHARACTERS:]}"
    after = after if len(after) <= CONTEXT_CHARACTERS else f"{after[:CONTEXT_CHARACTERS]} […]"
    changed = show_invisible(text[start:stop])
    middle = Markup("<mark>{}</mark>").format(changed) if changed else Markup("")
    return escape(before) + middle + escape(after)


def show_invisible(text: str) -> str:
    """Spell characters that nobody can see by their code, so that a change of them shows."""
    return "".join(letter if letter.isprintable() or letter == "\n" else f"\\u{ord(letter):04x}" for letter in text)


def _common_length(one: str, other: str) -> int:
    """Return the length of the common beginning of two texts."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
