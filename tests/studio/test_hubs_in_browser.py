"""Hubs from the page: a model is pushed, and an exam fetched, with their progress and what came of it."""

import shutil

import pytest
from support.exam_sets import write_repository
from support.hub_client import environment
from support.hub_server import Fault, HubServer
from support.push_client import TOKENS
from support.studio_process import StudioProcess, tab
from support.trained_folder import make_trained_folder
from support.upload_server import UploadServer

from thinktune.files import read_json

pytestmark = pytest.mark.slow
MEDICAL = ("GBaker/MedQA-USMLE-4-options", "openlifescienceai/medmcqa", "cais/mmlu")


@pytest.fixture(scope="module")
def trained(browser, tmp_path_factory):
    return make_trained_folder(tmp_path_factory.mktemp("hubs"))


@pytest.fixture
def folder(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "folder", symlinks=True)


@pytest.mark.parametrize("hub", ["modelscope", "huggingface"])
def test_a_model_is_pushed_and_its_address_stays_on_the_screen(browser, folder, tmp_path, hub):
    with UploadServer(tmp_path / "hub") as server:
        server.upload_faults["clinic/heart", "put"] = Fault(pause=2.0)
        variables = environment(server.address, tmp_path / "caches", **TOKENS)
        with StudioProcess(folder, variables) as studio, tab(browser, studio, "take-home/runs/small") as page:
            page.locator("select", has=page.locator(f"option[value={hub}]")).select_option(hub)
            page.get_by_label("Name, as OWNER/NAME").fill("clinic/heart")
            page.locator(".command code", has_text=f"push --hub={hub} runs/small clinic/heart").wait_for()
            page.get_by_role("button", name="Push", exact=True).click()
            page.locator(".act[data-state=running]").wait_for()
            link = page.get_by_role("link", name="clinic/heart")
            link.wait_for()
            assert server.address in link.get_attribute("href")
            page.reload()
            link.wait_for()
        assert {"config.json", "model.safetensors", "README.md"} <= server.contents("clinic/heart").keys()
        assert server.pushed["clinic/heart"].private


def test_a_push_that_the_hub_refuses_is_told_and_done_again(browser, folder, tmp_path):
    with UploadServer(tmp_path / "hub") as server:
        variables = environment(server.address, tmp_path / "caches", **TOKENS)
        with StudioProcess(folder, variables) as studio, tab(browser, studio, "take-home/runs/small") as page:
            name = page.get_by_label("Name, as OWNER/NAME")
            name.fill("stranger/heart")
            page.get_by_role("button", name="Push", exact=True).click()
            page.locator(".act[data-state=failed] .problem").first.wait_for()
            assert "stranger/heart" in page.locator(".act .problem").first.inner_text()
            name.fill("clinic/heart")
            page.get_by_role("button", name="Push", exact=True).click()
            page.get_by_role("link", name="clinic/heart").wait_for()
            assert not page.locator(".act[data-state=failed]").count()


def test_an_exam_is_fetched_from_a_hub_and_scored_on_the_screen(browser, folder, tmp_path):
    folders = {f"datasets/{name}": write_repository(tmp_path / "hub" / name, name) for name in MEDICAL}
    with HubServer(folders) as server:
        variables = environment(server.address, tmp_path / "caches", THINKTUNE_CACHE=str(tmp_path / "cache"))
        with StudioProcess(folder, variables) as studio, tab(browser, studio, "proof/runs/small") as page:
            page.get_by_role("checkbox", name="Medicine, English").check()
            page.get_by_label("Questions of each set").fill("2")
            page.get_by_role("checkbox", name="general questions").uncheck()
            page.get_by_role("button", name="Start the evaluation").click()
            page.locator(".act[data-state=running]").wait_for()
            page.get_by_role("heading", name="MedQA").wait_for()
            page.get_by_role("heading", name="MedMCQA").wait_for()
            page.get_by_text("Licence").first.wait_for()
        assert any("medmcqa" in asked for asked in server.requests)
        report = read_json(folder / "runs/small/eval/report.json")
        assert {exam["repository"] for exam in report["exams"]} == set(MEDICAL)
