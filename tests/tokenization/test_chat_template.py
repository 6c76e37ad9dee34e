"""Tokens are exactly what the template writes; exactly reasoning, answer and end are trained."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinktune.errors import UserError
from thinktune.tokenization import Example, TokenKind, Turn
from thinktune.tokenization.chat_template import reasoning_end_ids, reference_ids, render, render_prompt

CASES = {
    "plain": [Turn("user", "2+2?"), Turn("assistant", "4", "two and two")],
    "system": [Turn("system", "Be kind."), Turn("user", "Hi"), Turn("assistant", "Hello.", "greet\nback")],
    "cjk": [
        Turn("system", "你是医生。"),
        Turn("user", "心脏泵什么？"),
        Turn("assistant", "血液。", "先想。\n\n再答。"),
    ],
    "emoji": [Turn("user", "👩‍⚕️?"), Turn("assistant", "🫀 é", "🤔")],
    "crlf": [Turn("user", "a\r\nb"), Turn("assistant", "c\r\nd", "e\r\nf")],
    "spaces": [Turn("user", " q "), Turn("assistant", " a ", " t ")],
    "no reasoning": [Turn("user", "q"), Turn("assistant", "a")],
    "history": [Turn("user", "q"), Turn("assistant", "a", "t"), Turn("user", "r"), Turn("assistant", "b", "u")],
    "history without": [Turn("user", "q"), Turn("assistant", "a"), Turn("user", "r"), Turn("assistant", "b", "u")],
}


def official(turns, tokenizer, **options):
    """Tokenize the conversation with transformers itself."""
    messages = [
        {"role": turn.role, "content": turn.content}
        | ({"reasoning_content": turn.reasoning} if turn.role == "assistant" else {})
        for turn in turns
    ]
    return tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **options)


def trained_text(rendered, tokenizer):
    ids = [int(token) for token, part in zip(rendered.ids, rendered.kinds, strict=True) if part != TokenKind.PROMPT]
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def assert_faithful(turns, tokenizer):
    """Assert that ids equal the template's, the prompt is a prefix, and the last reply is trained whole, with its end."""
    rendered = render(Example(tuple(turns), "here:1"), tokenizer)
    assert len(rendered) == sum(turn.role == "assistant" for turn in turns)
    last = rendered[-1]
    reply = turns[-1]
    thinking = bool(reply.reasoning)
    assert last.ids.tolist() == official(turns, tokenizer, enable_thinking=thinking)
    prompt = official(turns[:-1], tokenizer, add_generation_prompt=True, enable_thinking=thinking)
    assert render_prompt(turns[:-1], tokenizer, thinking=thinking) == prompt
    assert last.ids[: len(prompt)].tolist() == prompt
    assert not last.kinds[: len(prompt)].any()
    block = "<think>\n" + reply.reasoning.strip("\n") + "\n</think>\n\n" if thinking else ""
    assert trained_text(last, tokenizer) == block + reply.content.lstrip("\n") + "<|im_end|>"
    trained = last.kinds[last.kinds != TokenKind.PROMPT].tolist()
    assert trained == sorted(trained)  # reasoning, then answer, then end
    assert trained[-1] == TokenKind.END
    assert trained.count(TokenKind.END) == 1
    assert last.ids[last.kinds == TokenKind.END][0] == tokenizer.eos_token_id


@pytest.mark.parametrize("name", CASES)
def test_rows_are_rendered_as_the_template_writes_them(name, tokenizer):
    assert_faithful(CASES[name], tokenizer)


@pytest.mark.real
@pytest.mark.parametrize("name", CASES)
def test_rows_are_rendered_as_the_official_template_writes_them(name, official_tokenizer):
    assert_faithful(CASES[name], official_tokenizer)


@pytest.mark.real
def test_the_literal_ids_of_qwen3(official_tokenizer):
    turns = (Turn("user", "hello"), Turn("assistant", "welcome", "lorem"))
    [rendered] = render(Example(turns, "here:1"), official_tokenizer)
    assert rendered.ids.tolist() == [
        151644, 872, 198, 14990, 151645, 198, 151644, 77091, 198,
        151667, 198, 385, 1826, 198, 151668, 271, 34084, 151645, 198,
    ]  # fmt: skip
    assert rendered.kinds.tolist() == [0] * 9 + [1] * 7 + [2, 3, 0]


plain_text = st.text(st.characters(codec="utf-8", exclude_characters="<>|"), min_size=1, max_size=30).filter(str.strip)


@given(plain_text, plain_text, plain_text)
def test_any_row_is_rendered_as_the_template_writes_it(tokenizer, question, reasoning, answer):
    assert_faithful([Turn("user", question), Turn("assistant", answer, reasoning)], tokenizer)


roles = st.sampled_from(["user", "assistant"])
anything = st.sampled_from(
    ["q", " a\n", "<think>x</think>y", "\n\nz", "</think>b", "<tool_response>r</tool_response>", ""]
)


@pytest.mark.real
@given(
    st.lists(st.tuples(roles, anything, st.one_of(st.none(), anything)), max_size=6),
    anything,
    st.booleans(),
    st.sampled_from([None, True, False]),
)
def test_our_template_writes_the_official_text(tokenizer, official_tokenizer, turns, system, prompt, thinking):
    messages = [{"role": "system", "content": system}] if system else []
    for role, content, reasoning in turns:
        messages.append(
            {"role": role, "content": content}
            | ({"reasoning_content": reasoning} if role == "assistant" and reasoning is not None else {})
        )
    if not messages:
        return
    options = {"tokenize": False, "add_generation_prompt": prompt} | (
        {} if thinking is None else {"enable_thinking": thinking}
    )
    assert tokenizer.apply_chat_template(messages, **options) == official_tokenizer.apply_chat_template(
        messages, **options
    )


def with_template(tokenizer, template):
    import copy

    changed = copy.deepcopy(tokenizer)
    changed.chat_template = template
    return changed


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}A:{% endif %}<|im_end|>",
            "is not a prefix",
        ),
        ("{{ raise_exception('no system here') }}", "rejects a row .no system here"),
        ("{% for m in messages %}", "rejects a row"),
        ("{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}", "does not write the row's reasoning"),
        ("{% for m in messages %}{{ m.content }}{{ m.reasoning_content }}{% endfor %}", "never writes the end-of-turn"),
    ],
)
def test_a_template_that_would_lose_something_is_refused(tokenizer, template, message):
    with pytest.raises(UserError, match=message):
        render(Example(tuple(CASES["plain"]), "rows.jsonl:3"), with_template(tokenizer, template))


TURN = "{{ '<|im_start|>' ~ m.role ~ '\\n' ~ m.content ~ '<|im_end|>\\n' }}"
REPLY = "'<think>\\n' ~ m.reasoning_content ~ '\\n</think>\\n\\n' ~ m.content ~ '<|im_end|>\\n'"
LOOP = "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|im_start|>assistant\\n' ~ (REPLY) }}{% else %}TURN{% endif %}{% endfor %}"
PROMPT = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' ~ (OPENING) }}{% endif %}"
EMPTY = "'<think>\\n\\n</think>\\n\\n'"


def template_of(opening, reply=REPLY, given=""):
    """Write a template: the opening of its prompt, its replies, and a text that is given to the model."""
    loop = LOOP.replace("REPLY", reply).replace("TURN", TURN)
    return given + loop + PROMPT.replace("OPENING", opening)


MODE = "{{ '<|im_start|>system\\n/' ~ ('think' if enable_thinking is not defined or enable_thinking else 'no_think') ~ '<|im_end|>\\n' }}"
OFF = "enable_thinking is defined and not enable_thinking"
TEMPLATES = {
    "an empty block without thinking": template_of(f"({EMPTY} if {OFF} else '')"),
    "given text that depends on the switch": template_of(f"({EMPTY} if {OFF} else '')", given=MODE),
    "a prompt that opens the reasoning": template_of(f"({EMPTY} if {OFF} else '<think>\\n')"),
    "no block without thinking": template_of(
        "''", f"({REPLY}) if m.reasoning_content else m.content ~ '<|im_end|>\\n'"
    ),
    "a switch that is needed to show reasoning": template_of(
        f"({EMPTY} if {OFF} else '')", f"({EMPTY} ~ m.content ~ '<|im_end|>\\n') if {OFF} else ({REPLY})"
    ),
    "a block that no switch turns off": template_of("''"),
    "the mode beside each reply": template_of(
        f"('+' if enable_thinking else '-') ~ ({EMPTY} if {OFF} else '')",
        f"('+' if enable_thinking else '-') ~ {REPLY}",
    ),
}


@pytest.mark.parametrize("reasoning", ["because", "", "\n", "  "])
@pytest.mark.parametrize("name", TEMPLATES)
def test_prompt_and_whole_share_a_mode_and_no_reasoning_is_never_learned(tokenizer, name, reasoning):
    changed = with_template(tokenizer, TEMPLATES[name])
    history = (Turn("user", "q"), Turn("assistant", "a", "t"), Turn("user", "r"))
    example = Example((*history, Turn("assistant", "b", reasoning)), "r:1")
    thinking = reasoning == "because"
    first, rendered = render(example, changed)
    assert trained_text(first, changed).endswith("a<|im_end|>")
    assert rendered.ids[: len(prompt := render_prompt(history, changed, thinking=thinking))].tolist() == prompt
    trained = trained_text(rendered, changed)
    assert trained.endswith("b<|im_end|>")
    assert ("because" in trained) == thinking
    if not thinking:
        assert trained == "b<|im_end|>"
        assert TokenKind.REASONING not in rendered.kinds
    assert reference_ids([example], changed) == [[first.ids.tolist(), rendered.ids.tolist()]]


def test_rows_without_reasoning_under_a_template_that_always_thinks_are_refused_with_a_remedy(tokenizer):
    changed = with_template(tokenizer, template_of("'<think>\\n'"))
    changed.add_tokens(["\n\n"])  # as in Qwen3, where two line breaks are one token
    with pytest.raises(UserError, match=r"r:1: .*is not a prefix.* with data\.faults: \{no_reasoning: drop\}"):
        render(Example((Turn("user", "q"), Turn("assistant", "b")), "r:1"), changed)
    assert render(Example((Turn("user", "q"), Turn("assistant", "b", "t")), "r:1"), changed)


def test_a_silent_reply_inside_a_block_that_the_prompt_has_opened_is_refused(tokenizer):
    reply = "'<think>\\n' ~ ((m.reasoning_content ~ '\\n</think>\\n\\n') if m.reasoning_content else '') ~ m.content ~ '<|im_end|>'"
    changed = with_template(tokenizer, template_of("'<think>\\n'", reply))
    with pytest.raises(
        UserError, match=r"r:1: .*opens the reasoning \(<think>\) and nothing closes it.*no_reasoning: drop"
    ):
        render(Example((Turn("user", "q"), Turn("assistant", "b")), "r:1"), changed)
    assert render(Example((Turn("user", "q"), Turn("assistant", "b", "t")), "r:1"), changed)


def test_the_end_of_reasoning_is_read_in_the_mode_with_thinking(tokenizer):
    changed = with_template(tokenizer, TEMPLATES["a switch that is needed to show reasoning"])
    assert changed.decode(reasoning_end_ids(changed)) == "\n</think>\n\n"


@pytest.mark.parametrize("expression", ["1 / 0", "none | length", "'a' + 1", "[] | first | upper ~ none.x.y"])
def test_whatever_a_template_raises_is_a_sentence(tokenizer, expression):
    with pytest.raises(UserError, match="chat template rejects a row"):
        render(Example(tuple(CASES["plain"]), "r:1"), with_template(tokenizer, "{{ " + expression + " }}"))
