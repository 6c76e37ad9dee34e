"""Rows by HTTP: dropped files are whole or absent and overwrite nothing; lists, tokens and doubts stay in the folder."""

import fcntl
import json
import subprocess
import sys

import pytest
from starlette.testclient import TestClient
from support.bases import make_base

from thinktune.data.faults.decisions import read_decisions
from thinktune.http import Access, Limits
from thinktune.studio import make_studio_app
from thinktune.studio.folder import StudioFolder
from thinktune.studio.rows.drop import remove_abandoned


@pytest.fixture
def client(tmp_path):
    (tmp_path / "mine").mkdir()
    app = make_studio_app(StudioFolder.open(tmp_path / "mine"), Limits(), Access(hosts=None))
    return TestClient(app, raise_server_exceptions=False)


@pytest.fixture
def folder(tmp_path, client):
    del client
    return tmp_path / "mine"


def said(response):
    return response.json()["error"]["message"]


def test_a_dropped_file_is_kept_whole_and_listed(client, folder):
    content = b'{"q": "one"}\n' * 50_000
    kept = client.put("/studio/files/my rows 数据.jsonl", content=content)
    assert (kept.status_code, kept.json()["bytes"]) == (201, len(content))
    assert (folder / "my rows 数据.jsonl").read_bytes() == content
    page = client.get("/studio/rows/my rows 数据.jsonl?from=100&count=3").json()
    assert [row["number"] for row in page["rows"]] == [100, 101, 102]
    refused = client.put("/studio/files/my rows 数据.jsonl", content=b"{}")
    assert (refused.status_code, "is in the folder already" in said(refused)) == (409, True)
    assert (folder / "my rows 数据.jsonl").read_bytes() == content


@pytest.mark.parametrize("name", ["../x.jsonl", "%2e%2e%2fx.jsonl", ".x.jsonl", "-x.jsonl", "x.yaml", "x", "a%00.jsonl", "a%0A.jsonl", "a\\b.jsonl", "x" * 250 + ".csv"])  # fmt: skip
def test_a_name_that_is_none_of_rows_is_refused(client, folder, name):
    assert client.put(f"/studio/files/{name}", content=b"{}").status_code in (400, 404, 405)
    assert list(folder.iterdir()) == []
    assert not (folder.parent / "x.jsonl").exists()


def test_a_file_that_breaks_off_leaves_nothing(client, folder):
    def pieces():
        yield b"{}\n"

    refused = client.put("/studio/files/x.jsonl", content=pieces(), headers={"content-length": "100"})
    assert (refused.status_code, list(folder.iterdir())) == (400, [])
    refused = client.put("/studio/files/x.jsonl", content=b"", headers={"content-length": str(2**45)})
    assert refused.status_code == 413


RECEIVER = """
import asyncio, sys
from pathlib import Path
from thinktune.studio.rows.drop import receive_file
async def pieces():
    yield b'{"q": "one"}'
    print("begun", flush=True)
    await asyncio.sleep(60)
asyncio.run(receive_file(Path(sys.argv[1]), pieces(), None))
"""


def test_what_a_killed_server_left_of_a_file_goes_at_the_next_start_and_what_another_receives_stays(tmp_path):
    own = tmp_path / ".mine.jsonl.4194304.partial"  # of a verb, which names its process
    own.write_text("{}")
    receiver = subprocess.Popen([sys.executable, "-c", RECEIVER, tmp_path / "rows.jsonl"], stdout=subprocess.PIPE)
    receiver.stdout.readline()
    for lives in (True, False):
        make_studio_app(StudioFolder.open(tmp_path), Limits(), Access(hosts=None))
        assert len(list(tmp_path.glob(".rows.jsonl.*"))) == lives
        receiver.kill()
        receiver.wait()
    assert own.exists()


def test_rows_under_a_key_are_listed_as_the_recipe_names_it(client, folder):
    (folder / "two.json").write_text(json.dumps({"train": [{"q": "a"}], "test": [{"q": "b"}, {"q": "c"}]}))
    assert client.get("/studio/rows/two.json").json()["mistakes"]
    page = client.get("/studio/rows/two.json?key=test").json()
    assert [row["cells"]["q"]["text"] for row in page["rows"]] == ["b", "c"]


def test_one_row_is_shown_whole_by_number_and_by_place(client, folder):
    (folder / "rows.jsonl").write_text(json.dumps({"q": "x" * 9000}) + "\n" + json.dumps({"q": "two"}) + "\n")
    assert len(client.get("/studio/row/rows.jsonl?number=0").json()["cells"]["q"]["text"]) == 9000
    assert client.get("/studio/row/rows.jsonl?source=rows.jsonl:2").json()["number"] == 1
    assert client.get("/studio/row/rows.jsonl?number=9").status_code == 404
    assert client.get("/studio/row/rows.jsonl?number=-1").status_code == 400
    assert client.get("/studio/rows/none.jsonl").status_code == 404
    assert client.get("/studio/rows/../mine/rows.jsonl").status_code in (400, 404)
    folder.joinpath("sub").mkdir()
    assert client.get("/studio/rows/sub").status_code == 400


DOUBTS = {
    "format": 1,
    "counts": {"markup": 1},
    "rows": [
        {
            **{"row": "rows.jsonl:1", "file": "rows.jsonl", "path": "rows.jsonl", "digest": "d1", "fault": "markup"},
            **{"meaning": "m", "sentence": "s", "action": "repaired", "policy": "repair"},
            "turns": [{"role": "assistant", "content": "<br>" + "x" * 9000}],
            "outcomes": {"repair": [{"role": "assistant", "content": "\n"}], "keep": [], "drop": None},
        }
    ],
}


def test_doubts_are_shown_and_decided_in_the_file_beside_the_rows(client, folder):
    (folder / "a.yaml").write_text("model: {name: b}\ndata: {name: rows.jsonl}\n")
    (folder / "rows.jsonl").write_text("{}\n")
    assert client.get("/studio/doubts/a.yaml").json()["made_at"] is None
    (folder / "doubts" / "a").mkdir(parents=True)
    (folder / "doubts" / "a" / "doubts.json").write_text(json.dumps(DOUBTS))
    held = client.get("/studio/doubts/a.yaml").json()["rows"][0]
    assert (held["name"]["zh"], held["after"]["drop"], held["decided"]) == ("网页标记（markup）", None, None)
    assert len(held["before"][0]["content"]) < 5000
    decide = {"row": "rows.jsonl:1", "fault": "markup"}
    held = client.put("/studio/doubts/a.yaml", json={**decide, "policy": "keep"}).json()["rows"][0]
    assert held["decided"] == "keep"
    assert read_decisions(folder / "rows.jsonl", "rows.jsonl")["rows.jsonl:1"].policies == {"markup": "keep"}
    assert client.put("/studio/doubts/a.yaml", json={**decide, "policy": "silent"}).status_code == 400
    assert client.put("/studio/doubts/a.yaml", json={**decide, "row": "x:9", "policy": "keep"}).status_code == 404
    client.put("/studio/doubts/a.yaml", json={**decide, "policy": None})
    assert read_decisions(folder / "rows.jsonl", "rows.jsonl") == {}


def test_decisions_are_never_written_outside_the_folder(client, folder):
    outside = folder.parent / "rows.jsonl"
    outside.write_text("{}\n")
    (folder / "a.yaml").write_text("model: {name: b}\ndata: {name: ../rows.jsonl}\n")
    (folder / "doubts" / "a").mkdir(parents=True)
    for path in ("../rows.jsonl", str(outside)):
        rows = [DOUBTS["rows"][0] | {"path": path}]
        (folder / "doubts" / "a" / "doubts.json").write_text(json.dumps(DOUBTS | {"rows": rows}))
        refused = client.put("/studio/doubts/a.yaml", json={"row": "rows.jsonl:1", "fault": "markup", "policy": "keep"})
        assert (refused.status_code, "outside this folder" in said(refused)) == (400, True)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["mine", "rows.jsonl"]


@pytest.mark.slow
def test_tokens_of_rows_come_with_their_kinds_and_mistakes_as_sentences(client, folder):
    make_base(folder / "base", "tied")
    rows = [
        {"question": f"What is {n}?", "think": f"It is {n}, I say.", "answer": f"The number {n}."} for n in range(30)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "a.yaml").write_text("model: {name: base}\ndata: {name: rows.jsonl, validation: 0.2}\n")
    held = client.get("/studio/tokens/a.yaml?from=2&count=3").json()
    assert (held["total"], held["first"]) == (30, 2)
    assert [row["source"] for row in held["rows"]] == ["rows.jsonl:3", "rows.jsonl:4", "rows.jsonl:5"]
    pieces = held["rows"][0]["replies"][0]["pieces"]
    assert "".join(text for kind, text in pieces if kind == 2) == "The number 2."
    assert [text for kind, text in pieces if kind == 3] == ["<|im_end|>"]
    assert client.get("/studio/tokens/a.yaml?source=rows.jsonl:9&count=1").json()["first"] == 8
    refused = client.get("/studio/tokens/a.yaml?source=rows.jsonl:99")
    assert (refused.status_code, "is left out" in said(refused)) == (409, True)
    (folder / "a.yaml").write_text("model: {name: nowhere}\ndata: {name: rows.jsonl}\n")
    assert client.get("/studio/tokens/a.yaml").status_code == 409


@pytest.mark.slow
def test_models_that_fit_a_card_are_told(client):
    held = client.get("/studio/models?card=RTX 4090").json()
    assert held["card"]["name"] == "RTX 4090"
    assert held["card"]["in_use"] is False
    by_name = {model["name"]: model for model in held["models"]}
    assert by_name["Qwen/Qwen3-0.6B"]["fits"]
    assert by_name[held["chosen"]]["keeps_updates"]
    assert "24" in str(next(card["gib"] for card in held["cards"] if card["name"] == "RTX 4090"))
    refused = client.get("/studio/models?card=abacus")
    assert (refused.status_code, "is not a known card" in said(refused)) == (409, True)


def test_what_a_killed_studio_was_receiving_is_removed_and_nothing_else(tmp_path):
    for name in (".rows.csv.0a1b2c3d.partial", ".rows.csv.partial", "rows.csv.0a1b2c3d.partial", ".other.csv.44444444.partial"):  # fmt: skip
        (tmp_path / name).write_text("half")
    with (tmp_path / ".other.csv.44444444.partial").open() as receiving:
        fcntl.flock(receiving, fcntl.LOCK_EX)  # another studio of this folder
        remove_abandoned(tmp_path)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [".other.csv.44444444.partial", ".rows.csv.partial", "rows.csv.0a1b2c3d.partial"]
