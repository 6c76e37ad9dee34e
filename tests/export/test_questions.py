"""Which questions an export is asked: held-out rows first, ours where there are too few, none that engines read apart."""

import shutil

import pytest
import yaml
from support.exported_runs import export_run
from support.runs import quiet

from thinktune.errors import UserError
from thinktune.export import find_source
from thinktune.export.questions import QUESTIONS, choose_questions, in_other_mode
from thinktune.tokenization import read_tokenizer


@pytest.fixture
def run(tmp_path_factory, tmp_path):
    return shutil.copytree(export_run(tmp_path_factory), tmp_path / "small")


def choose(folder, context=4096, say=quiet):
    source = find_source(folder)
    tokenizer = read_tokenizer(source.folder)
    return choose_questions(source, tokenizer, context, say), tokenizer


def test_held_out_rows_are_asked_with_their_own_reply_up_to_its_end(run):
    questions, tokenizer = choose(run)
    assert len(questions) == QUESTIONS
    assert all(question.held_out and question.thinking for question in questions)
    first = questions[0]
    assert first.answered[: len(first.prompt)] == first.prompt
    assert tokenizer.decode(list(first.answered)).endswith(".")  # the end token is what comes next
    other = in_other_mode(questions, tokenizer)
    assert len(other) == 4
    assert not any(question.thinking for question in other)
    assert all(mine.prompt != theirs.prompt for mine, theirs in zip(questions, other, strict=False))


def test_a_run_without_its_rows_and_a_plain_folder_are_asked_the_bundled_questions(run):
    recipe = run / "recipe.yaml"
    [rows] = [word for word in recipe.read_text(encoding="utf-8").split() if word.endswith("rows.jsonl")]
    recipe.write_text(recipe.read_text(encoding="utf-8").replace(rows, f"{rows}.gone"), encoding="utf-8")
    lines = []
    questions, _ = choose(run, say=lines.append)
    assert len(questions) == QUESTIONS
    assert not any(question.held_out for question in questions)
    assert "held-out rows cannot be asked" in lines[-1]
    alone = run / "final"
    assert [each.text for each in choose(alone)[0]] == [each.text for each in questions]


def test_text_that_spells_control_tokens_is_left_out(run):
    # Our own engine reads them as plain characters, other engines do not.
    system = "Reply between <|im_start|> and <|im_end|>."
    recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    recipe["data"]["system"] = system
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe, allow_unicode=True), encoding="utf-8")
    with pytest.raises(UserError, match="none of the questions can be asked"):
        choose(run)


def test_a_context_that_holds_no_question_is_refused(run):
    with pytest.raises(UserError, match="none of the questions can be asked"):
        choose(run, context=8)
