"""Fetching of exams from both hubs: what came first is recorded, and what comes later is held to it."""

import json
import socket

import pytest
from support.exam_sets import write_repository
from support.hub_client import HUBS, QUICK, at_once, run
from support.hub_server import COMMIT, Fault, HubServer

# Clients read their environment when they are imported, so they run in a process of their own: all steps of a test in one.
STEPS = """
import json, os, shutil, sys
from pathlib import Path
from thinktune.errors import UserError
from thinktune.eval.exams.exam import ExamRequest, prepare_exams
for act, *details in json.loads(sys.argv[1]):
    said = []
    if act == "fetch":
        run, names, hub = details
        request = ExamRequest(tuple(names.split()), 0, hub)
        try:
            exams = prepare_exams(request, Path(run) / "eval" / "exams.json", None, said.append)
            found = {"facts": [exam.facts | {"keys": [task.references[0] for task in exam.tasks]} for exam in exams]}
        except UserError as error:
            found = {"faults": error.faults}
        print(json.dumps(found | {"said": said}))
    elif act == "replace":
        path, old, new = details
        Path(path).write_text(Path(path).read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    elif act == "remove":
        shutil.rmtree(details[0]) if Path(details[0]).is_dir() else Path(details[0]).unlink()
    else:
        os.environ[details[0]] = details[1]
"""
CMB = "CMB-Exam/CMB-val/CMB-val-merge.json"


@pytest.fixture
def hub(tmp_path):
    names = ("FreedomIntelligence/CMB", "GBaker/MedQA-USMLE-4-options", "cais/mmlu")
    folders = {f"datasets/{name}": write_repository(tmp_path / "hub" / name, name) for name in names}
    with HubServer(folders) as server:
        yield server


def take(address, tmp_path, *steps):
    """Take steps in a new process with caches of its own; returns what each fetch gave."""
    caches = tmp_path / "caches"
    environment = {"THINKTUNE_CACHE": str(caches / "thinktune"), **QUICK}
    done = run("-c", STEPS, json.dumps(steps), address=address, caches=caches, timeout=120, **environment)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def fetch(folder, names, hub=None):
    return ("fetch", str(folder), names, hub)


def test_both_hubs_give_the_same_questions_and_only_the_files_that_hold_them(hub, tmp_path):
    def fetch_from(name):
        return take(hub.address, tmp_path / name, fetch(tmp_path / name / "run", "cmb", name))[0]["facts"]

    [[modelscope], [huggingface]] = at_once(fetch_from, HUBS)
    assert modelscope["keys"] == huggingface["keys"] == ["B", "ACE"]
    assert modelscope["files"] == huggingface["files"]
    assert [*huggingface["files"]] == [CMB]
    assert (modelscope["revision"], huggingface["revision"]) == ("master", COMMIT)
    assert (huggingface["licence"], huggingface["licence_elsewhere"], huggingface["shots"]) == ("mit", "apache-2.0", 0)
    assert {*hub.bodies} == {CMB, "README.md"}
    for name in HUBS:
        record = json.loads((tmp_path / name / "run" / "eval" / "exams.json").read_text(encoding="utf-8"))
        assert record["sets"]["cmb"]["hub"] == name
        assert str(tmp_path) not in json.dumps(record)  # it goes to other machines


def test_what_was_fetched_is_not_asked_for_again_and_a_changed_file_is_refused(hub, tmp_path):
    one, other, caches = tmp_path / "run", tmp_path / "other", tmp_path / "caches"
    changed = ("replace", str(tmp_path / "hub" / "FreedomIntelligence/CMB" / CMB), '"ACE"', '"ACD"')
    restored = ("replace", changed[1], '"ACD"', '"ACE"')
    first, again, by_machine, by_run, anew, old = take(
        hub.address,
        tmp_path,
        fetch(one, "cmb"),
        fetch(other, "cmb"),
        changed,
        ("remove", str(caches / "HF_HOME")),
        fetch(tmp_path / "third", "cmb"),  # this machine's record holds
        ("remove", str(caches)),
        fetch(one, "cmb"),  # as on another machine, to which the run's folder was copied
        ("remove", str(one / "eval" / "exams.json")),
        fetch(one, "cmb"),
        restored,
        ("remove", str(caches / "HF_HOME")),
        fetch(other, "cmb"),  # a run is held to its own record, whatever this machine's says
    )
    assert again == first
    assert hub.bodies.count(CMB) == 4  # not for the second, and for the fifth the client has it
    assert old["facts"] == first["facts"]
    for refused, record in ((by_machine, "cmb.huggingface.json"), (by_run, "this run's record, eval/exams.json")):
        [fault] = refused["faults"]
        assert "has changed (sha256" in fault
        assert record in fault
    assert anew["facts"][0]["keys"] == ["B", "ACD"]  # the remedy works


def test_a_set_that_no_hub_gives_is_one_sentence_and_another_hub_is_asked_first(hub, tmp_path):
    del hub.repositories["datasets/GBaker/MedQA-USMLE-4-options"]
    hub.faults["tree"] = Fault(status=403)  # of Hugging Face alone
    record = tmp_path / "damaged" / "eval" / "exams.json"
    record.parent.mkdir(parents=True)
    record.write_text('{"sets": {"medqa": {"hub": "huggingface", "files": 3}}}', encoding="utf-8")
    steps = [fetch(tmp_path / "a", "medqa jec-qa-kd"), fetch(tmp_path / "b", "mmlu-medical", "huggingface")]
    missing, gated, damaged = take(hub.address, tmp_path, *steps, fetch(tmp_path / "damaged", "medqa"))
    assert len(missing["faults"]) == 2  # one for each set
    assert "has no repository of that name" in missing["faults"][0]
    assert "leave out medqa" in missing["faults"][0]
    assert gated["facts"][0]["hub"] == "modelscope"
    assert "denies access (403)" in gated["said"][0]
    assert "mmlu-medical comes from modelscope" in gated["said"][0]
    assert "exams.json: is not a record of fetched exams" in damaged["faults"][0]


@pytest.mark.slow
def test_a_missing_network_and_a_changed_repository_are_one_sentence(hub, tmp_path):
    (tmp_path / "hub" / "GBaker/MedQA-USMLE-4-options" / "phrases_no_exclude_test.jsonl").unlink()
    [changed] = take(hub.address, tmp_path, fetch(tmp_path / "a", "medqa"))
    [fault] = changed["faults"]
    assert "has no file like phrases_no_exclude_test.jsonl" in fault
    assert "--tasks" in fault
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{held.getsockname()[1]}"
        steps = [fetch(tmp_path / "b", "medqa"), ("set", "HF_HUB_OFFLINE", "1"), fetch(tmp_path / "b", "medqa")]
        closed, offline = take(address, tmp_path, *steps)
    assert len(closed["faults"]) == len(offline["faults"]) == 1
    assert "check the network" in closed["faults"][0]
    assert "HF_HUB_OFFLINE is set; unset it" in offline["faults"][0]
