"""Finished runs for model cards, made of records alone: every figure in them is chosen here."""

import json
from pathlib import Path
from typing import Any

from support.runs import settings
from thinktune.eval.comparison import compare, forgetting_verdict, set_verdict
from thinktune.eval.completion_store import model_fingerprint
from thinktune.run import RunFolder
from thinktune.run.resume import record_recipe

DATA: dict[str, Any] = {
    "files": [{"path": "/home/ann/secret/rows.jsonl", "rows": 241, "validation": False}],
    "rows_read": 241,
    "faults": [{"fault": "too_long", "policy": "drop", "actions": {"dropped": 3}, "examples": ["rows.jsonl:17"]}],
    "dropped_rows": 3,
    "train_rows": 215,
    "validation_rows": 23,
    "train_tokens": 51_234,
    "train_learned_tokens": 40_321,
    "own_system_rows": 0,
    "silent_rows": 19,
    "has_thinking_switch": True,
    "think_tags": ["<think>", "</think>"],
    "languages": {"zh": 180, "en": 30, "": 5},
    "lengths": {"whole": {"mean": 61.2, "median": 55, "p95": 120, "max": 317.0}},
}
ENVIRONMENT: dict[str, Any] = {
    **{"thinktune": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "processor_count": 8},
    **{
        "model": "Qwen/Qwen3-1.7B",
        "model_dtype": "bfloat16",
        "model_license": "apache-2.0",
        "parameters": 1_720_574_976,
    },
    **{"device": "cuda:0", "device_name": "NVIDIA H200", "world_size": 2, "steps": 90, "data_fingerprint": "d"},
    **{"memory": "exact", "precision": "bfloat16"},
}
METRICS: list[dict[str, Any]] = [
    {"kind": "eval", "step": 0, "epoch": 0.0, "loss": 2.345},
    *(
        {"kind": "train", "step": step, "epoch": step / 30, "loss": 1.0, "tokens": 1_111, "learned_tokens": 999}
        | {"seconds": 90.0 * step, "memory_gib": 17.25}
        for step in (30, 60, 90)
    ),
    {"kind": "eval", "step": 60, "epoch": 2.0, "loss": 1.234},
    {"kind": "eval", "step": 90, "epoch": 3.0, "loss": 1.987},
]
TREE: dict[str, Any] = {
    "name": "doses",
    "runs_folder": "/home/ann/runs",
    "model": {"name": "Qwen/Qwen3-1.7B", "hub": "huggingface"},
    "data": {"name": "/home/ann/secret/rows.jsonl", "system": "Answer as a nurse."},
    "train": {"epochs": 3, "tokens_per_step": 4096},
}


def make_final_run(folder: Path, tree=TREE, *, data=DATA, environment=ENVIRONMENT, metrics=METRICS) -> RunFolder:
    """Write the run `doses` with its records and a final model of small files."""
    run = RunFolder(folder / "doses")
    run.final.mkdir(parents=True)
    record_recipe(settings(tree), run.path)
    for path, value in ((run.data_summary, data), (run.environment, environment)):
        path.write_text(json.dumps(value), encoding="utf-8")
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in metrics), encoding="utf-8")
    generation = {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 20, "eos_token_id": [7]}
    for name, value in (
        ("config.json", {"model_type": "qwen3"}),
        ("generation_config.json", generation),
        ("state.json", {"step": 60, "diagnosis": {"state": "learning"}}),
    ):
        (run.final / name).write_text(json.dumps(value), encoding="utf-8")
    (run.final / "model.safetensors").write_bytes(b"weights")
    return run


def write_report(run: RunFolder, sets, switches=(), *, thinking=True, asked=None, **more) -> None:
    """Write an evaluation's report: of each set a name and both models' scores; of each switch a mode and scores."""
    scored = []
    for name, base, tuned in sets:
        measures = compare(base, tuned)
        verdict = forgetting_verdict(measures) if name == "general" else set_verdict(name, measures)
        scored.append(
            {"name": name, "rows": len(base), "apart": 0, "ungraded": 0, "measures": measures, "verdict": verdict}
        )
    report = {
        "verdicts": [one["verdict"] for one in scored],
        "sets": scored,
        "switches": [{"mode": mode, **compare(base, tuned)[0]} for mode, base, tuned in switches],
        "settings": {
            "models": {"tuned": {"name": "final", "print": asked or model_fingerprint(run.final)}},
            "sampling": {"max_new_tokens": 640, "temperature": 0.0, "seed": 0, "thinking": thinking},
        },
        **more,
    }
    path = run.evaluation(thinking=thinking).report
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report), encoding="utf-8")


def scores(measure: str, right: int, of: int) -> list[dict[str, float]]:
    """Return a row's scores of one measure, for so many rows of which so many are 1."""
    return [{measure: float(row < right)} for row in range(of)]
