"""Raw rows of every format become turns with their field names, or a finding: what is wrong, and where."""

import pytest

from thinktune.config.schema import ColumnsConfig
from thinktune.data.columns.detection import detect_columns
from thinktune.data.columns.mapping import UncheckedExample, to_example
from thinktune.data.columns.messages import with_default_system_prompt
from thinktune.data.types import Finding, RawRow
from thinktune.tokenization import Turn

USER = {"role": "user", "content": "q"}
REPLY = {"role": "assistant", "content": "a"}
PAIR = {"question": "q", "think": "t", "answer": "a"}


def draft(columns, sample=None):
    row = RawRow("rows.jsonl:7", columns)
    layout = detect_columns([RawRow("rows.jsonl:1", sample or columns)], ColumnsConfig(), (), "rows.jsonl")
    return to_example(row, layout)


def turns(columns, general=None):
    found = draft(columns)
    assert isinstance(found, UncheckedExample), found
    assert found.example.source == "rows.jsonl:7"
    message = with_default_system_prompt(found.example.turns, general)
    return [(turn.role[0], turn.content, turn.reasoning) for turn in message]


def field_names(columns):
    found = draft(columns)
    assert isinstance(found, UncheckedExample), found
    assert len(found.field_names) == len(found.example.turns)
    return list(found.field_names)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (PAIR, "u:q a:t>a"),
        ({"Question": "问", "Complex_CoT": "想", "Response": "答"}, "u:问 a:想>答"),
        ({"query": "q", "response": "a", "chain of thought": "t"}, "u:q a:t>a"),
        ({"问题": "问", "思考过程": "想", "答案": "答"}, "u:问 a:想>答"),
        ({"prompt": "q", "completion": "a"}, "u:q a:a"),
        ({"instruction": "q", "input": " \n", "output": "a"}, "u:q a:a"),
        ({"instruction": "q", "input": "i", "output": "a", "system": "s"}, "s:s u:q\ni a:a"),
        ({"instruction": "q", "output": "a", "history": [["h", "<think>x</think>r"], ["k", "l"]]}, "u:h a:x>r u:k a:l u:q a:a"),
        ({"instruction": "q", "output": "a", "history": None, "system": " "}, "u:q a:a"),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, "u:q a:a"),
        ({"conversation": [{"from": "User", "value": "q"}, {"from": "model", "value": "a"}], "system": "s"}, "s:s u:q a:a"),
        ({"conversation": [{"human": "q", "assistant": "a"}, {"human": "w", "thinking": "t", "assistant": "b"}]}, "u:q a:a u:w a:t>b"),
        ({"messages": [{"role": "developer", "content": "s"}, USER, REPLY, USER, REPLY]}, "s:s u:q a:a u:q a:a"),
        ({"messages": [USER, REPLY, USER]}, "u:q a:a u:q"),
        ({"messages": [USER, REPLY | {"reasoning_content": "t"}]}, "u:q a:t>a"),
        ({"messages": [USER, REPLY | {"thinking": "t", "reasoning": "t"}]}, "u:q a:t>a"),
        ({"messages": [USER, REPLY | {"reasoning_content": None, "thinking": "t", "reasoning": ""}]}, "u:q a:t>a"),
        ({"messages": [USER, REPLY | {"reasoning": None, "content": "<think>\nt\n</think>\n\na"}]}, "u:q a:t>a"),
        ({"messages": [USER, {"role": "assistant", "content": [{"type": "reasoning", "value": "t"}, {"type": "text", "value": "a"}, {"type": "text", "text": "b"}]}]}, "u:q a:t>ab"),
        ({"messages": [USER, {"role": "assistant", "content": [{"type": "thinking", "thinking": "t"}, "a"]}]}, "u:q a:t>a"),
        ({"messages": [USER, {"role": "assistant", "tool_calls": [], "content": "a", "name": None}]}, "u:q a:a"),
        ({"prompt": [{"role": "system", "content": "s"}, USER], "completion": [REPLY]}, "s:s u:q a:a"),
    ],
)  # fmt: skip
def test_every_format_gives_its_turns(columns, expected):
    message = " ".join(
        f"{role}:{reasoning}>{content}" if reasoning else f"{role}:{content}"
        for role, content, reasoning in turns(columns)
    )
    assert message == expected


@pytest.mark.parametrize(
    ("content", "reasoning", "answer"),
    [
        ("<think>\nt\n</think>\n\na", "t", "a"),
        (" \n<think>  t \u3000</think> \n a\n", "t", "a\n"),
        ("<think>\n\n</think>\n\na", "", "a"),
        ("t\n</think>\na", "t", "a"),
        ("a", "", "a"),
        ("<think>t", "", "<think>t"),
        ("<think>t</think>b</think>a", "", "<think>t</think>b</think>a"),
        ("<think>s<think>t</think>a", "", "<think>s<think>t</think>a"),
        ("b<think>t</think>a", "", "b<think>t</think>a"),
        ("</think>t<think>a", "", "</think>t<think>a"),
    ],
)
def test_only_one_clean_think_block_is_taken_for_reasoning(content, reasoning, answer):
    for columns in ({"question": "q", "answer": content}, {"messages": [USER, REPLY | {"content": content}]}):
        assert turns(columns) == [("u", "q", ""), ("a", answer, reasoning)]
    assert turns({"question": content, "answer": "a"})[0] == ("u", content, "")


def test_tags_next_to_given_reasoning_are_left_for_the_row_checks():
    both = "<think>t</think>a"
    assert turns(PAIR | {"answer": both})[1] == ("a", both, "t")
    assert turns(PAIR | {"answer": both, "think": " \n"})[1] == ("a", "a", "t")
    assert turns({"messages": [USER, {"role": "assistant", "content": both, "reasoning": "t"}]})[1] == ("a", both, "t")


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (PAIR, ["question:", "answer:think"]),
        (PAIR | {"think": "", "answer": "<think>t</think>a"}, ["question:", "answer:answer"]),
        ({"instruction": "q", "Input": "i", "output": "a", "system": "s"}, ["system:", "instruction + Input:", "output:output"]),
        ({"query": "q", "response": "a", "history": [["h", "r"]]}, ["history[0][0]:", "history[0][1]:history[0][1]", "query:", "response:response"]),
        ({"messages": [USER, REPLY | {"reasoning": "t"}]}, ["messages[0].content:", "messages[1].content:messages[1].reasoning"]),
        ({"conversation": [{"human": "q", "assistant": "a"}]}, ["conversation[0].human:", "conversation[0].assistant:conversation[0].assistant"]),
    ],
)  # fmt: skip
def test_every_turn_knows_the_fields_that_it_came_from(columns, expected):
    assert [f"{content}:{reasoning}" for content, reasoning in field_names(columns)] == expected


def test_the_rows_own_system_prompt_comes_before_the_recipes():
    message = {"role": "system", "content": "own"}
    assert turns(PAIR | {"system": "own"}, "general")[0] == ("s", "own", "")
    assert turns(PAIR | {"system": " "}, "general")[0] == ("s", "general", "")
    assert turns({"messages": [message, USER, REPLY]}, "general")[:2] == [("s", "own", ""), ("u", "q", "")]
    assert turns({"messages": [message | {"content": ""}, USER, REPLY]}, "general")[:2] == [
        ("s", "general", ""),
        ("u", "q", ""),
    ]
    assert turns({"messages": [message | {"content": ""}, USER, REPLY], "system": "own"}, "general")[0] == (
        "s",
        "own",
        "",
    )
    emptied = (Turn("system", "\n"), Turn("user", "q"))
    assert with_default_system_prompt(emptied, None) == (Turn("user", "q"),)


@pytest.mark.parametrize("null", ["None", "null", " NaN\n", "<NA>", float("nan"), None])
def test_a_null_written_as_text_is_a_blank(null):
    assert turns({"instruction": "q", "input": null, "output": "a", "think": null, "system": null}) == [
        ("u", "q", ""),
        ("a", "a", ""),
    ]
    assert turns({"question": "q", "think": null, "answer": "<think>t</think>a"})[1] == ("a", "a", "t")


def trained_flags(columns):
    found = draft(columns)
    return [turn.trained for turn in found.example.turns if turn.role == "assistant"]


def test_weights_say_which_replies_are_trained():
    for weight in ({"loss_weight": 0.0}, {"weight": 0}, {"loss": False}, {"train": False}):
        assert trained_flags(
            {"messages": [USER | {"loss_weight": 0.5}, REPLY | weight, USER, REPLY | {"weight": 1.0}]}
        ) == [
            False,
            True,
        ]
    assert trained_flags({"prompt": [USER, REPLY, USER], "completion": [REPLY]}) == [False, True]


@pytest.mark.parametrize(
    ("columns", "fault", "message"),
    [
        (PAIR | {"answer": 7}, "not_text", "answer: is 7, not text"),
        (PAIR | {"think": ["x", 7]}, "not_text", "think: is ['x', 7], not a text or a list of steps"),
        (PAIR | {"answer": ["x", "y"]}, "not_text", "answer: is a list of 2 texts; to join them, write [answer] in brackets under data.columns"),
        (PAIR | {"question": {"a": 1}}, "not_text", "question: is {'a': 1}, not text"),
        (PAIR | {"answer": "a\ud83d"}, "unreadable", "answer: contains half a character (a lone surrogate)"),
        ({"question": "q"}, "unreadable", "answer: the row has no such column"),
        (PAIR | {"system": 0}, "not_text", "system: is 0, not text"),
        (PAIR | {"history": [["x"]]}, "not_text", "history[0]: is ['x'], not a pair of a question and a reply"),
        (PAIR | {"history": "[x]"}, "not_text", "history: is '[x]', not a list of pairs or messages"),
        (PAIR | {"history": ["q", "a", "q"]}, "not_text", "history: is a list of 3 texts; it is only clear who speaks where a reply follows every question"),
        (PAIR | {"keypoint": ["x"]}, "not_text", "keypoint: is ['x'], not text"),
    ],
)  # fmt: skip
def test_what_is_not_text_is_reported_with_its_field(columns, fault, message):
    sample = PAIR | {"history": [], "system": "", "keypoint": ""}
    assert draft(columns, sample=sample) == Finding(fault, f"rows.jsonl:7: {message}")


TOOLS = "calls tools, which cannot be trained yet"


@pytest.mark.parametrize(
    ("messages", "fault", "message"),
    [
        ("text", "not_text", "messages: is 'text', not a list of messages"),
        ([USER, "a"], "not_text", "messages[1]: is 'a', not a message"),
        ([USER, REPLY | {"content": 7}], "not_text", "messages[1].content: is 7, not text"),
        ([USER | {"content": [{"type": "image_url"}]}, REPLY], "not_text", "messages[0].content[0]: is of type 'image_url', not text"),
        ([USER | {"content": [{"type": [1]}]}, REPLY], "not_text", "messages[0].content[0]: is of type [1], not text"),
        ([USER, REPLY | {"content": [{"type": "text", "text": 7}]}], "not_text", "messages[1].content[0].text: is 7, not text"),
        ([USER, USER, REPLY], "role", "messages[1].content: is the user's turn where the assistant's is expected"),
        ([REPLY], "role", "messages[0].content: is the assistant's turn where the user's is expected"),
        ([USER, REPLY, {"role": "system", "content": "s"}], "role", "messages[2].content: is the system's turn where the user's is expected"),
        ([USER, {"role": "critic", "content": "x"}], "role", "messages[1]: has the role 'critic'; use system, user or assistant, or say who it is in data.columns.roles"),
        ([{"content": "x"}], "role", "messages[0]: has no role"),
        ([{"content": "x", "user": "bob"}], "role", "messages[0]: has no role"),
        ([USER, REPLY, {"role": "tool", "content": "x"}], "role", f"messages[2]: {TOOLS}"),
        ([USER, {"role": "assistant", "content": None, "tool_calls": [{}]}], "role", f"messages[1]: {TOOLS}"),
        ([USER, REPLY | {"content": [{"type": "tool_call", "value": "x"}]}], "role", f"messages[1].content[0]: {TOOLS}"),
        ([USER, REPLY | {"loss_weight": -0.5}], "role", "messages[1].loss_weight: is -0.5; use 1 (trained) or 0 (not trained)"),
        ([USER | {"reasoning": "t"}, REPLY], "role", "messages[0].reasoning: is reasoning, which only the assistant can have"),
        ([USER, REPLY | {"content": ["a", {"type": "thinking", "thinking": "t"}]}], "role", "messages[1].content[1]: is reasoning after the start of the answer"),
        ([USER, REPLY | {"reasoning": "t", "thinking": "u"}], "unreadable", "messages[1]: reasoning and thinking mean the same but differ"),
        ([USER, REPLY | {"reasoning": "t", "content": [{"type": "thinking", "text": "u"}]}], "unreadable", "messages[1]: content and reasoning hold different reasoning"),
        ([USER], "blank", "has no reply"),
        ([], "blank", "has no reply"),
        (None, "blank", "has no reply"),
        ([USER, REPLY | {"weight": 0}], "blank", "has no trained reply: every weight is 0"),
    ],
)  # fmt: skip
def test_a_conversation_that_cannot_be_trained_says_why(messages, fault, message):
    found = draft({"messages": messages}, sample={"messages": [USER, REPLY]})
    assert found == Finding(fault, f"rows.jsonl:7: {message}")


def test_two_different_system_prompts_are_a_finding():
    columns = {"system": "s", "messages": [{"role": "system", "content": "t"}, USER, REPLY]}
    found = draft(columns)
    assert found == Finding("role", "rows.jsonl:7: system: differs from the system prompt in messages[0].content")
    assert turns(columns | {"system": "t"})[0] == ("s", "t", "")


def test_a_row_that_could_not_be_read_keeps_its_own_finding():
    own = Finding("unreadable", "rows.jsonl:2: is not valid JSON")
    layout = detect_columns([RawRow("rows.jsonl:1", PAIR)], ColumnsConfig(), (), "rows.jsonl")
    assert to_example(RawRow("rows.jsonl:2", None, (own,)), layout) is own


def test_no_depth_of_a_value_is_too_much():
    deep, other = [], []
    for _ in range(100_000):
        deep, other = [deep], [other]
    shapes = [
        {"messages": deep},
        {"messages": [USER | {"value": deep, "content": other}, REPLY]},
        {"messages": [USER, REPLY | {"weight": deep, "role": deep, "reasoning": deep}]},
        {"messages": [USER | {"content": [{"type": deep, "text": deep}]}, REPLY | {"type": deep}]},
        PAIR | {"answer": deep},
        PAIR | {"history": [deep], "keypoint": deep, "system": "s"},
    ]
    for shape in shapes:
        sample = {"messages": [USER, REPLY]} if "messages" in shape else PAIR | {"history": [], "keypoint": ""}
        found = draft(shape, sample=sample)
        assert isinstance(found, Finding)
        assert len(found.sentence) < 200


@pytest.mark.parametrize(("value", "keypoint"), [(None, None), ("k", "k"), (7, "7"), (True, "True")])
def test_a_keypoint_is_read_as_text(value, keypoint):
    found = draft(PAIR | {"keypoint": value})
    assert isinstance(found, UncheckedExample)
    assert found.example.keypoint == keypoint
