"""Other tools' benchmarks on a run's own API: lm-eval and EvalScope are started as programs, and read back.

Both are programs of their own, so that they may live in an environment of their own: their requirements are many, and
EvalScope's differ from ours. They are found beside this Python, or on the PATH.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from thinktune.checkpoint.store import describe_final
from thinktune.commands.harness_results import Result, describe_result, read_evalscope, read_lm_eval
from thinktune.errors import UserError
from thinktune.files import write_json
from thinktune.inference import read_chat_defaults
from thinktune.model.device import hold_own_cards
from thinktune.progress import Say
from thinktune.run import RunFolder
from thinktune.run.folder import find_run

API_LINE = "API:"  # of `thinktune serve`, before the address
MAX_SHOWN_CHARACTERS = 500  # of what a tool printed last, where it failed
CONCURRENCY = 8  # requests in flight
PROGRAMS = {"lm-eval": ("lm_eval", "lm-eval"), "evalscope": ("evalscope",)}
INSTALL = {
    "lm-eval": "pip install 'thinktune[lm-eval]', or install lm-eval[api] in an environment on the PATH",
    "evalscope": "install evalscope in a separate environment, and add it to the PATH",
}


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark of a tool, as `--harness TOOL:TASK` names it; for lm-eval the task may be a YAML file."""

    tool: str
    task: str
    program: str

    @property
    def name(self) -> str:
        """The task's name, also of a file."""
        return Path(self.task).stem if self.is_file else self.task

    @property
    def is_file(self) -> bool:
        """True if the task is a file of lm-eval's."""
        return self.task.endswith((".yaml", ".yml"))


def parse_benchmarks(texts: Sequence[str], run: Path) -> list[Benchmark]:
    """Parse TOOL:TASK options and find the tools; raises UserError with every mistake."""
    faults: list[str] = []
    if texts and find_run(run)[1]:
        faults.append(f"--harness: {run} is an averaged model, which is served without its base; name the run itself")
    found: list[Benchmark] = []
    for text in texts:
        tool, _, task = text.partition(":")
        if tool not in PROGRAMS or not task:
            faults.append(f"--harness: is {text!r}; write lm-eval:TASK or evalscope:DATASET")
            continue
        program = _find_program(PROGRAMS[tool])
        if program is None:
            faults.append(f"--harness {text}: {tool} is not installed; {INSTALL[tool]}")
            continue
        benchmark = Benchmark(tool, task, program)
        if not benchmark.is_file and not re.fullmatch(r"\w[\w.\-]*", task):  # it also names a folder
            faults.append(f"--harness {text}: {task!r} is not a task's name; name one, or lm-eval's YAML file of one")
        if benchmark.is_file and not Path(task).is_file():
            faults.append(f"--harness {text}: {task!r} is not a file; name lm-eval's task or a YAML file of one")
        found.append(benchmark)
    if faults:
        raise UserError(faults)
    return found


def _find_program(names: Sequence[str]) -> str | None:
    beside = str(Path(sys.executable).parent)
    return next((path for name in names if (path := shutil.which(name, path=beside) or shutil.which(name))), None)


def run_benchmarks(run: Path, benchmarks: Sequence[Benchmark], say: Say, *, wait: bool = False) -> list[dict[str, Any]]:
    """Ask base and tuned every benchmark over the run's API; returns the figures, which are also saved in its folder.

    Raises UserError where the run offers only one of both models, or a tool fails.
    """
    results: list[Result] = []
    most_tokens = read_chat_defaults(run, RunFolder(run).final).sampling.max_new_tokens
    with hold_own_cards(say, wait=wait, most=1), _serving(run) as address:
        for benchmark in benchmarks:
            place = RunFolder(run).harness / benchmark.tool / benchmark.name
            folders = {side: place / side for side in ("base", "tuned")}
            for side, folder in folders.items():
                say(f"{benchmark.tool}: {benchmark.name} on {side}")
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                command = _command(benchmark, address, side, folder, most_tokens)
                _run_tool(benchmark, command, folder)
            read = read_lm_eval if benchmark.tool == "lm-eval" else read_evalscope
            found = read(benchmark.name, folders["base"], folders["tuned"])
            for result in found:
                say(describe_result(result))
            results += found
    records = [asdict(result) for result in results]
    write_json(RunFolder(run).harness_results, {"results": records, "model": describe_final(run)})
    return records


def _command(benchmark: Benchmark, address: str, side: str, folder: Path, most_tokens: int) -> list[str]:
    if benchmark.tool == "evalscope":
        options = json.dumps({"max_tokens": most_tokens, "temperature": 0.0})
        return [
            *(benchmark.program, "eval", "--model", side, "--eval-type", "openai_api", "--api-url", address),
            *("--api-key", "EMPTY", "--datasets", benchmark.task, "--generation-config", options),
            *("--eval-batch-size", str(CONCURRENCY), "--work-dir", str(folder), "--no-timestamp"),
        ]
    model = {
        "model": side,
        "base_url": f"{address}/chat/completions",
        "num_concurrent": CONCURRENCY,
        "max_gen_toks": most_tokens,
        "tokenized_requests": False,
        "timeout": 3600,
    }
    include = ["--include_path", str(Path(benchmark.task).resolve().parent)] if benchmark.is_file else []
    return [
        *(benchmark.program, "--model", "local-chat-completions"),
        *("--model_args", ",".join(f"{name}={value}" for name, value in model.items())),
        *("--tasks", benchmark.name, *include, "--apply_chat_template", "--log_samples"),
        *("--output_path", str(folder)),
    ]


def _run_tool(benchmark: Benchmark, command: Sequence[str], folder: Path) -> None:
    """Run a tool; what it prints goes to a file in its folder, and its last lines into the error where it fails."""
    log = folder / "log.txt"
    environment = {"OPENAI_API_KEY": "EMPTY", "TOKENIZERS_PARALLELISM": "false"}
    with log.open("w", encoding="utf-8") as opened:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=opened,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            check=False,
        )
    if done.returncode:
        last = log.read_text(encoding="utf-8", errors="replace").strip()[-MAX_SHOWN_CHARACTERS:]
        shown = " ".join(last.split())
        raise UserError(
            f"--harness {benchmark.tool}:{benchmark.task}: failed; {log} has the full output, which ends: {shown}"
        )


@contextmanager
def _serving(run: Path) -> Generator[str]:
    """Serve a run on a free port of the loopback address, in a process of its own; yields its API's address."""
    environment = {name: value for name, value in os.environ.items() if name != "THINKTUNE_API_KEY"}
    command = [sys.executable, "-m", "thinktune", "serve", str(run), "--port", "0"]
    log = RunFolder(run).harness / "serve.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("w", encoding="utf-8") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment) as server,
    ):
        try:
            assert server.stdout is not None
            lines: list[str] = []
            for line in server.stdout:
                lines.append(line.strip())
                if line.startswith(API_LINE):
                    break
            else:
                raise UserError(f"--harness: {run} could not be served; {log} says why")
            if not any(line.startswith("base:") and "is not on this machine" not in line for line in lines):
                raise UserError(f"--harness: {run} offers no base to compare with: {' '.join(lines)}")
            yield lines[-1].removeprefix(API_LINE).split()[0]
        finally:
            server.terminate()
