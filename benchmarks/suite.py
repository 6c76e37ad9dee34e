"""What both suites do with contenders: each in a process of its own, a table of figures, a chart of all loss curves."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "src"))  # nothing of this tree need be installed
SHIM = HERE / "shim"
OURS = "thinktune"
SMALLEST_BATCH_TOKENS = 2048
LIBRARIES = ("torch", "transformers", "trl", "accelerate", "liger-kernel", "unsloth", "llamafactory")


@dataclass(frozen=True)
class Contender:
    """A line of the table: the file and the variant that make it, and what it is told."""

    name: str
    file: str
    variant: str
    needs: str | None = None  # a package that is not ours
    batch_tokens: int | None = None  # where it cannot find them itself; halved until they fit
    settings: dict[str, Any] = field(default_factory=dict)
    same_steps: bool = False  # its mathematics is that of ours, step for step


@dataclass(frozen=True, slots=True)
class Line:
    """What became of a contender: results of its jobs, or why there are none."""

    contender: Contender
    results: list[dict[str, Any]]
    batch_tokens: int | None = None
    absent: str = ""


@dataclass(slots=True)
class Budget:
    """Seconds that a command may take."""

    seconds: float
    begun: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds from now."""
        return self.seconds - (time.monotonic() - self.begun)


def run(contender: Contender, jobs: Sequence[Path], budget: Budget, threads: int | None = None) -> Line:
    """One contender from start to end; where the card's memory is not enough, again with half the batch."""
    if contender.needs and importlib.util.find_spec(contender.needs) is None:
        return Line(contender, [], absent=f"missing: {contender.needs} is not installed here")
    batch_tokens = contender.batch_tokens
    while True:
        if budget.left < 5:
            return Line(contender, [], batch_tokens, "not run: the command's time was up")
        code, output, errors = _process(contender, jobs, batch_tokens, budget, threads)
        if code == 0:
            return Line(contender, json.loads(output.splitlines()[-1]), batch_tokens)
        if code is None:
            return Line(contender, [], batch_tokens, "stopped: the command's time was up")
        if not _is_memory(errors):
            print(errors[-6000:], file=sys.stderr)
            return Line(contender, [], batch_tokens, f"failed: {_last(errors)}")
        if batch_tokens is None or batch_tokens // 2 < SMALLEST_BATCH_TOKENS:
            return Line(contender, [], batch_tokens, "does not fit: out of memory")
        batch_tokens //= 2


def _process(
    contender: Contender, jobs: Sequence[Path], batch_tokens: int | None, budget: Budget, threads: int | None
) -> tuple[int | None, str, str]:
    command = [sys.executable, str(HERE / contender.file), contender.variant, *map(str, jobs)]
    command += ["--settings", json.dumps(contender.settings)]
    command += ["--batch-tokens", str(batch_tokens)] if batch_tokens else []
    command += ["--threads", str(threads)] if threads else []
    try:
        done = subprocess.run(
            command, env=environment(threads), capture_output=True, text=True, check=False, timeout=budget.left
        )
    except subprocess.TimeoutExpired as stopped:
        return None, "", str(stopped.stderr)
    return done.returncode, done.stdout, done.stderr


def environment(threads: int | None = None) -> dict[str, str]:
    """The environment of a contender's process: this tree's own sources, the kernel that all share, no network."""
    path = [str(HERE.parent / "src"), *([] if _has_flash_attn() else [str(SHIM)]), os.environ.get("PYTHONPATH", "")]
    quiet = {
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
    }
    if threads:
        quiet |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    return os.environ | quiet


def kernel() -> str:
    """Which attention the packed contenders have on a card."""
    return "flash-attn as installed" if _has_flash_attn() else "torch's varlen_attn for all packed contenders"


def _has_flash_attn() -> bool:
    try:
        return bool(version("flash-attn"))
    except PackageNotFoundError:
        return False


def _is_memory(errors: str) -> bool:
    return bool(re.search(r"OutOfMemoryError|CUDA out of memory|the memory of .* is full", errors))


def _last(errors: str) -> str:
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    return (lines[-1] if lines else "no word")[:200]


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, numbers to the right."""
    rows = [head, ["---", *["---:"] * (len(head) - 1)], *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def versions() -> str:
    """The libraries that are there, with their versions."""
    found: list[str] = []
    for name in LIBRARIES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return f"Python {sys.version.split()[0]}, {', '.join(found)}"


def commit() -> str:
    """The commit of the tree, where git can tell."""
    asked = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--abbrev=7"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def differences(lines: Sequence[Line], job: int = 0) -> dict[str, float]:
    """For contenders with the steps of ours: the largest relative difference of a logged loss from ours."""
    ours = next((line for line in lines if line.results and line.contender.name == OURS), None)
    if ours is None:
        return {}
    reference = dict(map(tuple, ours.results[job]["losses"]))
    found: dict[str, float] = {}
    for line in lines:
        if line.results and line.contender.same_steps:
            logged = dict(map(tuple, line.results[job]["losses"]))
            assert logged.keys() == reference.keys(), f"{line.contender.name} logs other steps than ours"
            found[line.contender.name] = max(abs(logged[step] / reference[step] - 1) for step in reference)
    return found


def write(folder: Path, name: str, lines: Sequence[Line], facts: dict[str, Any], text: str, job: int = 0) -> None:
    """The results as NAME.json, the table as NAME.md, and the loss curves of all contenders as NAME.html."""
    folder.mkdir(parents=True, exist_ok=True)
    tree = [
        {"name": line.contender.name, "batch_tokens": line.batch_tokens, "absent": line.absent, "results": line.results}
        for line in lines
    ]
    (folder / f"{name}.json").write_text(json.dumps({"facts": facts, "contenders": tree}, indent=1), encoding="utf-8")
    (folder / f"{name}.md").write_text(text + "\n", encoding="utf-8")
    (folder / f"{name}.html").write_text(curves(lines, name, job), encoding="utf-8")


def curves(lines: Sequence[Line], title: str, job: int = 0) -> str:
    """A page with one chart: the loss of each contender over the tokens it has seen."""
    from thinktune.report.svg_charts import Series, line_chart

    drawn = [line for line in lines if line.results]
    series = [
        Series(line.contender.name, _points(line.results[job]), f"contender-{number}")
        for number, line in enumerate(drawn)
    ]
    chart = line_chart(
        series,
        title=f"{title}: loss",
        x_label="",
        y_label="mean of a token, over thousand tokens seen",
        size=(960, 480),
    )
    # Colours go round by the golden angle, so that neighbours differ; later lines are dashed, so that equal ones show.
    colours = "\n".join(
        f".contender-{number} {{ stroke: hsl({number * 137.5 % 360:.0f} 75% 42%); "
        f"stroke-dasharray: {'none' if number == 0 else f'{4 + 3 * number} {3 + 2 * number}'}; }}"
        for number in range(len(drawn))
    )
    head = f"<meta charset=utf-8><title>{title}</title><style>{STYLE}{colours}</style>"
    return f"<!doctype html><html lang=en>{head}{chart}</html>\n"


def _points(result: dict[str, Any]) -> list[tuple[float, float]]:
    """The middle of the steps that an entry averages, in thousand tokens, and the loss."""
    seen = [0, *result["step_tokens"]]
    for step in range(1, len(seen)):
        seen[step] += seen[step - 1]
    points, before = [], 0
    for step, loss in result["losses"]:
        points.append(((seen[before] + seen[step]) / 2000, loss))
        before = step
    return points


STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; color: #222; background: #fff; }
h3 { font-weight: 600; } .unit { font-weight: 400; color: #666; }
.legend { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; }
.key { width: 26px; height: 10px; margin-right: .4rem; }
.line { fill: none; stroke-width: 2; } .grid { stroke: #ddd; }
.tick { font-size: 12px; fill: #555; text-anchor: middle; dominant-baseline: middle; } .tick.y { text-anchor: end; }
"""
