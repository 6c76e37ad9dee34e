"""Rows with the same question: conflicts, one question for all, and several ways of reasoning to one answer."""

import pytest
from support.prepared_rows import rows_of, with_rows

from thinktune.data.pipeline import prepare_with_faults

ASKED = {"zh": "孕妇可以吃海鲜吗？", "en": "May I fire a sick worker?"}
ANSWERS = {"zh": ("可以，要煮熟。", "不可以，一口也不行。"), "en": ("No, not for that.", "Yes, at once.")}


def faults(tree, tokenizer, rows, **chosen):
    prepared = prepare_with_faults(with_rows(tree, rows, validation=0.0, faults=chosen), tokenizer)
    named = {fault["fault"]: fault for fault in prepared.summary["faults"]}
    return named, prepared


def row(question, answer, think="先想一想母婴的安全。"):
    return {"question": question, "think": think, "answer": answer}


@pytest.mark.parametrize("language", ["zh", "en"])
def test_one_question_with_two_answers_is_a_conflict_that_shows_both(tree, tokenizer, language):
    first, second = ANSWERS[language]
    rows = [*rows_of(4), row(ASKED[language], first), row(f" {ASKED[language].upper()}", second, "另一种想法。")]
    named, prepared = faults(tree, tokenizer, rows)
    assert named.keys() & {"conflict", "near_duplicate", "one_question"} == {"conflict"}
    assert named["conflict"]["actions"] == {"kept": 1}
    assert named["conflict"]["examples"] == [
        f"rows.jsonl:6: asks the same as rows.jsonl:5 and answers differently ({second!r}; there {first!r})"
    ]
    assert prepared.summary["train_rows"] == 6
    _, dropped = faults(tree, tokenizer, rows, conflict="drop")
    assert [example.source for example in dropped.train.examples()][-1] == "rows.jsonl:5"


def test_other_reasoning_to_the_same_answer_is_no_conflict(tree, tokenizer):
    rows = [
        *rows_of(4),
        *(row(ASKED["zh"], answer, f"第{answer}种想法。") for answer in ("可以。", "可以", "**可以。**")),
    ]
    named, _ = faults(tree, tokenizer, rows)
    assert "conflict" not in named
    assert named["near_duplicate"]["actions"] == {"kept": 2}


def test_a_decimal_point_makes_another_answer(tree, tokenizer):
    named, _ = faults(tree, tokenizer, [*rows_of(4), row(ASKED["zh"], "3.5 克"), row(ASKED["zh"], "35 克", "算一算。")])
    assert named["conflict"]["actions"] == {"kept": 1}


def test_the_same_last_question_after_another_history_is_no_conflict(tree, tokenizer):
    talks = [
        {
            "messages": [
                {"role": "user", "content": before},
                {"role": "assistant", "content": "好的，请讲。", "loss_weight": 0},
                {"role": "user", "content": "那要多少钱？"},
                {"role": "assistant", "content": answer, "reasoning_content": "看看他前面问的是什么。"},
            ]
        }
        for before, answer in (("我想装修一间厨房。", "三万元左右。"), ("我要修一辆旧自行车。", "八十元左右。"))
    ]
    recipe = with_rows(tree, talks, validation=0.0)
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"columns": type(recipe.data.columns)()})})
    named = {fault["fault"] for fault in prepare_with_faults(recipe, tokenizer).summary["faults"]}
    assert not named & {"conflict", "one_question"}


@pytest.mark.parametrize("asked", ["请回答下面的问题。", "Answer the question."])
def test_one_question_for_all_rows_is_told_as_such(tree, tokenizer, asked):
    rows = [{**row_, "question": asked} for row_ in rows_of(6)]
    named, prepared = faults(tree, tokenizer, rows)
    assert named.keys() == {"one_question"}
    assert named["one_question"]["actions"] == {"kept": 5}
    assert named["one_question"]["examples"][0] == (
        f"rows.jsonl:2: asks {asked!r}, as 6 of 6 rows do; if another column holds the question, name it in "
        "data.columns.question, and write what all rows share as data.system"
    )
    assert prepared.summary["train_rows"] == 6


def test_a_file_is_judged_by_its_own_habits(tree, tokenizer):
    whole = [row_ | {"answer": f"{row_['answer']} That is all there is."} for row_ in rows_of(12)]
    rows = [*whole, row("怎么办？", "先休息，多喝水，三天后还不好就应当尽快去医")]
    named, _ = faults(tree, tokenizer, rows)
    assert named["cut_text"]["examples"] == [
        "rows.jsonl:13: answer: ends without a full stop, unlike nearly all others ('休息，多喝水，三天后还不好就应当尽快去医')"
    ]
    loose = [row_ | {"answer": row_["answer"].rstrip(".") + ", as it seems to me"} for row_ in rows_of(12)]
    assert "cut_text" not in faults(tree, tokenizer, [*loose, rows[-1]])[0]
