"""Runs on several sources: the same to the bit where they stop, with the losses of each source apart."""

import json
from itertools import pairwise

import pytest
from support.prepared_rows import write
from support.runs import FACTS, equal, quiet, stop_after, write_rows

from thinktune.config.loading import load_recipe, validate_recipe
from thinktune.data import prepare
from thinktune.data.packing import plan_steps
from thinktune.errors import UserError
from thinktune.report import write_run_page
from thinktune.report.card_facts import settings_text
from thinktune.run import RunFolder, journal
from thinktune.train import train

GENERAL = [
    {
        "question": f"Count {word} please, slowly: {word * 3}",
        "think": f"They count {word} here.",
        "answer": f"{number} {word}",
    }
    for number, word in enumerate(("apples", "pears", "stones", "clouds", "rivers"), 1)
]


@pytest.fixture
def mixed(tree, tmp_path):
    """Return a function that makes a recipe of eight rows of one's own and of general ones with a share."""
    own = tree["data"] | {"name": str(write_rows(tmp_path / "own.jsonl", FACTS))}
    general = {"name": str(write(tmp_path / "general.jsonl", GENERAL)), "columns": {"reasoning": "think"}}
    general |= {"validation": 0.4, "split": "shuffle", "share": 0.3}

    def recipe(run, **changes):
        return validate_recipe({**tree, "name": run, "data": [own, general | changes]}, "here")

    return recipe


def planned_tokens(recipe, tokenizer):
    """Yield the learned tokens of each source between two lines of metrics, as the steps were planned."""
    prepared = prepare(recipe, tokenizer)
    rows, steps = prepared.train, plan_steps(recipe, prepared)
    ends = [step for step in range(1, len(steps) + 1) if step % 2 == 0 or step % 3 == 0 or step == len(steps)]
    for first, last in pairwise([0, *ends]):
        chosen = [row for step in steps[first:last] for row in step.rows]
        owners, learned = rows.source_numbers[chosen], rows.label_tokens[chosen]
        yield {name: int(learned[owners == number].sum()) for number, name in enumerate(("own.jsonl", "general.jsonl"))}


def test_a_stopped_run_of_two_sources_resumes_bit_for_bit_and_tells_their_losses_apart(mixed, tokenizer, tmp_path):
    whole = train(mixed("whole"), quiet)
    with pytest.raises(KeyboardInterrupt):
        train(mixed("cut"), stop_after(3))
    equal(train(mixed("cut"), quiet), whole)

    names = ["own.jsonl", "general.jsonl"]
    records = [each for each in journal.read_metrics(whole) if each["kind"] in ("train", "eval")]
    for record in records:
        assert set(record["source_losses"]) <= set(names)
        assert record["kind"] == "train" or len(record["source_losses"]) == 2
    trained = [each for each in records if each["kind"] == "train"]
    for record in trained:
        learned = record["source_learned_tokens"]
        assert sum(learned.values()) == record["learned_tokens"]
        total = sum(loss * learned[name] for name, loss in record["source_losses"].items())
        assert total / record["learned_tokens"] == pytest.approx(record["loss"], rel=1e-6)
    assert [record["source_learned_tokens"] for record in trained] == list(planned_tokens(mixed("whole"), tokenizer))
    held_out = journal.read_row_losses(whole)
    for record in records:
        if record["kind"] == "eval":
            for name in names:
                own = [each for row, each in held_out[record["step"]].items() if row.startswith(name)]
                mean = sum(loss * tokens for loss, tokens in own) / sum(tokens for _, tokens in own)
                assert record["source_losses"][name] == pytest.approx(mean, abs=1e-5)

    facts = json.loads(RunFolder(whole).data_summary.read_text())
    assert facts["sources"][0]["passes"] == 3
    assert facts["sources"][1]["dealt_share"] == pytest.approx(0.3, abs=0.05)
    assert records[-1]["epoch"] == 3
    page = write_run_page(whole).read_text(encoding="utf-8")
    assert "Loss by source" in page
    assert "of the trained tokens" in page
    kept = load_recipe(RunFolder(whole).recipe)
    assert kept == mixed("whole")
    assert "share: 0.3" in settings_text(kept)
    assert str(tmp_path) not in settings_text(kept)


def test_another_share_or_source_is_another_run_and_another_place_is_not(mixed, tmp_path):
    folder = train(mixed("small"), quiet)
    with pytest.raises(UserError, match=r"data\.1\.share \(was 0\.3, is 0\.2\)"):
        train(mixed("small", share=0.2), quiet)
    one = mixed("small").of_source(0)
    with pytest.raises(UserError, match=r"data \(was '2 sources', is '1 sources'\)"):
        train(one, quiet)
    (tmp_path / "moved").mkdir()
    moved = tmp_path / "moved" / "general.jsonl"
    moved.write_bytes((tmp_path / "general.jsonl").read_bytes())
    assert train(mixed("small", name=str(moved)), quiet) == folder
