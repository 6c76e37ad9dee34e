"""Own answers of the base: what is trained is to the token what it wrote, once, in both modes, through kills and ranks."""

import json
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
import torch
import yaml
from support import many_ranks
from support.asked_models import PlainTransformers
from support.prepared_rows import write
from support.ranks import run_ranks
from support.runs import equal, quiet, settings, small_tree_of

from thinktune import cache
from thinktune.commands.check import check_recipe
from thinktune.data.own_answers.entry import find_own_answers, keep_own_answers, read_entry, restore_own_answers
from thinktune.data.own_answers.exact import OwnReply, reply_line
from thinktune.data.packing import account_for_sources, plan_steps
from thinktune.data.pipeline import prepare_with_faults
from thinktune.data.summary import summary_lines
from thinktune.errors import UserError
from thinktune.inference.session import load_engine
from thinktune.report import write_run_page
from thinktune.run import RunFolder, journal
from thinktune.tokenization import TokenKind, read_tokenizer
from thinktune.train import train
from thinktune.train.own_answers import JOURNAL_FILE, _requests, make_own_answers

WORDS = ("apples", "pears", "stones", "clouds", "rivers", "lamps")


@pytest.fixture(scope="module")
def base(tmp_path_factory, start):
    """Train a base until it knows six questions by heart, in both modes."""
    folder = tmp_path_factory.mktemp("base")
    rows = [
        {"question": f"Count {word}.", "think": f"They count {word} here.", "answer": f"{n} {word}.", "mode": "on"}
        for n, word in enumerate(WORDS, 1)
    ]
    both = [each for row in rows for each in (row, row | {"think": "", "mode": "off"})]
    tree = small_tree_of(folder, start)
    recipe = settings(
        tree,
        data={"name": str(write(folder / "known.jsonl", both)), "validation": 0.0},
        train={"epochs": 60, "learning_rate": 5e-3, "rows_per_step": 12, "evaluate_every_steps": 1000},
    )
    return RunFolder(train(recipe, quiet)).final


@pytest.fixture
def tree_of(base, tmp_path, monkeypatch):
    """Return a function that makes a recipe's tree for that base, whose general rows are its six questions."""
    monkeypatch.setenv("THINKTUNE_CACHE", str(tmp_path / "cache"))
    questions = write(tmp_path / "questions.jsonl", [{"question": f"Count {word}."} for word in WORDS])

    def make(name="own", answers="own", rows=questions, folder=base):
        tree = small_tree_of(tmp_path, folder) | {"name": name}
        tree["data"] |= {"replay": {"share": 0.3, "rows": str(rows), "answers": answers}}
        return tree

    return make


def own_of(recipe, tokenizer):
    return find_own_answers(recipe.of_source(1), tokenizer)


def replayed(recipe, tokenizer):
    """Return the replies of the replayed source as they are trained."""
    prepared = prepare_with_faults(recipe, tokenizer)
    pairs = zip(prepared.train.replies(), prepared.train.source_numbers.tolist(), strict=True)
    return [reply for reply, number in pairs if number == 1]


def mean_loss(model, replies):
    total = count = 0.0
    for reply in replies:
        ids = torch.tensor(reply.ids[None].astype("int64"))
        with torch.no_grad():
            scores = model(ids).logits[0, :-1].log_softmax(-1)
        labels = torch.tensor(reply.kinds[1:] > 0)
        total -= float(scores.gather(1, ids[0, 1:, None])[labels].sum())
        count += int(labels.sum())
    return total / count


def test_what_is_trained_is_to_the_token_what_the_base_writes_and_costs_it_next_to_nothing(base, tree_of):
    tokenizer, said = read_tokenizer(base), []
    recipe = settings(tree_of())
    make_own_answers(recipe, tokenizer, said.append)
    assert said == ["own answers: the base writes 12 replies to 6 questions"]
    replies = replayed(recipe, tokenizer)
    alone = PlainTransformers(base)
    for reply in replies:
        end = int((reply.kinds == TokenKind.END).argmax()) + 1
        prompt = reply.ids[: int((reply.kinds > 0).argmax())].tolist()
        assert [*prompt, *alone.reply(prompt, 100)] == reply.ids[:end].tolist()
        assert not reply.kinds[end:].any()
    thinking = [reply for reply in replies if (reply.kinds == TokenKind.REASONING).any()]
    assert (len(thinking), len(replies)) == (6, 12)
    bundled = settings(tree_of(rows="bundled", answers="rows"))
    loss, general = mean_loss(alone.model, replies), mean_loss(alone.model, replayed(bundled, tokenizer)[:20])
    assert loss < 0.3
    assert general > 10 * loss
    rows = [json.loads(line) for line in own_of(recipe, tokenizer).file.read_text(encoding="utf-8").splitlines()]
    assert [row["mode"] for row in rows] == ["on", "off"] * 6
    assert {row["provenance"]["question"] for row in rows} == {f"questions.jsonl:{n}" for n in range(1, 7)}
    make_own_answers(recipe, tokenizer, said.append)
    assert len(said) == 1


def test_what_was_written_before_a_kill_is_not_written_again_and_a_lost_cache_comes_back_from_the_run(
    base, tree_of, tmp_path
):
    tokenizer, recipe = read_tokenizer(base), settings(tree_of())
    make_own_answers(recipe, tokenizer, quiet)
    own = own_of(recipe, tokenizer)
    whole = read_entry(own)
    keep_own_answers(recipe, tokenizer, tmp_path / "kept.json")
    cache.discard(own.entry)
    restore_own_answers(recipe, tokenizer, tmp_path / "kept.json")
    assert read_entry(own) == whole
    cache.discard(own.entry)

    with closing(load_engine(base)) as engine:
        numbers = [7, 2, 3]
        written = [
            OwnReply(numbers[index], tuple(ids), reply.reasoning, reply.answer, reply.finish)
            for index, reply, ids in engine.complete_with_ids(_requests(own, engine, numbers))
        ]
    file = cache.unfinished_folder(own.entry) / JOURNAL_FILE
    file.write_text("".join(map(reply_line, written)) + "[1, [5, 6", encoding="utf-8")
    said = []
    make_own_answers(recipe, tokenizer, said.append)
    assert said == ["own answers: the base writes 9 replies to 6 questions, 3 are already saved"]
    assert read_entry(own) == whole
    assert not file.parent.exists()


def test_before_they_are_made_check_plans_with_the_longest_that_they_may_become(base, tree_of):
    recipe = settings(tree_of())
    prepared, facts = check_recipe(recipe, quiet)
    assert facts["verdict"] == "ready"
    own, general = facts["sources"]
    assert general["own_answers"]["asked"] == general["train_rows"] == 12
    lengths = prepared.train.lengths[prepared.train.source_numbers == 1]
    assert set(lengths.tolist()) == {recipe.max_tokens - 8}
    assert general["own_answers"]["most_tokens"] == sum(
        int(reply.label_tokens) for reply in replayed(recipe, read_tokenizer(base))
    )
    assert general["dealt_tokens"] == pytest.approx(own["dealt_tokens"] * 3 / 7, abs=recipe.max_tokens / 2)
    assert facts["lengths"]["whole"]["max"] < 100  # of rows that are there
    assert facts["proof"]["replies"] == 8
    [line] = [line for line in summary_lines(facts) if "not made yet" in line]
    assert "12 replies to 6 questions, each of at most" in line
    make_own_answers(recipe, read_tokenizer(base), quiet)
    made = prepare_with_faults(recipe, read_tokenizer(base))
    assert made.fingerprint != prepared.fingerprint
    after = account_for_sources(recipe, made, plan_steps(recipe, made))["sources"][1]
    assert after["own_answers"]["kept"] == 12
    assert after["own_answers"]["made"]
    assert any("12 replies of the base to 6 questions, 12 kept" in line for line in summary_lines(made.summary))


def test_faults_of_ones_own_rows_are_told_before_the_base_writes(base, tree_of):
    tree = tree_of()
    write(Path(tree["data"]["name"]), [{"question": "Why?", "remark": "x y z " * 20, "think": "So.", "answer": "So."}])
    said = []
    with pytest.raises(UserError, match=r"data\.ignore: column 'remark'"):
        make_own_answers(settings(tree), read_tokenizer(base), said.append)
    assert not [line for line in said if "base writes" in line]


@pytest.mark.parametrize("listed", [False, True])
def test_what_keeps_the_base_from_writing_is_told_by_the_key_that_mends_it(base, tree_of, listed):
    tree = tree_of(answers="own-sampled")
    if listed:
        replay = tree["data"].pop("replay")
        asked = {"name": replay["rows"], "share": 0.3, "validation": 0.0, "answers": "own-sampled", "max_tokens": 200}
        tree["data"] = [tree["data"], asked]
    with pytest.raises(UserError) as error:
        make_own_answers(settings(tree), read_tokenizer(base), quiet)
    key = "data.1.answers" if listed else "data.replay.answers"
    [told] = error.value.faults
    assert told.startswith(f"{key}: is own-sampled, but the model has no sampling settings of its own")
    assert told.endswith(f"; write {key}: own")


@pytest.mark.slow
def test_sampled_answers_are_drawn_by_the_models_own_settings_and_are_the_same_when_drawn_again(
    base, tree_of, tmp_path
):
    model = shutil.copytree(base, tmp_path / "sampling")
    drawn = {"do_sample": True, "temperature": 0.9, "top_p": 1.0, "top_k": 0}
    facts = json.loads((model / "generation_config.json").read_text()) | drawn
    (model / "generation_config.json").write_text(json.dumps(facts))
    tokenizer, recipe = read_tokenizer(model), settings(tree_of(answers="own-sampled", folder=model))
    own = own_of(recipe, tokenizer)
    found = []
    for _ in range(2):
        make_own_answers(recipe, tokenizer, quiet)
        found.append(read_entry(own))
        cache.discard(own.entry)
    assert found[0] == found[1]
    greedy = settings(tree_of(folder=model))
    make_own_answers(greedy, tokenizer, quiet)
    assert read_entry(own_of(greedy, tokenizer)) != found[0]


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_as_an_uninterrupted_one(base, tree_of, tmp_path, monkeypatch):
    tree = tree_of("whole") | {"generate": {"batch_rows": 1, "sample_questions": 0, "max_new_tokens": 8}}
    whole = train(settings(tree), quiet)
    shutil.rmtree(tmp_path / "cache")
    tree = tree | {"name": "cut"}
    (tmp_path / "cut.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    command = [sys.executable, "-m", "thinktune", "train", str(tmp_path / "cut.yaml")]
    started = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    for _ in range(4000):
        journal_of = list(cache.cache_folder().glob(f".*.partial/{JOURNAL_FILE}"))
        if journal_of and journal_of[0].read_bytes().count(b"\n") >= 2:
            break
        time.sleep(0.01)
    started.send_signal(signal.SIGKILL)
    started.wait()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "are already saved" in done.stdout
    equal(tmp_path / "runs" / "cut", whole)
    assert RunFolder(whole).own_answers.is_file()
    shutil.rmtree(tmp_path / "cache")  # as after a month: the run has its answers itself
    said = []
    train(settings(tree), said.append)
    assert not [line for line in said if "base writes" in line]
    without = tree | {"data": {key: value for key, value in tree["data"].items() if key != "replay"}}
    with pytest.raises(UserError, match=r"data\.replay\.share \(was 0\.3, is None\)"):
        train(settings(without), quiet)
    losses = [each["source_losses"] for each in journal.read_metrics(whole) if each["kind"] == "train"]
    assert any("own answers to questions.jsonl" in each for each in losses)
    page = write_run_page(whole).read_text(encoding="utf-8")
    assert "12 of 12 replies of the base are kept; 0 were cut at their limit" in page


@pytest.mark.slow
def test_ranks_of_two_machines_have_the_base_write_once(base, tree_of, tmp_path):
    alone = train(settings(tree_of("alone")), quiet)
    shutil.rmtree(tmp_path / "cache")
    said = run_ranks(2, many_ranks.train_here, tree_of("two"), per_node=1)
    assert sum("base writes 12 replies" in line for lines in said for line in lines) == 1
    digests = [RunFolder(run).row_digests.read_text() for run in (alone, alone.with_name("two"))]
    assert digests[0] == digests[1]
