"""A run's folder in which everything was recorded, without a run."""

import json
from pathlib import Path

from thinktune.eval.comparison import compare

REPLY = {"finish": "length", "reasoning": "先看病程", "answer": "排除肺结核", "grader_error": ""}
SAMPLE = {"row": "val.jsonl:3", "question": "夜间咳嗽？", "reference_reasoning": "先看病程", "reference_answer": "先做胸片",
          "reasoning": "三周属于亚急性", "answer": "x" * 300, "tokens": 123, "finish": "length", "reasoning_closed": False}  # fmt: skip
DATA = {
    "files": [{"path": "rows.jsonl", "rows": 41, "format": "question, reasoning, answer"}], "rows_read": 41, "train_rows": 35, "validation_rows": 3,
    "faults": [{"fault": "too_long", "policy": "drop", "actions": {"dropped": 3}, "meaning": "It is too long.", "examples": ["rows.jsonl:17: 3151 tokens"]}],
    "lengths": {part: {"mean": 61.2, "median": 55, "p95": 120, "max": 310} for part in ("prompt", "reasoning", "answer", "whole")},
    "shown": [{"row": "rows.jsonl:1", "pieces": [[0, "Why?"], [1, "Because"], [2, "so"], [3, "<|im_end|>"]]}],
}  # fmt: skip


def write_run(run: Path, learning_rate: float) -> Path:
    """Write the folder of a run in which everything was recorded."""
    (run / "eval").mkdir(parents=True)
    (run / "recipe.yaml").write_text(f"name: {run.name}\ntrain:\n  learning_rate: {learning_rate}\n", encoding="utf-8")
    steps = [{"kind": "train", "step": step, "epoch": step / 10, "loss": 3 - step / 20, "reasoning_loss": 2.0, "answer_loss": 1.0, "end_loss": 0.5,
              "learning_rate": 1e-5, "gradient_norm": 1.0, "tokens_per_second": 900.0, "memory_gib": 3.0, "mfu": 0.4} for step in range(1, 31)]  # fmt: skip
    evals = [{"kind": "eval", "step": step, "epoch": step / 10, "loss": 3.1 - step / 20} for step in (0, 10, 20, 30)]
    rows = {f"val.jsonl:{n}": [n / 10, 40] for n in range(1, 12)}
    lines = {
        "metrics": [*evals[:1], *steps, *evals[1:], {"kind": "event", "step": 9, "text": "a slow step"}],
        "samples": [SAMPLE | {"step": 20}, SAMPLE | {"step": 10, "repetition": 0.9}],
        "losses": [{"step": 0, "rows": {row: [5.0, 40] for row in rows}}, {"step": 30, "rows": rows | {"val.jsonl:99": [0.01, 7]}}],
    }  # fmt: skip
    for name, records in lines.items():
        (run / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    (run / "data.json").write_text(json.dumps(DATA), encoding="utf-8")
    environment = {"command": f"thinktune train {'long/' * 60}recipe.yaml", "model": "a/b", "parameters": 600_000_000}
    (run / "environment.json").write_text(json.dumps(environment), encoding="utf-8")
    write_evaluation(run / "eval")
    return run


def write_evaluation(folder: Path) -> None:
    base, tuned = ([{"right": float(row < right), "chrf": right / 20, "loss": 2.0 - right / 10, "obeyed": 1.0} for row in range(12)] for right in (3, 9))  # fmt: skip
    figures = [one for one in compare(base, tuned) if one["measure"] != "obeyed"]
    [obeyed] = [one for one in compare(base, tuned) if one["measure"] == "obeyed"]
    sampling = {"max_new_tokens": 9, "temperature": 0, "seed": 0, "thinking": True}
    kinds = [{"kind": "arithmetic", "base": 1, "tuned": 3, "rows": 4}]
    report = {
        "verdicts": ["Better"], "sets": [{"name": "held-out", "rows": 12, "apart": 1, "measures": figures, "kinds": kinds}],
        "switches": [{"mode": "thinking", **obeyed}, {"mode": "silent", **obeyed}],
        "settings": {"sampling": sampling, "budget": "as trained", "longest_trained_reply": 9, "versions": {"torch": "2"}, "made": "today"},
    }  # fmt: skip
    (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")
    rows = [{"question": "Why?", "set": "held-out", "row": f"val.jsonl:{n}", "outcome": outcome, "apart": False, "references": ["Because."],
             "reference_reasoning": "So.", "keypoints": ["so"], "base": REPLY | {"scores": {"right": 0.0, "loops": 1.0}}, "tuned": REPLY | {"scores": {"right": 1.0}}}
            for n, outcome in enumerate(("worse", "better", "same"))]  # fmt: skip
    (folder / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
