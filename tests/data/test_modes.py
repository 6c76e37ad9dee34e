"""A row's own mode: read from switches, options and columns, and rendered with the template's own off-switch."""

import json

import pytest
from support.prepared_rows import prose
from support.row_checks import checked, conversation
from support.runs import settings

from thinktune.config.schema import ColumnsConfig
from thinktune.data.columns.detection import detect_columns
from thinktune.data.columns.mapping import to_example
from thinktune.data.columns.modes import apply_silent_share, parse_mode, split_switches
from thinktune.data.export import export_rows
from thinktune.data.pipeline import prepare_with_faults
from thinktune.data.summary import summary_lines
from thinktune.data.types import Finding, RawRow
from thinktune.errors import UserError
from thinktune.tokenization import Example, TokenKind, Turn
from thinktune.tokenization.chat_template import render

ASKED = {"question": "What does the heart pump?", "answer": "It pumps blood."}
THOUGHT = ASKED | {"think": "The heart is a muscle that pumps."}


def read(row, columns=None):
    """Read a row by the columns that are detected from it alone."""
    raw = RawRow("rows.jsonl:1", row)
    return to_example(raw, detect_columns([raw], ColumnsConfig(**(columns or {})), (), "rows.jsonl"))


def reply_of(row):
    found = read(row)
    assert not isinstance(found, Finding), found
    return next(turn for turn in reversed(found.example.turns) if turn.role == "assistant")


@pytest.fixture
def prepared(tmp_path, start, tokenizer, monkeypatch):
    """Prepare rows under settings of `data`; the second value is the text of each reply, its prompt part first."""
    monkeypatch.setenv("THINKTUNE_CACHE", str(tmp_path / "cache"))

    def make(rows, **data):
        file = tmp_path / "rows.jsonl"
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        tree = {"model": {"name": str(start)}, "data": {"name": str(file), "validation": 0.0, **data}}
        return prepare_with_faults(settings(tree), tokenizer)

    return make


def split_text(reply, tokenizer):
    """Return what is given and what is learned of a reply, as texts."""
    first = int((reply.kinds != TokenKind.PROMPT).argmax())
    return tokenizer.decode(reply.ids[:first]), tokenizer.decode(reply.ids[first:])


@pytest.mark.parametrize(
    ("text", "rest", "mode"),
    [
        ("Why? /no_think", "Why?", "silent"),
        ("发烧能上班吗？/no_think", "发烧能上班吗？", "silent"),
        ("发烧能上班吗/no_think \n", "发烧能上班吗", "silent"),
        ("/think Why?", "Why?", "thinking"),
        ("Why?\n/nothink\n", "Why?", "silent"),
        ("/no-think\nWhy?\nWhere?", "Why?\nWhere?", "silent"),
        ("Why?/THINK", "Why?", "thinking"),
        ("/think Why? /no_think", "Why?", "silent"),
        ("/no_think", "", "silent"),
        *((text, text, None) for text in ("cat /usr/bin/think", "see a/think", "~/think", "x /thinking", "/thinker is", "./no_think")),
        *((text, text, None) for text in ("What does /no_think do in Qwen3?", "or https://x.y/think", "`/no_think`", "1/2", "/")),
    ],
)  # fmt: skip
def test_a_switch_counts_at_an_end_or_on_its_own_line_and_is_taken_off(text, rest, mode):
    assert split_switches(text) == (rest, mode)


def test_switches_are_found_in_time_linear_in_the_text():
    for text in ("/think\n" * 50_000, "/think " * 50_000, " /" * 100_000, "\n \n" * 50_000 + "/", "/" + " " * 100_000):
        split_switches(text)  # quadratic, these would take minutes


@pytest.mark.parametrize(
    "value",
    [False, 0, "off", "OFF", "No", "false", "no_think", "/no_think", "non-thinking", "silent", "关闭", "不思考"],
)
def test_a_word_for_off_is_silent(value):
    assert parse_mode(value) == "silent"


@pytest.mark.parametrize("value", [True, 1, 1.0, "on", "Yes", "think", "/think", "thinking", "enabled", "开启"])
def test_a_word_for_on_is_thinking(value):
    assert parse_mode(value) == "thinking"


@pytest.mark.parametrize("value", [None, 2, "", "maybe", "train", [], {}, "a long thought", float("nan")])
def test_anything_else_names_no_mode(value):
    assert parse_mode(value) is None


@pytest.mark.parametrize(
    "own",
    [
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"chat_template_kwargs": {"thinking": False, "enable_thinking": None}},
        {"chat_template_kwargs": '{"enable_thinking": false}'},
        {"enable_thinking": False},
        {"enable_thinking": "false"},
        {"reasoning": "off"},
        {"thinking": False},
        {"mode": "no_think"},
        {"思考模式": "关"},
    ],
)
def test_a_column_sets_a_rows_mode(own):
    assert reply_of(ASKED | own).mode == "silent"
    assert reply_of({"messages": messages_of(ASKED)} | own).mode == "silent"
    assert reply_of(ASKED | dict.fromkeys(own)).mode is None


def messages_of(row):
    reply = {"role": "assistant", "content": row["answer"]}
    reply |= {"reasoning_content": row["think"]} if "think" in row else {}
    return [{"role": "user", "content": row["question"]}, reply]


def test_a_column_of_reasoning_on_and_off_is_no_reasoning():
    rows = [
        {"input": "q", "output": "<think>t</think>a", "reasoning": "on"},
        {"input": "q", "output": "a", "reasoning": "off"},
    ]
    raw = [RawRow(f"rows.jsonl:{number}", row) for number, row in enumerate(rows, 1)]
    mapping = detect_columns(raw, ColumnsConfig(), (), "rows.jsonl")
    assert mapping.describe() == (
        "columns: question = input, answer = output (reasoning inside think tags), mode = reasoning"
    )
    assert [to_example(row, mapping).example.turns[-1] for row in raw] == [
        Turn("assistant", "a", "t", mode="thinking"),
        Turn("assistant", "a", "", mode="silent"),
    ]


def test_columns_of_other_things_are_no_mode():
    for own in ({"mode": "train"}, {"reasoning": "It pumps."}, {"thinking": None}, {"reasoning": ""}):
        assert "mode" not in detect_columns([RawRow("r:1", ASKED | own)], ColumnsConfig(), (), "r").describe()


@pytest.mark.parametrize(
    ("own", "sentence"),
    [
        ({"enable_thinking": "maybe"}, "enable_thinking: is 'maybe', which names no mode; write on or off"),
        ({"chat_template_kwargs": {"enable_thinking": 3}}, "chat_template_kwargs.enable_thinking: is 3; write true"),
        (
            {"chat_template_kwargs": {"reasoning_effort": "high"}},
            r"has 'reasoning_effort', which is not used; .*data\.ignore: \[chat_template_kwargs\]",
        ),
        ({"chat_template_kwargs": {"thinking": True, "enable_thinking": False}}, "mean the same but differ"),
    ],
)
def test_a_mode_that_cannot_be_read_is_named(own, sentence):
    import re

    found = read(ASKED | own)
    assert isinstance(found, Finding)
    assert found.fault == "unreadable"
    assert re.search(sentence, found.sentence), found.sentence


def test_each_message_may_have_its_own_mode():
    messages = messages_of(THOUGHT) + messages_of(ASKED)
    messages[3]["enable_thinking"] = False
    assert [turn.mode for turn in read({"messages": messages}).example.turns] == [None, None, None, "silent"]
    messages[2]["enable_thinking"] = False
    found = read({"messages": messages})
    assert (
        found.sentence
        == "rows.jsonl:1: messages[2].enable_thinking: is the mode of a reply; move it to the assistant's message"
    )


def test_a_users_switch_holds_for_the_next_reply_and_stands_for_later_ones_without_reasoning():
    def modes(*texts):
        turns = [{"role": role, "content": text} for role, text in texts]
        return [turn.mode for turn in read({"messages": turns}).example.turns if turn.role == "assistant"]

    off, plain, thought = ("user", "Why? /no_think"), ("user", "Why?"), ("assistant", "<think>t</think>a")
    silent, on = ("assistant", "a"), ("user", "Why? /think")
    assert modes(off, silent, plain, silent) == ["silent", "silent"]
    assert modes(off, silent, plain, thought) == ["silent", None]
    assert modes(off, silent, on, thought) == ["silent", "thinking"]
    assert modes(off, thought) == ["silent"]
    assert modes(("system", "Be kind. /no_think"), plain, silent, plain, thought) == ["silent", "silent"]
    assert modes(("system", "/no_think"), on, thought, plain, thought) == ["thinking", None]


def test_a_row_that_asks_for_no_reasoning_and_has_some_goes_by_its_policy():
    row, names = conversation(Turn("user", "Why?"), Turn("assistant", "So.", "Hm, so.", mode="silent"))
    for policy, action, turn in (
        ("repair", "repaired", Turn("assistant", "So.", "", mode="silent")),
        ("keep", "kept", Turn("assistant", "So.", "Hm, so.", mode="thinking")),
    ):
        found = checked(row, names, mode_conflict=policy)
        assert [(each.fault, each.action) for each in found.findings] == [("mode_conflict", action)]
        assert found.example.turns[-1] == turn
    assert checked(row, names, mode_conflict="drop").example is None
    assert "messages[1].think: is reasoning, but the row asks for none" in found.findings[0].sentence


def test_a_row_that_asks_for_reasoning_and_has_none_lacks_it():
    row, names = conversation(Turn("user", "Why?"), Turn("assistant", "So.", "", mode="thinking"))
    found = checked(row, names)
    assert found.example is None
    assert "is empty or null, but the row asks for reasoning" in found.findings[0].sentence
    assert checked(row, names, no_reasoning="silent").example.turns[-1].mode == "silent"


def test_the_former_name_of_a_policy_still_works():
    row, names = conversation(Turn("user", "Why?"), Turn("assistant", "So."))
    assert checked(row, names, no_reasoning="keep") == checked(row, names, no_reasoning="silent")


def test_silent_rows_are_given_the_empty_block_and_learn_the_answer_alone(prepared, tokenizer):
    rows = [
        ASKED | {"question": "One? /no_think"},
        ASKED | {"question": "Two?", "chat_template_kwargs": {"enable_thinking": False}},
        THOUGHT | {"question": "Three? /think"},
        THOUGHT | {"question": "Four?/no_think"},
    ]
    found = prepared(rows)
    texts = [split_text(reply, tokenizer) for reply in found.train.replies()]
    assert len(texts) == 4
    for given, learned in (texts[0], texts[1], texts[3]):
        assert given.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
        assert learned.removesuffix("\n") == "It pumps blood.<|im_end|>"
    given, learned = texts[2]
    assert given.endswith("Three?<|im_end|>\n<|im_start|>assistant\n")
    assert learned.startswith("<think>\nThe heart is a muscle that pumps.\n</think>\n\nIt pumps blood.<|im_end|>")
    assert "no_think" not in "".join(given for given, _ in texts)
    told = {fault["fault"]: (fault["actions"], fault["examples"]) for fault in found.summary["faults"]}
    assert told["soft_switch"][0] == {"repaired": 3}
    assert told["mode_conflict"][0] == {"repaired": 1}
    assert "rows.jsonl:4: think: is reasoning, but the row asks for none" in told["mode_conflict"][1][0]
    assert found.summary["silent_rows"] == 3
    assert any("3 rows are trained without thinking" in line for line in summary_lines(found.summary))


def test_a_share_of_the_rows_is_made_silent_and_the_rest_stays_the_same(prepared, tokenizer):
    rows = [THOUGHT | {"question": f"What does heart {number} pump?"} for number in range(80)]
    rows += [THOUGHT | {"question": f"What is {number}? /think"} for number in range(20)]
    before, after = prepared(rows), prepared(rows, silent_share=0.3)
    pairs = list(zip(before.train.replies(), after.train.replies(), strict=True))
    silent = [right for _, right in pairs if not (right.kinds == TokenKind.REASONING).any()]
    assert 12 <= len(silent) == after.summary["silent_rows"] <= 36
    assert len({reply.source for reply in silent} & {f"rows.jsonl:{line}" for line in range(81, 101)}) == 0
    for left, right in pairs:
        if (right.kinds == TokenKind.REASONING).any():
            assert (left.ids == right.ids).all()
            assert (left.kinds == right.kinds).all()
    more = prepared([*rows, THOUGHT | {"question": "One more?"}], silent_share=0.3)
    assert {reply.source for reply in silent} <= {
        reply.source for reply in more.train.replies() if not (reply.kinds == TokenKind.REASONING).any()
    }


def test_a_silent_row_is_as_long_as_its_answer(prepared):
    rows = [THOUGHT | {"question": f"What does heart {number} pump?", "think": prose(9_000)} for number in range(9)]
    assert prepared(rows, max_tokens=200).summary["train_rows"] == 0
    silent = prepared(rows, max_tokens=200, silent_share=0.999)
    assert (silent.summary["train_rows"], silent.summary["silent_rows"]) == (9, 9)
    named = prepared([row | {"enable_thinking": False} for row in rows], max_tokens=200)
    assert (named.summary["train_rows"], named.summary["silent_rows"]) == (9, 9)


def test_a_share_needs_a_template_with_a_switch(prepared, tokenizer, monkeypatch):
    assert any("data.silent_share: 0.1 prevents that" in line for line in summary_lines(prepared([THOUGHT]).summary))
    unswitched = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    monkeypatch.setattr(tokenizer, "chat_template", unswitched)
    assert prepared([THOUGHT]).summary["train_rows"] == 1
    assert not any("silent_share" in line for line in summary_lines(prepared([THOUGHT]).summary))
    with pytest.raises(UserError, match=r"data\.silent_share: is 0\.2, but .* same prompt with and without thinking"):
        prepared([THOUGHT], silent_share=0.2)


def test_a_switch_in_the_recipes_system_prompt_is_refused(prepared):
    with pytest.raises(UserError, match=r"data\.system: has a switch .*; write \"Be kind\.\""):
        prepared([THOUGHT], system="Be kind. /no_think")


def test_exported_rows_are_read_again_in_their_modes(prepared, tokenizer, tmp_path):
    rows = [
        THOUGHT | {"question": "One?"},
        ASKED | {"question": "Two? /no_think"},
        ASKED | {"question": "Three?", "enable_thinking": False},
    ]
    found = prepared(rows)
    (tmp_path / "out").mkdir()
    export_rows(found, tmp_path / "out", None)
    lines = [json.loads(line) for line in (tmp_path / "out" / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    again = prepared(lines)
    assert [reply.ids.tolist() for reply in again.train.replies()] == [r.ids.tolist() for r in found.train.replies()]
    assert again.summary["faults"] == []


def test_a_conversation_is_silent_as_a_whole_and_only_if_it_names_no_mode():
    turns = (Turn("user", "q"), Turn("assistant", "a", "t"), Turn("user", "r"), Turn("assistant", "b", "u"))
    silent = apply_silent_share(Example(turns, ""), 0.9999, 42)
    assert [(turn.reasoning, turn.mode) for turn in silent.turns[1::2]] == [("", "silent")] * 2
    named = (*turns[:3], Turn("assistant", "b", "u", mode="thinking"))
    assert apply_silent_share(Example(named, ""), 0.9999, 42).turns == named


def test_a_turns_mode_comes_before_its_reasoning_where_it_is_rendered(tokenizer):
    asked = Turn("user", "Why?")
    silent, plain, thought = (
        render(Example((asked, Turn("assistant", "So.", *rest)), "r:1"), tokenizer)[0]
        for rest in (("Hm, so.", True, "silent"), ("",), ("Hm, so.", True, "thinking"))
    )
    assert silent.ids.tolist() == plain.ids.tolist()
    assert silent.kinds.tolist() == plain.kinds.tolist()
    assert (thought.kinds == TokenKind.REASONING).any()


def test_a_switch_behind_a_repaired_character_counts(prepared):
    rows = [ASKED | {"question": "One? /no_think\u200b"}, ASKED | {"question": "Two?\u200b"}]
    found = prepared(rows)
    assert [reply.source for reply in found.train.replies()] == ["rows.jsonl:1"]
    assert found.summary["silent_rows"] == 1
    kept = prepared(rows, faults={"soft_switch": "keep"})
    assert [reply.source for reply in kept.train.replies()] == ["rows.jsonl:1"]
