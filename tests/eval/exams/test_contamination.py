"""Exam questions in the training rows: set apart where a row holds them, whole or nearly, and only there."""

import pytest

from thinktune.eval.exams.contamination import find_trained
from thinktune.eval.tasks import Task
from thinktune.tokenization import Example, Turn

STEM = "患者，男性，六十岁，突发胸骨后压榨样疼痛两小时，伴大汗，心电图示前壁导联抬高，最可能的诊断是什么？"
ENGLISH = "A man of sixty has crushing chest pain for two hours and sweats; what is the most likely diagnosis now?"
OPTIONS = ("急性心肌梗死", "肺炎", "胃溃疡", "肋间神经痛")


def task(stem, choices=OPTIONS):
    return Task("cmb", "a:1", (Turn("user", f"{stem}\n(options)"),), "choice", ("A",), choices, stem=stem)


def rows(*questions):
    return [
        Example((Turn("user", each), Turn("assistant", "answer", "think")), f"rows:{number}")
        for number, each in enumerate(questions, 1)
    ]


def matches(stem, *questions, choices=OPTIONS):
    found = find_trained([task(stem, choices)], rows(*questions))
    return (found[0].row, found[0].match) if found else None


@pytest.mark.parametrize("stem", [STEM, ENGLISH], ids=["zh", "en"])
def test_a_stem_inside_of_a_longer_prompt_is_found_whole(stem):
    longer = f"请回答下面的选择题，只写字母。\n{stem.upper()}\nA. 急性心肌梗死\nB. 肺炎"
    assert matches(stem, "另一个问题", longer) == ("rows:2", "whole")
    assert matches(stem, stem.replace("，", ", ").replace(";", " -")) == ("rows:1", "whole")


def test_a_stem_with_another_beginning_is_nearly_the_same():
    assert matches(STEM, STEM.replace("患者，男性", "病人，女性")) == ("rows:1", "near")
    assert matches(STEM, STEM.replace("患者，男性", "病人，女性"), STEM) == ("rows:2", "whole")


def test_a_question_of_the_same_subject_is_another_one():
    other = "患者，女性，三十岁，突发右下腹疼痛两小时，伴发热，血常规示白细胞升高，最可能的诊断是什么？"
    assert matches(STEM, other) is None
    assert matches(other, STEM) is None
    assert matches(ENGLISH, "What is the most likely diagnosis now?") is None  # a common run is not enough
    assert matches(STEM) is None


def test_a_short_stem_counts_only_with_its_options():
    stem = "哪项正确？"
    assert matches(stem, "哪项正确？\nA. 甲\nB. 乙\nC. 丙\nD. 丁戊己庚") is None
    asked = f"{stem}\n" + "\n".join(f"{letter}. {text}" for letter, text in zip("ABCD", OPTIONS, strict=True))
    assert matches(stem, asked) == ("rows:1", "whole")


def test_the_answer_of_a_row_is_not_its_question():
    row = Example((Turn("user", "写一道题"), Turn("assistant", STEM, "")), "rows:1")
    assert find_trained([task(STEM)], [row]) == {}
