"""Chat, the Python functions, serve and eval say of a stranger's model folder what check says, in one sentence."""

import pytest
from rich.console import Console
from support.model_folders import ADMITTED, REFUSED, make_folder
from support.runs import quiet, settings

import thinktune
from thinktune.commands.chat import chat_in_terminal
from thinktune.errors import UserError
from thinktune.eval.runner import EvalOptions, evaluate_run
from thinktune.inference.session import load_engine
from thinktune.serve import find_models
from thinktune.train import train

LATE = {"tokens beyond the vocabulary"}  # an engine never writes them: only rows could
KINDS = sorted(REFUSED.keys() - LATE)


def no_line():
    raise EOFError


@pytest.mark.parametrize("kind", KINDS)
def test_chat_and_serve_refuse_a_folder_in_the_words_of_check(kind, start, tmp_path):
    change, words = REFUSED[kind]
    folder = make_folder(start, tmp_path / "model", change)
    for verb in (
        lambda: chat_in_terminal(folder, Console(quiet=True), no_line),
        lambda: thinktune.load(folder),
        lambda: [model.open() for model in find_models(folder, None, None, "here", quiet)],
    ):
        with pytest.raises(UserError) as refused:
            verb()
        assert any(words in sentence for sentence in refused.value.faults), refused.value.faults


def test_what_is_not_used_is_said_where_a_model_is_opened(start, tmp_path):
    change, words = ADMITTED["unused tensor"]
    folder = make_folder(start, tmp_path / "model", change)
    lines = []
    load_engine(folder, say=lines.append).close()
    find_models(folder, None, None, "here", lines.append)
    assert [line for line in lines if words.format(folder) in line] == [lines[0], lines[0]]


def test_a_base_that_is_damaged_since_is_refused_by_eval_and_left_out_by_serve(start, tmp_path, tree):
    base = make_folder(start, tmp_path / "model", lambda folder: None)
    run = train(settings(tree, model={"name": str(base)}, train={"epochs": 1}), quiet)
    REFUSED["truncated"][0](base)
    with pytest.raises(UserError, match="is not a complete safetensors file"):
        evaluate_run(run, quiet, EvalOptions(probe=False))
    lines = []
    assert [model.name for model in find_models(run, None, None, "here", lines.append)] == ["tuned"]
    assert "cannot be used, so only the tuned model is served" in lines[0]
