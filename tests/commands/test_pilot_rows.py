"""Rows and recipe of a pilot's runs: what they train is what the recipe trains, of every source and nothing twice."""

import itertools
import json
from pathlib import Path

import pytest
from support.prepared_rows import write
from support.runs import quiet, settings

from thinktune.commands.pilot.race import PilotOptions, pilot
from thinktune.commands.pilot.rows import prepare_rows, write_rows
from thinktune.config.loading import dump_recipe, load_recipe
from thinktune.data import prepare
from thinktune.data.own_answers.entry import find_own_answers, write_own_answers
from thinktune.data.own_answers.exact import OwnReply, entry_files
from thinktune.data.pipeline import prepare_with_faults
from thinktune.errors import UserError
from thinktune.progress import no_bar
from thinktune.run import RunFolder
from thinktune.run.pilot_folder import pilot_folder
from thinktune.tokenization import Example, Turn
from thinktune.tokenization.chat_template import render
from thinktune.train import train


@pytest.fixture
def recipe_of(tree, tmp_path):
    """Return a function that makes a recipe of 32 rows, and of eight general ones by what `data` says of them."""
    pairs = itertools.product("abcdefgh", "mnop")
    rows = [{"question": f"What is {a} and {b}?", "think": f"{a} then {b}.", "answer": f"{a}{b}"} for a, b in pairs]
    write(Path(tree["data"]["name"]), rows)
    general = [{"question": f"Say {a}.", "think": f"They want {a}.", "answer": f"Is {a}."} for a in "qrstuvwx"]
    file = str(write(tmp_path / "general.jsonl", general))

    def make(data="replay", answers="rows", **changes):
        train = {"rows_per_step": 4, **changes.pop("train", {})}
        recipe = settings(tree, data={"replay": {"share": 0.3, "rows": file, "answers": answers}}, train=train)
        if data == "list":
            first, second = (source.model_dump(mode="json") for source in recipe.sources)
            recipe = settings(tree, data=[first | {"replay": None}, second], train=train)
        return recipe

    return make


def ids_of(prepared, number):
    """Return the tokens of each training reply of a source."""
    pairs = zip(prepared.train.replies(), prepared.train.source_numbers.tolist(), strict=True)
    return [reply.ids.tolist() for reply, source in pairs if source == number]


def held_to_the_recipe(recipe, written, tokenizer, tmp_path, share):
    """Check that both sources are there with their tokens and shares, and that a worker reads the same recipe."""
    whole, part = prepare_rows(recipe, tokenizer, quiet), prepare(written.recipe, tokenizer)
    for number in range(2):
        ours, all_rows = ids_of(part, number), ids_of(whole, number)
        assert [ids for ids in all_rows if ids in ours] == ours
        assert len(ours) == round(share * len(all_rows)) > 0
    assert [source.share for source in written.recipe.sources] == [None, 0.3]
    assert len(part.validation) == len(whole.validation)
    (tmp_path / "cell.yaml").write_text(dump_recipe(written.recipe), encoding="utf-8")
    assert load_recipe(tmp_path / "cell.yaml") == written.recipe


@pytest.mark.parametrize("data", ["replay", "list"])
def test_replay_stands_beside_ones_own_rows_with_its_share(recipe_of, tokenizer, tmp_path, data):
    recipe = recipe_of(data)
    for share in (1.0, 0.5):
        prepared = prepare_rows(recipe, tokenizer, quiet)
        written = write_rows(recipe, prepared, tokenizer, tmp_path / "rows", share)
        held_to_the_recipe(recipe, written, tokenizer, tmp_path, share)
    files = {file.name: len(file.read_text(encoding="utf-8").splitlines()) for file in (tmp_path / "rows").iterdir()}
    own, held_out = len(ids_of(prepared, 0)), len(prepared.validation)
    assert files == {"train-0.jsonl": own // 2, "val-0.jsonl": held_out, "train-1.jsonl": 4, "val-1.jsonl": 0}


def make_by_hand(recipe, tokenizer):
    """Make own answers without a model: one that thinks and one that does not for each question."""
    own, replies = find_own_answers(recipe.of_source(1), tokenizer), []
    for number, asked, _ in own.asked:
        # A tag and a blank that are repaired, or dropped, in anybody else's answer.
        answer, reasoning = "<answer>They say so.</answer> [Your Name]", "It is asked." if asked.thinking else ""
        last = Turn("assistant", answer, reasoning, mode="thinking" if asked.thinking else "silent")
        [rendered] = render(Example((*asked.turns, last), "here"), tokenizer)
        ids = rendered.ids[rendered.kinds > 0].tolist()
        replies.append(OwnReply(number, tuple(ids), reasoning, answer, "end"))
    write_own_answers(own, entry_files(own, replies, tokenizer, "m"))


@pytest.mark.parametrize("data", ["replay", "list"])
def test_own_answers_are_trained_as_the_base_wrote_them_and_never_as_their_bound(
    recipe_of, tokenizer, tmp_path, monkeypatch, data
):
    monkeypatch.setenv("THINKTUNE_CACHE", str(tmp_path / "cache"))
    recipe = recipe_of(data, answers="own")
    key = {"replay": r"data\.replay", "list": r"data\.1"}[data]
    with pytest.raises(
        UserError, match=key + r"\.answers: the base has not written its own answers to .*general\.jsonl"
    ):
        prepare_rows(recipe, tokenizer, quiet)
    assert len(ids_of(prepare_with_faults(recipe, tokenizer), 1)) == 16, "check plans by the bound"
    make_by_hand(recipe, tokenizer)
    prepared = prepare_rows(recipe, tokenizer, quiet)
    assert len(ids_of(prepared, 1)) == 16
    written = write_rows(recipe, prepared, tokenizer, tmp_path / "rows", 0.5)
    held_to_the_recipe(recipe, written, tokenizer, tmp_path, 0.5)
    assert {source.answers for source in written.recipe.sources} == {"rows"}, "no run has the base write anew"


def test_a_run_of_a_pilot_averages_nothing(recipe_of, tokenizer, tmp_path):
    recipe = recipe_of("list", train={"average": 5, "time_limit": "1h"})
    written = write_rows(recipe, prepare_rows(recipe, tokenizer, quiet), tokenizer, tmp_path / "rows", 1.0)
    assert (written.recipe.train.average, written.recipe.train.time_limit) == (None, None)


@pytest.mark.slow
def test_a_pilot_has_the_base_write_its_own_answers_once_and_trains_them(tree, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("THINKTUNE_CACHE", str(tmp_path / "cache"))
    rows = [{"question": f"Say {a}.", "think": f"They want {a}.", "answer": f"Is {a}.", "mode": "on"} for a in "qrst"]
    both = [each for row in rows for each in (row, row | {"think": "", "mode": "off"})]
    known = {"name": str(write(tmp_path / "known.jsonl", both)), "validation": 0.0}
    taught = {"epochs": 60, "learning_rate": 5e-3, "rows_per_step": 8, "evaluate_every_steps": 1000}
    base = RunFolder(train(settings(tree, name="base", data=known, train=taught), quiet)).final
    file = str(write(tmp_path / "asked.jsonl", [{"question": row["question"]} for row in rows]))
    replay = {"share": 0.3, "rows": file, "answers": "own"}
    recipe, said = settings(tree, model={"name": str(base)}, data={"replay": replay, "validation": 0.5}), []
    options = PilotOptions(rates="1e-3", epochs="1", share=1.0)
    result = pilot(recipe, (Path("mine.yaml"), []), options, said.append, no_bar)
    assert said[0] == "own answers: the base writes 8 replies to 4 questions"
    assert len([line for line in said if "the base writes" in line]) == 1
    trained, made = (
        [json.loads(line)["messages"][-1]["content"] for line in file.read_text(encoding="utf-8").splitlines()]
        for file in (
            pilot_folder(recipe.runs_folder, recipe.name).rows / "train-1.jsonl",
            find_own_answers(recipe.of_source(1), tokenizer).file,
        )
    )
    assert set(trained) & {row["answer"] for row in rows}
    assert trained == made
    assert result.runs[0].run.loss is not None
