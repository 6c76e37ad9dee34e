"""`think`: rows without reasoning get what is right, nothing else changes, and nothing is asked or paid twice."""

import json
import re
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.runs import settings
from support.scripted_teacher import PROMPT_TOKENS, REPLY_TOKENS, teaching

import thinktune
from thinktune.config import load_recipe
from thinktune.config.loading import dump_recipe
from thinktune.data.pipeline import prepare_with_faults
from thinktune.errors import UserError
from thinktune.files import write_json
from thinktune.progress import say_nothing
from thinktune.run import RunFolder
from thinktune.run.card_lock import hold_cards
from thinktune.run.thought_folder import ThoughtFolder, read_rounds
from thinktune.synthesis import ThinkOptions, account_lines, think
from thinktune.synthesis.ledger import Price
from thinktune.synthesis.rounds import earlier_rounds
from thinktune.synthesis.teacher import Patience

QUICK = Patience(max_concurrency=4, max_attempts=3, first_wait_seconds=0.01, timeout_seconds=1.0)


def sums(*numbers, **more):
    return [{"question": f"What is {n} plus {3 * n}?", "answer": str(4 * n)} | more for n in numbers]


@pytest.fixture
def recipe_of(tree):
    """Make a recipe of rows; the other settings are a small run's."""

    def make(rows, **data):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        Path(tree["data"]["name"]).write_text(text, encoding="utf-8")
        return settings(tree, data={"columns": {}, **data})

    return make


def thinking(recipe, address, **options):
    return think(recipe, ThinkOptions(**{"teacher": address, "tries": 2} | options), say_nothing, QUICK)


def read_lines(file):
    return [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]


def whys(account):
    return {reason["why"]: reason["count"] for reason in account["why_not"]}


def test_rows_get_reasoning_with_its_provenance_and_check_accepts_them(recipe_of, tokenizer):
    recipe = recipe_of([*sums(11, 12, 13), {"question": "Why?", "think": "I know why.", "answer": "Thus."}])
    with teaching() as (address, script):
        account = thinking(recipe, address, seed=7)
    rows = read_lines(account["file"])
    assert [row["question"] for row in rows] == [*(row["question"] for row in sums(11, 12, 13)), "Why?"]
    assert [row["answer"] for row in rows] == ["44", "48", "52", "Thus."]
    assert "I take 12 and add 36" in rows[1]["think"]
    assert "provenance" not in rows[3]
    made = rows[1]["provenance"]
    assert made["row"] == "rows.jsonl:2"
    (reply,) = made["replies"]
    assert {"teacher": "expert", "kind": "plain", "temperature": 0.6, "grader": "number"}.items() <= reply.items()
    assert reply["seed"] == 7 + reply["try"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", reply["date"])
    assert len(script.bodies) == 6
    assert account["rows"] == {"read": 4, "asked": 3, "passed": 1, "left_out": 0}
    assert (account["kept_replies"], account["written_rows"]) == (3, 4)
    assert account["tokens"] == {"prompt": 6 * PROMPT_TOKENS, "reply": 6 * REPLY_TOKENS, "bound": None}

    trained = load_recipe(Path(account["recipe"]))
    assert trained.run_folder != recipe.run_folder
    assert not trained.run_folder.exists()
    prepared = prepare_with_faults(trained, tokenizer)
    assert not prepared.stop_reasons
    assert not prepared.summary["dropped_rows"]
    assert len(prepared.train) + len(prepared.validation) == 4


MOODS = {
    "lies": "wrong answer",
    "leaks": "admits that it was given the answer",
    "is cut": "cut off",
    "says nothing": "not well formed",
}


@pytest.mark.parametrize("mood", MOODS)
def test_what_is_not_right_is_not_kept_and_the_account_says_why(recipe_of, mood):
    with teaching({"11 ": [mood, mood]}) as (address, _):
        account = thinking(recipe_of(sums(11, 12)), address)
    assert [row["answer"] for row in read_lines(account["file"])] == ["48"]
    assert whys(account)[MOODS[mood]] == 2
    assert any(MOODS[mood] in line and "rows.jsonl:1, try 1" in line for line in account_lines(account))
    records = read_lines(ThoughtFolder(Path(account["file"]).parent).verdicts)
    assert {record["why"] for record in records if record["row"] == "rows.jsonl:1"} == {MOODS[mood]}


def test_replies_that_repeat_each_other_become_one_row(recipe_of):
    with teaching({"11 ": ["repeats", "repeats"]}) as (address, _):
        account = thinking(recipe_of(sums(11)), address, tries=4, keep=4)
    assert account["kept_replies"] == 1
    assert whys(account) == {"nearly the same as another": 3}


def test_a_failing_server_costs_only_the_replies_that_it_failed(recipe_of):
    moods = {"11 ": ["errs", "errs"], "12 ": ["stalls", "breaks off", "then well"], "13 ": ["refuses", "refuses"]}
    with teaching(moods) as (address, _):
        account = thinking(recipe_of(sums(11, 12, 13, 14)), address, tries=1)
    assert [row["answer"] for row in read_lines(account["file"])] == ["48", "56"]
    assert account["failures"] == {"no reply": 1, "refused by the teacher": 1}


def test_the_same_command_goes_on_after_a_stop_and_comes_to_the_same(recipe_of, tmp_path):
    recipe = recipe_of(sums(*range(11, 31)))
    with teaching() as (address, script):
        whole = thinking(recipe, address, folder=tmp_path / "whole")
        before = len(script.bodies)
        thinking(recipe, address, folder=tmp_path / "parts", max_tokens=1_000)
        asked = len(script.bodies) - before
        assert 0 < asked < 40
        parts = thinking(recipe, address, folder=tmp_path / "parts")
        assert len(script.bodies) - before == 40
    names = [[row["question"] for row in read_lines(each["file"])] for each in (whole, parts)]
    assert names[0] == names[1]
    assert parts["tokens"] == whole["tokens"]


def test_a_spent_budget_ends_the_asking_and_is_told(recipe_of):
    with teaching() as (address, script):
        price = Price(2, 8, "CNY")
        account = thinking(recipe_of(sums(*range(11, 61))), address, price=price, max_cost=0.01)
        assert account["money"]["spent"] <= 0.01
        assert price.prompt * script.billed_tokens / 1e6 < 0.01
    assert account["budget_spent"]
    lines = "\n".join(account_lines(account))
    assert "the budget is spent" in lines
    assert re.search(r"spent: [\d,]+ tokens, CNY 0\.00\d+ of 0\.01", lines)
    assert account["written_rows"] == account["kept_replies"] > 0


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"temperature": 0.9}, "temperature was 0.6 and is 0.9"),
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"instruct": True}, "instruct was False and is True"),
        ({"reply_tokens": 99}, "reply_tokens was 200 and is 99"),
    ],
)
def test_replies_that_were_made_otherwise_are_not_mixed(recipe_of, change, sentence):
    recipe = recipe_of(sums(11))
    with teaching() as (address, script):
        account = thinking(recipe, address)
        before = Path(account["file"]).read_bytes()
        with pytest.raises(UserError, match=rf"--to: .* made with other settings|--to: .*{sentence}.*as in --to .*-2"):
            thinking(recipe, address, **change)
        assert Path(account["file"]).read_bytes() == before
        assert len(script.bodies) == 2


def test_more_tries_and_more_rows_ask_only_what_is_new(recipe_of):
    with teaching() as (address, script):
        thinking(recipe_of(sums(11, 12)), address, tries=2)
        account = thinking(recipe_of(sums(11, 12, 13)), address, tries=3)
        assert len(script.bodies) == 9
    assert account["replies"] == 9


def test_a_conversation_is_asked_reply_by_reply_and_what_has_no_reasoning_becomes_history(recipe_of, tokenizer):
    talk = []
    for number in (11, 12, 13):
        (row,) = sums(number)
        talk += [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]
    with teaching({"12 ": ["lies", "lies"]}) as (address, script):
        account = thinking(recipe_of([{"messages": talk}]), address)
    (row,) = read_lines(account["file"])
    replies = [message for message in row["messages"] if message["role"] == "assistant"]
    assert [bool(reply["reasoning_content"]) for reply in replies] == [True, False, True]
    assert [reply.get("loss_weight", 1) for reply in replies] == [1, 0, 1]
    assert [reply["content"] for reply in replies] == ["44", "48", "52"]
    assert [reply["turn"] for reply in row["provenance"]["replies"]] == [1, 5]
    assert sorted(len(body["messages"]) for body in script.bodies) == [1, 1, 3, 3, 5, 5]
    prepared = prepare_with_faults(load_recipe(Path(account["recipe"])), tokenizer)
    assert not prepared.stop_reasons
    assert len(prepared.train.lengths) + len(prepared.validation.lengths) == 2


def test_rows_that_ask_for_no_reasoning_are_passed_on_silent(recipe_of):
    with teaching() as (address, script):
        account = thinking(recipe_of([*sums(11), *sums(12, enable_thinking=False)]), address)
        assert len(script.bodies) == 2
    rows = read_lines(account["file"])
    assert [row.get("enable_thinking") for row in rows] == [None, False]


def test_the_system_prompt_is_sent_and_not_written(recipe_of):
    with teaching() as (address, script):
        account = thinking(recipe_of(sums(11), system="Count well."), address)
    assert script.bodies[0]["messages"][0] == {"role": "system", "content": "Count well."}
    assert "system" not in read_lines(account["file"])[0]


def test_an_instruction_is_sent_in_the_questions_language_and_not_written(recipe_of):
    chinese = {"question": "11 加 33 等于多少？请直接给出结果。", "answer": "44"}
    with teaching(field="tags") as (address, script):
        account = thinking(recipe_of([*sums(12), chinese]), address, instruct=True, tries=1)
    sent = {body["messages"][-1]["content"] for body in script.bodies}
    assert any("between <think> and </think>" in text for text in sent)
    assert any("请先在 <think>" in text for text in sent)
    assert "<think>" not in Path(account["file"]).read_text(encoding="utf-8")


def test_a_hint_is_a_second_chance_and_marked(recipe_of):
    moods = {"A right answer is": ["well", "well"], "11 ": ["lies", "lies"]}
    with teaching(moods) as (address, script):
        account = thinking(recipe_of(sums(11, 12)), address, hints=True)
    hinted, plain = read_lines(account["file"])
    assert hinted["provenance"]["replies"][0]["kind"] == "hinted"
    assert plain["provenance"]["replies"][0]["kind"] == "plain"
    assert len(script.bodies) == 6
    assert "A right answer is" not in Path(account["file"]).read_text(encoding="utf-8")


def test_the_teachers_answers_are_trained_if_asked_for(recipe_of):
    with teaching() as (address, _):
        account = thinking(recipe_of(sums(11)), address, own_answers=False)
    assert read_lines(account["file"])[0]["answer"] == "It is 44."


def test_rows_whose_tokens_are_too_many_are_not_written_and_told(recipe_of):
    with teaching({"11 ": ["goes on", "goes on"]}) as (address, _):
        account = thinking(recipe_of(sums(11, 12)), address, reply_tokens=5_000)
    assert [row["answer"] for row in read_lines(account["file"])] == ["48"]
    assert account["rows_with_a_fault"] == {"too_long": 1}
    assert any("too_long: 1 rows" in line for line in account_lines(account))


def test_the_account_has_pass_at_n_of_this_round_and_of_those_that_its_teacher_came_from(recipe_of, tmp_path, start):
    recipe = recipe_of(sums(11, 12, 13, 14))
    with teaching({"11 ": ["lies", "lies"], "12 ": ["lies", "then well"]}) as (address, _):
        account = thinking(recipe, address, hints=False)
    (first,) = account["rounds"]
    assert first["pass_at"]["1"][0] == pytest.approx((0 + 0.5 + 1 + 1) / 4)
    assert first["pass_at"]["2"][0] == pytest.approx(3 / 4)
    assert any(re.match(r"round 1, expert: pass@1 62.5% \(", line) for line in account_lines(account))

    run = RunFolder(tmp_path / "runs" / "tuned")  # as `train` leaves it, trained on those rows
    shutil.copytree(start, run.final)
    write_json(run.rounds, read_rounds(account["file"]))
    assert earlier_rounds(str(run.path)) == [first]
    assert earlier_rounds(address) == earlier_rounds(str(start)) == []


def test_rows_tell_their_rounds_while_the_account_beside_them_is_whole(recipe_of, tmp_path):
    with teaching() as (address, _):
        account = thinking(recipe_of(sums(11, 12)), address)
    rows = Path(account["file"])
    assert read_rounds(str(rows)) == account["rounds"] != []
    assert read_rounds(str(rows.rename(rows.with_name("others.jsonl")))) == []
    assert read_rounds(str(rows)) == account["rounds"]  # what tells is the name, also of a file that is made later
    for damaged in (
        "",
        "[]",
        '{"rounds": [{"teacher": "x"}]}',
        '{"rounds": [{"teacher": "x", "graded_questions": 1, "pass_at": {"1": [2, 0, 1]}}]}',
    ):
        rows.with_name("account.json").write_text(damaged, encoding="utf-8")
        assert read_rounds(str(rows)) == []


def test_the_door_in_python_gives_the_same_account(recipe_of, tmp_path):
    recipe = recipe_of(sums(11, 12))
    (tmp_path / "mine.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    with teaching() as (address, _):
        options = ThinkOptions(address, tries=1, folder=tmp_path / "thought")
        account = thinktune.think(tmp_path / "mine.yaml", options=options)
    assert account["kept_replies"] == 2
    assert load_recipe(Path(account["recipe"])).data.name == account["file"]


def test_rows_that_all_reason_need_no_teacher(recipe_of):
    with pytest.raises(UserError, match=r"each of the 2 usable rows .* has its reasoning"):
        thinking(recipe_of(sums(11, 12, think="I add them.")), "http://127.0.0.1:9#none")


def test_all_mistakes_are_named_at_once(recipe_of):
    with pytest.raises(UserError) as caught:
        thinking(recipe_of(sums(11)), "http://127.0.0.1:9#none", tries=2, keep=3, temperature=0, max_cost=5.0)
    assert [fault.partition(":")[0] for fault in caught.value.faults] == ["--keep", "--temperature", "--budget"]


def test_no_secret_is_in_any_file(recipe_of, monkeypatch, tmp_path):
    monkeypatch.setenv("THINKTUNE_ENDPOINT_KEY", "sk-verysecretkeyofours123")
    with teaching({"11 ": ["echoes the key", "echoes the key"]}) as (address, script):
        account = thinking(recipe_of(sums(11)), address, folder=tmp_path / "out")
        assert script.bodies[0]["key"] == "Bearer sk-verysecretkeyofours123"
        address = address.replace("http://", "http://someone:password99@")
        thinking(recipe_of(sums(11)), address, folder=tmp_path / "other")
    for file in (*(tmp_path / "out").iterdir(), *(tmp_path / "other").iterdir()):
        assert "verysecret" not in file.read_text(encoding="utf-8"), file
        assert "password99" not in file.read_text(encoding="utf-8"), file
    assert "verysecret" not in json.dumps(account)


def test_two_processes_do_not_think_in_one_folder(recipe_of, tmp_path):
    recipe = recipe_of(sums(11))
    with (
        teaching() as (address, _),
        ThoughtFolder(tmp_path / "out").locked(),
        pytest.raises(UserError, match="another process is writing to it"),
    ):
        thinking(recipe, address, folder=tmp_path / "out")


def test_a_folder_of_something_else_is_left_alone(recipe_of, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("name: other\n")
    with teaching() as (address, _), pytest.raises(UserError, match="has other files; name another folder"):
        thinking(recipe_of(sums(11)), address, folder=tmp_path / "run")


def test_the_base_itself_can_be_the_teacher(recipe_of):
    recipe = recipe_of(sums(11, 12))
    account = think(recipe, ThinkOptions(tries=2, reply_tokens=8), say_nothing, QUICK)
    assert account["replies"] == 4  # of a model with random weights
    assert account["kept_replies"] == account["written_rows"] == 0
    assert sum(whys(account).values()) == 4


def test_a_teacher_that_computes_here_waits_for_its_card_and_a_server_does_not(recipe_of, monkeypatch):
    def wait(_seconds):
        raise AssertionError("waits")

    monkeypatch.setattr("thinktune.run.card_lock.time", SimpleNamespace(sleep=wait, monotonic=time.monotonic))
    recipe = recipe_of(sums(11, 12))
    with hold_cards(["cpu"], say_nothing, wait=True):
        with pytest.raises(AssertionError, match="waits"):
            think(recipe, ThinkOptions(tries=1, reply_tokens=8, wait=True), say_nothing, QUICK)
        with teaching() as (address, _script):
            assert thinking(recipe, address, wait=True)["questions"] == 2


def test_a_recipe_with_replay_thinks_about_its_own_rows_and_keeps_the_replay(recipe_of, tokenizer):
    recipe = recipe_of(sums(11, 12), replay=0.2)
    with teaching() as (address, _script):
        account = thinking(recipe, address)
    assert account["questions"] == 2
    written = load_recipe(Path(account["recipe"]))
    assert written.data.replay == recipe.data.replay
    prepared = prepare_with_faults(written, tokenizer)
    own = prepared.summary["sources"][0]
    assert own["train_rows"] + own["validation_rows"] == 2
