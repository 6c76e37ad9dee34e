"""Samples: asked in the mode that their reply was trained in; a model that can make no reply costs only them."""

import json

import pytest
import torch
from support.prepared_rows import write
from support.runs import quiet, settings

from thinktune.eval.runner import EvalOptions, evaluate_run
from thinktune.inference import requests
from thinktune.run import journal
from thinktune.train import samples as writing
from thinktune.train import train
from thinktune.train.setup import open_run


@pytest.fixture
def asked(monkeypatch):
    """Collect the questions that are rendered as prompts, each with its mode."""
    found = []
    original = requests.render_prompt

    def recorded(turns, tokenizer, *, thinking, **options):
        found.append((turns[-1].content, thinking))
        return original(turns, tokenizer, thinking=thinking, **options)

    monkeypatch.setattr(requests, "render_prompt", recorded)
    return found


def test_a_row_without_reasoning_is_asked_without_thinking(tree, tmp_path, asked):
    rows = [{"question": f"{part}?", "think": "", "answer": f"{part} - x."} for part in ("arm", "leg", "toe")]
    write(tmp_path / "rows.jsonl", rows)
    held_out = [
        {"question": "hand?", "think": "so", "answer": "h."},
        {"question": "foot?", "think": "", "answer": "f."},
    ]
    own = write(tmp_path / "val.jsonl", held_out)
    data = {"name": str(tmp_path / "rows.jsonl"), "validation": str(own), "faults": {"no_reasoning": "silent"}}
    generate = {"max_new_tokens": 6, "sample_questions": 2, "evaluate_tokens": 6, "sample_share": 1}
    run = train(settings(tree, data=data, generate=generate, train={"epochs": 1}), quiet)
    assert set(asked) == {("hand?", True), ("foot?", False)}
    samples = {sample["question"]: sample for sample in journal.read_samples(run)}
    assert samples["hand?"]["reasoning_closed"] in (True, False)
    assert samples["foot?"]["reasoning"] or samples["foot?"]["reasoning_closed"] is None
    (tmp_path / "more.jsonl").write_text(json.dumps({"question": "foot?", "answer": "f."}) + "\n", encoding="utf-8")
    asked.clear()
    options = EvalOptions(tasks=(tmp_path / "more.jsonl",), probe=False, thinking=True)
    evaluate_run(run, quiet, options)
    assert set(asked) == {("hand?", True), ("foot?", False), ("foot?", True)}  # the last one is of the task file
    asked.clear()
    evaluate_run(run, quiet, options)
    assert asked == []  # all replies are known by their mode


def test_a_reply_that_cannot_be_made_is_an_event_of_the_run(tree):
    said = []
    run = open_run(settings(tree, generate={"sample_questions": 2, "max_new_tokens": 6}), said.append, ("test",))
    with torch.no_grad():
        run.context.model.model.norm.weight.fill_(3e38)  # finite, and its logits are not
    writing.write_samples(run.context, run.samples, 4)
    assert journal.read_samples(run.context.folder) == []
    [event] = [record for record in journal.read_metrics(run.context.folder) if record["kind"] == "event"]
    assert event["step"] == 4
    assert event["text"].startswith("no samples: model: no finite logits (NaN or infinity) at token 1 of a reply")
    assert said[-1] == f"step 4: {event['text']}"


def test_samples_may_use_any_operation_and_the_run_stays_deterministic(tree):
    run = open_run(settings(tree, train={"deterministic": True}), quiet, ("test",))
    allowed = []
    run.context.model.model.register_forward_pre_hook(
        lambda *_: allowed.append(torch.is_deterministic_algorithms_warn_only_enabled())
    )
    try:
        writing.write_samples(run.context, writing.SampleBudget(), 1)
        assert allowed
        assert all(allowed)
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
