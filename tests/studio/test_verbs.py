"""Verbs that a page asks for: checked, and turned into arguments that the command line takes; never into a shell's text."""

import json
import shlex

import pytest
import typer.testing
from hypothesis import given
from hypothesis import strategies as st

from thinktune import cli
from thinktune.http import ApiError
from thinktune.studio.folder import StudioFolder
from thinktune.studio.verbs import parse_verb

BODIES = [
    {"verb": "check", "recipe": "mine.yaml", "overrides": ["train.epochs=2"], "fix": True, "price": "2CNY", "doubts": "d"},
    {"verb": "train", "recipe": "mine.yaml", "overrides": ["train.epochs=-1", "data.system=-- a; rm -rf ~"]},
    {"verb": "init", "rows": "rows.jsonl", "model": "Qwen/Qwen3-0.6B", "hub": "modelscope", "card": "4090", "output": "o.yaml"},
    {"verb": "eval", "run": "runs/one", "exam": ["medical-zh"], "exam_questions": 10, "thinking": False, "probe": False},
    {"verb": "export", "run": "runs/one", "targets": ["hf", "gguf-q8_0"], "to": "out"},
    {"verb": "push", "run": "runs/one", "name": "me/mine", "hub": "huggingface", "public": True},
    {"verb": "think", "recipe": "mine.yaml", "teacher": "http://x/v1#m", "tries": 2, "budget": 1.5, "instruct": True, "price": "2/8CNY"},
    {"verb": "pilot", "recipe": "mine.yaml", "rates": "1e-5,2e-5", "share": 0.5, "minutes": 10},
    {"verb": "average", "run": "runs/one", "weight": 0.7},
    {"verb": "report", "runs": ["runs/one", "runs/one"], "price": "-5"},
    {"verb": "serve", "run": "runs/one", "engine": "here"},
]  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.yaml").write_text("model: {name: a}\ndata: {name: rows.jsonl}\n")
    (tmp_path / "rows.jsonl").write_text("{}\n")
    (tmp_path / "runs" / "one").mkdir(parents=True)
    return StudioFolder.open(tmp_path)


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body["verb"])
def test_each_verbs_arguments_are_those_of_the_command_line(body, folder, monkeypatch):
    argv = parse_verb(json.dumps(body).encode()).argv(folder, "ACT")
    [command] = [one for one in cli.app.registered_commands if (one.name or one.callback.__name__) == body["verb"]]
    seen = {}
    monkeypatch.setattr(command, "callback", _recorder(command.callback, seen))
    monkeypatch.chdir(folder.path)
    done = typer.testing.CliRunner().invoke(cli.app, argv)
    assert done.exit_code == 0, done.output
    for key, value in body.items():
        if key not in ("verb", "as_json", "probe"):
            assert (list(map(str, seen[key])) if isinstance(value, list) else seen[key]) == value or str(
                seen[key]
            ) == str(value), key


def _recorder(callback, seen):
    import functools

    @functools.wraps(callback)
    def record(**values):
        seen.update(values)

    return record


def test_every_verb_of_the_studio_is_tried_above():
    from typing import get_args

    from thinktune.studio.verbs import Verb

    assert {get_args(one.model_fields["verb"].annotation)[0] for one in get_args(Verb)} == {b["verb"] for b in BODIES}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"verb": "rm", "recipe": "x"}, "verb"),
        ({"recipe": "x"}, "verb"),
        ({"verb": "train", "recipe": "../mine.yaml"}, "leaves this folder"),
        ({"verb": "train", "recipe": "/etc/passwd"}, "not a name in this folder"),
        ({"verb": "train", "recipe": "gone.yaml"}, "not in this folder"),
        ({"verb": "train", "recipe": "mine.yaml", "overrides": ["--help"]}, "overrides.0"),
        ({"verb": "train", "recipe": "mine.yaml", "overrides": ["a=1\nb"]}, "line break"),
        ({"verb": "train", "recipe": "mine.yaml", "extra": 1}, "extra"),
        ({"verb": "export", "run": "runs/one", "targets": ["--to=/tmp/x"]}, "targets.0"),
        ({"verb": "export", "run": "runs/one", "targets": ["hf"], "to": "/tmp/x"}, "not a name in this folder"),
        ({"verb": "push", "run": "runs/one", "name": "-x/y", "hub": "huggingface"}, "name"),
        ({"verb": "average", "run": "runs/one", "weight": 1.5}, "weight"),
        ({"verb": "report", "runs": []}, "runs"),
    ],
)
def test_what_is_wrong_is_refused_in_words(body, words, folder):
    with pytest.raises(ApiError, match=words) as refused:
        parse_verb(json.dumps(body).encode()).argv(folder, "ACT")
    assert refused.value.status in (400, 404)


@given(name=st.text(st.characters(exclude_categories=["C"], exclude_characters="/\\"), min_size=1, max_size=20))
def test_a_file_of_any_name_is_one_argument_and_never_an_option(tmp_path_factory, name):
    path = tmp_path_factory.mktemp("folder")
    try:
        (path / name).write_text("model: {}\ndata: {}\n")
    except OSError:
        return
    folder = StudioFolder.open(path)
    try:
        argv = parse_verb(json.dumps({"verb": "train", "recipe": name}).encode()).argv(folder, "ACT")
    except ApiError:
        assert name.startswith((".", "~")) or len(name.encode()) > 100
        return
    assert argv[:3] == ["train", "--wait", "--"]
    assert not argv[3].startswith("-")
    assert shlex.split(shlex.join(argv)) == argv
