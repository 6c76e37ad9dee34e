"""Rows to check, in Chinese and English, and checking them under chosen policies."""

from thinktune.config.row_faults import HANDED_PHRASES, resolve_policies
from thinktune.data.faults.checks import CheckRules, check_example
from thinktune.tokenization import Example, Turn

TOKENS = ("<|im_end|>", "<|im_start|>", "<think>", "</think>")
FIELD_NAMES = (("question", ""), ("answer", "think"))
ZH = {"question": "心脏泵什么？", "think": "想一想，心脏推动血液流动。\n", "answer": "血液。"}
EN = {"question": "What does it pump?", "think": "Let me think about the heart.\n", "answer": "Blood, of course."}
ESSAY_EN = "The heart is a muscle that pumps blood through the whole body, all day and all night."
ESSAY_ZH = "心脏是推动血液流遍全身的肌肉，日夜不停地工作，从不休息。"


def example(texts):
    turns = (Turn("user", texts["question"]), Turn("assistant", texts["answer"], texts["think"]))
    return Example(turns, "rows.jsonl:7")


def texts_of(turns):
    return {"question": turns[0].content, "think": turns[1].reasoning, "answer": turns[1].content}


def checked(row, field_names=FIELD_NAMES, **chosen):
    return check_example(row, field_names, CheckRules(resolve_policies(chosen), HANDED_PHRASES, TOKENS))


def conversation(*turns):
    places = tuple((f"messages[{index}].content", f"messages[{index}].think") for index in range(len(turns)))
    return Example(turns, "rows.jsonl:7"), places
