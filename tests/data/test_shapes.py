"""Rows of every shape are read: under other keys, inside objects, in several columns, in lists, and as text."""

import json

import pytest
from support.prepared_rows import prose, write
from support.read_rows import field_names, first_example, mapping_of, spoken, unused
from support.runs import settings

from thinktune.config.schema import ColumnsConfig
from thinktune.data.columns.detection import detect_columns
from thinktune.data.columns.mapping import UncheckedExample, to_example
from thinktune.data.pipeline import prepare_with_faults
from thinktune.data.reading.readers import read_rows
from thinktune.data.types import Finding
from thinktune.errors import UserError

ASK = {"role": "user", "content": "q"}
SAY = {"role": "assistant", "content": "a"}
TAGGED = "<think>t</think>a"


def refusal(rows, columns=None):
    with pytest.raises(UserError) as caught:
        mapping_of(rows, columns)
    return caught.value.faults


@pytest.mark.parametrize(
    ("messages", "said", "format"),
    [
        # A speaker's text under a key of its own.
        ([{"system": "s", "input": "q", "output": TAGGED}], "s:s u:q a:t>a", "system / input / output"),
        ([{"input": "q", "output": "a"}, {"input": "r", "output": "b"}], "u:q a:a u:r a:b", "input / output"),
        ([{"input": "q", "output": "a", "output_with_loss": False}, {"input": "r", "output": "b"}], "u:q h:a u:r a:b", "input / output"),
        ([{"question": "q", "answer": "a"}], "u:q a:a", "question / answer"),
        ([{"instruction": "q", "input": "i", "output": "a"}], "u:q\ni a:a", "instruction / input / output"),
        ([{"Human": "q", "MOSS": "a"}], "u:q a:a", "Human / MOSS"),
        ([{"病人": "q", "医生": "a"}], "u:q a:a", "病人 / 医生"),
        ([{"user": "q", "inner_thought": "t", "assistant": "a"}], "u:q a:t>a", "user / inner_thought / assistant"),
        # The key of the text, of the role, and the roles.
        ([{"role": "user", "text": "q"}, {"role": "assistant", "text": TAGGED}], "u:q a:t>a", "role / text"),
        ([{"from": "human", "message": "q"}, {"from": "gpt", "message": "a"}], "u:q a:a", "from / message"),
        ([{"role": "user", "utt": "q", "id": 1}, {"role": "assistant", "utt": "a", "id": 2}], "u:q a:a", "role / utt"),
        ([{"speaker": "user", "utterance": "q"}, {"speaker": "assistant", "utterance": "a"}], "u:q a:a", "speaker / utterance"),
        ([{"type": "human", "content": "q"}, {"type": "ai", "content": "a"}], "u:q a:a", "type / content"),
        ([{"角色": "患者", "内容": "q"}, {"角色": "医生", "内容": "a"}], "u:q a:a", "角色 / 内容"),
        ([{"role": "prompter", "text": "q"}, {"role": "assistant", "text": "a"}], "u:q a:a", "role / text"),
        ([{"role": "病人", "content": "q"}, {"role": "医生", "content": "a"}], "u:q a:a", "role / content"),
        ([{"role": "user", "content": {"parts": ["q"]}}, {"role": "assistant", "content": {"text": "a"}}], "u:q a:a", "role / content"),
        ([ASK | {"text": "other"}, SAY | {"text": "other"}], "u:q a:a", "role / content"),
        ({"turn_1": {"Human": "q", "MOSS": "a"}, "turn_2": {"Human": "r", "MOSS": "b"}}, "u:q a:a u:r a:b", "Human / MOSS"),
        ([{"role": "question", "content": "q"}, {"role": "thinking", "content": "t"}, {"role": "answer", "content": "a"}], "u:q a:t>a", "role / content"),
        # Lists of pairs and of texts.
        ([["q", "a"], ["r", "b"]], "u:q a:a u:r a:b", "pairs"),
        ([["user", "q"], ["assistant", "a"]], "u:q a:a", "pairs"),
        (["q", TAGGED, "r", "b"], "u:q a:t>a u:r a:b", "texts in turn"),
        # Text that spells a list.
        (json.dumps([ASK, SAY]), "u:q a:a", "role / content"),
        (str([ASK, SAY]), "u:q a:a", "role / content"),
        ("[{'role': 'user', 'content': \"it's q\"}\n {'role': 'assistant', 'content': 'a'}]", "u:it's q a:a", "role / content"),
        ("array([{'role': 'user', 'content': 'q'},\n       {'role': 'assistant', 'content': 'a'}], dtype=object)", "u:q a:a", "role / content"),
        ({"messages": [ASK, SAY], "id": 7}, "u:q a:a", "role / content"),
        # Reasoning in a message before the reply.
        ([ASK, SAY | {"content": "<think>t</think>"}, SAY], "u:q a:t>a", "role / content"),
        ([ASK, {"role": "reasoning", "content": "t"}, SAY], "u:q a:t>a", "role / content"),
        ([{"from": "human", "value": "q"}, {"from": "thought", "value": "t"}, {"from": "gpt", "value": "a"}], "u:q a:t>a", "from / value"),
        ([ASK, SAY | {"content": "t", "channel": "analysis"}, SAY | {"channel": "final"}], "u:q a:t>a", "role / content"),
        ([ASK, SAY | {"content": "<think>t</think>", "loss": True}, SAY | {"loss": False}, ASK, SAY], "u:q h:t>a u:q a:a", "role / content"),
        ([ASK, SAY | {"content": "", "reasoning_content": "t"}, SAY], "u:q a:t>a", "role / content"),
        ([ASK, SAY | {"reasoning_steps": ["t", "v"]}], "u:q a:t\nv>a", "role / content"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["messages", "conversation"])
def test_messages_are_read_whatever_their_keys(name, messages, said, format):
    rows = [{name: messages}]
    assert spoken(rows) == said
    assert mapping_of(rows).message_format == format


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([ASK, SAY, SAY], "role: rows.jsonl:1: messages[2].content: is the assistant's turn where the user's is expected"),
        ([ASK, SAY | {"reasoning": "t"}, SAY], "role: rows.jsonl:1: messages[2].content: is the assistant's turn where the user's is expected"),
        (["q", "a", "r"], "not_text: rows.jsonl:1: messages: is a list of 3 texts; it is only clear who speaks where a reply follows every question"),
        ([ASK, SAY | {"channel": "commentary"}], "role: rows.jsonl:1: messages[1].channel: is 'commentary'; only analysis and final can be trained"),
        ([["q", "a", "r"]], "not_text: rows.jsonl:1: messages[0]: is ['q', 'a', 'r'], not a pair of a question and a reply"),
        ([{"role": "user", "one": "q", "two": "r"}, SAY | {"content": None, "one": "a", "two": "b"}], "u: a:"),
    ],
)  # fmt: skip
def test_messages_whose_meaning_is_not_sure_are_refused(messages, said):
    assert spoken([{"messages": messages}]) == said


def test_a_text_that_spells_no_messages_is_no_conversation():
    for text in ("[hello]", "[1, 2]", "{'a'", "just text", "[" * 3000 + "]" * 3000, "__import__('os')"):
        rows = [{"messages": text, "question": "q", "answer": "a"}]
        assert mapping_of(rows).messages is None


def test_unusual_roles_are_shown_and_unknown_ones_asked_for():
    known = [{"messages": [{"role": "病人", "content": "q"}, {"role": "医生", "content": "a"}]}]
    assert mapping_of(known).describe() == "messages: messages (role / content); 病人 = user; 医生 = assistant"
    unknown = [{"messages": [{"role": "Pupil", "content": "q"}, {"role": "Master", "content": "a"}]}]
    (sentence,) = refusal(unknown)
    assert sentence == (
        "data.columns.roles: in messages of rows.jsonl speak Pupil, Master, and it is unclear who asks and who answers; write"
        " data.columns: {messages: messages, roles: {user: Pupil, assistant: Master}} if that is who they are"
    )
    told = {"messages": "messages", "roles": {"user": "Pupil", "assistant": ["Master", "Aide"]}}
    assert spoken(unknown, columns=told) == "u:q a:a"
    assert (
        mapping_of(unknown, columns=told).as_recipe_value
        == "{messages: messages, roles: {user: pupil, assistant: [master, aide]}}"
    )
    half = [{"messages": [ASK, {"role": "Sage", "content": "a"}]}]
    assert "roles: {assistant: Sage}" in refusal(half)[0]
    spoken_by = [{"messages": [{"speaker": "Pupil", "text": "q"}, {"speaker": "Master", "text": "a"}]}]
    assert "roles: {user: Pupil, assistant: Master}" in refusal(spoken_by)[0]
    assert spoken(spoken_by, columns=told) == "u:q a:a"
    keyed = [{"messages": [{"Pupil": "q", "Master": "a"}]}]
    assert spoken(keyed, columns=told) == "u:q a:a"


def test_roles_that_are_given_come_before_the_usual_meaning():
    rows = [{"messages": [{"role": "doctor", "content": "q"}, {"role": "patient", "content": "a"}]}]
    assert spoken(rows, columns={"roles": {"user": "doctor", "assistant": "patient"}}) == "u:q a:a"


def test_beside_a_role_a_speakers_key_is_something_else_and_a_topic_is_no_role():
    assert unused([{"messages": [ASK | {"input": "x"}, SAY]}]) == {"messages.input": "x"}
    messages = [{"kind": "user", "by": "ai", "text": "q"}, {"kind": "assistant", "by": "ai", "text": "a"}]
    assert spoken([{"messages": messages}]) == "u:q a:a"


def test_one_row_of_another_role_does_not_refuse_the_file():
    rows = [{"messages": [ASK, SAY]}, {"messages": [ASK, {"role": "critic", "content": "x"}]}]
    assert mapping_of(rows).messages == "messages"


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"roles": {"user": 5, "boss": "x", "assistant": []}}, ("user is 5, not a text", "boss is not a role; write user, assistant, system", "assistant is []")),
        ({"roles": "user"}, ('is "user"; write it as in',)),
        ({"question": []}, ("is []; write a name or more in the brackets",)),
        ({"question": ["q", 5], "answer": 7}, ('is ["q", 5]; write a name', "is 7, not a text; write a name, or several")),
    ],
)  # fmt: skip
def test_all_mistakes_in_the_columns_setting_are_told_at_once(wrong, sentence):
    with pytest.raises(ValueError) as caught:
        ColumnsConfig(**wrong)
    for part in sentence:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("row", "said", "described"),
    [
        ({"messages": [ASK, SAY], "reasoning_content": "t"}, "u:q a:t>a", "messages: messages (role / content), reasoning = reasoning_content"),
        ({"messages": [ASK, SAY, ASK, SAY], "thinking": ["t", "v"]}, "u:q a:a u:q a:t\nv>a", "messages: messages (role / content), reasoning = thinking; the steps in thinking are joined by lines"),
        ({"messages": [ASK], "reasoning": "t", "answer": "b"}, "u:q a:t>b", "messages: messages + answer (role / content), reasoning = reasoning"),
        ({"prompt": [ASK, SAY, ASK], "response": TAGGED}, "u:q h:a u:q a:t>a", "messages: prompt + response (role / content)"),
        ({"prompt": "q", "completion": [SAY | {"reasoning": "t"}]}, "u:q a:t>a", "messages: prompt + completion (role / content / reasoning)"),
        ({"question": "q", "response": SAY | {"reasoning_content": "t"}}, "u:q a:t>a", "messages: question + response (role / content / reasoning_content)"),
        ({"input": json.dumps([ASK]), "output": TAGGED, "reasoning": "on"}, "u:q a:t>a", "messages: input + output (role / content), mode = reasoning; input is text that spells messages"),
    ],
)  # fmt: skip
def test_reasoning_and_replies_beside_messages_belong_to_the_last_turn(row, said, described):
    assert spoken([row]) == said
    assert mapping_of([row]).describe() == described


def test_reasoning_beside_messages_is_not_taken_where_the_replies_have_their_own():
    rows = [{"messages": [ASK, SAY | {"content": TAGGED}], "reasoning": "another"}]
    assert mapping_of(rows).reasoning is None
    assert unused(rows) == {"reasoning": "another"}
    given = {"messages": "messages", "reasoning": "reasoning"}
    assert spoken(rows, columns=given) == (
        "unreadable: rows.jsonl:1: reasoning: differs from the reasoning in messages[1].content"
    )
    assert spoken([rows[0] | {"reasoning": "t "}], columns=given) == "u:q a:t>a"


def test_a_key_of_messages_can_be_named_as_the_reasoning():
    rows = [{"talk": [{"user": "q", "inner_voice": "t", "assistant": "a"}]}]
    columns = {"messages": "talk", "reasoning": "talk.inner_voice"}
    assert spoken(rows, columns=columns) == "u:q a:t>a"
    assert unused(rows, columns=columns) == {}
    assert unused(rows, columns={"messages": "talk"}) == {"talk.inner_voice": "t"}
    assert mapping_of(rows, columns=columns).as_recipe_value == "{reasoning: talk.inner_voice, messages: talk}"
    assert "a column 'talk.voice'" in refusal(rows, columns={"messages": "talk", "reasoning": "talk.voice"})[0]


@pytest.mark.parametrize(
    ("row", "said", "described"),
    [
        ({"input": {"question": "q"}, "output": {"think": "t", "answer": "a"}}, "u:q a:t>a", "{question: input.question, reasoning: output.think, answer: output.answer}"),
        ({"q_id": 1, "data": {"Question": "q", "CoT": "t", "Response": "a"}}, "u:q a:t>a", "{question: data.Question, reasoning: data.CoT, answer: data.Response}"),
        ({"question": "q", "result": [{"reasoning": "t", "answer": "a"}]}, "u:q a:t>a", "{question: question, reasoning: result.0.reasoning, answer: result.0.answer}"),
        ({"record": json.dumps({"prompt": "q", "response": TAGGED})}, "u:q a:t>a", "{question: record.prompt, answer: record.response}"),
        ({"request": {"messages": [ASK], "model": "m"}, "response": {"choices": [{"message": SAY | {"reasoning_content": "t"}}]}}, "u:q a:t>a", "{question: request.messages, answer: response.choices.0.message}"),
        ({"conversation": {"messages": [ASK, SAY]}}, "u:q a:a", "{messages: conversation}"),
        ({"item": {"dialog": [ASK, SAY]}}, "u:q a:a", "{messages: item.dialog}"),
    ],
)  # fmt: skip
def test_columns_inside_of_objects_are_found(row, said, described):
    assert spoken([row]) == said
    assert mapping_of([row]).as_recipe_value == described
    assert spoken([row], columns=dict(_parts(described))) == said, "the mapping that is shown can be written"


def _parts(flow):
    return [part.split(": ") for part in flow.strip("{}").split(", ")]


def test_a_path_that_could_be_two_things_is_not_taken():
    rows = [{"question": "q", "first": {"answer": "a"}, "second": {"answer": "b"}}]
    assert "none is recognized as the answer" in refusal(rows)[0]
    assert spoken(rows, columns={"answer": "second.answer"}) == "u:q a:b"
    assert unused(rows, columns={"answer": "second.answer"}) == {"first": {"answer": "a"}}


def test_objects_are_not_opened_where_columns_hold_question_and_answer():
    rows = [{"question": "q", "answer": TAGGED, "meta": {"reasoning": "other", "system": "no"}}]
    assert spoken(rows) == "u:q a:t>a"


def test_what_is_left_of_an_opened_object_is_unused_by_its_path():
    rows = [{"input": {"question": "q", "note": "n"}, "result": [{"answer": "a", "why": {"x": 1}}], "id": 3}]
    assert unused(rows) == {"id": 3, "input.note": "n", "result.0.why": {"x": 1}}


def test_a_column_of_that_very_name_comes_before_a_path():
    rows = [{"input.question": "q", "input": {"question": "other"}, "answer": "a"}]
    assert spoken(rows, columns={"question": "input.question"}) == "u:q a:a"


def test_a_row_that_lacks_a_path_says_so_and_a_wrong_path_names_the_right_ones():
    rows = [{"input": {"x": 1}, "answer": "a"}, {"input": {"question": "q"}, "answer": "a"}]
    assert spoken(rows, columns={"question": "input.question"}) == (
        "unreadable: rows.jsonl:1: input.question: the row has no such column"
    )
    (sentence,) = refusal(rows, columns={"question": "input.query"})
    assert sentence == (
        "data.columns.question: no row of rows.jsonl has a column 'input.query'; input holds input.x, input.question"
    )
    assert field_names(rows[1:]) == [("input.question", ""), ("answer", "answer")]


OPTIONS = "u:q\nA. x\nB. y a:a"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"options": ["x", "y"]}, OPTIONS),
        ({"options": {"A": "x", "B": "y"}}, OPTIONS),
        ({"choices": {"text": ["x", "y"], "label": ["A", "B"]}}, OPTIONS),
        ({"选项": "['x', 'y']"}, OPTIONS),
        ({"options": '{"A": "x", "B": "y"}'}, OPTIONS),
        ({"options": "A. x\nB. y"}, OPTIONS),
        ({"options": ["A. x", "B. y"]}, OPTIONS),
        ({"options": ["(A) x", "(B) y"]}, "u:q\n(A) x\n(B) y a:a"),
        ({"options": [{"key": "A", "value": "x"}, {"key": "B", "value": "y"}]}, OPTIONS),
        ({"options": [1, 2.5]}, "u:q\nA. 1\nB. 2.5 a:a"),
        ({"A": "x", "B": "y"}, OPTIONS),
        ({"option_b": "y", "option_a": "x"}, OPTIONS),
        ({"choice1": "x", "choice2": "y", "choice3": None}, OPTIONS),
        ({"选项A": "x", "选项B": "y"}, OPTIONS),
        ({"question": "q A) x B) y", "options": ["x", "y"]}, "u:q A) x B) y a:a"),
        ({"B": "y"}, "u:q a:a"),
        ({"options": ["x"]}, "u:q a:a"),
    ],
)
def test_options_join_their_question_unless_it_holds_them(more, said):
    assert spoken([{"question": "q", "answer": "a"} | more]) == said


def test_an_instruction_its_input_and_options_are_joined_in_this_order():
    rows = [{"options": ["x", "y"], "instruction": "q", "input": "i", "output": "a"}]
    assert spoken(rows) == "u:q\ni\nA. x\nB. y a:a"
    assert mapping_of(rows).as_recipe_value == "{question: [instruction, input, options], answer: output}"


@pytest.mark.parametrize(
    ("question", "said", "name"),
    [
        (["instruction", "question"], "u:do\nq a:a", "instruction + question"),
        (["question", "facts"], "u:q\none\ntwo a:a", "question + facts"),
        (["empty", "question"], "u:q a:a", "empty + question"),
        (["meta.title", "question"], "u:T\nq a:a", "meta.title + question"),
        (["absent", "question"], "u:q a:a", "absent + question"),
    ],
)
def test_columns_that_the_recipe_names_together_are_joined_by_lines(question, said, name):
    row = {"question": "q", "instruction": "do", "facts": ["one", "two"], "empty": "", "meta": {"title": "T"}}
    rows = [row | {"answer": "a"}, row | {"absent": "x", "answer": "a"}]
    columns = {"question": question}
    assert spoken(rows, columns=columns) == said
    assert field_names(rows, columns=columns)[0] == (name, "")
    assert f"question = {name}" in mapping_of(rows, columns=columns).describe()


def test_every_mistake_in_joined_columns_is_told_at_once():
    rows = [{"question": "q", "answer": "a", "title": "t"}]
    found = refusal(rows, columns={"question": ["nope", "question"], "answer": ["answer", "title", "missing"]})
    assert ["'nope'" in found[0], "'missing'" in found[1]] == [True, True]
    (twice,) = refusal(rows, columns={"question": ["question", "title"], "system": "title"})
    assert "names a column twice" in twice


@pytest.mark.parametrize(
    ("reasoning", "said"),
    [
        (["one", "two"], "one\ntwo"),
        ([{"step": 1, "thought": "one"}, {"step": 2, "thought": "two"}], "one\ntwo"),
        ([{"title": "First", "text": "one"}], "First\none"),
        ({"step 1": "one", "step 2": "two"}, "one\ntwo"),
        ({"步骤1": "one", "步骤2": "two"}, "one\ntwo"),
        ("['one', 'two']", "one\ntwo"),
        ('["one", "two"]', "one\ntwo"),
        ("['one' 'two']", "one\ntwo"),
        (["one", "", None, "two"], "one\ntwo"),
        ({"text": "one"}, "one"),
        ("[1, 2] is a list, [3] another", "[1, 2] is a list, [3] another"),
        ("[1, 2]", "[1, 2]"),
        ("{x}", "{x}"),
    ],
)
def test_lists_of_steps_are_joined_by_lines(reasoning, said):
    rows = [{"question": "q", "reasoning": reasoning, "answer": "a"}]
    assert spoken(rows, columns={"reasoning": "reasoning"}) == f"u:q a:{said}>a"


def test_a_level_of_effort_is_no_reasoning():
    rows = [{"question": "q", "answer": TAGGED, "reasoning": "high"}]
    assert spoken(rows) == "u:q a:t>a"
    assert unused(rows) == {"reasoning": "high"}


@pytest.mark.parametrize("reasoning", [[1, 2], {"a": "one", "b": "two"}, [["one"]], [{"a": {"b": "one"}}], 5])
def test_what_is_no_list_of_steps_is_told(reasoning):
    rows = [{"question": "q", "reasoning": reasoning, "answer": "a"}]
    assert spoken(rows, columns={"reasoning": "reasoning"}).startswith("not_text: rows.jsonl:1: reasoning: is ")


def test_one_text_in_a_list_is_read_and_several_answers_are_no_answer():
    assert spoken([{"question": ["q"], "answer": ["a"]}]) == "u:q a:a"
    rows = [{"question": "q", "answer": ["a", "b"]}]
    assert spoken(rows).startswith("not_text: rows.jsonl:1: answer: is a list of 2 texts; to join them")
    assert spoken(rows, columns={"answer": ["answer"]}) == "u:q a:a\nb"


@pytest.mark.parametrize(
    "history",
    [
        [["h", "r"]],
        [{"role": "user", "content": "h"}, {"role": "assistant", "content": "r"}],
        [{"instruction": "h", "output": "r"}],
        [{"question": "h", "answer": "r"}],
        ["h", "r"],
        '[["h", "r"]]',
        "[('h', 'r')]",
    ],
)
def test_a_history_of_any_form_comes_before_the_question(history):
    assert spoken([{"instruction": "q", "output": "a", "history": history}]) == "u:h a:r u:q a:a"


@pytest.mark.parametrize("weight", [2.0, 0.5, 1.5])
def test_a_weight_that_training_cannot_follow_is_told_and_the_row_trained(weight):
    found = first_example([{"messages": [ASK, SAY | {"loss_scale": weight}]}])
    assert isinstance(found, UncheckedExample)
    assert [(one.fault, one.sentence) for one in found.findings] == [
        (
            "loss_weight",
            f"rows.jsonl:1: messages[1].loss_scale: is {weight}; all trained messages weigh the same",
        )
    ]
    plain = first_example([{"messages": [ASK, SAY | {"loss_scale": 1}]}])
    assert isinstance(plain, UncheckedExample)
    assert plain.findings == ()


@pytest.mark.parametrize(("policy", "trained", "action"), [("keep", 2, "kept"), ("drop", 1, "dropped")])
def test_the_policy_of_odd_weights_decides(policy, trained, action, tmp_path, start, tokenizer, monkeypatch):
    monkeypatch.setenv("THINKTUNE_CACHE", str(tmp_path / "cache"))
    replies = [{"role": "assistant", "content": "<think>It is one.</think>"}, SAY | {"loss_scale": 2.0}]
    rows = [
        {"messages": [ASK | {"content": "What is it?"}, *replies]},
        {"messages": [ASK | {"content": "And that?"}, replies[0], SAY]},
    ]
    file = write(tmp_path / "rows.jsonl", rows)
    data = {"name": str(file), "validation": 0.0, "faults": {"loss_weight": policy}}
    prepared = prepare_with_faults(settings({"model": {"name": str(start)}, "data": data}), tokenizer)
    assert prepared.summary["train_rows"] == trained
    assert [(fault["fault"], fault["actions"]) for fault in prepared.summary["faults"]] == [
        ("loss_weight", {action: 1})
    ]


def test_a_long_row_whose_messages_are_text_is_seen_as_such(tmp_path, start, tokenizer, monkeypatch):
    monkeypatch.setenv("THINKTUNE_CACHE", str(tmp_path / "cache"))
    talk = [ASK | {"content": prose(45_000)}, SAY | {"content": f"<think>Long.</think>{prose(50_000)}"}]
    short = [ASK | {"content": "Why?"}, SAY | {"content": "<think>Think of why.</think>Because."}]
    file = write(tmp_path / "rows.jsonl", [{"messages": json.dumps(one)} for one in (talk, short)])
    data = {"name": str(file), "validation": 0.0}
    prepared = prepare_with_faults(settings({"model": {"name": str(start)}, "data": data}), tokenizer)
    assert prepared.summary["files"][0]["format"].endswith("messages is text that spells messages")
    assert prepared.summary["train_rows"] == 1


REAL = {
    "failing/54-conversation-input-output/rows.jsonl": "messages: conversation (system / input / output); input = user; output = assistant",
    "failing/55-message-keys/rows.jsonl": "messages: messages (role / text)",
    "failing/57-reasoning-beside-messages/rows.jsonl": "messages: messages (role / content), reasoning = reasoning_content",
    "failing/58-reasoning-list/rows.jsonl": "columns: question = question, reasoning = reasoning, answer = answer; the steps in reasoning are joined by lines",
    "failing/59-reasoning-on-off/rows.jsonl": "columns: question = input, answer = output (reasoning inside think tags), mode = reasoning",
    "failing/61-columns-to-join/rows.jsonl": "columns: question = instruction + question, reasoning = think, answer = answer",
    "failing/62-nested-columns/rows.jsonl": "columns: question = input.question, reasoning = output.think, answer = output.answer",
    "cases/05/rows.jsonl": "messages: conversations (user / inner_thought / assistant)",
    "cases/06/chat.jsonl": "messages: input + output (role / content), system = system_prompt, mode = reasoning",
    "cases/11/rows.jsonl": "columns: question = question + options, reasoning = reasoning, answer = answer",
    "cases/14/rows.jsonl": "messages: messages (role / content)",
    "cases/15/rows.jsonl": "messages: messages (role / content), mode = chat_template_kwargs",
}  # fmt: skip


@pytest.mark.real
@pytest.mark.parametrize("name", REAL)
def test_the_inputs_that_were_refused_are_read(real, name):
    rows = list(read_rows(real / name, "rows.jsonl", repair_encoding=False))
    given = {"question": ["instruction", "question"]} if "/61-" in name else {}
    mapping = detect_columns(rows, ColumnsConfig(**given), (), "rows.jsonl")
    assert mapping.describe() == REAL[name]
    read = [to_example(row, mapping) for row in rows]
    assert not [found for found in read if isinstance(found, Finding)]
