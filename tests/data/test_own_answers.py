"""Questions for the base, and its replies as rows: kept to the token, or dropped and counted."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from support.prepared_rows import write
from support.runs import settings

from thinktune.config.loading import dump_recipe, load_recipe, validate_recipe
from thinktune.data.own_answers.entry import (
    ACCOUNT_FILE,
    ANSWERS_FILE,
    find_own_answers,
    keep_own_answers,
    read_entry,
    restore_own_answers,
    write_own_answers,
)
from thinktune.data.own_answers.exact import OwnReply, entry_files, read_replies, reply_line
from thinktune.data.own_answers.questions import read_questions
from thinktune.data.pipeline import prepare_with_faults
from thinktune.errors import UserError
from thinktune.tokenization import Example, Turn
from thinktune.tokenization.chat_template import render

QUESTIONS = ["What does the heart pump?", "心脏泵什么？", "Name a muscle."]


@pytest.fixture
def recipe_of(tree, tmp_path, monkeypatch):
    """Return a function that makes a recipe whose replayed rows are answered by the base."""
    monkeypatch.setenv("THINKTUNE_CACHE", str(tmp_path / "cache"))

    def make(rows=None, **data):
        listed = rows or [{"question": question} for question in QUESTIONS]
        replay = {"share": 0.3, "rows": str(write(tmp_path / "asked.jsonl", listed)), "answers": "own"}
        return settings(tree, data={"replay": replay, **data})

    return make


def reply_of(own, number, reasoning, answer, tokenizer):
    """Return a reply with the tokens that the model would learn of it."""
    asked = own.questions.asked[number]
    last = Turn("assistant", answer, reasoning, mode="thinking" if asked.thinking else "silent")
    [rendered] = render(Example((*asked.turns, last), "here"), tokenizer)
    trained = rendered.ids[rendered.kinds > 0].tolist()
    return OwnReply(number, tuple(trained), reasoning, answer, "end")


@given(
    reasoning=st.text("ab c心?.\n<", min_size=1, max_size=20).filter(str.strip),
    answer=st.text("xy z血,!\n-", min_size=1, max_size=20).filter(str.strip),
    change=st.sampled_from(["nothing", "white space", "pieces", "another end"]),
)
@hypothesis_settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_row_is_trained_as_it_was_written_or_is_no_row(recipe_of, tokenizer, reasoning, answer, change):
    own = find_own_answers(recipe_of().of_source(1), tokenizer)
    reply = reply_of(own, 0, reasoning.strip(), answer.strip(), tokenizer)
    ids = list(reply.ids)
    match change:
        case "white space":
            ids.insert(len(ids) - 1, tokenizer("\n", add_special_tokens=False)["input_ids"][0])
        case "pieces":
            ids[-2:-1] = [ids[-2], ids[-2]]
        case "another end":
            ids[-1] = next(token for token in tokenizer.all_special_ids if token != tokenizer.eos_token_id)
    files = entry_files(own, [OwnReply(0, tuple(ids), reply.reasoning, reply.answer, "end")], tokenizer, "m")
    account = json.loads(files[ACCOUNT_FILE])
    rows = [json.loads(line) for line in files[ANSWERS_FILE].splitlines()]
    assert len(rows) == account["kept"] == 1 - account["other_tokens"]
    if change == "nothing":
        assert account["kept"] == 1
    if not rows:
        return
    write_own_answers(own, files)
    try:
        made = prepare_with_faults(recipe_of(), tokenizer)
    finally:
        for file in own.entry.iterdir():
            file.unlink()
        own.entry.rmdir()
    source = made.summary["sources"][1]
    trained = [row for row, n in zip(made.train.replies(), made.train.source_numbers.tolist(), strict=True) if n == 1]
    assert len(trained) == source["train_rows"] == 1 - source["dropped_rows"]
    for row in trained:
        assert row.ids[row.kinds > 0].tolist() == ids
    if change != "nothing":
        assert not trained


def test_replies_that_are_cut_empty_or_loop_are_dropped_and_counted(recipe_of, tokenizer):
    recipe = recipe_of(max_tokens=400)
    own = find_own_answers(recipe.of_source(1), tokenizer)
    silent = [number for number, asked, _ in own.asked if not asked.thinking]
    loop = reply_of(own, silent[0], "", "It pumps blood. " * 25 + "End.", tokenizer)
    good = reply_of(own, silent[1], "", "血液。", tokenizer)
    thought = reply_of(own, 4, "A muscle.", "The heart.", tokenizer)
    cut = OwnReply(0, tuple(good.ids[:2]), "", "血", "length")
    empty = OwnReply(silent[2], (tokenizer.eos_token_id,), "", "", "end")
    write_own_answers(own, entry_files(own, [thought, empty, cut, good, loop], tokenizer, "m"))
    source = prepare_with_faults(recipe, tokenizer).summary["sources"][1]
    account = source["own_answers"]
    assert (account["asked"], account["cut"], account["other_tokens"], account["kept"]) == (5, 1, 0, 4)
    dropped = {fault["fault"]: fault["actions"] for fault in source["faults"]}
    assert dropped == {"blank": {"dropped": 1}, "loop": {"dropped": 1}}
    assert source["train_rows"] == 2


def test_a_run_has_its_own_replies_though_the_cache_got_others_meanwhile(recipe_of, tokenizer, tmp_path):
    recipe = recipe_of()
    own = find_own_answers(recipe.of_source(1), tokenizer)
    first, second = (
        entry_files(own, [reply_of(own, 0, "They ask.", answer, tokenizer)], tokenizer, "m")
        for answer in ("Blood.", "It pumps blood.")
    )
    write_own_answers(own, first)
    rows = prepare_with_faults(recipe, tokenizer).fingerprint
    keep_own_answers(recipe, tokenizer, tmp_path / "kept.json")
    write_own_answers(own, second)  # as by another release
    assert prepare_with_faults(recipe, tokenizer).fingerprint != rows
    restore_own_answers(recipe, tokenizer, tmp_path / "kept.json")
    assert read_entry(own) == first
    assert prepare_with_faults(recipe, tokenizer).fingerprint == rows


@pytest.mark.parametrize("listed", [False, True])
def test_a_fault_of_kept_answers_is_told_by_the_key_of_their_source(recipe_of, tokenizer, tmp_path, listed):
    recipe = recipe_of()
    kept = tmp_path / "kept.json"
    kept.write_text("{}", encoding="utf-8")
    Path(recipe.data.replay.rows).unlink()
    if listed:
        own = recipe.data.model_copy(update={"replay": None})
        recipe = recipe.model_copy(update={"data": own, "other_sources": recipe.sources[1:]})
    with pytest.raises(UserError) as error:
        restore_own_answers(recipe, tokenizer, kept)
    assert str(error.value).startswith("data.1.name: " if listed else "data.replay.rows: ")


def test_questions_are_asked_in_both_modes_or_in_the_one_that_their_row_names(recipe_of, tokenizer):
    rows = [
        {"question": "One?", "answer": "", "mode": ""},
        {"question": "Two?", "answer": "2", "mode": "off"},
        {"question": "Three?", "answer": "3", "mode": "on"},
        {"question": "One?", "answer": "1", "mode": ""},
        {"question": "", "answer": "4", "mode": ""},
    ]
    questions = read_questions(recipe_of(rows).of_source(1), tokenizer)
    assert [(asked.turns[-1].content, asked.thinking) for asked in questions.asked] == [
        ("One?", True),
        ("One?", False),
        ("Two?", False),
        ("Three?", True),
    ]
    assert questions.count == 3
    assert questions.left_out == {"blank": 1}
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    talks = [{"messages": [*talk, {"role": "user", "content": "Two?"}, {"role": "assistant", "content": "2"}]}]
    [first, _] = read_questions(recipe_of(talks).of_source(1), tokenizer).asked
    assert [(turn.role, turn.content, turn.trained) for turn in first.turns] == [
        ("user", "Hi", True),
        ("assistant", "Yes?", False),
        ("user", "Two?", True),
    ]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Why?"},
        {"instruction": "Why?", "input": ""},
        {"问题": "Why?", "来源": "x"},
        {"messages": [{"role": "user", "content": "Why?"}]},
        {"conversations": [{"from": "human", "value": "Why?"}]},
        {"question": "Why?", "think": "A.", "answer": "B. <br>"},
    ],
)
def test_questions_need_no_answer(recipe_of, tokenizer, row):
    asked = read_questions(recipe_of([row, row]).of_source(1), tokenizer).asked
    assert [(one.turns[-1].content, one.thinking) for one in asked] == [("Why?", True), ("Why?", False)]


def test_every_bundled_question_is_asked(recipe_of, tree, tokenizer):
    recipe = settings(tree, data={"replay": {"share": 0.1, "answers": "own"}})
    questions = read_questions(recipe.of_source(1), tokenizer)
    assert (questions.count, len(questions.asked), questions.left_out) == (216, 432, {})


def test_a_limit_that_leaves_no_room_for_a_reply_is_told(recipe_of, tokenizer):
    long = "Why does the heart pump so much blood through a muscle? " * 20
    prepared = prepare_with_faults(recipe_of([{"question": long}, {"question": long + "So?"}]), tokenizer)
    assert "data.replay: no question leaves space for a reply within 200 tokens" in prepared.stop_reasons[0]


def test_an_entry_is_named_by_what_it_is_made_from(recipe_of, tokenizer):
    def entry(rows=None, answers="own", **data):
        recipe = recipe_of(rows, **data)
        replay = recipe.data.replay.model_copy(update={"answers": answers})
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"replay": replay})})
        return find_own_answers(recipe.of_source(1), tokenizer).entry

    one = entry()
    assert len({one, entry([{"question": "Another?"}]), entry(max_tokens=150), entry(answers="own-sampled")}) == 4
    assert entry(columns={}) == entry(validation=0.1) == one


def test_lines_of_a_journal_are_read_back_and_damage_costs_its_line():
    replies = [OwnReply(3, (1, 2), "r\n", "答", "end"), OwnReply(0, (), "", "", "length")]
    lines = [reply_line(replies[0]), "[1, [2", "null", "7", '{"asked": 1}', reply_line(replies[1])]
    assert read_replies(lines) == replies


@pytest.mark.parametrize(
    ("data", "place"),
    [
        ({"name": "a.jsonl", "answers": "own"}, r"data\.answers"),
        ([{"name": "a.jsonl"}, {"name": "b.jsonl", "share": 0.1, "answers": "own"}], r"data\.1\.answers"),
        ([{"name": "a.jsonl", "replay": 0.1}, {"name": "b.jsonl"}], r"data\.0\.replay"),
        ({"name": "a.jsonl", "replay": {"share": 0.1, "answers": "mine"}}, r"data\.replay\.answers"),
        ({"name": "a.jsonl", "replay": {"rows": "b.jsonl"}}, r"data\.replay\.share: is missing"),
        ({"name": "a.jsonl", "replay": {"share": 2}}, r"data\.replay\.share: is 2; write a share"),
        ({"name": "a.jsonl", "replay": {"share": 0.1, "row": 1}}, r"data\.replay\.row: unknown key; did you mean"),
    ],
)
def test_what_cannot_be_is_refused_by_its_key(tree, data, place):
    with pytest.raises(UserError, match=place):
        validate_recipe({**tree, "data": data}, "here")


def test_a_list_may_name_own_answers_too_and_all_of_it_is_written_out(tree, tmp_path):
    own = {"name": "bundled:general", "share": 0.2, "validation": 0, "answers": "own"}
    for data in ([tree["data"], own], tree["data"] | {"replay": {"share": 0.2, "answers": "own"}}):
        recipe = validate_recipe({**tree, "data": data}, "here")
        assert recipe.sources[1].answers == "own"
        (tmp_path / "again.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
        assert load_recipe(Path(tmp_path / "again.yaml")) == recipe
