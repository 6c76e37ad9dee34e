"""Small runs for tests: their rows, their recipe, and what is compared of them."""

import json
from pathlib import Path

from thinktune import recipe

FACTS = {
    "heart": "blood",
    "lung": "air",
    "eye": "light",
    "ear": "sound",
    "心脏": "血液",
    "肺": "空气",
    "眼": "光",
    "耳": "声音",
}


def write_rows(path: Path, facts=FACTS) -> Path:
    rows = [
        {"question": f"{part}?", "think": f"{part}: think.", "answer": f"{part} - {what}."}
        for part, what in facts.items()
    ]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def settings(tree, **changes):
    merged = json.loads(json.dumps(tree))
    for section, values in changes.items():
        merged[section] = {**merged[section], **values} if isinstance(values, dict) else values
    return recipe.check(merged, "here")


def quiet(_line):
    pass


def stop_after(step):
    """A narrator that ends the run when a step has been saved, as a power cut would."""

    def say(line):
        if line.startswith(f"step {step}/") and "saved" in line:
            raise KeyboardInterrupt

    return say


def without_times(records):
    return [
        {key: value for key, value in record.items() if key not in ("seconds", "tokens_per_second", "memory_gib")}
        for record in records
    ]
