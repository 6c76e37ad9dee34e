"""The models on offer: a run's two, a model folder, those of an endpoint; and the page's files."""

import hashlib
import shutil
from pathlib import Path

import httpx
import pytest
import yaml
from support.api_server import ScriptedBackend, scripted_model, serving

from thinktune.checkpoint.manifest import write_manifest
from thinktune.errors import UserError
from thinktune.inference.chat_defaults import read_chat_defaults, with_system_prompt
from thinktune.inference.requests import Completion, Request, SamplingParams
from thinktune.serve import find_models
from thinktune.serve.server import read_page
from thinktune.tokenization import Turn

PAGE_BYTES = 420_000
LICENCES = "LICENSES.txt"  # each ships with the page, and is not loaded by it


@pytest.fixture
def run(tmp_path, start) -> Path:
    """Make a finished run's folder; its final model is its base."""
    tree = {
        "model": {"name": str(start)},
        "data": {"name": "rows.jsonl", "system": "Be kind."},
        "train": {"rows_per_step": 1},
        "generate": {"max_new_tokens": 9},
        "serve": {"notice": "No advice."},
    }
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    shutil.copytree(start, tmp_path / "run" / "final")
    write_manifest(tmp_path / "run" / "final")
    return tmp_path / "run"


def test_a_run_is_served_as_tuned_and_base(run, start):
    lines = []
    tuned, base = find_models(run, None, None, "here", lines.append)
    assert (tuned.name, base.name, base.aliases) == ("tuned", "base", ())
    assert run.name in tuned.aliases
    for served_model in (tuned, base):
        assert (served_model.defaults.system, served_model.defaults.notice) == ("Be kind.", "No advice.")
        assert served_model.defaults.sampling == SamplingParams(9)
        assert served_model.context_tokens == 4096
    assert any(line.startswith("tuned: ") and "in this process on" in line for line in lines)
    *_, last = base.stream(Request((Turn("user", "Why?"),), SamplingParams(4)))
    base.close()
    assert isinstance(last, Completion)
    assert last.tokens <= 4
    lines.clear()
    [alone] = find_models(start, None, None, "auto", lines.append)
    assert not [line for line in lines if "not installed" in line], "vLLM is a choice, and no defect where it is not"
    assert (alone.name, alone.defaults.system) == (start.name, None)


def test_what_is_served_has_an_identity_that_stays_and_is_its_own(run, start, tmp_path):
    def identities(*source):
        return {(card["served_from"]["id"], card["served_from"]["name"]) for card in cards(*source)}

    def cards(*source):
        with serving(find_models(*source, None, "here", lambda _: None)) as address:
            return httpx.get(f"{address}/v1/models").json()["data"]

    shutil.copytree(run, tmp_path / "elsewhere" / "run")
    (tmp_path / "link").symlink_to(run)
    [mine] = identities(run, None)  # of both models
    assert mine[1] == "run"
    assert identities(tmp_path / "link", None) == {mine}
    [copied] = identities(tmp_path / "elsewhere" / "run", None)
    assert (copied[1], copied[0] == mine[0]) == ("run", False)  # another run of the same name
    with serving([scripted_model(ScriptedBackend("yes"), name) for name in ("one", "two")]) as upstream:
        [behind] = identities(None, f"{upstream}/v1")
        assert identities(None, upstream) == {behind}  # the same address
        assert behind[1] == upstream.removeprefix("http://")
        assert cards(None, upstream)[0]["served_from"]["id"] != mine[0]
    assert str(tmp_path) not in str((mine, copied, behind))


def test_a_run_whose_base_is_gone_is_served_alone_with_a_notice(run):
    tree = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    tree["model"]["name"] = "nowhere"
    (run / "recipe.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    lines = []
    assert [served_model.name for served_model in find_models(run, None, None, "here", lines.append)] == ["tuned"]
    assert "nowhere is not on this machine" in lines[0]


def test_sampling_defaults_are_the_models_own(run, start, tmp_path):
    (tmp_path / "model").mkdir()
    chosen = '{"do_sample": true, "temperature": 0.6, "top_p": 0.95, "top_k": 20}'
    (tmp_path / "model" / "generation_config.json").write_text(chosen, encoding="utf-8")
    assert read_chat_defaults(run, tmp_path / "model").sampling == SamplingParams(9, 0.6, 0.95, 20)


def test_the_models_of_an_endpoint_are_found_and_answer():
    backends = [ScriptedBackend("<think>\nso\n</think>\n\nyes"), ScriptedBackend("no")]
    with serving([scripted_model(backends[0], "one"), scripted_model(backends[1], "two")]) as address:
        served_models = find_models(None, f"{address}/v1", None, "auto", print)
        assert [served_model.name for served_model in served_models] == ["one", "two"]
        *_, last = served_models[0].stream(Request((Turn("user", "Why?"),), SamplingParams(64)))
        assert isinstance(last, Completion)
        assert (last.reasoning, last.answer) == ("so", "yes")
        served_models[0].close()
        assert [served_model.name for served_model in find_models(None, address, "two", "auto", print)] == ["two"]
    with pytest.raises(UserError):
        find_models(None, "http://127.0.0.1:9", None, "auto", print)


def test_a_conversation_starts_with_its_own_system_prompt_or_the_runs():
    question = Turn("user", "q")
    assert with_system_prompt("Be kind.", [question]) == (Turn("system", "Be kind."), question)
    assert with_system_prompt("Be kind.", [Turn("system", "Be brief."), question]) == (
        Turn("system", "Be brief."),
        question,
    )
    assert with_system_prompt("Be kind.", [Turn("system", ""), question]) == (question,)
    assert with_system_prompt(None, [question]) == (question,)


def test_the_page_is_small_and_loads_nothing_from_elsewhere():
    page = read_page()
    assert sum(len(content) for name, content in page.items() if not name.endswith(LICENCES)) < PAGE_BYTES
    for name, content in page.items():
        if name.endswith((".html", ".css")) or ("/" not in name and name.endswith(".js")):
            assert b"http://" not in content.replace(b"http://www.w3.org", b"")
            assert b"https://" not in content
            assert b"innerHTML" not in content


def test_the_pages_libraries_are_those_of_the_lock_file():
    web = Path(__file__).parents[2] / "web"
    files = (web / f"{name}.sha256" for name in ("shared-libraries", "libraries"))
    page = read_page()
    named = dict(reversed(line.split()) for file in files for line in file.read_text().splitlines())
    assert set(named) == {name.removeprefix("libraries/") for name in page if name.startswith("libraries/")}
    for name, digest in named.items():
        assert hashlib.sha256(page[f"libraries/{name}"]).hexdigest() == digest
