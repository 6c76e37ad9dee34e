"""The command line as a user sees it: its output and exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from thinktune.config.loading import dump_recipe, load_recipe
from thinktune.errors import UserError

GOOD = {"question": "q?", "reasoning": "because of it", "answer": "a"}


def run(*arguments, cwd, **options):
    command = [sys.executable, "-m", "thinktune", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, encoding="utf-8", timeout=120, **options)


def write(folder: Path, rows=(GOOD,), **changes) -> Path:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tree = {"model": {"name": "nowhere"}, "data": {"name": "rows.jsonl"}, "train": {"rows_per_step": 1, "epochs": 1}}
    for section, values in changes.items():
        tree[section] = {**tree.get(section, {}), **values}
    (folder / "mine.yaml").write_text(json.dumps(tree), encoding="utf-8")  # JSON is YAML
    return folder / "mine.yaml"


def run_in_process(cwd, *arguments):
    """Run a verb; its exit code and whether torch was loaded are printed last."""
    code = f"import sys; sys.argv = {['thinktune', *map(str, arguments)]!r}\nfrom thinktune.cli import main\n"
    code += "try: main()\nexcept SystemExit as end: print(end.code, 'torch' in sys.modules)"
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=60)


def assert_refused(done, *texts):
    assert done.returncode == 2, done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    output = " ".join((done.stdout + done.stderr).split())
    for text in texts:
        assert text in output, output


def test_help_names_the_verbs(tmp_path):
    done = run("--help", cwd=tmp_path)
    assert done.returncode == 0
    for verb in ("demo", "check", "train", "eval", "report", "chat", "serve", "export"):
        assert verb in done.stdout


def test_help_is_printed_without_loading_torch_or_pydantic(tmp_path):
    code = "import sys, thinktune.cli; print([name for name in ('torch', 'pydantic', 'numpy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_bad_recipe_is_refused_before_torch_is_loaded(tmp_path):
    recipe = write(tmp_path, train={"learning_rat": 1, "epochs": 0})
    done = run_in_process(tmp_path, "train", recipe)
    assert done.stdout.split() == ["2", "False"]
    assert "did you mean learning_rate?" in done.stderr
    assert "train.epochs" in done.stderr


def test_all_missing_paths_are_reported_at_once_before_torch_is_loaded(tmp_path):
    done = run_in_process(tmp_path, "train", write(tmp_path, data={"name": "gone.jsonl", "validation": "lost.jsonl"}))
    assert done.stdout.split() == ["2", "False"]
    for place in ("model.name: 'nowhere'", "data.name: 'gone.jsonl'", "data.validation: 'lost.jsonl'"):
        assert place in " ".join(done.stderr.split())


def test_user_errors_are_one_sentence_and_exit_code_2(tmp_path, start):
    assert_refused(run("train", "nowhere.yaml", cwd=tmp_path), "nowhere.yaml", "cannot be read")
    assert_refused(run("train", write(tmp_path), cwd=tmp_path), "model.name: 'nowhere' is not a file or folder here")
    model = {"name": str(start)}
    assert_refused(
        run("check", write(tmp_path, model=model, data={"name": "gone.jsonl"}), cwd=tmp_path), "data.name: 'gone.jsonl'"
    )
    wrong = write(tmp_path, model=model, data={"columns": {"reasoning": "thoughts", "answer": "reply"}})
    assert_refused(run("check", wrong, cwd=tmp_path), "data.columns.reasoning", "data.columns.answer")
    bad = write(tmp_path, rows=[GOOD, [1], {"question": "q"}], model=model)
    assert_refused(run("check", bad, cwd=tmp_path), "rows.jsonl:2", "rows.jsonl:3", "data.faults: {unreadable: drop}")
    blank = write(tmp_path, rows=[GOOD | {"answer": ""}], model=model)
    assert_refused(run("train", blank, cwd=tmp_path), "no row is left to train on (blank 1)", "rows.jsonl:1: answer")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_an_incomplete_model_is_refused_before_anything_is_written(tmp_path, start):
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(start, tmp_path / "half")
    weights = load_file(tmp_path / "half" / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "half" / "model.safetensors", metadata={"format": "pt"})
    recipe = write(tmp_path, model={"name": "half"}, data={"validation": 0.0})
    assert_refused(
        run("train", recipe, cwd=tmp_path), "are incomplete: 1 are missing (model.layers.1.mlp.up_proj.weight)"
    )
    (tmp_path / "half" / "model.safetensors").write_bytes(b"nonsense")
    assert_refused(run("train", recipe, cwd=tmp_path), "model.safetensors is not a complete safetensors file")
    assert not (tmp_path / "runs").exists()


HOSTILE = "a\x1b[2J\x9b31m\u202eb"


def assert_no_controls(done):
    output = done.stdout + done.stderr
    assert not [control for control in "\x1b\x9b\u202e\x07\x7f" if control in output], ascii(output)
    assert "a\\x1b[2J\\x9b31m\\u202eb" in output, output


@pytest.mark.parametrize("arguments", [["report", HOSTILE], ["chat", HOSTILE], [HOSTILE], ["train", f"--{HOSTILE}"]])
def test_no_name_on_the_command_line_commands_the_terminal(tmp_path, arguments):
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert_no_controls(done)


@pytest.mark.slow
def test_no_column_template_or_file_name_commands_the_terminal(tmp_path, start):
    import shutil

    wrong = {"name": f"{HOSTILE}.jsonl", "columns": {"question": "none"}}
    (tmp_path / f"{HOSTILE}.jsonl").write_text(json.dumps({HOSTILE: "q?", "answer": "a"}), encoding="utf-8")
    assert_no_controls(run("check", write(tmp_path, model={"name": str(start)}, data=wrong), cwd=tmp_path))
    shutil.copytree(start, tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").write_text(f"{{{{ raise_exception('{HOSTILE}') }}}}", encoding="utf-8")
    assert_no_controls(run("check", write(tmp_path, model={"name": "model"}, data={"validation": 0.0}), cwd=tmp_path))


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_neither_the_words_nor_the_json_of_check_hold_a_secret(tmp_path, start, options):
    secret = "hf_" + "Zq3" * 11
    wrong = {"name": f"https://me:hunter22@hub.example/{secret}"}
    done = run("check", write(tmp_path, model={"name": str(start)}, data=wrong), *options, cwd=tmp_path)
    assert done.returncode == 2
    assert "https://me:***@hub.example/***" in done.stdout + done.stderr
    for part in (secret, "hunter22"):
        assert part not in done.stdout + done.stderr
    if options:
        assert json.loads(done.stdout)["verdict"] == "not ready"


def test_a_whole_run_by_the_command_line(tmp_path, start):
    rows = [{"question": f"q{number}?", "reasoning": "because of it", "answer": "a"} for number in range(12)]
    sizes = {"max_new_tokens": 8, "sample_questions": 1}
    recipe = write(tmp_path, rows=rows, model={"name": str(start)}, data={"validation": 0.3}, generate=sizes)
    assert "ready" in run("check", recipe, cwd=tmp_path).stdout
    done = run("train", recipe, "train.learning_rate=1e-3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "final model: runs/mine/final" in done.stdout.replace("\\", "/")
    assert (tmp_path / "runs" / "mine" / "report.html").is_file()
    done = run("eval", "runs/mine", "--no-probe", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Eval loss" in done.stdout, done.stdout
    assert "Switches obeyed" in done.stdout
    done = run("eval", "runs/mine", "--regrade", "--json", cwd=tmp_path)
    printed, folder = json.loads(done.stdout), tmp_path / "runs/mine/eval"
    for report, path in ((printed.pop("silent"), folder / "no-thinking"), (printed, folder)):
        assert report == json.loads((path / "report.json").read_text(encoding="utf-8"))
    assert_refused(run("eval", "runs/mine", "--tasks", "gone.jsonl", cwd=tmp_path), "'gone.jsonl' is not a file")
    assert run("report", "runs/mine", cwd=tmp_path).returncode == 0
    done = run("chat", "runs/mine", cwd=tmp_path, input="q1?\n/think\n/dance\n/reset\n/quit\n")
    assert done.returncode == 0, done.stderr
    for text in ("reasoning off", "/dance is not a command", "conversation cleared"):
        assert text in done.stdout


def test_chat_without_a_model_is_refused(tmp_path):
    assert_refused(run("chat", "nowhere", cwd=tmp_path), "nowhere: is not a folder")


@pytest.mark.parametrize("texts", [["http://x/v1"], ["base=http://x/v1", "base=http://y/v1"], ["other=http://x/v1"]])
def test_both_endpoints_are_named_once(texts):
    from thinktune.arguments import endpoints_by_side

    with pytest.raises(UserError, match="--endpoint: write base=URL and tuned=URL"):
        endpoints_by_side(texts)
    both = ["base=http://x/v1?a=b", "tuned=http://y/v1"]
    assert endpoints_by_side(both) == {"base": "http://x/v1?a=b", "tuned": "http://y/v1"}


@pytest.mark.parametrize("verb", ["eval", "report"])
def test_a_folder_that_is_not_a_run_is_named(tmp_path, verb):
    assert_refused(run(verb, "nowhere", cwd=tmp_path), "nowhere", "is not a run's folder")


def test_rows_that_are_not_here_are_refused_before_torch_is_loaded(tmp_path):
    (tmp_path / "taken.yaml").touch()
    done = run_in_process(tmp_path, "init", "gone.jsonl", "--model", "none", "--output", "taken.yaml")
    assert done.stdout.split() == ["2", "False"]
    for fault in ("gone.jsonl: is not a file or folder here", "--model: 'none'", "--output: taken.yaml"):
        assert fault in " ".join(done.stderr.split())


def test_a_run_that_began_with_other_settings_is_refused_before_torch_is_loaded(tmp_path, start):
    recipe = write(tmp_path, model={"name": str(start)})
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    began = load_recipe(recipe, ["train.epochs=3", f"data.name={tmp_path}/rows.jsonl"])
    (folder / "recipe.yaml").write_text(dump_recipe(began), encoding="utf-8")
    (folder / "environment.json").write_text("{}", encoding="utf-8")
    done = run_in_process(tmp_path, "train", recipe)
    assert done.stdout.split() == ["2", "False"]
    assert "train.epochs (was 3, is 1); restore the previous values" in " ".join(done.stderr.split())
