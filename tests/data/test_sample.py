"""Sample rows show every column, also those that begin late, and stay small."""

from support.prepared_rows import rows_of, with_rows

from thinktune.config import DataConfig
from thinktune.data.columns.mapping import SAMPLE_ROWS
from thinktune.data.pipeline import prepare
from thinktune.data.sample import MAX_LATE_ROWS, TRIAL_ROWS, WHOLE_BYTES, detect_sample, read_sample
from thinktune.data.types import RawRow

PAIR = {"question": "q", "answer": "a"}


def sample_of(rows, size=10):
    return read_sample("rows.jsonl", (RawRow(f"rows.jsonl:{n}", row, size=size) for n, row in enumerate(rows, start=1)))


def mapping_of(rows, **data):
    return detect_sample(sample_of(rows), DataConfig(name="rows.jsonl", **data))


def test_a_column_that_begins_late_is_read_from_there_on(tree, tokenizer):
    rows = [row | {"answer": f"<think>{row['think']}</think>{row['answer']}"} for row in rows_of(SAMPLE_ROWS + 20)]
    for row in rows:
        del row["think"]
    rows += rows_of(SAMPLE_ROWS + 40)[-20:]
    prepared = prepare(with_rows(tree, rows, columns={}, validation=0.0), tokenizer)
    assert prepared.summary["train_rows"] == len(rows)
    assert "reasoning = think" in prepared.summary["files"][0]["format"]
    assert all(example.turns[-1].reasoning for example in prepared.train.examples())


def test_a_column_that_the_recipe_names_may_begin_late():
    rows = [PAIR] * SAMPLE_ROWS + [PAIR | {"why": "t"}]
    assert mapping_of(rows, columns={"reasoning": "why"}).reasoning == "why"


def test_a_late_column_changes_no_part_that_was_there_before():
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    assert mapping_of([PAIR] * SAMPLE_ROWS + [PAIR | {"messages": chat}]).messages is None
    assert mapping_of([{"prompt": "q", "output": "a"}] * SAMPLE_ROWS + [PAIR]).question == "prompt"


def test_a_column_that_is_null_at_first_and_filled_late_is_sampled():
    rows = [PAIR | {"think": None}] * (SAMPLE_ROWS + 40) + [PAIR | {"think": "t"}] * 9
    sample = sample_of(rows)
    assert [row.source for row in sample.late_rows] == [f"rows.jsonl:{SAMPLE_ROWS + 41}"]
    assert detect_sample(sample, DataConfig(name="x")).reasoning == "think"


def test_a_sample_is_bounded():
    many = sample_of([PAIR] * SAMPLE_ROWS + [PAIR | {f"c{n}": "x"} for n in range(MAX_LATE_ROWS * 3)])
    assert len(many.late_rows) == MAX_LATE_ROWS
    assert len(many.for_trials.rows) == 2 * TRIAL_ROWS
    long = sample_of([PAIR | {"answer": "x" * WHOLE_BYTES}] * 9, size=WHOLE_BYTES + 40)
    assert sum(len(row.columns["answer"]) for row in long.rows) <= WHOLE_BYTES + 900


def test_trials_see_the_row_that_brings_a_column():
    rows = [PAIR] * 100 + [PAIR | {"laws": "x"}] + [PAIR] * 99
    assert [row.source for row in sample_of(rows).for_trials.rows][-1] == "rows.jsonl:101"
