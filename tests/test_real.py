"""The 241 real medical rows with Qwen3's real tokenizer, end to end on a small random Qwen3."""

import json
from pathlib import Path

import pytest

from thinktune.config import loading
from thinktune.data.pipeline import prepare
from thinktune.data.summary import summary_lines
from thinktune.demo.tiny_model import ModelShape, make_model
from thinktune.run import journal
from thinktune.tokenization import TokenKind
from thinktune.train import train

pytestmark = pytest.mark.real
# Nothing dropped or repaired, to compare tokens with the files' own texts.
KEEP_FAULTS = {"handed_answer": "keep", "literal_newline": "keep"}
PROMPT = "你是一个医学专家,你需要根据用户的问题,给出带有思考的回答。"


@pytest.fixture(scope="module")
def tree(real, official_tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    size = ModelShape(hidden_size=16, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=8, intermediate_size=32)
    make_model(official_tokenizer, size).save_pretrained(folder / "start")
    official_tokenizer.save_pretrained(folder / "start")
    return {
        "name": "real",
        "runs_folder": str(folder / "runs"),
        "model": {"name": str(folder / "start")},
        "data": {
            "name": str(real / "medical" / "delicate_medical_r1_val.jsonl"),
            "columns": {"reasoning": "think"},
            "ignore": ["instruction", "metrics"],
            "system": PROMPT,
            "faults": KEEP_FAULTS,
        },
        "train": {"tokens_per_step": 8192, "epochs": 1, "learning_rate": 5e-3, "evaluate_every_steps": 12},
        "generate": {"max_new_tokens": 16, "sample_questions": 2},
    }


def test_every_real_row_is_rendered_byte_for_byte_as_the_official_template_writes_it(tree, real, official_tokenizer):
    loaded = loading.validate_recipe(tree | {"data": tree["data"] | {"max_tokens": 4096, "validation": 0.0}}, "here")
    rows = prepare(loaded, official_tokenizer).train.replies()
    lines = (real / "medical" / "delicate_medical_r1_val.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(rows) == len(lines) == 241
    for rendered, line in zip(rows, lines, strict=True):
        row = json.loads(line)
        messages = [
            {"role": "system", "content": PROMPT},
            {"role": "user", "content": row["question"]},
            {"role": "assistant", "content": row["answer"], "reasoning_content": row["think"]},
        ]
        text = official_tokenizer.apply_chat_template(messages, tokenize=False)
        assert official_tokenizer.decode(rendered.ids.tolist()) == text
        learned = official_tokenizer.decode(rendered.ids[rendered.kinds != TokenKind.PROMPT].tolist())
        assert (
            learned == f"<think>\n{row['think'].strip(chr(10))}\n</think>\n\n{row['answer'].lstrip(chr(10))}<|im_end|>"
        )


def test_the_real_rows_are_all_accounted_for(tree, official_tokenizer):
    summary = prepare(loading.validate_recipe(tree, "here"), official_tokenizer, print).summary
    assert summary["rows_read"] == 241
    assert (summary["over"]["1024"], summary["over"]["2048"]) == (22, 1)
    found = {fault["fault"]: fault for fault in summary["faults"]}
    assert {name: fault["actions"] for name, fault in found.items()} == {
        "literal_newline": {"kept": 8},
        "handed_answer": {"kept": 105},
        "too_long": {"dropped": 1},
    }
    assert "3151 tokens" in found["too_long"]["examples"][0]
    assert summary["train_rows"] + summary["validation_rows"] == 240
    assert any("22 over 1024, 1 over 2048" in line for line in summary_lines(summary))


@pytest.mark.slow
def test_real_rows_train_end_to_end(tree, tmp_path):
    """Sixty of them, because a vocabulary of 151,936 makes each row expensive on a CPU."""
    rows = Path(tree["data"]["name"]).read_text(encoding="utf-8").splitlines(keepends=True)[:60]
    (tmp_path / "rows.jsonl").write_text("".join(rows), encoding="utf-8")
    few = tree | {
        "data": tree["data"] | {"name": str(tmp_path / "rows.jsonl")},
        "train": tree["train"] | {"tokens_per_step": 2048},
    }
    folder = train(loading.validate_recipe(few, "here"), print)
    losses = [record["loss"] for record in journal.read_metrics(folder) if record["kind"] == "eval"]
    assert losses[-1] < losses[0] - 0.5
    assert len(journal.read_samples(folder)) == 2 * (len(losses) - 1)
    assert (folder / "final" / "model.safetensors").is_file()
