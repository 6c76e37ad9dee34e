"""Role marks: conversations inside one text, and labels of the speaker before a reply."""

import re
from dataclasses import replace

from thinktune.data.faults.turn_faults import CheckResult, FieldNames, TurnFault, Turns
from thinktune.tokenization import Turn

_USERS = (
    *("user", "human", "customer", "client", "patient", "student", "questioner", "usr"),
    *("用户", "人类", "病人", "患者", "来访者", "求助者", "客户", "顾客"),
    *("咨询者", "学生", "提问者", "家属", "当事人"),
)


_ASSISTANTS = (
    *("assistant", "bot", "ai", "gpt", "chatgpt", "chatbot", "model", "doctor", "agent", "counselor", "therapist"),
    *("teacher", "lawyer", "助手", "助理", "机器人", "医生", "大夫", "客服"),
    *("咨询师", "心理咨询师", "老师", "律师", "回答者", "顾问"),
)


_ROLES = {**dict.fromkeys(_USERS, "user"), **dict.fromkeys(_ASSISTANTS, "assistant"), "问": "user", "答": "assistant"}


_NAMES = "|".join(sorted(map(re.escape, _ROLES), key=len, reverse=True))


# `<user>:` and `[|Human|]` may stand anywhere, a bare name with its colon after white space or a full stop.
_MARK = re.compile(
    rf"(?:<\|?/?({_NAMES})\|?>|\[\|?({_NAMES})\|?\])\s?[:：]?"
    rf"|(?:^|(?<=\s)|(?<=[。！？；]))(?:#{{1,4}} ?|\*\*)?({_NAMES})(?:\*\*)?\s?[:：](?:\*\*)?",
    re.IGNORECASE,
)


_REPLY_LABEL = re.compile(
    r"\A\s*(?:<\|?(?:assistant|bot|gpt)\|?>\s?[:：]?|(?:#{1,4} ?|\*\*)?"
    r"(?:assistant|bot|ai|chatgpt|助手|助理|机器人|客服|医生)(?:\*\*)?\s?[:：](?:\*\*)?)\s*",
    re.IGNORECASE,
)


_RUNS_ON = re.compile(
    rf"\n[^\S\n]*+(?:<\|?(?:{'|'.join(_USERS)})\|?>|(?:#{{1,4}} ?|\*\*)?(?:{'|'.join(_USERS)})(?:\*\*)?\s?[:：])",
    re.IGNORECASE,
)


MIN_MARKS = 2


def find_role_marks(turns: Turns, field_names: FieldNames) -> CheckResult:
    """Find conversations inside a question and speakers' labels before a reply.

    Repaired, the conversation becomes turns, of which only the row's own reply is trained, and a label is removed; what
    may be meant stays: a text that holds a conversation without beginning with one, and a reply that writes one.
    """
    faults, repaired = list[TurnFault](), list[Turn]()
    for index, (turn, (field, _)) in enumerate(zip(turns, field_names, strict=False)):
        mended = [turn]
        if turn.role == "user" and (marks := _speakers(turn.content)):
            split = _split(turn.content, marks)
            way = f"; data.faults: {{role_mark: repair}} splits it into {len(split)} turns" if split else ""
            if split and len(split) == 1:
                way = "; data.faults: {role_mark: repair} removes the marks"
            if split or _goes_on(turn.content, marks):
                shown = " … ".join(mark[0].strip() for mark in marks[:3])
                faults.append(TurnFault(index, f"{field}: holds a conversation ({shown}){way}"))
                mended = split or mended
        elif turn.role == "assistant":
            mended = _check_reply(turn, index, field, faults)
        repaired += mended
    return faults, tuple(repaired) if tuple(repaired) != turns else turns


def _check_reply(turn: Turn, index: int, field: str, faults: list[TurnFault]) -> list[Turn]:
    if label := _REPLY_LABEL.match(turn.content):
        way = "; data.faults: {role_mark: repair} removes it"
        faults.append(TurnFault(index, f"{field}: begins with the label {label[0].strip()!r}{way}"))
        rest = turn.content[label.end() :]
        return [replace(turn, content=rest)] if rest else [turn]
    if turn.trained and (label := _RUNS_ON.search(turn.content)):
        faults.append(TurnFault(index, f"{field}: continues with the user's turn ({label[0].strip()!r})"))
    return [turn]


def _speakers(text: str) -> list[re.Match[str]]:
    """List the role marks of a text that has marks of both sides, else nothing."""
    if not any(mark in text for mark in (":", "：", ">", "]")):
        return []
    marks = list(_MARK.finditer(text))
    sides = {_role(mark) for mark in marks}
    return marks if len(marks) >= MIN_MARKS and len(sides) == 2 else []


def _role(mark: re.Match[str]) -> str:
    return _ROLES[(mark[1] or mark[2] or mark[3]).lower()]


def _split(text: str, marks: list[re.Match[str]]) -> list[Turn]:
    """Split a text that is a conversation from beginning to end and asks for the next reply; else return nothing."""
    if not marks or text[: marks[0].start()].strip():
        return []
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    pieces = [(_role(mark), text[mark.end() : end].strip()) for mark, end in zip(marks, ends, strict=True)]
    if pieces[-1] == ("assistant", ""):
        pieces.pop()
    roles = [role for role, _ in pieces]
    alternating = roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
    if not alternating or not all(content for _, content in pieces):
        return []
    return [
        Turn("user", content) if role == "user" else Turn("assistant", content, trained=False)
        for role, content in pieces
    ]


def _goes_on(text: str, marks: list[re.Match[str]]) -> bool:
    """Return True for a conversation after other words whose next turn is the reply that the row asks for."""
    return len(marks) > MIN_MARKS and (_role(marks[-1]) == "user" or not text[marks[-1].end() :].strip())


def names_after_repair(turns: Turns, field_names: FieldNames) -> FieldNames:
    """Return the names of fields for what the repair of these turns makes: each part of a text has its text's names."""
    names = list[tuple[str, str]]()
    for turn, fields in zip(turns, field_names, strict=False):
        parts = _split(turn.content, _speakers(turn.content)) if turn.role == "user" else []
        names += [fields] * (len(parts) or 1)
    return names
