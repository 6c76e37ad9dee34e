"""Single settings of a recipe's text are changed in place: the new values are right, and comments stay."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinktune.config.strict_yaml import parse_yaml
from thinktune.errors import UserError
from thinktune.studio.recipes.editing import edit_recipe

TEXT = """\
# A recipe of mine.
model:
  name: Qwen/Qwen3-0.6B   # the small one
  hub: modelscope

data:
  # where they are
  name: rows.jsonl  # mine
  columns:
    question: q
    answer: [a, b]
  faults:
    # twice in the file
    duplicate: drop  # always
    loop: keep

  # a note between
train: {epochs: 2, betas: [0.9, 0.99]}  # short
generate:
"""


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({"model.name": "a/b"}, {"  name: a/b   # the small one"}),
        ({"data.faults.duplicate": "keep"}, {"    duplicate: keep  # always", "    # twice in the file"}),
        ({"data.faults.markup": "drop"}, {"    markup: drop"}),
        ({"data.columns": {"question": "q", "answer": "c"}}, {"  columns: {answer: c, question: q}", "  faults:"}),
        ({"data.ignore": ["x", "y: z"]}, {"  ignore: [x, 'y: z']"}),
        ({"train.epochs": 5}, {"train: {epochs: 5, betas: [0.9, 0.99]}  # short"}),
        ({"train.learning_rate": 2e-05}, {"train: {epochs: 2, betas: [0.9, 0.99], learning_rate: 2.0e-05}  # short"}),
        ({"train.epochs": None}, {"train: {betas: [0.9, 0.99]}  # short"}),
        ({"data.columns": None}, {"  name: rows.jsonl  # mine", "  faults:"}),
        ({"data.columns.answer": None}, {"    question: q"}),
        (
            {"data.columns.answer": "c", "data.columns.system": "s"},
            {"    question: q", "    answer: c", "    system: s"},
        ),
        ({"data.faults.loop": None}, {"  # a note between"}),
        ({"expert.rows_per_step": 8}, {"expert:", "  rows_per_step: 8"}),
        ({"generate.sample_questions": 3}, {"generate: {sample_questions: 3}"}),
        ({"runs_folder": "/disk: 2"}, {"runs_folder: '/disk: 2'"}),
        ({"seed": None}, {"# A recipe of mine."}),
        ({"data.max_tokens": 512, "data.validation": 0.2}, {"  max_tokens: 512", "  validation: 0.2"}),
    ],
)
def test_settings_are_changed_in_place(changes, lines):
    for newline in ("\n", "\r\n"):
        edited = edit_recipe(TEXT.replace("\n", newline), changes)
        assert lines <= set(edited.split(newline))
        assert edited.count(newline) == edited.count("\n")
        assert comments(edited) >= comments(TEXT) - {"# always", "# twice in the file"}


@pytest.mark.parametrize(
    "text",
    ["", "# nothing yet\n", "model:\n  name: x", "model: {\n  name: x,\n}\n", "data:\n  system: |\n    a\n    b\n\n# end\n", "a: >-\n  folded\nmodel: {}"],
)  # fmt: skip
def test_settings_are_added_to_any_form(text):
    before = parse_yaml(text).value or {}
    edited = edit_recipe(text, {"model.name": "y", "data.name": "rows: 1", "data.system": "s\nt", "train.epochs": 3})
    after = parse_yaml(edited).value
    assert after["model"]["name"] == "y"
    assert after["data"] == {"name": "rows: 1", "system": "s\nt"}
    assert after["train"] == {"epochs": 3}
    assert after.get("a") == before.get("a")
    assert comments(edited) >= comments(text)


@pytest.mark.parametrize(
    "change", [{"data.faults": {"loop": "drop"}}, {"data": None}, {"data.faults": None}, {"train.epochs": None}]
)
def test_no_comment_inside_of_a_section_is_lost_by_a_change(change):
    text = TEXT.replace("train: {epochs: 2,", "train: {epochs: 2,  # twice\n  ")
    with pytest.raises(UserError, match=f"^{next(iter(change))}: holds a comment"):
        edit_recipe(text, change)


def test_a_section_that_goes_with_its_only_setting_is_named_where_it_holds_a_comment():
    text = "model: {name: x}\ntrain:\n  learning_rate:\n    # as the paper has it\n    1e-5\n"
    with pytest.raises(UserError, match=r"^train: holds a comment"):
        edit_recipe(text, {"train.learning_rate": None})


def test_a_source_of_a_list_is_changed_alone():
    text = "data:\n- name: a  # one\n  validation: 0.1\n- name: b\n"
    edited = edit_recipe(text, {"data.1.max_tokens": 9, "data.0.validation": 0.2, "data.0.name": "c"})
    assert edited == "data:\n- name: c  # one\n  validation: 0.2\n- name: b\n  max_tokens: 9\n"
    with pytest.raises(UserError, match=r"data\.0\.name: is written in a form"):
        edit_recipe(text, {"data.0.name": None})


@pytest.mark.parametrize("text", ["data: rows.jsonl\n", "data: &x {name: a}\ntrain: *x\n", "data: [a, b]\n"])
def test_what_cannot_be_changed_in_place_is_refused_and_not_guessed(text):
    with pytest.raises(UserError, match="change it in the recipe's text"):
        edit_recipe(text, {"data.validation.0.x": 1, "data.name.y": 1})


def test_text_that_is_no_yaml_is_refused_with_its_line():
    with pytest.raises(UserError, match="line 2: is not YAML"):
        edit_recipe("a: 1\nb: [", {"a": 2})


names = st.sampled_from(["a", "b", "c", "name", "faults"])
scalars = st.one_of(
    st.integers(-99, 99), st.booleans(), st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=12)
)
values = scalars | st.lists(scalars, max_size=3) | st.dictionaries(names, scalars, min_size=1, max_size=3)


@settings(max_examples=40)
@given(
    st.dictionaries(names, st.dictionaries(names, values, min_size=1), min_size=1),
    st.lists(st.tuples(names, names, values | st.none()), max_size=4),
    st.data(),
)
def test_every_edit_gives_the_values_asked_for_and_keeps_every_comment_line(tree, edits, data):
    import yaml

    dumped = yaml.safe_dump(
        tree, allow_unicode=True, default_flow_style=data.draw(st.sampled_from([False, None])), sort_keys=False
    )
    lines = dumped.splitlines()
    text = "".join(
        f"# {number} above\n{line}\n" if not line.startswith((" ", "-")) else f"{line}\n"
        for number, line in enumerate(lines)
    )
    if parse_yaml(text).faults or any(ord(letter) > 0x7F and letter in "\x85\u2028\u2029" for letter in text):
        return
    wanted = {section: dict(held) for section, held in (parse_yaml(text).value).items()}
    edited = text
    for section, key, value in edits:
        edited = edit_recipe(edited, {f"{section}.{key}": value})
        held = wanted.setdefault(section, {})
        held.pop(key, None) if value is None else held.__setitem__(key, value)
        if not held:
            del wanted[section]
    assert (parse_yaml(edited).value or {}) == wanted
    assert comments(edited) >= {line for line in text.splitlines() if line.startswith("# ")}


def comments(text):
    return {found.strip() for found in re.findall(r"(?:^|\s)(#.*)", text)}
