"""Code of both suites: contenders, each in a process of its own; tables of figures and a chart of all loss curves."""

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
sys.path.insert(0, str(HERE.parent / "src"))  # so that this tree need not be installed
SHIM = HERE / "shim"
OURS = "thinktune"
SMALLEST_BATCH_TOKENS = 2048
LIBRARIES = ("torch", "transformers", "trl", "accelerate", "liger-kernel", "unsloth", "llamafactory")


@dataclass(frozen=True)
class Contender:
    """A contender: its file, its variant and its options."""

    name: str
    file: str
    variant: str
    needs: str | None = None  # the package that it measures, if that is not thinktune
    batch_tokens: int | None = None  # if it cannot choose them itself; halved until they fit
    settings: dict[str, Any] = field(default_factory=dict)
    same_steps: bool = False  # it computes the same as thinktune, step for step


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the table: the results of a contender's jobs, or the reason why there are none."""

    contender: Contender
    results: list[dict[str, Any]]
    batch_tokens: int | None = None
    absent: str = ""


@dataclass(slots=True)
class Budget:
    """Seconds that a command may take, counted from now."""

    seconds: float
    started: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Return the seconds that are left."""
        return self.seconds - (time.monotonic() - self.started)


def run(contender: Contender, jobs: Sequence[Path], budget: Budget, threads: int | None = None) -> Line:
    """Run one contender; if the card's memory is not enough, again with half the batch."""
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
        if not _is_out_of_memory(errors):
            print(errors[-6000:], file=sys.stderr)
            return Line(contender, [], batch_tokens, f"failed: {_last_line(errors)}")
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
    """Return the environment of a contender's process: this tree's sources, the kernel of all, no network."""
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
    """Return which attention the packed contenders have on a card."""
    return "flash-attn as installed" if _has_flash_attn() else "torch's varlen_attn for all packed contenders"


def _has_flash_attn() -> bool:
    try:
        return bool(version("flash-attn"))
    except PackageNotFoundError:
        return False


def _is_out_of_memory(errors: str) -> bool:
    return bool(re.search(r"OutOfMemoryError|CUDA out of memory|the memory of .* is full", errors))


def _last_line(errors: str) -> str:
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    return (lines[-1] if lines else "no output")[:200]


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Format a table in Markdown, numbers aligned right."""
    rows = [head, ["---", *["---:"] * (len(head) - 1)], *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def versions() -> str:
    """Return the installed libraries with their versions."""
    found: list[str] = []
    for name in LIBRARIES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return f"Python {sys.version.split()[0]}, {', '.join(found)}"


def commit() -> str:
    """Return the commit of the tree, or `unknown` without git."""
    command = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--abbrev=7"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def differences(lines: Sequence[Line], job: int = 0) -> dict[str, float]:
    """Return the largest relative difference of a logged loss from ours, for contenders with the same steps."""
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
    """Write the results as NAME.json, the table as NAME.md, and the loss curves of all contenders as NAME.html."""
    folder.mkdir(parents=True, exist_ok=True)
    tree = [
        {"name": line.contender.name, "batch_tokens": line.batch_tokens, "absent": line.absent, "results": line.results}
        for line in lines
    ]
    (folder / f"{name}.json").write_text(json.dumps({"facts": facts, "contenders": tree}, indent=1), encoding="utf-8")
    (folder / f"{name}.md").write_text(text + "\n", encoding="utf-8")
    (folder / f"{name}.html").write_text(curves(lines, name, job), encoding="utf-8")


def curves(lines: Sequence[Line], title: str, job: int = 0) -> str:
    """Return a page with one chart: the loss of each contender by tokens seen."""
    from thinktune.report.svg_charts import Axes, Series, line_chart

    drawn = [line for line in lines if line.results]
    series = [
        Series(line.contender.name, _points(line.results[job]), f"contender-{number}")
        for number, line in enumerate(drawn)
    ]
    axes = Axes(f"{title}: loss", x_label="", y_label="mean loss of a token by thousand tokens seen")
    chart = line_chart(series, axes, size=(960, 480))
    # Colours advance by the golden angle, so that neighbours differ; later lines are dashed, so that equal ones show.
    colours = "\n".join(
        f".contender-{number} {{ stroke: hsl({number * 137.5 % 360:.0f} 75% 42%); "
        f"stroke-dasharray: {'none' if number == 0 else f'{4 + 3 * number} {3 + 2 * number}'}; }}"
        for number in range(len(drawn))
    )
    head = f"<meta charset=utf-8><title>{title}</title><style>{STYLE}{colours}</style>"
    return f"<!doctype html><html lang=en>{head}{chart}</html>\n"


def _points(result: dict[str, Any]) -> list[tuple[float, float]]:
    """Return a curve's points: the middle of the steps that an entry averages, in thousand tokens, and the loss."""
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
