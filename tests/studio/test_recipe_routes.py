"""Recipes by HTTP: a change is checked as a file is, written whole or not at all, and never over someone else's."""

import json
import threading

import pytest
from starlette.testclient import TestClient

from thinktune.config.loading import load_recipe
from thinktune.http import Access, Limits
from thinktune.studio import make_studio_app
from thinktune.studio.folder import StudioFolder
from thinktune.studio.recipes.check_facts import advise, annotate_facts

RECIPE = "# mine\nmodel:\n  name: base  # here\ndata:\n  name: rows.jsonl\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.yaml").write_text(RECIPE)
    (tmp_path / "rows.jsonl").write_text('{"q": "a", "a": "b"}\n')
    return tmp_path


@pytest.fixture
def client(folder):
    app = make_studio_app(StudioFolder.open(folder), Limits(), Access(hosts=None))
    return TestClient(app, raise_server_exceptions=False)


def put(client, name="mine.yaml", **body):
    return client.put(f"/studio/recipe/{name}", json=body)


def said(response):
    return response.json()["error"]["message"]


def test_a_recipe_is_shown_with_every_setting_and_its_files_of_rows(client):
    held = client.get("/studio/recipe/mine.yaml").json()
    assert held["text"] == RECIPE
    assert held["values"]["train"]["epochs"] == 2
    assert held["values"]["data"]["faults"]["duplicate"] == "drop"
    assert held["own"] == {"model": {"name": "base"}, "data": {"name": "rows.jsonl"}}
    assert held["rows"] == ["rows.jsonl"]
    assert held["mistakes"] == []


def test_a_change_keeps_comments_and_is_what_the_command_line_reads(client, folder):
    digest = client.get("/studio/recipe/mine.yaml").json()["digest"]
    changes = {"train.epochs": 5, "data.faults.duplicate": "keep", "data.columns": {"question": "q", "answer": "a"}}
    held = put(client, digest=digest, changes=changes)
    assert held.status_code == 200
    assert held.json()["values"]["train"]["epochs"] == 5
    recipe = load_recipe(folder / "mine.yaml")
    assert (recipe.train.epochs, recipe.data.faults["duplicate"], recipe.data.columns.answer) == (5, "keep", "a")
    text = (folder / "mine.yaml").read_text()
    assert text.startswith("# mine\nmodel:\n  name: base  # here\n")
    assert put(client, digest=held.json()["digest"], changes={"train.epochs": None}).status_code == 200
    assert load_recipe(folder / "mine.yaml").train.epochs == 2


def test_mistakes_are_told_all_at_once_with_their_keys_and_nothing_is_written(client, folder):
    digest = client.get("/studio/recipe/mine.yaml").json()["digest"]
    refused = put(client, digest=digest, changes={"train.epochs": -3, "train.learning_rate": "fast", "data.faults.loop": "sing", "train.epoch": 1})  # fmt: skip
    assert refused.status_code == 422
    for key in ("train.epochs", "train.learning_rate", "data.faults: loop is 'sing'", "train.epoch: unknown key"):
        assert key in said(refused)
    assert (folder / "mine.yaml").read_text() == RECIPE
    assert list(folder.glob(".*partial")) == []
    refused = put(client, digest=digest, text="model: [\n")
    assert (refused.status_code, "mine.yaml:" in said(refused)) == (422, True)


def test_a_page_names_no_place_outside_the_folder_and_trusts_no_code(client, folder):
    digest = client.get("/studio/recipe/mine.yaml").json()["digest"]
    outside = {"runs_folder": "../runs", "data.name": "/etc/passwd", "data.validation": "~/rows.jsonl"}
    for key, value in (outside | {"model.trust_remote_code": True}).items():
        refused = put(client, digest=digest, changes={key: value})
        assert (refused.status_code, said(refused).startswith(f"{key}: ")) == (422, True), key
        verb = {"verb": "check", "recipe": "mine.yaml", "overrides": [f"{key}={json.dumps(value).strip(chr(34))}"]}
        refused = client.post("/studio/acts", json=verb)
        assert (refused.status_code, said(refused).startswith(f"{key}: ")) == (400, True), key
    assert (folder / "mine.yaml").read_text() == RECIPE
    assert put(client, digest=digest, changes={"model.name": "/models/base"}).status_code == 200
    by_hand = RECIPE.replace("rows.jsonl", "/rows/of/mine.jsonl")
    (folder / "mine.yaml").write_text(by_hand)
    digest = client.get("/studio/recipe/mine.yaml").json()["digest"]
    assert put(client, digest=digest, changes={"train.epochs": 5}).status_code == 200, "what was written by hand stays"


def test_a_file_that_changed_meanwhile_is_not_overwritten(client, folder):
    digest = client.get("/studio/recipe/mine.yaml").json()["digest"]
    (folder / "mine.yaml").write_text(RECIPE + "# someone's\n")
    refused = put(client, digest=digest, changes={"train.epochs": 5})
    assert (refused.status_code, "has changed since" in said(refused)) == (409, True)
    refused = put(client, digest="", text=RECIPE)
    assert (refused.status_code, "already exists" in said(refused)) == (409, True)
    assert (folder / "mine.yaml").read_text().endswith("# someone's\n")
    assert put(client, "new.yaml", digest="", text=RECIPE).status_code == 200
    (folder / "mine.yaml").unlink()
    refused = put(client, digest=digest, changes={"train.epochs": 5})
    assert (refused.status_code, (folder / "mine.yaml").exists()) == (409, False)


def test_of_two_tabs_that_write_at_once_one_wins_and_the_other_is_told(client, folder):
    digest = client.get("/studio/recipe/mine.yaml").json()["digest"]
    codes = []
    threads = [threading.Thread(target=lambda n=n: codes.append(put(client, digest=digest, changes={"train.epochs": n + 3}).status_code)) for n in range(6)]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == [200, 409, 409, 409, 409, 409]
    assert load_recipe(folder / "mine.yaml").train.epochs in range(3, 9)


@pytest.mark.parametrize("name", ["../out.yaml", "/etc/x.yaml", ".hidden.yaml", "a/../../out.yaml", "none/x.yaml", "rows.jsonl", "x.txt", "%2e%2e/out.yaml", "link.yaml"])  # fmt: skip
def test_nothing_outside_the_folder_is_read_or_written(client, folder, name):
    outside = folder.parent / "out.yaml"
    outside.write_text(RECIPE)
    (folder / "link.yaml").symlink_to(outside)
    assert put(client, name, digest="", text=RECIPE + "# x\n").status_code in (400, 404, 405)
    if name != "x.txt":
        assert client.get(f"/studio/recipe/{name}").status_code in (400, 404)
    assert outside.read_text() == RECIPE


@pytest.mark.parametrize("body", [{}, {"digest": "x"}, {"digest": "x", "changes": {}, "text": ""}, {"digest": "x", "changes": {"a b": 1}}, {"digest": 3}])  # fmt: skip
def test_a_body_that_is_no_change_is_refused_with_a_sentence(client, body):
    refused = put(client, **body)
    assert refused.status_code == 400
    assert said(refused)
    assert (
        client.put("/studio/recipe/mine.yaml", content="{}", headers={"content-type": "text/plain"}).status_code == 415
    )


HOSTILE = [
    '"\\ud800"',
    "NaN",
    "[" * 150 + "]" * 150,
    '"\\u0000"',
    '{"a": {"b": ["&x *y", "# no comment", "\\n---\\n"]}}',
    '"' + "x" * 2**21 + '"',
    "1e999",
]


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("key", ["data.system", "data.columns", "x.y", "runs_folder"])
def test_hostile_values_are_refused_or_read_back_as_they_are(client, folder, key, value):
    digest = client.get("/studio/recipe/mine.yaml").json()["digest"]
    body = f'{{"digest": "{digest}", "changes": {{"{key}": {value}}}}}'
    answer = client.put("/studio/recipe/mine.yaml", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (200, 400, 413, 422)
    text = (folder / "mine.yaml").read_text()
    if answer.status_code == 200:
        held = load_recipe(folder / "mine.yaml").model_dump()
        for name in key.split("."):
            held = held[name]
        assert str(held) == json.loads(value)
    else:
        assert text == RECIPE


def test_a_recipe_with_mistakes_is_shown_with_them(client, folder):
    (folder / "mine.yaml").write_text(RECIPE + "train: {epochs: no}\n")
    held = client.get("/studio/recipe/mine.yaml").json()
    assert held["values"] is None
    assert "mine.yaml:6: train.epochs" in held["mistakes"][0]


def test_files_of_several_sources_are_told_apart(client, folder):
    (folder / "more.jsonl").write_text("{}\n")
    (folder / "mine.yaml").write_text(
        "model: {name: base}\ndata:\n- name: rows.jsonl\n- {name: more.jsonl, share: 0.2, validation: 0}\n"
    )
    held = client.get("/studio/recipe/mine.yaml").json()
    assert (held["rows"], held["sources"]) == (["rows.jsonl", "more.jsonl"], [0, 1])
    put(client, digest=held["digest"], changes={"data.1.columns": {"question": "x", "answer": "y"}})
    assert load_recipe(folder / "mine.yaml").sources[1].columns.question == "x"


def test_what_check_says_is_named_in_both_languages_and_its_remedies_can_be_written():
    warning = "train.learning_rate: is 1; a model may be destroyed by it; write train.learning_rate: 2e-05"
    epochs = "train.epochs: is 30; the rest is lost time; write train.epochs: 3, or train.stop_when_overfitting: 2"
    assert advise(warning) == {
        "text": warning,
        "key": "train.learning_rate",
        "changes": [{"train.learning_rate": 2e-05}],
    }
    assert advise(epochs)["changes"] == [{"train.epochs": 3}, {"train.stop_when_overfitting": 2}]
    assert advise("rows.jsonl:4: is not valid JSON; fix the row, or write data.faults: {unreadable: drop}")["changes"] == [{"data.faults": {"unreadable": "drop"}}]  # fmt: skip
    fault = {
        "fault": "duplicate",
        "policy": "drop",
        "count": 2,
        "actions": {"dropped": 2},
        "meaning": "m",
        "examples": [],
    }
    facts = annotate_facts({"faults": [fault], "stops": [], "warnings": [warning], "shown": [1]})
    assert facts["faults"][0]["name"] == {"en": "duplicate", "zh": "重复（duplicate）"}
    assert [each["policy"] for each in facts["faults"][0]["policies"]] == ["drop", "keep", "stop"]
    assert facts["faults"][0]["actions"][0]["name"]["zh"] == "丢弃"
    assert "shown" not in facts


def test_a_fault_of_a_whole_file_is_told_apart_from_those_of_rows():
    whole = "rows.csv:1: the whole file is GBK, not UTF-8, and was read as GBK"
    line = "rows.jsonl:2: is GBK, not UTF-8, and was read as GBK"
    fault = {"fault": "encoding", "policy": "repair", "count": 2, "actions": {"repaired": 2}, "meaning": "m"}
    facts = annotate_facts({"faults": [fault | {"examples": [whole, line]}]})
    assert facts["faults"][0]["of_file"] == [whole]


def test_facts_are_those_of_the_newest_check_and_stale_once_the_recipe_changes(client, folder):
    assert client.get("/studio/facts/mine.yaml").json() == {
        "running": None,
        "act": None,
        "facts": None,
        "is_stale": True,
    }
    import os

    for number, verdict in enumerate(["ready", "not ready"]):
        act = folder / ".thinktune" / "acts" / f"2026010{number + 1}-000000-check-aaaaaa"
        act.mkdir(parents=True)
        record = {
            "verb": "check",
            "argv": ["check"],
            "about": {"recipe": "mine.yaml"},
            "command": "c",
            "started_at": 2e9,
            "folder": ".",
        }
        (act / "act.json").write_text(json.dumps(record))
        (act / "stdout").write_text(json.dumps({"verdict": verdict, "faults": [], "stops": []}))
        (act / "exit.json").write_text(json.dumps({"code": 2 if number else 0, "ended_at": 2e9}))
    held = client.get("/studio/facts/mine.yaml").json()
    assert (held["facts"]["verdict"], held["is_stale"]) == ("not ready", False)
    os.utime(folder / "rows.jsonl", (3e9, 3e9))
    assert client.get("/studio/facts/mine.yaml").json()["is_stale"]


def test_every_fault_has_names_and_policies(client):
    faults = client.get("/studio/faults").json()["faults"]
    assert len(faults) > 40
    assert all(fault["name"]["zh"] != fault["name"]["en"] and fault["policies"] for fault in faults)


def test_a_copy_has_other_settings_and_a_run_of_its_own_and_replaces_nothing(client, folder):
    (folder / "mine.yaml").write_text(RECIPE.replace("rows.jsonl", "/elsewhere/rows.jsonl") + "name: first\n")
    (folder / "mine-2.yaml").write_text("someone's\n")
    (folder / "runs/mine-3").mkdir(parents=True)

    def copy(**changes):
        return client.post("/studio/recipe-copy/mine.yaml", json={"changes": changes})

    assert copy(**{"train.epochs": 3}).json() == {"name": "mine-4.yaml"}
    made = load_recipe(folder / "mine-4.yaml")
    assert (made.train.epochs, made.run_folder.name) == (3, "mine-4")
    assert (folder / "mine-4.yaml").read_text().startswith("# mine\nmodel:\n  name: base  # here\n")
    again = client.post("/studio/recipe-copy/mine-4.yaml", json={"changes": {"train.epochs": 4}})
    assert again.json() == {"name": "mine-5.yaml"}
    refused = copy(**{"train.epochs": -1, "runs_folder": "../elsewhere"})
    assert (refused.status_code, "train.epochs" in said(refused)) == (422, True)
    assert copy(runs_folder="../elsewhere").status_code == 422
    assert copy().status_code == 400
    assert (folder / "mine-2.yaml").read_text() == "someone's\n"
    assert sorted(one.name for one in folder.glob("*.yaml")) == [
        "mine-2.yaml",
        "mine-4.yaml",
        "mine-5.yaml",
        "mine.yaml",
    ]
