"""Prove that a refactor changed nothing, through the command line alone: losses, weights, texts, pages and the API.

    python benchmarks/same_results.py record FOLDER --source PATH/TO/src
    python benchmarks/same_results.py compare BEFORE AFTER [--only losses --only api]
    python benchmarks/same_results.py resume FOLDER --before PATH/TO/old/src --after PATH/TO/new/src

`record` runs the commands on a small random Qwen3 and writes their results, with times, versions and paths masked.
`compare` prints each difference and exits with code 1 if there is any. `resume` starts runs with one source, stops
them, finishes them with the other, and compares them with uninterrupted ones. No module of thinktune is imported.
"""

import hashlib
import http.client
import json
import os
import re
import signal
import socket
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from difflib import unified_diff
from itertools import islice
from pathlib import Path
from subprocess import PIPE, Popen, TimeoutExpired, check_output
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

PARTS = ("losses", "check", "report", "eval", "api", "help", "files")
SHOWN_LINES = 20  # of each file's differences
PATIENCE = 300.0  # seconds that a command may take
TIERS = ("fp32", "exact", "exact-bf16", "8bit", "8bit-streamed", "4bit")
TALK = "talk"  # the run that learns enough to give complete replies: for eval, report and serve
LEARNED = ("train.epochs=40", "train.learning_rate=3e-3", "train.evaluate_every_steps=200", "train.log_every_steps=20")
RUNS: dict[str, tuple[int, tuple[str, ...]]] = {  # by name: number of ranks, and overrides
    TALK: (1, LEARNED),
    **{tier: (1, (f"train.memory={tier}",)) for tier in TIERS},
    "small-batches": (1, ("data.max_tokens=80", "train.batch_tokens=80", "train.activation_budget=0")),
    "in-backward": (1, ("train.memory=8bit", "train.update_in_backward=true")),
    "two-ranks": (2, ("train.strategy=replicate",)),
    # Only one sample: sharded ranks do not form the same batches of several yet, and would hang.
    "two-shards": (2, ("train.memory=exact", "train.strategy=shard", "generate.sample_questions=1")),
}
# The signal that stops each of these, after step 17 of some 200.
RESUMED = {"fp32": "SIGTERM", "8bit-streamed": "SIGKILL", "exact": "SIGKILL", "two-shards": "SIGTERM"}

SHAPE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "max_position_embeddings": 4096}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 512}
TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' ~ message.role ~ '\n' }}"
    "{% if message.role == 'assistant' and loop.last %}"
    "{{ '<think>\n' ~ (message.reasoning_content or '').strip('\n') ~ '\n</think>\n\n' }}"
    "{% endif %}{{ message.content ~ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
FACTS = {"heart": "blood", "lung": "air", "eye": "light", "ear": "sound", "心脏": "血液", "肺": "空气", "眼": "光"}
FAULTY = (  # question, reasoning, answer
    *(("heart?", "The heart.", ""), ("lung?", "", "Air."), ("eye?", "The provided answer says light.", "Light.")),
    *(("ear?", "An ear.", "Sound."), ("ear?", "An ear.", "Sound."), ("long?", "Long. " * 80, "Long.")),
)
RECIPE = """\
runs_folder: runs
model: {name: start}
data: {name: rows.jsonl, columns: {reasoning: think}, validation: 0.2, max_tokens: 200}
train: {rows_per_step: 4, epochs: 2, learning_rate: 1e-3, evaluate_every_steps: 10, log_every_steps: 1}
generate: {max_new_tokens: 40, sample_questions: 2, sample_share: 1}
"""
CHECKED = {"plain": "", "faulty": "data.name=faulty.jsonl", "plan": "plan.card=24GiB", "wrong": "train.rate=1"}

CLOCKED = {"seconds", "tokens_per_second", "memory_gib", "free_bytes", "created", "started"}  # keys of JSON
LIBRARIES = "thinktune|torch|transformers|tokenizers|safetensors|numpy|sacrebleu|rouge-score|python"
MASKS = (
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?([+-]\d\d:\d\d|Z)?", "<date>"),
    (r"chatcmpl-[0-9a-f]+", "chatcmpl-<id>"),
    (r'"created": ?\d+', '"created": <time>'),
    (rf"\b({LIBRARIES}) \d+\.[\w.+]+", r"\1 <version>"),
    (rf"(<th>({LIBRARIES}|code)</th><td[^>]*>)[^<]*", r"\1<version>"),
    (r"free are [\d.,]+ GiB", "free are <free> GiB"),
    (r"\b[\d.,]+ (s|seconds|minutes|min|h|hours|tokens/s)\b", r"<time> \1"),
    (r"(?s)<svg(?:(?!</svg>).)*?\b(tokens_per_second|memory_gib)\b.*?</svg>", r"<svg>\1</svg>"),
)
PATHS = {"page": "", "health": "health", "openapi": "openapi.json", "models": "v1/models", "unknown-path": "nothing"}
QUESTION = {"messages": [{"role": "user", "content": "heart 1?"}], "temperature": 0}
CHATS: dict[str, Any] = {  # by name: the body of a request
    "greedy": QUESTION,
    "sampled": {**QUESTION, "temperature": 1, "seed": 1, "top_p": 0.9},
    "stream": {**QUESTION, "stream": True, "stream_options": {"include_usage": True}},
    "no-thinking": {**QUESTION, "chat_template_kwargs": {"enable_thinking": False}},
    "bad-options": {"messages": [], "temperature": 9, "made_up": 1},
    "no-json": "{",
}
REQUESTS: dict[str, tuple[str, str, Any, dict[str, str]]] = {  # by name: method, path, body, headers
    **{name: ("GET", f"/{path}", None, {}) for name, path in PATHS.items()},
    "wrong-method": ("PUT", "/v1/models", None, {}),
    "wrong-host": ("GET", "/v1/models", None, {"host": "elsewhere.example"}),
    **{name: ("POST", "/v1/chat/completions", body, {}) for name, body in CHATS.items()},
}


@dataclass(frozen=True, slots=True)
class Bench:
    """A source of thinktune and the working folder of its commands, with rows, a model and a recipe."""

    source: Path
    work: Path

    def start(self, *arguments: str, ranks: int = 1) -> Popen[str]:
        """Start a command in an environment that fixes its results: one thread, no card, no network, one text width."""
        fixed = {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
        paths = {"PYTHONPATH": str(self.source), "THINKTUNE_CACHE": str(self.work / "cache"), "COLUMNS": "120"}
        torchrun = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}") if ranks > 1 else ()
        command = (sys.executable, *torchrun, "-m", "thinktune", *arguments)
        environment = {**os.environ, **fixed, **paths, "TERM": "dumb", "NO_COLOR": "1"}
        return Popen(command, cwd=self.work, env=environment, stdout=PIPE, stderr=PIPE, encoding="utf-8")

    def run(self, *arguments: str, ranks: int = 1, codes: Sequence[int] = (0,)) -> str:
        """Return what a command prints; raise SystemExit if it takes too long or its exit code is not in `codes`."""
        process = self.start(*arguments, ranks=ranks)
        try:
            out, err = process.communicate(timeout=PATIENCE)
        except TimeoutExpired:
            process.terminate()  # torchrun passes it on to its ranks
            out, err = process.communicate()
        if process.returncode not in codes:
            raise SystemExit(f"{' '.join(arguments)}: exit code {process.returncode}\n{out[-2000:]}\n{err[-4000:]}")
        return out

    def train(self, name: str, ranks: int, overrides: Sequence[str]) -> Path:
        """Train a run to its end, and return its folder."""
        self.run("train", "recipe.yaml", f"name={name}", *overrides, ranks=ranks)
        return self.work / "runs" / name

    def mask(self, tree: Any) -> Any:
        """Mask what depends on time, machine or paths in a text or JSON tree: dates, durations, versions, ids."""
        if isinstance(tree, dict):
            return {key: "<masked>" if key in CLOCKED else self.mask(value) for key, value in tree.items()}
        if isinstance(tree, list):
            return [self.mask(value) for value in tree]
        if isinstance(tree, str):
            tree = tree.replace(str(self.work), "<work>").replace(str(self.source), "<source>")
            for pattern, name in MASKS:
                tree = re.sub(pattern, name, tree)
        return tree


def open_bench(source: Path, work: Path) -> Bench:
    """Make a bench; raise SystemExit if Python would not import thinktune from `source`."""
    bench = Bench(source.resolve(), work.resolve())
    code = "import importlib.util as found; print(found.find_spec('thinktune').origin)"
    environment = {**os.environ, "PYTHONPATH": str(bench.source)}
    origin = check_output([sys.executable, "-c", code], cwd=work, env=environment, encoding="utf-8").strip()
    if not Path(origin).resolve().is_relative_to(bench.source):
        raise SystemExit(f"{source}: Python imports thinktune from {origin}")
    return bench


def make_inputs(folder: Path) -> None:
    """Write rows, faulty rows, a recipe and a small random Qwen3 with a tokenizer trained on the rows."""
    facts = [(f"{part} {n}", what, 1 + n % 3) for n in range(7) for part, what in FACTS.items()]
    rows = [(f"{part}?", f"{part}:{' think.' * length}", f"{part} - {what}.") for part, what, length in facts]
    for name, some in (("rows", rows), ("faulty", [*rows, *FAULTY])):
        texts = (json.dumps(dict(zip(("question", "think", "answer"), row, strict=True))) for row in some)
        (folder / f"{name}.jsonl").write_text("".join(f"{text}\n" for text in texts))
    (folder / "recipe.yaml").write_text(RECIPE)
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    letters, control = sorted(pre_tokenizers.ByteLevel.alphabet()), list(TOKENS)
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=control, initial_alphabet=letters, show_progress=False)
    raw.train_from_iterator([text for row in rows for text in row], trainer)
    raw.add_tokens([AddedToken(token, special=False, normalized=False) for token in ("<think>", "</think>")])
    ends: dict[str, Any] = {"eos_token": TOKENS[2], "pad_token": TOKENS[0], "clean_up_tokenization_spaces": False}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, **ends)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder / "start")
    torch.manual_seed(0)
    ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    Qwen3ForCausalLM(Qwen3Config(**SHAPE, **HEADS, **ids, tie_word_embeddings=True)).save_pretrained(folder / "start")


def read_text(path: Path) -> str:
    """Return a file's text; empty if there is no file."""
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def read_records(path: Path) -> list[Any]:
    """Return the records of a file of JSON lines, or the one of a JSON file."""
    return [json.loads(one) for one in (read_text(path).splitlines() if path.suffix == ".jsonl" else [read_text(path)])]


def hash_tensors(folder: Path) -> dict[str, str]:
    """Return the digest of dtype, shape and bytes of every tensor below a folder: weights and states of AdamW."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*.safetensors")):
        for name, tensor in sorted(load_file(path).items()):
            data = tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
            digest = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)} ".encode() + data).hexdigest()
            found[f"{path.relative_to(folder)} {name}"] = digest
    return found


def key_paths(tree: Any, place: str = "") -> set[str]:
    """Return the paths of all values in a JSON tree, as in `a.b[]`."""
    nested = [("[]", value) for value in tree] if isinstance(tree, list) else []
    nested = [(f".{key}", value) for key, value in tree.items()] if isinstance(tree, dict) else nested
    return {place} | {path for key, value in nested for path in key_paths(value, f"{place}{key}")}


def write(path: Path, result: Any) -> None:
    """Write one result: a text as it is, anything else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, indent=1) + "\n"
    path.write_text(text, encoding="utf-8")


def record_run(bench: Bench, name: str, target: Path) -> None:
    """Train a run, and write its losses and samples, the digests of its tensors, and its files' names and keys."""
    run = bench.train(name, *RUNS[name])
    journals = {part: bench.mask(read_records(run / f"{part}.jsonl")) for part in ("metrics", "losses", "samples")}
    write(target / "losses" / f"{name}.json", {**journals, "tensors": hash_tensors(run)})
    if name == TALK:
        record_talk(bench, run, target)
    files = {str(path.relative_to(run)): path for path in sorted(run.rglob("*")) if path.is_file()}
    structured = {name: path for name, path in files.items() if path.suffix in (".json", ".jsonl")}
    keys = {name: sorted(key_paths(read_records(path))) for name, path in structured.items()}
    write(target / "files" / f"{name}.json", {"files": list(files), "keys": keys})


def record_talk(bench: Bench, run: Path, target: Path) -> None:
    """Write the results of eval, report and serve for the run that learned most."""
    write(target / "report" / "trained.html", bench.mask(read_text(run / "report.html")))
    bench.run("eval", f"runs/{TALK}")
    write(target / "eval" / "report.json", bench.mask(read_records(run / "eval" / "report.json")))
    for path in sorted((run / "eval").glob("*/completions.jsonl")):  # in the order in which replies finished
        write(target / "eval" / f"{path.parent.name}.json", sorted(read_records(path), key=json.dumps))
    write(target / "eval" / "regraded.txt", bench.mask(bench.run("eval", f"runs/{TALK}", "--regrade")))
    bench.run("report", f"runs/{TALK}")
    write(target / "report" / "evaluated.html", bench.mask(read_text(run / "report.html")))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = bench.start("serve", f"runs/{TALK}", "--port", str(port))
    try:
        while server.poll() is None and socket.socket().connect_ex(("127.0.0.1", port)):
            time.sleep(0.1)
        for name, details in REQUESTS.items():
            write(target / "api" / f"{name}.json", bench.mask(request(port, *details)))
    finally:
        server.send_signal(signal.SIGINT)
        server.communicate()


def request(port: int, method: str, path: str, body: Any, headers: dict[str, str]) -> dict[str, Any]:
    """Return a reply's status, content type and body: JSON, or else lines."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    content = body if body is None or isinstance(body, str) else json.dumps(body)
    connection.request(method, path, content, {"content-type": "application/json", **headers})
    reply = connection.getresponse()
    kind, text = reply.getheader("content-type") or "", reply.read().decode("utf-8")
    connection.close()
    return {"status": reply.status, "kind": kind, "body": json.loads(text) if "json" in kind else text.splitlines()}


def record_texts(bench: Bench, target: Path) -> None:
    """Write the reports of check on good and faulty rows, a card's plan and a wrong recipe; and every verb's help."""
    write(target / "check" / "plain.txt", bench.mask(bench.run("check", "recipe.yaml")))
    for name, override in CHECKED.items():
        facts = bench.run("check", "recipe.yaml", "--json", *filter(None, [override]), codes=(0, 2))
        kept = {key: value for key, value in json.loads(facts).items() if key != "peak_memory_mib"}
        write(target / "check" / f"{name}.json", bench.mask(kept))
    overall = bench.run("--help")
    write(target / "help" / "overall.txt", bench.mask(overall))
    for verb in re.findall(r"^  ([a-z]+) ", overall.partition("Commands:")[2], re.MULTILINE):
        write(target / "help" / f"{verb}.txt", bench.mask(bench.run(verb, "--help")))


def record(source: Path, target: Path) -> int:
    """Write all results of a source into a new folder; return 0."""
    target.mkdir(parents=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="same-results-") as place:
        bench = open_bench(source, Path(place))
        make_inputs(bench.work)
        runs = [lambda name=name: record_run(bench, name, target) for name in RUNS]
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda task: task(), [*runs, lambda: record_texts(bench, target)]))
    print(f"{target}: recorded {len(list(target.rglob('*.*')))} files in {time.monotonic() - started:.0f} s")
    return 0


def differences(before: Any, after: Any, place: str = "") -> Iterator[str]:
    """Yield the differences of two JSON trees to the bit, with the size of those of numbers."""
    if isinstance(before, list) and isinstance(after, list):
        before, after = dict(enumerate(before)), dict(enumerate(after))
    if isinstance(before, dict) and isinstance(after, dict):
        for key in dict.fromkeys([*before, *after]):
            if key in before and key in after:
                yield from differences(before[key], after[key], f"{place}.{key}")
            else:
                yield f"{place}.{key}: only {'before' if key in before else 'after'}"
    elif repr(before) != repr(after):  # tells 0.0 from -0.0 and 1 from True, and takes NaN for equal to NaN
        by = f" ({after - before:+.3g})" if isinstance(before, int | float) and isinstance(after, int | float) else ""
        yield f"{place}: {before!r} -> {after!r}{by}"


def show(name: str, found: Iterator[str]) -> bool:
    """Print the first differences of a file; return True if there are any."""
    lines = list(islice(found, SHOWN_LINES + 1))
    if lines:
        print(f"--- {name}", *lines[:SHOWN_LINES], *(["..."] if len(lines) > SHOWN_LINES else []), sep="\n")
    return bool(lines)


def compare(before: Path, after: Path, parts: Sequence[str]) -> int:
    """Print each difference of two records; return 1 if there is any, else 0. SystemExit if both lack a part."""
    pairs = [(root, path) for root in (before, after) for part in parts for path in (root / part).rglob("*.*")]
    names = sorted({path.relative_to(root) for root, path in pairs})
    if missing := [part for part in parts if part not in {name.parts[0] for name in names}]:
        raise SystemExit(f"{before}, {after}: contain nothing of {', '.join(missing)}")
    different = 0
    for name in names:
        texts = read_text(before / name), read_text(after / name)
        if (before / name).is_file() != (after / name).is_file():
            found = iter([f"only {'before' if (before / name).is_file() else 'after'}"])
        elif name.suffix == ".json":
            found = differences(json.loads(texts[0]), json.loads(texts[1]))
        else:
            lines = [text.splitlines() for text in texts]
            found = unified_diff(lines[0], lines[1], "before", "after", lineterm="", n=1)
        different += show(str(name), found)
    print(f"{len(names)} files compared, {different} differ")
    return int(different > 0)


def resume(before: Path, after: Path, folder: Path) -> int:
    """Stop runs of one source, finish them with the other; return 1 if they differ from uninterrupted ones, else 0."""
    folder.mkdir(parents=True)
    old, new = open_bench(before, folder), open_bench(after, folder)
    make_inputs(old.work)

    def go(name: str) -> tuple[Any, Any]:
        ranks, overrides = RUNS[name][0], ("train.epochs=20", *RUNS[name][1])
        uninterrupted = outcome(old.train(f"{name}-uninterrupted", ranks, overrides))
        stop_in_the_middle(old, name, ranks, overrides)
        return uninterrupted, outcome(new.train(name, ranks, overrides))

    different = 0
    with ThreadPoolExecutor(2) as pool:
        for name, (one, other) in zip(RESUMED, pool.map(go, RESUMED), strict=True):
            different += show(name, differences(one, other))
            print(f"{name}: {len(one['losses'])} records of losses and {len(one['tensors'])} tensors compared")
    return int(different > 0)


def stop_in_the_middle(bench: Bench, name: str, ranks: int, overrides: Sequence[str]) -> None:
    """Start a run and signal it some steps after a checkpoint; raise SystemExit if it ended or hung before that."""
    journal = bench.work / "runs" / name / "metrics.jsonl"
    process = bench.start("train", "recipe.yaml", f"name={name}", *overrides, ranks=ranks)
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and '"step": 17,' not in read_text(journal):
        if time.monotonic() > deadline:
            process.kill()
            raise SystemExit(f"{name}: step 17 not reached in {PATIENCE:.0f} s")
        time.sleep(0.005)
    process.send_signal(signal.Signals[RESUMED[name]])
    _, err = process.communicate()
    if process.returncode == 0 or not journal.is_file():
        raise SystemExit(f"{name}: was not stopped in the middle (exit code {process.returncode})\n{err[-4000:]}")
    print(f"{name}: {RESUMED[name]} at step {read_records(journal)[-1]['step']}, exit code {process.returncode}")


def outcome(run: Path) -> dict[str, Any]:
    """Return a run's losses by kind and step, the last one of a repeated step, and its tensors' digests."""
    records = [each for each in read_records(run / "metrics.jsonl") if "loss" in each]
    losses = {f"{each['kind']} {each['step']}": {k: v for k, v in each.items() if k not in CLOCKED} for each in records}
    return {"losses": losses, "tensors": hash_tensors(run)}


def main() -> int:
    """Run the verb of the command line; return its exit code."""
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("verb", choices=("record", "compare", "resume"))
    parser.add_argument("folders", type=Path, nargs="+", help="the folder to write, or the two records to compare")
    parser.add_argument("--source", type=Path, help="of record: the folder that contains thinktune/")
    parser.add_argument("--only", action="append", choices=PARTS, help="of compare: a part; may be repeated")
    for option, what in (("--before", "starts"), ("--after", "finishes")):
        parser.add_argument(option, type=Path, help=f"of resume: the source that {what} the runs")
    chosen = parser.parse_args()
    if chosen.verb == "record" and chosen.source:
        return record(chosen.source, chosen.folders[0])
    if chosen.verb == "compare" and len(chosen.folders) == 2:
        return compare(chosen.folders[0], chosen.folders[1], chosen.only or PARTS)
    if chosen.verb == "resume" and chosen.before and chosen.after:
        return resume(chosen.before, chosen.after, chosen.folders[0])
    return parser.error("write record FOLDER --source S, compare A B, or resume FOLDER --before S --after S")


if __name__ == "__main__":
    raise SystemExit(main())
