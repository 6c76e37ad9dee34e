"""A whole mapping is proposed from names and content where the usual names do not tell."""

import pytest

from thinktune.data.columns.proposal import propose_columns

QUESTIONS = ["发烧三天了，还能去上班吗？", "Which vitamin prevents scurvy?", "市盈率怎么算？"]
REASONING = [
    "用户问的是发烧能不能上班。首先看体温，再看有没有呼吸困难，没有危险信号时以休息为主。",
    "Let me think. Scurvy comes from a lack of ascorbic acid, so I should name vitamin C.",
    "题目要求说明市盈率。首先写出公式，接下来说明每股收益的含义，所以答案是一个比值。",
]
ANSWERS = ["建议先居家休息，体温正常后再上班。", "Vitamin C prevents scurvy.", "市盈率等于股价除以每股收益。"]
TAGGED = [f"<think>\n{r}\n</think>\n\n{a}" for r, a in zip(REASONING, ANSWERS, strict=True)]


@pytest.mark.parametrize(
    "names",
    [
        ("question", "reasoning (reasoning_content)", "response (content)"),
        ("input", "reasoning_content", "content"),
        ("Context", "deepseek_reasoning", "target"),
        ("题干", "解析过程", "标准答案"),
        ("title", "analysis", "final"),
        ("wenti", "sikao", "huida"),
        ("user_text", "inner_monologue", "assistant_text"),
        ("src", "model_thoughts", "label_text"),
        ("field1", "field2", "field3"),
        ("a", "b", "c"),
        ("患者提问", "思维过程", "医生答复"),
    ],
)
@pytest.mark.parametrize("mixed", [False, True])
def test_three_columns_are_told_apart(names, mixed):
    columns = [
        *zip(names, (QUESTIONS, REASONING, ANSWERS), strict=True),
        ("id", [1, 2, 3]),
        ("lang", ["zh", "en", "zh"]),
    ]
    if mixed and names[0] not in ("field1", "a"):  # there only the order and the content speak
        columns = [columns[2], columns[3], columns[0], columns[4], columns[1]]
    first = propose_columns(dict(columns), {})[0]
    assert first == dict(zip(("question", "reasoning", "answer"), names, strict=True))


@pytest.mark.parametrize("names", [("q_text", "a_text"), ("wenti", "huida"), ("x", "y"), ("Ask", "Target")])
def test_reasoning_inside_tags_needs_no_column(names):
    assert propose_columns(dict(zip(names, (QUESTIONS, TAGGED), strict=True)), {})[0] == {
        "question": names[0],
        "answer": names[1],
    }


def test_parts_that_are_known_stay_and_two_sources_are_not_mixed():
    values = {"question": QUESTIONS, "gemini_trace": REASONING, "gemini_try": ANSWERS, "deepseek_trace": REASONING[::-1], "deepseek_try": ANSWERS[::-1]}  # fmt: skip
    found = propose_columns(values, {"question": "question"})
    assert all(one["question"] == "question" for one in found)
    head = [{name.partition("_")[0] for part, name in one.items() if part != "question"} for one in found[:2]]
    assert sorted(map(sorted, head)) == [["deepseek"], ["gemini"]]


def test_bytes_and_lists_of_texts_count_and_numbers_alone_propose_nothing():
    values = {
        "ask": QUESTIONS,
        "trace": [[text, text] for text in REASONING],
        "out": [text.encode() for text in ANSWERS],
    }
    assert propose_columns(values, {})[0] == {"question": "ask", "reasoning": "trace", "answer": "out"}
    assert propose_columns({"messages": [[{"role": "user", "content": "q"}]] * 3}, {}) == []
    assert propose_columns({}, {}) == []


def test_other_text_is_not_proposed_as_the_reasoning():
    values = {
        "title": [text[:6] for text in QUESTIONS],
        "ask": [text + "我今年三十岁。" for text in QUESTIONS],
        "answer": TAGGED,
    }
    assert propose_columns(values, {"answer": "answer"})[0] == {"question": "ask", "answer": "answer"}
    values = {
        "title": QUESTIONS,
        "ask": [text + "我今年三十岁，最近常常这样。" for text in QUESTIONS],
        "answer": ANSWERS,
    }
    assert "reasoning" not in propose_columns(values, {"answer": "answer"})[0]
