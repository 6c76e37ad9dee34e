"""The verb think as a process: killed at any moment it loses no more than the replies in flight, and it pays once."""

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
from support.runs import small_tree
from support.scripted_teacher import teaching
from typer.testing import CliRunner

from thinktune.cli import app
from thinktune.synthesis.ledger import Usage
from thinktune.synthesis.reply_journal import ReplyJournal

CONCURRENCY = 3
COMMAND = [sys.executable, "-m", "thinktune", "think"]


def write_recipe(folder, numbers):
    tree = small_tree(folder)
    rows = [{"question": f"What is {n} plus {3 * n}?", "answer": str(4 * n)} for n in numbers]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tree["data"]["columns"] = {}
    (folder / "small.yaml").write_text(json.dumps(tree))
    return folder / "small.yaml"


def test_the_verb_prints_the_account_and_the_next_command(tmp_path):
    recipe = write_recipe(tmp_path, range(11, 14))
    with teaching() as (address, _):
        arguments = ["think", str(recipe), "--teacher", address, "--price", "2/8CNY", "--length", "5:"]
        done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert "3 rows read: 3 without reasoning, 0 passed on unchanged, 0 left out for a fault" in lines
    assert "3 questions, 12 replies of expert: 3 kept, for 3 questions" in lines
    assert "spent: 840 tokens, CNY 0.0046" in lines
    assert lines[-1].startswith("next: ")
    assert lines[-1].endswith("check " + str(tmp_path / "thought" / "small" / "train.yaml"))


def test_without_a_right_reply_the_exit_code_is_2(tmp_path):
    recipe = write_recipe(tmp_path, range(11, 14))
    with teaching({"What": ["lies", "lies"]}) as (address, _):
        done = CliRunner().invoke(app, ["think", str(recipe), "--teacher", address, "--tries", "1", "--json"])
    assert done.exit_code == 2
    account = json.loads(done.stdout)
    assert account["why_not"][0]["why"] == "wrong answer"
    assert account["written_rows"] == 0


def test_wrong_options_are_named_together(tmp_path):
    recipe = write_recipe(tmp_path, range(11, 14))
    done = CliRunner().invoke(app, ["think", str(recipe), "--price", "cheap", "--length", "long"])
    faults = [fault.partition(":")[0] for fault in done.exception.faults]
    assert faults == ["--price", "--length"]


@pytest.mark.slow
def test_a_killed_verb_goes_on_and_asks_no_answered_question_again(tmp_path):
    recipe = write_recipe(tmp_path, range(11, 61))
    folder, kills = tmp_path / "out", 3
    options = ["--tries", "2", "--to", str(folder), "--concurrency", str(CONCURRENCY), "--json"]
    chance = random.Random(3)
    with teaching(pause_seconds=0.15) as (address, script):
        command = [*COMMAND, str(recipe), "--teacher", address, *options]
        for _ in range(kills):
            before = len(script.bodies)
            process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
            while len(script.bodies) < before + 5:
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 0.4))
            process.kill()
            process.wait()
        before = len(script.bodies)
        process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        while len(script.bodies) < before + 5:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 75
        assert "run the same command to continue after the last saved reply" in process.stderr.read()
        process.stderr.close()
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    account = json.loads(done.stdout)
    assert (account["replies"], account["kept_questions"]) == (100, 50)
    asked = Counter((body["messages"][-1]["content"], body["seed"]) for body in script.bodies)
    assert len(asked) == 100
    assert sum(asked.values()) <= 100 + (kills + 1) * CONCURRENCY
    journal = ReplyJournal(folder / "replies.jsonl")
    assert len(journal) == 100
    assert journal.spent == Usage(account["tokens"]["prompt"], account["tokens"]["reply"])
    assert journal.spent.total >= script.billed_tokens
