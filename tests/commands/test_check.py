"""What `check` prints: golden texts, the verdict with its exit code, the same facts as JSON, and cleaned files."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from support.runs import settings

from thinktune.commands.check import check_recipe, colour_tokens, finish_facts, print_check, verify_tokens
from thinktune.config.loading import dump_recipe
from thinktune.data.dataset import reply_digest
from thinktune.data.export import export_rows
from thinktune.data.pipeline import prepare, prepare_with_faults
from thinktune.data.summary import HISTOGRAM_BINS, sparkline
from thinktune.errors import UserError
from thinktune.planner.run_time import parse_hourly_price
from thinktune.tokenization import Rendered

ROWS = [
    {
        "Question": f"心脏第{number}问？",
        "Complex_CoT": f"先想{number}。\n再答。",
        "Response": f"血液{number}。",
        "id": number,
    }
    for number in range(12)
]
ROWS[3] |= {"Complex_CoT": "用户提供的答案是血液。"}
ROWS[4] |= {"Response": "第一行。\\n第二行。"}
ROWS[5] |= {"Question": " "}
ROWS[6] = dict(ROWS[0])

GOLDEN = """\
rows.jsonl: 12 rows, columns: question = Question, reasoning = Complex_CoT, answer = Response
  not used: id (number, in 100 % of the rows, as in 0); may be an identifier
12 rows read: 9 to train on (TOKENS tokens, LEARNED learned), 0 held out, 3 dropped
  blank: 1 dropped (8% of all rows), as in rows.jsonl:6: Question: is empty
  literal_newline: 1 repaired, as in rows.jsonl:5: Response: contains a backslash and an n where a line should end ('第一行。\\\\n第二行。')
  handed_answer: 1 dropped (8% of all rows), as in rows.jsonl:4: Complex_CoT: says that it was given the answer ('用户提供的答案是血液。')
  duplicate: 1 dropped (8% of all rows), as in rows.jsonl:7: is the same as rows.jsonl:1
"""
TOKENS_BY_KIND = """\
Tokens of rows.jsonl:1, by kind:

[prompt] <|im_start|>user
心脏第0问？<|im_end|>
<|im_start|>assistant

[reasoning] <think>
先想0。
再答。
</think>


[answer] 血液0。
[end of turn] <|im_end|>
[prompt]
"""


def shown(facts, **options):
    console = Console(file=io.StringIO(), width=120, **options)
    print_check(facts, console)
    return console.file.getvalue()


def plain(text):
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


@pytest.fixture
def recipe_of(tree):
    def make(rows=ROWS, **data):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        Path(tree["data"]["name"]).write_text(lines, encoding="utf-8")
        return settings(tree, data={"columns": {}, "validation": 0.0} | data)

    return make


def test_the_printed_text_is_the_golden_text(recipe_of):
    prepared, facts = check_recipe(recipe_of(), print)
    summary = prepared.summary
    text = plain(shown(facts))
    expected = GOLDEN.replace("TOKENS", str(summary["train_tokens"])).replace(
        "LEARNED", str(summary["train_learned_tokens"])
    )
    assert text.startswith(expected)
    assert TOKENS_BY_KIND in text
    assert (
        "verified for 9 replies: the prompt is a prefix of the conversation, the last trained token is <|im_end|>"
        in text
    )
    assert "checked again for 9 of them: transformers' chat template gives the same token ids" in text
    assert text.endswith("\nready: 15 steps\n")


def test_every_token_of_the_row_is_shown_in_the_colour_of_its_kind(recipe_of, tokenizer):
    prepared, facts = check_recipe(recipe_of(), print)
    [row] = facts["shown"]
    reply = prepared.train.replies([0])[0]
    assert row["row"] == reply.source
    assert "".join(piece for _, piece in row["pieces"]) == tokenizer.decode(reply.ids.tolist())
    text = colour_tokens(row["pieces"])
    answer = text.plain.index("血液0")
    assert {str(span.style) for span in text.spans if span.start <= answer < span.end} <= {"green", "green underline"}
    assert "\x1b[32m" in shown(facts, force_terminal=True, color_system="standard")


def test_control_characters_of_a_row_do_not_reach_the_terminal():
    assert colour_tokens([(0, "a\x1b[2Jb\u202ec\n")]).plain == "\n[prompt] a\\x1b[2Jb\\u202ec\n"


def test_an_unused_column_of_prose_is_not_ready_and_the_remedy_is_named(recipe_of):
    rows = [row | {"metadata": "a long text that somebody may have meant to train " * 2} for row in ROWS]
    _, facts = check_recipe(recipe_of(rows), print)
    text = shown(facts)
    assert facts["verdict"] == "not ready"
    assert "data.ignore: [metadata]" in text
    assert "12 rows read" in text
    assert "not ready: " in text.splitlines()[-1]
    assert "proof" not in facts


def test_all_stop_reasons_are_reported_with_the_summary(recipe_of, tokenizer):
    prepared = prepare_with_faults(recipe_of(faults={"blank": "stop", "handed_answer": "stop"}), tokenizer, print)
    assert len(prepared.stop_reasons) == 2
    assert "data.faults: {blank: drop}" in prepared.stop_reasons[1]
    assert prepared.summary["stopping_rows"] == 2


def test_tokens_that_are_damaged_or_differ_from_the_template_are_found(recipe_of, tokenizer):
    prepared = prepare(recipe_of(), tokenizer)
    dataset = prepared.train.dataset
    changed = dataset.ids.copy()
    changed[int(dataset.replies["start"][2]) + 3] += 1
    object.__setattr__(dataset, "ids", changed)
    with pytest.raises(UserError, match=r"rows\.jsonl:3: its tokens in .* were damaged; run the same command again"):
        verify_tokens(prepared, tokenizer)
    start = int(dataset.replies["start"][2])
    span = slice(start, start + int(dataset.replies["length"][2]))
    dataset.replies["digest"][2] = reply_digest(Rendered(changed[span], dataset.kinds[span], ""))
    with pytest.raises(UserError, match=r"rows\.jsonl:3: its token ids differ"):
        verify_tokens(prepared, tokenizer)


def run(*arguments, cwd):
    command = [sys.executable, "-m", "thinktune", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", cwd=cwd, check=False)


@pytest.mark.slow
def test_json_has_the_facts_and_the_exit_code_is_the_verdict(recipe_of, tmp_path):
    made = recipe_of()
    (tmp_path / "mine.yaml").write_text(dump_recipe(made), encoding="utf-8")
    done = run("check", "mine.yaml", "--json", "--write", "cleaned", cwd=tmp_path)
    facts = json.loads(done.stdout)
    assert (done.returncode, facts["verdict"]) == (0, "ready")
    assert (facts["rows_read"], facts["train_rows"], facts["dropped_rows"]) == (12, 9, 3)
    assert sum(facts["histograms"]["whole"]["counts"]) == 10
    assert 100 < facts["peak_memory_mib"] < 10_000
    assert [path.name for path in sorted((tmp_path / "cleaned").iterdir())] == ["train.jsonl"]
    assert "cleaned/train.jsonl: 9 rows" in facts["written"][0]
    assert facts["written"][1].endswith("val.jsonl: no row is held out, so it is not written")
    again = run("check", "mine.yaml", "--json", "--write", "cleaned", cwd=tmp_path)
    assert again.returncode == 2
    assert "already exists" in json.loads(again.stdout)["stops"][0]
    bad = run("check", "mine.yaml", "--json", "--write", "other", "data.faults.blank=stop", cwd=tmp_path)
    facts = json.loads(bad.stdout)
    assert (bad.returncode, facts["verdict"]) == (2, "not ready")
    assert facts["written"] == ["other: nothing was written, because the rows are not ready"]
    assert not (tmp_path / "other").exists()
    (tmp_path / "occupied").write_text("a file")
    blocked = run("check", "mine.yaml", "--json", "--write", "occupied", cwd=tmp_path)
    assert (blocked.returncode, json.loads(blocked.stdout)["verdict"]) == (2, "not ready")


@pytest.mark.parametrize("system", [None, "你是医生。"])
def test_cleaned_rows_are_read_back_as_the_same_tokens(recipe_of, tokenizer, tmp_path, system):
    first = prepare(recipe_of(validation=0.3, system=system), tokenizer)
    lines = export_rows(first, tmp_path / "out", system)
    assert [line.split(": ")[1].split(",")[0] for line in lines] == [
        f"{len(first.train)} rows",
        f"{len(first.validation)} rows",
    ]
    rows = [json.loads(line) for line in (tmp_path / "out" / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(set(row) == {"question", "think", "answer"} for row in rows)
    place = {"name": str(tmp_path / "out" / "train.jsonl"), "validation": str(tmp_path / "out" / "val.jsonl")}
    again = prepare(recipe_of(system=system, **place), tokenizer)
    for side in ("train", "validation"):
        mine, theirs = getattr(first, side), getattr(again, side)
        assert [row.ids.tolist() for row in mine.replies()] == [row.ids.tolist() for row in theirs.replies()]
    assert sum(again.summary[key] for key in ("dropped_rows", "stopping_rows")) == 0


def test_longer_conversations_are_written_as_messages(recipe_of, tokenizer, tmp_path):
    turns = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a", "loss_weight": 0},
    ]
    turns += [
        {"role": "user", "content": "r"},
        {"role": "assistant", "content": "b", "reasoning_content": "think of b"},
    ]
    first = prepare(recipe_of([{"messages": turns, "keypoint": "b"}]), tokenizer)
    export_rows(first, tmp_path, None)
    [row] = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [message["role"] for message in row["messages"]] == ["system", "user", "assistant", "user", "assistant"]
    again = prepare(recipe_of([row]), tokenizer)
    assert again.train.examples() == first.train.examples()
    assert again.train.examples()[0].keypoint == "b"


def test_warnings_count_only_if_it_is_strict_and_a_ready_recipe_ends_with_its_command(recipe_of):
    facts = check_recipe(recipe_of(), print)[1]
    assert {line.partition(":")[0] for line in facts["warnings"]} >= {"expert.rows_per_step", "data.validation"}
    calm = facts | finish_facts(facts, Path("my rows.yaml"), ["train.epochs=3"])
    assert shown(calm).splitlines()[-1].endswith("train 'my rows.yaml' train.epochs=3")
    assert f"warning: {facts['warnings'][0]}" in shown(calm)
    strict = facts | finish_facts(facts, Path("my rows.yaml"), [], strict=True)
    assert (strict["verdict"], "next" in strict) == ("not ready", False)
    assert shown(strict).splitlines()[-1] == "not ready: fix what is listed above"
    assert finish_facts(facts | {"warnings": []}, Path("x.yaml"), [], strict=True)["verdict"] == "ready"


def test_time_is_told_and_a_price_gives_the_cost(recipe_of):
    plain = shown(check_recipe(recipe_of(), print)[1])
    assert "time: " in plain
    assert "cost: " not in plain
    facts = check_recipe(recipe_of(), print, price=parse_hourly_price("3600CNY"))[1]
    assert facts["cost"]["range"] == pytest.approx(facts["time"]["seconds"], abs=0.1)
    assert "CNY at 3600 CNY an hour" in shown(facts)


def test_a_histogram_shows_every_bin_that_holds_a_row():
    counts = [0] * HISTOGRAM_BINS
    counts[2], counts[7] = 1000, 1
    drawn = sparkline({"width": 10, "counts": counts})
    assert len(drawn) == HISTOGRAM_BINS
    assert (drawn[2], drawn[7], drawn[3]) == ("█", "▁", " ")


def test_rows_of_replay_are_not_counted_as_those_that_could_be_held_out(tree):
    _, facts = check_recipe(settings(tree, data={"replay": 0.3, "validation": 0.1}), lambda _: None)
    [told] = [line for line in (*facts["warnings"], *facts["notes"]) if line.startswith("data.validation")]
    assert told.endswith("write data.validation: 0.3"), told  # of eight rows; of all 224 it would be fewer
