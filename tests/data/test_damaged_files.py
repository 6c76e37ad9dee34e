"""Files with marks and damage in their texts, from the file to the sentences of `check`."""

import pytest
from support.prepared_rows import with_rows
from support.runs import settings

from thinktune.data.pipeline import prepare_with_faults
from thinktune.data.summary import summary_lines
from thinktune.errors import UserError

R, A = "牛奶含钙，也含乳糖。", "可以喝，一天一杯。"
EN_R, EN_A = "Milk has calcium and also lactose.", "Yes, a glass a day."


def files_of(form):
    return [
        {"question": "可以喝牛奶吗？", "answer": form.format(r=R, a=A)},
        {"question": "May I drink milk?", "answer": form.format(r=EN_R, a=EN_A)},
        {
            "question": "Why is milk white?",
            "answer": form.format(r="It scatters light of all colours.", a="By its fat."),
        },
    ]


# A file, the faults by action, and the line that `check` shows.
GOLDEN = {
    "other tags": (
        files_of("<Thought>{r}</Thought>\n{a}"),
        {"reasoning_tag": {"repaired": 3}},
        "  reasoning_tag: 3 repaired, as in rows.jsonl:1: answer: holds its reasoning in <Thought> … </Thought>, which is read "
        "as the reasoning",
    ),
    "answer tags": (
        files_of("<think>{r}</think><answer>{a}</answer>"),
        {"answer_tag": {"repaired": 3}},
        "  answer_tag: 3 repaired, as in rows.jsonl:1: answer: is in <answer> ('<answer>可以喝，一天一杯。</a')",
    ),
    "double tags": (
        files_of("<think>{r}</think></think>\n{a}"),
        {"think_tag": {"repaired": 3}},
        "  think_tag: 3 repaired, as in rows.jsonl:1: answer: a think tag is doubled; the text between is read as the reasoning "
        "('<think>牛奶含钙，也含乳糖。</t')",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", GOLDEN)
def test_a_file_of_one_form_is_trained_whole_and_check_says_what_was_done(kind, tree, tokenizer):
    rows, faults, line = GOLDEN[kind]
    recipe = with_rows(tree, rows, validation=0.0, columns={"question": "question", "answer": "answer"})
    prepared = prepare_with_faults(recipe, tokenizer)
    assert {fault["fault"]: fault["actions"] for fault in prepared.summary["faults"]} == faults
    assert line in summary_lines(prepared.summary)
    assert prepared.stop_reasons == ()
    shown = [(turn.reasoning, turn.content) for example in prepared.train.examples() for turn in example.turns[1:]]
    assert shown[:2] == [(R, A), (EN_R, EN_A)]


def test_damage_of_all_kinds_is_told_by_place(tree, tokenizer):
    good = {"think": "Think of it.", "answer": "So it is."}
    questions = ["Who is {person}?", "What is CafÃ© au lait?", "Keep a copy &amp; wait?", "#NAME?", "Human: Hi?\n\nAssistant:", "Rest?\\nThen $x$?", "Dear [Your Name]?"]  # fmt: skip
    recipe = with_rows(tree, [{"question": question} | good for question in questions], validation=0.0)
    summary = prepare_with_faults(recipe, tokenizer).summary
    told = {fault["fault"]: (fault["actions"], fault["examples"][0].split(": ")[0]) for fault in summary["faults"]}
    assert told == {
        "placeholder": ({"dropped": 1}, "rows.jsonl:1"),
        "garbled": ({"repaired": 1}, "rows.jsonl:2"),
        "markup": ({"repaired": 1}, "rows.jsonl:3"),
        "spreadsheet": ({"dropped": 1}, "rows.jsonl:4"),
        "role_mark": ({"kept": 1}, "rows.jsonl:5"),
        "literal_newline": ({"repaired": 1}, "rows.jsonl:6"),
        "fill_in": ({"kept": 1}, "rows.jsonl:7"),
    }
    assert (summary["rows_read"], summary["train_rows"], summary["dropped_rows"]) == (7, 5, 2)


def test_marks_of_its_own_are_named_by_the_file_and_the_remedy_works(tree, tokenizer):
    rows = files_of("<plan>{r}</plan>{a}")
    columns = {"question": "question", "answer": "answer"}
    told = prepare_with_faults(with_rows(tree, rows, validation=0.0, columns=columns), tokenizer)
    assert told.summary["train_rows"] == 0
    assert 'write expert: {think_tags: ["<plan>", "</plan>"]}' in told.stop_reasons[1]
    followed = with_rows(tree, rows, validation=0.0, columns=columns, think_tags=["<plan>", "</plan>"])
    assert prepare_with_faults(followed, tokenizer).summary["train_rows"] == 3


@pytest.mark.parametrize("tags", [["<a>", "<a>"], ["", "</a>"], ["<a>"]])
def test_think_tags_are_two_different_marks(tags, tree):
    with pytest.raises(UserError, match="think_tags"):
        settings(tree, data={"think_tags": tags})


# What the real inputs of this kind come to: the rows trained, and the faults by action.
REAL = {
    "failing/11-literal-newline-beside-latex": (4, {"literal_newline": {"repaired": 3, "kept": 1}}),
    "failing/12-other-tags-thought": (4, {"reasoning_tag": {"repaired": 4}}),
    "failing/13-other-tags-begin-of-thought": (4, {"reasoning_tag": {"repaired": 4}}),
    "failing/15-answer-tags": (4, {"answer_tag": {"repaired": 4}}),
    "failing/16-placeholder": (2, {"placeholder": {"dropped": 2}}),
    "failing/18-role-markers": (4, {"role_mark": {"kept": 4}}),
    "failing/26-html": (4, {"markup": {"repaired": 1}, "control_character": {"repaired": 1}}),
    "failing/31-think-double-close": (3, {"think_tag": {"repaired": 3}}),
    "failing/32-think-double-open": (3, {"think_tag": {"repaired": 3}}),
    "failing/33-think-cased": (3, {"think_tag": {"repaired": 3}}),
    "failing/34-think-spaced": (3, {"think_tag": {"repaired": 3}}),
    "failing/36-think-at-end-of-question": (3, {"think_tag": {"repaired": 3}, "no_reasoning": {"kept": 3}}),
    "failing/65-garbled-shows-wrong-place": (2, {"garbled": {"repaired": 1}}),
    "cases/02": (4, {"reasoning_tag": {"repaired": 4}}),
    "cases/03": (4, {"reasoning_tag": {"repaired": 4}}),
    "cases/04": (4, {"reasoning_tag": {"repaired": 4}, "answer_tag": {"repaired": 4}}),
}


@pytest.mark.real
@pytest.mark.parametrize("place", REAL)
def test_the_real_inputs_of_these_kinds_are_right(place, real, tree, official_tokenizer, tmp_path):
    folder = real / place
    file = tmp_path / "rows.jsonl"
    file.write_bytes((folder / "rows.jsonl").read_bytes())
    recipe = folder / "recipe.yaml"
    faults = (
        {"no_reasoning": "silent"} if recipe.exists() and "no_reasoning" in recipe.read_text(encoding="utf-8") else {}
    )
    data = {"name": str(file), "columns": {}, "validation": 0.0, "faults": faults}
    prepared = prepare_with_faults(settings(tree, data=data), official_tokenizer)
    trained, expected = REAL[place]
    found = {fault["fault"]: fault["actions"] for fault in prepared.summary["faults"] if fault["fault"] in expected}
    assert (prepared.summary["train_rows"], found) == (trained, expected)
    assert prepared.stop_reasons == ()
