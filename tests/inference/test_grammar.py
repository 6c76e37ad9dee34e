"""Grammars of answers: whatever tokens are drawn, the answer is what was asked for, and the reasoning is free."""

import json
import re
import sys

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.chat_templates import KINDS, tokenizer_of
from support.constrained import Writer
from support.gguf_models import sentencepiece_tokenizer

from thinktune.errors import UserError
from thinktune.inference.replies import parse_reply
from thinktune.inference.sampling import constraint
from thinktune.inference.sampling.grammar import Grammar, check_grammar, find_mismatch, grammar_fields, json_grammar
from thinktune.tokenization.chat_template import reasoning_end_ids
from thinktune.tokenization.tags import read_form

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"type": "integer"}, "is": {"enum": ["a", "是"]}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
REASONING = 'Why? {"age": 1} 想一想'
WORDS = st.text(alphabet='ab是"\\\n<>/é😀', max_size=6)


@pytest.fixture(scope="module")
def writer(tokenizer):
    return Writer(tokenizer, spare_columns=7)


def forms():
    """Make JSON schemas of bounded size, so that an answer at random ends."""
    leaves = st.one_of(
        st.just({"type": "boolean"}),
        st.just({"type": "null"}),
        st.builds(lambda low, span: {"type": "integer", "minimum": low, "maximum": low + span}, st.integers(-99, 99), st.integers(0, 999)),
        st.builds(lambda low: {"type": "number", "exclusiveMinimum": low}, st.integers(-9, 9)),
        st.builds(lambda low, span: {"type": "string", "minLength": low, "maxLength": low + span}, st.integers(0, 3), st.integers(0, 3)),
        st.builds(lambda pattern: {"type": "string", "pattern": pattern}, st.sampled_from(["^[a-c]{2}$", "^(x|是)+y$", r"^\d{3}-\d$"])),
        st.sampled_from([{"type": "string", "format": form} for form in ("date", "uuid", "ipv4")]),
        st.builds(lambda values: {"enum": values}, st.lists(st.one_of(WORDS, st.integers(-(2**53), 2**53), st.none(), st.booleans()), min_size=1, max_size=3)),
        st.builds(lambda value: {"const": value}, WORDS),
    )  # fmt: skip
    return st.recursive(leaves, _wider, max_leaves=5)


def _wider(inner):
    def make_object(properties, required):
        names = list(properties)
        return {"type": "object", "properties": properties, "required": names[:required], "additionalProperties": False}

    return st.one_of(
        st.builds(lambda items, low: {"type": "array", "items": items, "minItems": low, "maxItems": low + 2}, inner, st.integers(0, 2)),
        st.builds(make_object, st.dictionaries(WORDS.filter(bool), inner, max_size=3), st.integers(0, 3)),
        st.builds(lambda first, second: {"anyOf": [first, second]}, inner, inner),
    )  # fmt: skip


@given(schema=forms(), seed=st.integers(0, 999), thinking=st.booleans())
@settings(max_examples=30)
def test_whatever_is_drawn_an_answer_that_ends_is_valid(writer, schema, seed, thinking):
    writer.begin(json_grammar(schema, is_strict=True), thinking=thinking, tokens=1500)
    if thinking:
        writer.write(f"<think>\n{REASONING}\n</think>")
    found = writer.finish(seed)
    assert found.reasoning == (REASONING if thinking else "")
    assert found.finish == "end"
    jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker()).validate(
        json.loads(found.answer)
    )


@pytest.mark.parametrize(
    "expression", [r"\d{2}-[a-f]+", "yes|no|不", r"(?i)a/b\\", 'x{3,5}"', "[^a]{2}", "^ab?$", "a\nb"]
)
def test_an_answer_matches_the_whole_expression(writer, expression):
    for seed in range(5):
        found = writer.begin(Grammar("regex", expression)).finish(seed)
        assert find_mismatch(Grammar("regex", expression), found.answer) is None
        assert re.fullmatch(expression, found.answer)


@given(
    texts=st.lists(WORDS.filter(lambda text: text.strip("\n") == text != ""), min_size=1, max_size=4),
    seed=st.integers(0, 9),
)
@settings(max_examples=20)
def test_an_answer_is_one_of_the_texts_to_choose_from(writer, texts, seed):
    assert writer.begin(Grammar("choice", json.dumps(texts))).finish(seed).answer in texts


def test_every_text_to_choose_from_can_be_chosen(writer):
    texts = ["yes", "yes, but", "no", "</think>", "<|im_end|>", "不😀"]
    for text in texts:
        writer.begin(Grammar("choice", json.dumps(texts)))
        for character in text:  # alone: spelled like a control token, it is none
            writer.write(character)
        assert writer.special.eos_token_ids & writer.allowed
        assert writer.finish(1).answer in texts


def test_the_end_is_allowed_only_where_the_answer_is_whole(writer):
    writer.begin(json_grammar(PERSON))
    for part in ("{", '"name"', ":", ' "', "it", '"', ",", '"age"', ": ", "1"):
        assert not writer.special.eos_token_ids & writer.allowed
        writer.write(part)
    assert not writer.special.eos_token_ids & writer.allowed
    writer.write("}")
    assert writer.allowed == writer.special.eos_token_ids


def test_a_cut_answer_says_so(writer):
    found = writer.begin(json_grammar(PERSON), tokens=7).finish()
    assert (found.finish, found.tokens) == ("length", 7)


def test_columns_without_a_token_and_control_tokens_are_never_allowed(writer):
    controls = set(writer.tokenizer.added_tokens_decoder) - writer.special.eos_token_ids
    writer.begin(Grammar("regex", r"(.|\n)*"))
    assert len(writer.allowed) > 200
    assert not writer.allowed & {*controls, *range(len(writer.tokenizer), writer.width + 99)}


@pytest.mark.parametrize("name", [name for name in KINDS if name != "wants tools"])
def test_the_grammar_begins_where_the_answer_does_whatever_the_tags(name):
    kind = KINDS[name]
    tokenizer = tokenizer_of(kind.template, kind.eos, kind.stops, kind.plain)
    writer, form = Writer(tokenizer), read_form(tokenizer)
    before, closing, _ = form.between.partition(form.tags.closing)
    grammar = json_grammar(PERSON)
    plain = writer.begin(grammar).finish(1) if not writer.begin(grammar).sequence.detokenizer.in_reasoning else None
    if plain:
        assert (plain.reasoning, plain.finish) == ("", "end")
        jsonschema.validate(json.loads(plain.answer), PERSON)
    if form.foreign is not None or not (form.written or form.tags.closing in kind.template):
        return  # its replies do not reason
    writer.begin(grammar, thinking=True)
    writer.write(form.opening if form.opening.strip() else "").write(REASONING)
    assert writer.sequence.sampler.mask is None
    writer.write(before + closing)
    found = writer.finish(2)
    assert (found.reasoning.strip(), found.closed, found.finish) == (REASONING, True, "end")
    jsonschema.validate(json.loads(found.answer), PERSON)
    # A budget closes the reasoning in the template's words, of which those after the closing tag are no answer.
    writer.begin(grammar, thinking=True, max_reasoning_tokens=1).write(form.opening if form.opening.strip() else "")
    found = writer.finish(3)
    assert (found.closed, found.finish) == (True, "end")
    jsonschema.validate(json.loads(found.answer), PERSON)


def test_a_reply_with_thinking_may_reason_or_answer_at_once_and_without_thinking_only_answer(writer):
    opening, anything = writer.tokenizer.convert_tokens_to_ids("<think>"), json_grammar(None)
    answers = writer.begin(anything).allowed
    assert opening not in answers
    assert writer.begin(anything, thinking=True).allowed == {opening, *answers}
    found = writer.write('{"name": "</').write("think>").write('"').finish(1)
    # What looks like a tag is text: no reasoning can come any more.
    assert (found.reasoning, found.closed) == ("", False)
    assert json.loads(found.answer)["name"] == "</think>"


def test_line_breaks_of_the_template_may_stand_before_the_answer_and_no_more(writer):
    writer.begin(Grammar("choice", '["a"]'), thinking=True).write("<think>\nso\n</think>")
    breaks = {token for token in writer.allowed if not writer.tokenizer.decode([token]).strip("\n")}
    assert breaks
    writer.write("\n\n")
    assert writer.allowed == {writer.tokenizer.convert_tokens_to_ids("a")}
    assert writer.write("a").finish().answer == "a"


def test_a_spent_budget_closes_the_reasoning_and_the_grammar_begins(writer):
    writer.begin(json_grammar(PERSON), thinking=True, max_reasoning_tokens=6).write("<think>")
    found = writer.finish(3)
    assert found.closed
    assert found.reasoning_tokens <= 6 + len(reasoning_end_ids(writer.tokenizer))
    jsonschema.validate(json.loads(found.answer), PERSON)


def test_a_model_that_would_end_in_its_reasoning_answers_all_the_same(writer):
    writer.begin(json_grammar(PERSON), thinking=True).write("<think>\nso")
    writer.sequence.append_token(writer.tokenizer.eos_token_id)
    found = writer.finish(3)
    assert (found.reasoning, found.closed, found.finish) == ("so", True, "end")
    jsonschema.validate(json.loads(found.answer), PERSON)


def test_no_token_ends_the_reasoning_and_begins_the_answer_at_once():
    """Tags of plain characters: a token may hold the end of one and more."""
    kind = KINDS["headers, end of turn in the generation configuration"]
    template = kind.template + "{#- <think> </think> -#}"
    tokenizer = tokenizer_of(template, kind.eos, kind.stops, kind.plain)
    tokenizer.add_tokens([">{", ">\n", "think>x", "</think>y"])
    writer = Writer(tokenizer)
    writer.begin(json_grammar(PERSON), thinking=True).write("<think>so")
    ids = {text: tokenizer.convert_tokens_to_ids(text) for text in (">{", ">\n", "think>x", "</think>y")}
    assert set(ids.values()) - writer.allowed == {ids["</think>y"]}
    writer.write("</")
    assert ids["think>x"] not in writer.allowed
    for letter in "think":
        writer.write(letter)
    assert set(ids.values()) - writer.allowed == {ids[">{"], ids["</think>y"]}
    writer.sequence.append_token(ids[">\n"])
    found = writer.finish(1)
    assert found.closed
    jsonschema.validate(json.loads(found.answer), PERSON)


def test_an_opening_tag_that_is_also_in_the_grammar_leaves_no_trace_in_it():
    kind = KINDS["headers, end of turn in the generation configuration"]
    template = kind.template + "{#- <think> </think> -#}"
    writer = Writer(tokenizer_of(template, kind.eos, kind.stops, kind.plain))
    grammar = Grammar("regex", "<[a-z]{5}>[0-9]")
    writer.begin(grammar, thinking=True).write("<think>").write("so</think>").write("<abcde>")
    assert all(writer.tokenizer.decode([token]).isdecimal() for token in writer.allowed)
    assert writer.write("7").finish().answer == "<abcde>7"
    assert writer.begin(grammar, thinking=True).write("<th").write("abc>1").finish().answer == "<thabc>1"


def test_blanks_between_the_parts_of_json_come_to_an_end(writer):
    writer.begin(json_grammar(PERSON)).write("{").write("\n").write(" " * 64)
    assert not any(token for token in writer.allowed if not writer.tokenizer.decode([token]).strip())
    pretty = writer.begin(json_grammar({"type": "object"}))
    for line in json.dumps({"a": [1, {"b": "c"}], "d": None}, indent=4).splitlines(keepends=True):
        pretty.write(line)
    assert pretty.special.eos_token_ids & pretty.allowed


def test_what_cannot_be_enforced_is_left_out_with_a_warning_or_refused_if_strict():
    schema = {"type": "array", "items": {"type": "string", "format": "semver"}, "uniqueItems": True}
    assert check_grammar(json_grammar(PERSON)) == []
    warnings = check_grammar(json_grammar(schema))
    assert warnings
    assert all(text.startswith("response_format: not all of the schema can be enforced (") for text in warnings)
    assert "uniqueItems" in "".join(warnings)
    with pytest.raises(UserError, match=r"response_format: cannot be enforced \(.*(uniqueItems|semver).*\); leave"):
        check_grammar(json_grammar(schema, is_strict=True))


@pytest.mark.parametrize(
    ("grammar", "sentence"),
    [
        (json_grammar({"type": "strin"}, field="guided_json"), "guided_json: cannot be enforced (Invalid type: strin)"),
        (json_grammar({"$ref": "http://127.0.0.1:9/x"}), "response_format: cannot be enforced ("),
        (json_grammar({"type": "integer", "minimum": 2, "maximum": 1}), "Unsatisfiable schema"),
        (json_grammar({"type": "string", "pattern": "a(?=b)"}), "look-around"),
        (Grammar("regex", "a(", field="guided_regex"), "guided_regex: is not a regular expression ("),
        (Grammar("regex", "\\", field="guided_regex"), "guided_regex: is not a regular expression ("),
        (Grammar("regex", r"a\b", field="guided_regex"), "guided_regex: cannot be enforced (invalid regex"),
    ],
)
def test_a_grammar_with_a_fault_is_refused_in_a_sentence(grammar, sentence):
    with pytest.raises(UserError) as refused:
        check_grammar(grammar)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "x-guidance" not in str(refused.value)


def test_a_grammar_that_grows_too_complex_ends_this_reply_in_a_sentence(writer, monkeypatch):
    monkeypatch.setattr(constraint, "MAX_LEXER_STATES", 200)
    writer.begin(Grammar("regex", "(.*a.{500}){2,}z", field="guided_regex"), tokens=99999)
    with pytest.raises(UserError, match="guided_regex: is too complex to be followed"):
        writer.write("a" * 300)


def test_what_the_tokens_of_a_model_cannot_write_is_refused(tokenizer):
    tree = json.loads(tokenizer.backend_tokenizer.to_str())
    assert tree["model"]["vocab"].pop("Q") is not None
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    made = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(tree)), eos_token="<|im_end|>")
    made.chat_template, made.stop_tokens = tokenizer.chat_template, ()
    with pytest.raises(UserError, match="guided_choice: the tokens of this model cannot write what it asks for"):
        Writer(made).begin(Grammar("choice", '["Q"]', field="guided_choice"))


def test_without_the_package_it_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(UserError) as refused:
        check_grammar(json_grammar(PERSON))
    assert str(refused.value) == (
        'response_format: needs the package llguidance, which is not installed; run pip install "thinktune[structured]"'
    )


def test_another_server_is_asked_in_its_own_words_and_its_answer_is_looked_at():
    assert grammar_fields(json_grammar(None)) == {"response_format": {"type": "json_object"}}
    asked = grammar_fields(json_grammar(PERSON, is_strict=True))["response_format"]["json_schema"]
    assert (asked["schema"], asked["strict"]) == (PERSON, True)
    assert list(asked["schema"]["properties"]) == list(PERSON["properties"])
    assert grammar_fields(Grammar("choice", '["a"]')) == {
        "structured_outputs": {"choice": ["a"]},
        "guided_choice": ["a"],
    }
    assert grammar_fields(Grammar("regex", "a+")) == {"structured_outputs": {"regex": "a+"}, "guided_regex": "a+"}
    assert find_mismatch(json_grammar(None), parse_reply('{"a": 1}').answer) is None
    assert "is not JSON" in find_mismatch(json_grammar(None), '```json\n{"a": 1}\n```')
    assert find_mismatch(Grammar("choice", '["a"]'), "b")
    assert find_mismatch(Grammar("regex", "a+"), "ab")
    assert find_mismatch(Grammar("regex", r"(?P<"), "ab") is None


@pytest.mark.real
def test_qwen3s_own_tokenizer_writes_valid_answers(real):
    from thinktune.tokenization import read_tokenizer

    writer = Writer(read_tokenizer(real / "qwen3-tokenizer"), spare_columns=267)
    found = writer.begin(json_grammar(PERSON), thinking=True).write(f"<think>\n{REASONING}\n</think>\n\n").finish()
    assert found.reasoning == REASONING
    jsonschema.validate(json.loads(found.answer), PERSON)


def test_blanks_as_sentencepiece_writes_them_are_what_the_answer_has():
    """Its tokens hold their blanks as ▁, and bytes for what it does not know."""
    writer = Writer(sentencepiece_tokenizer())
    for seed in range(5):
        found = writer.begin(json_grammar(PERSON)).finish(seed)
        jsonschema.validate(json.loads(found.answer), PERSON)
        assert writer.begin(Grammar("choice", '["a b", "是 é"]')).finish(seed).answer in ("a b", "是 é")


@pytest.mark.parametrize("schema", [{"enum": [2**53 + 1]}, {"properties": {"a": {"const": -(2**60)}}}])
def test_an_integer_that_is_not_exact_is_refused(schema):
    with pytest.raises(UserError, match="beyond the exact integers; give it as text"):
        check_grammar(json_grammar(schema))
    check_grammar(json_grammar({"enum": [2**53, True, "x"]}))
    check_grammar(json_grammar({"type": "integer", "maximum": 2**63 - 1}))
