"""Settings of an evaluation: written and read back, also from folders of earlier versions."""

import json
from dataclasses import replace

from thinktune.eval.completion_store import completion_key
from thinktune.eval.settings import settings_from_record, settings_to_record
from thinktune.eval.tasks import make_task

RECORD = {
    "models": {"base": {"name": "Qwen/Qwen3-0.6B", "print": "ab"}, "tuned": {"name": "final", "print": "cd"}},
    "sampling": {"max_new_tokens": 12, "temperature": 0.0, "seed": 0, "thinking": True},
    "budget": "generate.evaluate_tokens",
    "longest_trained_reply": 77,
    "apart": [{"set": "own", "row": "own.jsonl:3", "trained": "rows.jsonl:1"}],
    "judge": None,
    "confidence": 0.95,
    "resamples": 10000,
    "seeds": {"resampling": 0, "probe": 20261, "sampling": 0},
    "versions": {"torch": "2.13.0"},
    "data_fingerprint": "ef",
    "made": "2026-11-25T10:00:00+00:00",
    "think_tags": ["<think>", "</think>"],  # keys that came later stand at the end
    "choosing_rows": 0,
}


def test_settings_are_written_with_the_keys_and_the_order_that_they_always_had():
    settings = settings_from_record(RECORD)
    assert json.dumps(settings_to_record(settings)) == json.dumps(RECORD)
    assert settings_from_record(json.loads(json.dumps(settings_to_record(settings)))) == settings


def test_settings_with_keys_missing_or_unknown_are_read():
    decisive = {name: RECORD[name] for name in ("models", "sampling", "apart", "judge")}
    assert settings_from_record(decisive | {"added_later": 1}).sampling.max_new_tokens == 12


def test_a_reply_is_known_by_its_prompt_model_and_sampling():
    settings, task = settings_from_record(RECORD), make_task({"question": "6 x 7?", "answer": 42}, "own", "own:1")
    assert settings.completion_key(task, "base") == completion_key(task.key, "ab", RECORD["sampling"])
    other = replace(settings, sampling=replace(settings.sampling, seed=1))
    assert len({each.completion_key(task, side) for each in (settings, other) for side in ("base", "tuned")}) == 4
