"""Thumbs, corrections and votes over HTTP: rows that a recipe trains, votes by their seed, and refusals by name."""

import json
import os
import shutil

import httpx
import pytest
import yaml
from support.api_server import ScriptedBackend, scripted_model, serving
from support.runs import quiet, settings

from thinktune.checkpoint.manifest import write_manifest
from thinktune.commands.check import check_recipe
from thinktune.files import write_json
from thinktune.inference.chat_defaults import ChatDefaults
from thinktune.run import RunFolder
from thinktune.run.feedback import read_votes
from thinktune.serve import Limits, find_models

REPLY = {"model": "tuned", "reasoning": "A muscle.", "answer": "It pumps blood."}
SAID = [{"role": "user", "content": "What does the heart pump?"}]
LONGER = [
    *SAID,
    {"role": "assistant", "content": "Blood.", "reasoning_content": "Think."},
    {"role": "user", "content": "心脏泵什么？"},
]


def served(run, **names):
    models = [scripted_model(ScriptedBackend("yes"), name, ChatDefaults("Be kind.")) for name in ("tuned", "base")]
    for model in models:
        model.run, model.step = run, 120
    return models


@pytest.fixture
def run(tmp_path):
    (tmp_path / "mine").mkdir()
    return RunFolder(tmp_path / "mine")


@pytest.fixture
def post(run):
    with serving(served(run)) as address:
        yield lambda path, body: httpx.post(f"{address}/v1/feedback/{path}", json=body)


def rated(identity, rating="good", messages=SAID, **more):
    return {"id": identity, "rating": rating, "messages": messages, **REPLY, **more}


def kept_rows(run):
    return [json.loads(line) for line in run.chat_rows.read_text(encoding="utf-8").splitlines()]


def test_a_thumb_becomes_a_row_and_the_next_word_on_it_replaces_it(run, post):
    kept = post("rows", rated("reply-001")).json()
    assert kept["file"] == "rows-from-chat.jsonl"
    [row] = kept_rows(run)
    assert row == kept["row"]
    assert row["messages"] == [
        {"role": "system", "content": "Be kind."},
        *SAID,
        {"role": "assistant", "content": "It pumps blood.", "reasoning_content": "A muscle."},
    ]
    assert (row["label"], row["enable_thinking"]) == (True, True)
    made = row["provenance"]
    assert (made["id"], made["rating"], made["model"], made["step"]) == ("reply-001", "good", "tuned", 120)
    post("rows", rated("reply-001", "bad"))
    assert [row["label"] for row in kept_rows(run)] == [False]
    post("rows", rated("reply-001", "corrected", answer="Blood, all day."))
    [row] = kept_rows(run)
    assert (row["label"], row["messages"][-1]["content"]) == (True, "Blood, all day.")
    assert post("rows", {"id": "reply-001", "rating": None}).json() == {"row": None, "file": "rows-from-chat.jsonl"}
    assert not run.chat_rows.exists()


def test_the_history_is_not_trained_and_a_system_prompt_of_ones_own_stays(run, post):
    own = [{"role": "system", "content": "Be brief."}, *LONGER]
    post("rows", rated("reply-001", messages=own, thinking=False, reasoning=""))
    post("rows", rated("reply-002", messages=[{"role": "system", "content": ""}, *SAID], reasoning=""))
    row, bare = kept_rows(run)
    assert row["messages"][0] == own[0]
    assert row["messages"][2] == LONGER[1] | {"loss_weight": 0}
    assert row["enable_thinking"] is False
    assert bare["messages"] == [*SAID, {"role": "assistant", "content": REPLY["answer"]}]
    assert "enable_thinking" not in bare


def test_check_accepts_the_rows_for_real_and_trains_what_people_said(run, post, start):
    for number in range(6):  # the split holds some of them out
        question = [{"role": "user", "content": f"What does the heart pump, {number} of 6?"}]
        thought = f"The heart is a muscle, and {number} says which."
        post("rows", rated(f"good-{number:04}", messages=question, reasoning=thought, answer=f"Blood, {number}."))
    post("rows", rated("fixed-0001", "corrected", messages=LONGER, answer="血液。"))
    silent = [{"role": "user", "content": "What does the lung pump?"}]
    post("rows", rated("silent-001", messages=silent, thinking=False, reasoning="", answer="It pumps air."))
    post("rows", rated("bad-00001", "bad", messages=[{"role": "user", "content": "And the eye?"}]))
    data = {"name": str(run.chat_rows), "max_tokens": 200, "validation": 0.3}
    recipe = settings({"model": {"name": str(start)}, "data": data, "train": {"rows_per_step": 2, "epochs": 1}})
    prepared, facts = check_recipe(recipe, quiet)
    assert facts["stops"] == []
    assert facts["proof"]
    rows = [*prepared.train.examples(), *prepared.validation.examples()]
    trained = {turn.content: turn for example in rows for turn in example.turns if turn.is_trained_reply}
    answers = {f"Blood, {number}." for number in range(6)} | {"血液。", "It pumps air."}
    assert set(trained) == answers
    assert (trained["It pumps air."].mode, trained["血液。"].mode) == ("silent", "thinking")
    assert {example.turns[0].content for example in rows} == {"Be kind."}
    dropped = {fault["fault"]: fault["actions"].get("dropped", 0) for fault in facts["faults"]}
    assert dropped["marked_bad"] == 1
    assert sum(dropped.values()) == 1
    assert [file["unused"] for file in facts["files"]] == [[]]


@pytest.mark.parametrize(
    "said",
    [
        [{}],
        [{"thinking": False, "reasoning": ""}],
        [{"rating": "corrected", "finish": "failed"}],
        [{"thinking": False, "reasoning": ""}, {}],
        [{"messages": LONGER}, {"messages": [{"role": "system", "content": "Be brief."}, *SAID]}],
        [{"rating": "bad"}, {}],
    ],
    ids=["one", "silent", "corrected", "silent first", "two turns, own system prompt", "bad first"],
)
def test_whatever_comes_first_the_columns_are_found_and_nothing_stops(run, post, start, said):
    for number, one in enumerate(said):
        assert post("rows", rated(f"reply-{number:03}") | one).status_code == 200
    data = {"name": str(run.chat_rows), "max_tokens": 200, "validation": 0}
    recipe = settings({"model": {"name": str(start)}, "data": data, "train": {"rows_per_step": 1, "epochs": 1}})
    prepared, facts = check_recipe(recipe, quiet)
    assert facts["stops"] == []
    assert len(prepared.train) == sum(one.get("rating") != "bad" for one in said)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"answer": "  "}, "answer: is empty"),
        ({"finish": "length"}, "rating: the reply was cut off"),
        ({"messages": []}, "messages: the last message must be from the user"),
        ({"messages": [*SAID, *SAID]}, "messages.1: is the user's, where the assistant's"),
        ({"messages": LONGER[:2]}, "messages: the last message must be from the user"),
        ({"messages": [*SAID, {"role": "system", "content": "x"}]}, "messages.1: is the system's"),
        ({"rating": "great"}, "rating: "),
        ({"id": "../../x"}, "id: "),
        ({"id": "short"}, "id: "),
        ({"file": "/etc/passwd"}, "file: "),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role: "),
    ],
)
def test_what_makes_no_row_is_refused_by_name_and_writes_nothing(run, post, change, named):
    refused = post("rows", rated("reply-001") | change)
    assert refused.status_code == 400
    assert named in refused.json()["error"]["message"]
    assert not run.chat_rows.exists()


def test_a_cut_reply_may_be_called_bad_or_corrected(run, post):
    assert post("rows", rated("reply-001", "bad", finish="length", answer="")).status_code == 200
    assert post("rows", rated("reply-002", "corrected", finish="length")).status_code == 200
    assert [row["label"] for row in kept_rows(run)] == [False, True]


def ballot(seed, choice="left", **more):
    left, right = ("tuned", "base") if seed % 2 else ("base", "tuned")
    sides = {"left": {"model": left, "answer": f"{left}'s"}, "right": {"model": right, "answer": f"{right}'s"}}
    return {"id": f"vote-{seed:04}", "vote": choice, "seed": seed, "question": "Why?", **sides, **more}


@pytest.mark.parametrize("seed", [6, 7])
def test_a_vote_is_kept_by_side_and_changed_and_taken_back(run, post, seed):
    assert post("votes", ballot(seed)).json() == {"file": "votes.jsonl"}
    [kept] = read_votes(run)
    left = "tuned" if seed == 7 else "base"
    assert (kept["preferred"], kept["vote"], kept["seed"], kept["step"]) == (left, "left", seed, 120)
    assert kept["left"] == {"model": left, "reasoning": "", "answer": f"{left}'s"}
    for choice in ("right", "tie", "neither"):
        post("votes", ballot(seed, choice))
        [kept] = read_votes(run)
        assert kept["preferred"] == ({"base", "tuned"} - {left}).pop() if choice == "right" else choice
    assert post("votes", {"id": f"vote-{seed:04}", "vote": None}).status_code == 200
    assert not run.votes.exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 7}, "with seed 7 they are tuned and base"),
        ({"left": {"model": "tuned", "answer": "x"}}, "with seed 6 they are base and tuned"),
        ({"right": None}, "both replies are needed"),
        ({"question": " "}, "a question and an answer"),
        ({"vote": "both"}, "vote: "),
        ({"seed": -1}, "seed: "),
    ],
)
def test_a_vote_that_cannot_be_counted_is_refused_by_name(run, post, change, named):
    refused = post("votes", ballot(6) | change)
    assert refused.status_code == 400
    assert named in refused.json()["error"]["message"]
    assert not run.votes.exists()


def test_without_a_run_the_row_is_made_and_not_kept_and_votes_are_refused():
    with serving([scripted_model(ScriptedBackend("yes"))]) as address:
        assert httpx.get(f"{address}/v1/feedback").json() == {"run": None, "questions": []}
        kept = httpx.post(f"{address}/v1/feedback/rows", json=rated("reply-001")).json()
        assert (kept["file"], kept["row"]["label"]) == (None, True)
        refused = httpx.post(f"{address}/v1/feedback/votes", json=ballot(6))
        assert refused.status_code == 400
        assert "no run is served" in refused.json()["error"]["message"]


def test_feedback_is_guarded_as_the_rest_is(run):
    with serving(served(run), Limits(max_body_bytes=2000), key="secret") as address:
        url, key = f"{address}/v1/feedback", {"authorization": "Bearer secret"}
        rows = f"{url}/rows"
        assert httpx.get(url).status_code == 401
        assert httpx.post(rows, json=rated("reply-001")).status_code == 401
        foreign = key | {"origin": "https://evil.example"}
        assert httpx.post(rows, json=rated("reply-001"), headers=foreign).status_code == 403
        text = json.dumps(rated("reply-001"))
        plain = key | {"content-type": "text/plain"}
        assert httpx.post(rows, content=text, headers=plain).status_code == 415
        assert httpx.post(rows, json=rated("reply-001", answer="x" * 2000), headers=key).status_code == 413
        assert not run.chat_rows.exists()
        assert httpx.post(rows, json=rated("reply-001"), headers=key).status_code == 200


def test_a_folder_that_cannot_be_written_is_said_without_its_path(run, post, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    refused = post("rows", rated("reply-001"))
    assert refused.status_code == 500
    sentence = refused.json()["error"]["message"]
    assert sentence == "rows-from-chat.jsonl: could not be written (No space left on device)"


def test_a_served_run_offers_its_held_out_questions_and_keeps_what_is_said(tmp_path, start):
    folder = tmp_path / "run"
    folder.mkdir()
    tree = {"model": {"name": str(start)}, "data": {"name": "rows.jsonl"}, "train": {"rows_per_step": 1}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    (folder / "samples.jsonl").write_text('{"step": 1, "question": "What does the eye see?"}\n', encoding="utf-8")
    shutil.copytree(start, folder / "final")
    write_json(folder / "final" / "state.json", {"step": 7})
    write_manifest(folder / "final")
    models = find_models(folder, None, None, "here", quiet)
    with serving(models) as address:
        offer = httpx.get(f"{address}/v1/feedback").json()
        assert offer == {"run": "run", "questions": ["What does the eye see?"]}
        assert httpx.post(f"{address}/v1/feedback/votes", json=ballot(6)).status_code == 200
    assert [vote["step"] for vote in read_votes(RunFolder(folder))] == [7]
    with serving(find_models(folder / "final", None, None, "here", quiet)) as address:  # its model alone, for others
        assert httpx.get(f"{address}/v1/feedback").json() == {"run": None, "questions": []}
