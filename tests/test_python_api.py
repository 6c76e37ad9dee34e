"""`import thinktune`: functions that do what the command line does, and load nothing before they are called."""

import json
import subprocess
import sys

import thinktune


def test_the_import_loads_neither_torch_nor_the_rest():
    code = (
        "import sys, thinktune; print([name for name in ('torch', 'transformers', 'pydantic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_notebooks_four_lines_check_train_evaluate_and_ask(tree, tmp_path, capsys):
    tree["generate"]["max_new_tokens"] = tree["generate"]["evaluate_tokens"] = 8
    (tmp_path / "mine.yaml").write_text(json.dumps(tree), encoding="utf-8")
    assert thinktune.check(tmp_path / "mine.yaml")["verdict"] == "ready"
    run = thinktune.train(tmp_path / "mine.yaml", "train.epochs=1")
    assert (run / "final" / "model.safetensors").is_file()
    report = thinktune.evaluate(run)
    assert report["sets"]
    assert (run / "report.html").is_file()
    chat = thinktune.load(run)
    reply = chat.ask("heart?")
    assert reply.tokens > 0
    assert [turn.role for turn in chat.session.turns] == ["user", "assistant"]
    chat.close()
