"""Catalogue of row faults: what each means, the policies it allows, and the default."""

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

FaultPolicy = Literal["drop", "keep", "repair", "silent", "stop", "trim-reasoning"]


# Default of `expert.handed_phrases`: phrases of reasoning that says it was handed the answer.
HANDED_PHRASES = (
    "用户提供的答案",
    "用户给的答案",
    "用户给出的答案",
    "用户提到的答案",
    "用户答案",
    "用户提供的回答",
    "用户给的回答",
    "用户给出的回答",
    "根据提供的答案",
    "按照提供的答案",
    "与提供的答案",
    "根据提供的回答",
    "根据给出的答案",
    "按照给出的答案",
    "与给出的答案",
    "题目给出的答案",
    "给定的答案",
    "根据已有的答案",
    "根据现有的答案",
    "根据之前的答案",
    "根据参考答案",
    "根据标准答案",
    "参考答案中",
    "参考答案里",
    "给出的参考答案",
    "提供的参考答案",
    "问题中的答案",
    "题目中的答案",
    "已经给出答案",
    "已经给出了答案",
    "答案已经给出",
    "原答案",
    "the provided answer",
    "the given answer",
    "the reference answer",
    "the answer provided",
    "the provided response",
    "answer provided by the user",
    "answer given by the user",
    "answer the user provided",
    "answer the user gave",
    "according to the answer",
    "answer is already given",
    "answer is already provided",
    "user already provided the answer",
)


@dataclass(frozen=True, slots=True)
class RowFault:
    """A row fault: its meaning, and its allowed policies, the default first."""

    meaning: str
    policies: tuple[FaultPolicy, ...]

    @property
    def default(self) -> FaultPolicy:
        """The policy if the recipe names none."""
        return self.policies[0]


ROW_FAULTS: dict[str, RowFault] = {
    "unreadable": RowFault(
        "the row is not a JSON object, lacks a mapped column, contains half a character, or names an unknown mode",
        ("stop", "drop"),
    ),
    "encoding": RowFault(
        "the bytes are not UTF-8; repair reads them as GBK where that is certain", ("stop", "repair", "drop")
    ),
    "byte_order_mark": RowFault("the file begins with a byte order mark; repair skips it", ("repair", "stop")),
    "file_form": RowFault(
        "a file is not in the format that its name says, or has more than column names and rows (a title, "
        "nameless columns, a key above the rows); repair reads it as what it is, and says so once for each file",
        ("repair", "stop"),
    ),
    "loose_json": RowFault(
        "a row is not strict JSON: it has an extra comma, is written in Python syntax, or is a bare list of "
        "messages; repair reads it where its meaning is certain",
        ("repair", "stop", "drop"),
    ),
    "not_text": RowFault(
        "a number, list or object is in place of text; repair writes a number, true or false as text, and takes the "
        "text of a list of one",
        ("repair", "drop", "stop"),
    ),
    "blank": RowFault("a question or an answer is empty or null", ("drop", "stop")),
    "role": RowFault("a conversation's roles are unknown or out of order, or it calls tools", ("drop", "stop")),
    "loss_weight": RowFault(
        "a message's weight (loss_scale, weight) is neither 0 nor 1; keep trains it like all others",
        ("keep", "drop", "stop"),
    ),
    "marked_bad": RowFault(
        "a column of true and false (data.columns.label, as in data sets for KTO) marks the reply as a bad one",
        ("drop", "keep", "stop"),
    ),
    "media": RowFault(
        "the row has an image, audio or video, which is not trained; keep trains only its text",
        ("drop", "keep", "stop"),
    ),
    "ends_on_user": RowFault(
        "a conversation ends with the user; repair leaves out the last question", ("repair", "drop", "stop")
    ),
    "soft_switch": RowFault(
        "a question or a system prompt begins or ends with /think or /no_think, which sets the row's mode; repair "
        "removes it from the text, since the chat template's own switch says the same",
        ("repair", "keep", "drop", "stop"),
    ),
    "mode_conflict": RowFault(
        "the row asks for no reasoning (by a switch, chat_template_kwargs or a mode column) and has some; repair "
        "leaves the reasoning out, keep trains it in the mode with thinking",
        ("repair", "keep", "drop", "stop"),
    ),
    "no_reasoning": RowFault(
        "the reasoning is empty or says nothing (one word, dots, only the question, the same short text in many "
        "rows), and the row does not ask for an answer without thinking; silent trains the reply in the chat "
        "template's mode without thinking",
        ("drop", "silent", "stop"),
    ),
    "reasoning_tag": RowFault(
        "the reasoning is in other marks than think tags (`<Thought>`, `<reasoning>`, `## Thinking` …); repair "
        "reads it as the reasoning, and drops a reply whose marks do not close; expert.think_tags adds others",
        ("repair", "drop", "stop"),
    ),
    "answer_tag": RowFault(
        "the answer is in tags (`<answer>`); repair removes them, unless the row's prompt asks for them or other "
        "answers in the file have none",
        ("repair", "keep", "drop", "stop"),
    ),
    "role_mark": RowFault(
        "a conversation is inside a question (`<user>: … <bot>: …`, 病人：… 医生：…), or a reply begins with its "
        "speaker's label; repair splits the conversation into turns, of which only the row's reply is trained, "
        "and removes the label",
        ("keep", "repair", "drop", "stop"),
    ),
    "placeholder": RowFault(
        "a template's slot was not filled ({{name}}, {action}), outside code and in a row that is not about templates",
        ("drop", "keep", "stop"),
    ),
    "fill_in": RowFault(
        "a text leaves a blank to fill in ([Your Name], `<NAME>`, XXX, TODO, 请在此填写), or may mention a slot",
        ("keep", "drop", "stop"),
    ),
    "markup": RowFault(
        "markup of web pages is outside code (`<br>`, `&nbsp;`); repair turns it into line breaks and characters, "
        "and leaves a text with other tags unchanged",
        ("repair", "keep", "drop", "stop"),
    ),
    "spreadsheet": RowFault(
        "a spreadsheet has damaged a text: a cell that is an error (#NAME?) or cut at 32,767 characters drops the row; "
        "repair removes `_x000D_` and an apostrophe before a number; numbers such as 1.23E+15 are reported and kept",
        ("repair", "keep", "drop", "stop"),
    ),
    "garbled": RowFault(
        "a character was lost in decoding (U+FFFD, 锟斤拷), or a text was read in another encoding (cafÃ©, 浣犲ソ); "
        "repair decodes the latter again",
        ("repair", "keep", "drop", "stop"),
    ),
    "think_tag": RowFault(
        "a think tag is nested, doubled, unclosed, stray, in capitals, spaced or escaped; repair reads or removes "
        "tags where that is certain, and drops the row elsewhere",
        ("repair", "drop", "stop"),
    ),
    "control_token": RowFault(
        "a text spells a special token or one of the chat template's marks; kept, it is trained as plain characters",
        ("drop", "keep", "stop"),
    ),
    "control_character": RowFault(
        "a control or zero-width character, a carriage return, or U+2028; repair removes it or breaks the line",
        ("repair", "keep", "drop", "stop"),
    ),
    "odd_space": RowFault(
        "a field begins or ends with spaces, or contains spaces of unusual width; repair replaces them with plain ones",
        ("repair", "keep", "drop", "stop"),
    ),
    "literal_newline": RowFault(
        "a backslash and an n where a line should end; repair breaks the line where that is certain, and only "
        "reports it elsewhere",
        ("repair", "keep", "drop", "stop"),
    ),
    "reasoning_is_answer": RowFault("reasoning and answer are the same text", ("drop", "keep", "stop")),
    "answer_is_question": RowFault("the answer only repeats the question", ("drop", "keep", "stop")),
    "loop": RowFault(
        "the reasoning or the answer repeats itself over and over, 20 times or more", ("drop", "keep", "stop")
    ),
    "repetition": RowFault(
        "the reasoning or the answer repeats itself 6 to 19 times, which may be meant", ("keep", "drop", "stop")
    ),
    "handed_answer": RowFault(
        "the reasoning says that it was given the answer (also with expert.handed_phrases)", ("drop", "keep", "stop")
    ),
    "handed_context": RowFault(
        "the reply mentions a reference, a passage or tools that the prompt does not contain", ("drop", "keep", "stop")
    ),
    "quoted_column": RowFault(
        "the reasoning quotes long runs of a column that is not used, so the model would not have seen it",
        ("keep", "drop", "stop"),
    ),
    "bare_number": RowFault("the answer is only a number", ("keep", "drop", "stop")),
    "fragment": RowFault("the answer breaks off in the middle of a sentence", ("drop", "keep", "stop")),
    "cut_text": RowFault(
        "a text ends without a full stop, unlike nearly all others in its column, or an answer is one character "
        "or ends in a colon or a dash: it may be cut, or complete",
        ("keep", "drop", "stop"),
    ),
    "language_mix": RowFault(
        "question, reasoning and answer are in different languages (judged by their script)", ("keep", "drop", "stop")
    ),
    "too_long": RowFault(
        "the row has more than data.max_tokens tokens; trim-reasoning cuts sentences from the middle of the reasoning",
        ("drop", "trim-reasoning", "stop"),
    ),
    "duplicate": RowFault("the row is the same as an earlier one", ("drop", "keep", "stop")),
    "leak": RowFault(
        "the question is also held out for evaluation; drop removes it from training", ("drop", "keep", "stop")
    ),
    "one_question": RowFault(
        "most rows ask the same: another column may hold the question, or the text belongs in data.system",
        ("keep", "drop", "stop"),
    ),
    "conflict": RowFault("an earlier row asks the same question and has another answer", ("keep", "drop", "stop")),
    "near_duplicate": RowFault("the question is almost the same as an earlier row's", ("keep", "drop", "stop")),
}


# Former names of policies, which recipes may still use.
_RENAMED_POLICIES: dict[tuple[str, str], FaultPolicy] = {("no_reasoning", "keep"): "silent"}


def resolve_policies(chosen: dict[str, str]) -> dict[str, str]:
    """Resolve the policy of every fault, chosen or default; raises ValueError naming every wrong fault and policy."""
    wrong: list[str] = []
    chosen = {name: _RENAMED_POLICIES.get((name, policy), policy) for name, policy in chosen.items()}
    for name, policy in chosen.items():
        if name not in ROW_FAULTS:
            close = get_close_matches(name, ROW_FAULTS, n=1)
            remedy = f"did you mean {close[0]}?" if close else f"the faults are {', '.join(ROW_FAULTS)}"
            wrong.append(f"{name} is not a fault; {remedy}")
        elif policy not in ROW_FAULTS[name].policies:
            wrong.append(f"{name} is {policy!r}; write one of {', '.join(ROW_FAULTS[name].policies)}")
    if wrong:
        raise ValueError("; ".join(wrong))
    return {name: chosen.get(name, fault.default) for name, fault in ROW_FAULTS.items()}
