"""A row of any length costs a small multiple of its size: it is named as too long before it is parsed or tokenized."""

import csv
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.prepared_rows import GOOD, prose, rows_of, write
from support.runs import settings

from thinktune.data import pipeline, worker
from thinktune.data.pipeline import prepare, prepare_with_faults
from thinktune.data.reading import readers, tables
from thinktune.tokenization import chat_template
from thinktune.tokenization.tokenizer import exceeds_tokens, max_characters


def long_row(characters, field="think"):
    return {**GOOD, "question": f"A long {field}?", field: prose(characters)}


def as_csv(path, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)


def as_parquet(path, rows):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


WRITERS = {
    "rows.jsonl": write,
    "lines.json": write,
    "list.json": lambda path, rows: path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8"),
    "rows.jsonl.gz": lambda path, rows: path.write_bytes(gzip.compress("".join(map(line, rows)).encode())),
    "rows.csv": as_csv,
    "rows.tsv": as_csv,
    "rows.parquet": as_parquet,
}


def line(row):
    return json.dumps(row, ensure_ascii=False) + "\n"


def prepared_file(tree, tokenizer, path, rows, **data):
    WRITERS[path.name](path, rows)
    columns = {"question": "question", "reasoning": "think", "answer": "answer"}
    more = {"name": str(path), "columns": columns, "validation": 0.0, "max_tokens": 200} | data
    return prepare_with_faults(settings(tree, data=more), tokenizer)


def too_long(prepared):
    [fault] = [fault for fault in prepared.summary["faults"] if fault["fault"] == "too_long"]
    return fault["actions"], fault["examples"][0]


@pytest.fixture
def tokenized(monkeypatch):
    """Collect the lengths of all texts that are tokenized."""
    lengths = []
    original = chat_template.tokenize

    def counted(texts, tokenizer):
        lengths.extend(map(len, texts))
        return original(texts, tokenizer)

    monkeypatch.setattr(chat_template, "tokenize", counted)
    return lengths


@pytest.mark.parametrize("field", ["question", "think", "answer"])
@pytest.mark.parametrize("name", WRITERS)
def test_a_long_row_is_named_and_neither_tokenized_nor_in_the_way_of_others(
    tree, tokenizer, tmp_path, tokenized, name, field
):
    rows = [*rows_of(3), long_row(300_000, field), *rows_of(2, question="What else?", answer="This.")[:1]]
    prepared = prepared_file(tree, tokenizer, tmp_path / name, rows)
    actions, sentence = too_long(prepared)
    assert actions == {"dropped": 1}
    place = {"rows.csv": ":5", "rows.tsv": ":5", "list.json": "[3]"}.get(name, ":4")
    assert sentence.startswith(f"{name}{place}: 300,0")
    assert "characters, more than data.max_tokens 200 can hold" in sentence
    assert len(prepared.train) == 4
    assert max(tokenized) < 2000


@pytest.mark.parametrize("name", WRITERS)
def test_a_row_too_long_to_be_read_is_named_and_the_rows_after_it_have_their_lines(
    tree, tokenizer, tmp_path, monkeypatch, name
):
    monkeypatch.setattr(pipeline, "MAX_ROW_BYTES", 2**16)
    monkeypatch.setattr(pipeline, "max_characters", lambda *_: 0)
    rows = [*rows_of(2), long_row(400_000), {**long_row(20), "answer": ""}]
    prepared = prepared_file(tree, tokenizer, tmp_path / name, rows)
    actions, sentence = too_long(prepared)
    assert actions == {"dropped": 1}
    first = {"rows.csv": 4, "rows.tsv": 4, "list.json": 2}.get(name, 3)
    place, next_place = (f"[{at}]" if name == "list.json" else f":{at}" for at in (first, first + 1))
    assert sentence == f"{name}{place}: is 0.4 MB long; a row of more than 0.1 MB is not read"
    [blank] = [fault for fault in prepared.summary["faults"] if fault["fault"] == "blank"]
    assert blank["examples"][0].startswith(f"{name}{next_place}: answer")
    assert len(prepared.train) == 2


@pytest.mark.parametrize("policy", ["drop", "trim-reasoning", "stop"])
@pytest.mark.parametrize("size", [300_000, 3_000_000])
def test_every_policy_holds_for_rows_of_any_length(tree, tokenizer, tmp_path, monkeypatch, tokenized, policy, size):
    monkeypatch.setattr(pipeline, "MAX_ROW_BYTES", 2**20)
    rows = [*rows_of(3), {**GOOD, "think": "".join(f"再想第{number}点。" for number in range(size // 8))}]
    prepared = prepared_file(tree, tokenizer, tmp_path / "rows.jsonl", rows, faults={"too_long": policy})
    actions, sentence = too_long(prepared)
    trimmed = policy == "trim-reasoning" and size == 300_000
    assert actions == {"stops" if policy == "stop" else "trimmed" if trimmed else "dropped": 1}
    assert ("after sentences were cut" in sentence) == trimmed
    if policy == "stop":
        assert "rows.jsonl:4: " in prepared.stop_reasons[0]
    else:
        assert len(prepared.train) == 3 + trimmed
        assert int(prepared.train.lengths.max()) <= 200
    assert max(tokenized) <= 4 * max_characters(200, tokenizer)


def test_a_long_history_and_a_long_unused_column_are_no_reason_to_lose_a_row(tree, tokenizer, tmp_path, tokenized):
    messages = [
        *(
            {"role": "user", "content": "q?"},
            {"role": "assistant", "content": "a.", "reasoning_content": prose(200_000)},
        ),
        *({"role": "user", "content": "r?"}, {"role": "assistant", "content": "b.", "reasoning_content": "u"}),
    ]
    messages[1] |= {"loss_weight": 0}
    path = tmp_path / "rows.jsonl"
    write(path, [{"messages": messages, "scan": "x" * 200_000}])
    prepared = prepare(settings(tree, data={"name": str(path), "columns": {}, "validation": 0.0}), tokenizer)
    assert len(prepared.train) == 1  # the template leaves out earlier reasoning, and nothing else is long
    assert max(tokenized) < 2000


@pytest.mark.parametrize("policy", ["drop", "trim-reasoning", "stop"])
@pytest.mark.parametrize("turns", [40, 1500, 20_000])
def test_of_a_long_conversation_the_replies_that_fit_are_trained(tree, tokenizer, tmp_path, tokenized, turns, policy):
    pair = ({"role": "user", "content": "q?"}, {"role": "assistant", "content": "a.", "reasoning_content": "t"})
    path = tmp_path / "rows.jsonl"
    write(path, [{"messages": [*pair * count]} for count in (1, 3, turns)])
    data = {"name": str(path), "columns": {}, "validation": 0.0, "faults": {"too_long": policy}, "max_tokens": 250}
    prepared = prepare_with_faults(settings(tree, data=data), tokenizer)
    actions, sentence = too_long(prepared)
    assert sentence.startswith("rows.jsonl:3: ")
    if policy == "stop":
        assert actions == {"stops": 1}
        return
    assert actions == {"trimmed": 1}
    assert "replies have up to" in sentence
    write(path, [{"messages": [*pair * count]} for count in (1, 3, 20)])
    all_fit = prepare(settings(tree, data=data | {"max_tokens": 10**6}), tokenizer)
    whole = [reply.ids.tolist() for reply in all_fit.train.replies() if len(reply) <= 250]
    assert [reply.ids.tolist() for reply in prepared.train.replies()] == whole
    assert 6 < len(whole) < 20
    assert len(tokenized) < 1000 or turns == 20_000


def test_a_text_is_too_long_only_where_no_tokens_could_be_so_long(tokenizer):
    longest = max(tokenizer.get_vocab(), key=len)
    most = max_characters(10, tokenizer)
    assert most == 10 * len(longest)
    for token in range(len(tokenizer)):
        assert not exceeds_tokens(tokenizer.decode([token]) * 10, 10, tokenizer)
    assert exceeds_tokens("x" * (most + 1), 10, tokenizer)
    assert exceeds_tokens(" " * (most + 1), 10, tokenizer)


@pytest.mark.real
def test_what_normalization_joins_is_counted_as_one(official_tokenizer):
    most = max_characters(2, official_tokenizer)
    letters = next(count for count in range(most, 0, -1) if not exceeds_tokens("x" * count, 2, official_tokenizer))
    decomposed = "e\u0301" * letters  # one character each, once composed
    assert not exceeds_tokens(decomposed, 2, official_tokenizer)
    assert exceeds_tokens(decomposed * 2, 2, official_tokenizer)
    assert exceeds_tokens("x" * (most + 1), 2, official_tokenizer)


CSV_ROWS = [["q", "a"], ["x,y", 'say "hi"\nnow'], ['"', ""], ["L" * 900, "b"], ["c", "L\n" * 400 + '"""'], ["e", "f"]]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("block", [1, 7, 2**16])
def test_a_long_record_of_a_table_ends_where_its_quotes_say(tmp_path, monkeypatch, end, quoting, block):
    monkeypatch.setattr(tables, "BLOCK_BYTES", block)
    path = tmp_path / "t.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=quoting, lineterminator=end).writerows(CSV_ROWS)
    read = list(readers.read_rows(path, "t.csv", repair_encoding=False, max_row_bytes=500))
    whole = list(readers.read_rows(path, "t.csv", repair_encoding=False))
    assert [row.columns and list(row.columns.values()) for row in read] == [*CSV_ROWS[1:3], None, None, CSV_ROWS[5]]
    assert [row.source for row in read] == [row.source for row in whole]
    assert [finding.fault for row in read for finding in row.findings] == ["too_long", "too_long"]


def test_a_quote_that_is_never_closed_is_reported_at_its_row_however_much_follows(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('q,a\n1,2\n"3,4\n' + "5,6\n" * 999, encoding="utf-8")
    for limit in (100, 10_000):
        with pytest.raises(readers.UserError, match=r"t\.csv:3: is not valid CSV \(unexpected end of data\)"):
            list(readers.read_rows(path, "t.csv", repair_encoding=False, max_row_bytes=limit))


@pytest.mark.parametrize("text", ['{"a":' * 50_000, '{"a": ' + "[" * 100_000, '{"a":' * 900 + "1" + "}" * 900])
def test_deep_nesting_is_a_fault_of_its_row_in_this_process_and_in_others(tree, tokenizer, tmp_path, monkeypatch, text):
    path = tmp_path / "rows.jsonl"
    write(path, rows_of(5))
    with path.open("a", encoding="utf-8") as file:
        file.write(text + "\n")
    monkeypatch.setattr(pipeline, "MIN_PARALLEL_BYTES", 0)
    data = {"name": str(path), "validation": 0.0, "faults": {"unreadable": "drop"}}
    summary = prepare(settings(tree, data=data), tokenizer).summary
    assert (summary["train_rows"], summary["dropped_rows"]) == (5, 1)


def test_long_rows_are_worked_on_few_at_a_time(tree, tokenizer, tmp_path, monkeypatch):
    chunks = []
    original = worker.process_chunk
    monkeypatch.setattr(pipeline, "process_chunk", lambda chunk, *more: chunks.append(chunk) or original(chunk, *more))
    prepared_file(tree, tokenizer, tmp_path / "rows.jsonl", [long_row(2**18) for _ in range(12)])
    assert [len(chunk.rows) for chunk in chunks] == [4, 4, 4]


MEASURE = """
import sys
from pathlib import Path
from support.runs import settings
from thinktune.data import prepare
from thinktune.tokenization import read_tokenizer

def peak():  # of this process: ru_maxrss would begin with its parent's
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) // 1024

name, start = sys.argv[1:]
data = {"name": name, "columns": {"reasoning": "think"}, "validation": 0.0, "max_tokens": 200}
recipe = settings({"name": "r", "model": {"name": start}, "data": data})
tokenizer = read_tokenizer(Path(start))
before = peak()
summary = prepare(recipe, tokenizer).summary
print(summary["faults"][0]["examples"][0])
print(summary["train_rows"], peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's own figure")
@pytest.mark.parametrize(("name", "megabytes"), [*((name, 100) for name in WRITERS), ("rows.jsonl", 10)])
def test_the_memory_for_a_long_row(start, tmp_path, name, megabytes):
    WRITERS[name](tmp_path / name, [*rows_of(5), long_row(megabytes * 10**6)])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "THINKTUNE_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", MEASURE, str(tmp_path / name), str(start)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    *_, sentence, figures = done.stdout.splitlines()
    trained, mebibytes = map(int, figures.split())
    print(f"{name}, {megabytes} MB: {mebibytes} MiB more; {sentence}")
    assert trained == 5
    assert mebibytes < 6 * megabytes + 60
