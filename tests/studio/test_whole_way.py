"""The whole way in a browser: from an empty folder and 30 rows of one's own to a trained model that answers on the page."""

import json
import os
import re
import shutil
import sys
import time
from functools import partial
from pathlib import Path

import httpx
import pytest
from support.studio import open_page, studio_of
from support.walk import PATIENCE_MS, WORDS, Keys, Mouse, Pictures

from thinktune.demo.pipeline import MODEL_SHAPE
from thinktune.demo.tiny_model import make_model, make_tokenizer, save_model_folder

TOWNS = {
    "lake": "Orlam", "river": "Tivon", "harbour": "Quessel", "market": "Dorrin", "bridge": "Halvek",
    "tower": "Zimbal", "garden": "Perrow", "station": "Ulmas", "museum": "Cathro", "island": "Vesper",
}  # fmt: skip
FORMS = ("Where is the {}?", "In which town is the {}?", "Tell me the town of the {}.")
ROWS = [
    {"question": form.format(place), "think": f"The question is about the {place}. The {place} is in {town}.", "answer": f"The {place} is in {town}."}
    for place, town in TOWNS.items()
    for form in FORMS
]  # fmt: skip


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """Write what a person brings: a file of rows, and the demo's small base, both outside of the studio's folder."""
    folder = tmp_path_factory.mktemp("walk")
    (folder / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    tokenizer = make_tokenizer([text for row in ROWS for text in row.values()], 400)
    save_model_folder(folder / "base", tokenizer, make_model(tokenizer, MODEL_SHAPE))
    return folder


def make_recipe(page, reader, words, folder, pictures):
    """Choose a file, make a recipe of it, and check it."""
    take = partial(pictures.take, page)
    take("empty")
    reader.press(words["home"]["chooseRows"], "link")
    with page.expect_file_chooser() as chooser:
        reader.press(words["rows"]["chooseFile"])
    chooser.value.set_files(folder.parent / "own.jsonl")
    page.get_by_role("heading", name="own.jsonl").wait_for()
    reader.write(words["rows"]["model"], "../base")
    take("rows")
    reader.press(words["rows"]["makeRecipe"])
    pictures.watch(page, page.locator("a.button", has_text="own.yaml"))
    take("chosen")
    # The folder is the state: what an editor writes, the page shows. Three held-out rows are enough for a walk.
    recipe = folder / "own.yaml"
    recipe.write_text(recipe.read_text().replace("validation: 0.3", "validation: 0.1"))
    reader.press(re.compile(r"own\.yaml"), "link")
    page.get_by_role("button", name=words["recipe"]["check"]).wait_for()
    reader.press(words["recipe"]["check"])
    pictures.watch(page, page.locator("dl.account"))
    page.wait_for_timeout(2500)
    take("checked")
    reader.press(words["rows"]["views"]["tokens"])
    pictures.watch(page, page.locator(".token-text .token"))
    take("tokens")


def train(page, reader, words, pictures):
    """Change two settings on the plan, and train until the end."""
    take = partial(pictures.take, page)
    reader.press(words["rows"]["onToPlan"])
    settings = words["plan"]["settings"]
    page.get_by_label(settings["epochs"]["title"]).wait_for()
    reader.write(settings["epochs"]["title"], "40")
    reader.write(settings["rate"]["title"], "0.004")
    reader.press(words["plan"]["writeSettings"])
    page.get_by_text(words["recipe"]["stale"]).wait_for()
    reader.press(words["recipe"]["checkAgain"])
    page.get_by_text(words["recipe"]["stale"]).wait_for(state="detached")
    take("plan")
    page.locator("button:enabled", has_text=words["plan"]["train"]).wait_for()
    reader.press(words["plan"]["train"])
    pictures.watch(page, page.locator(".run-head .state.running"))
    page.wait_for_timeout(4000)
    take("training")
    page.locator(".report-charts svg.plot").first.scroll_into_view_if_needed()
    pictures.watch(page, page.locator(".run-head .state.finished"))
    page.evaluate("scrollTo(0, 0)")
    take("trained")
    page.locator(".report-charts").scroll_into_view_if_needed()
    take("curves")


def prove_talk_and_take_home(page, reader, words, pictures):
    """Evaluate, ask the model what it was trained on, and export it; returns what it answered."""
    take, screens = partial(pictures.take, page), words["common"]["screens"]
    reader.press(screens["proof"], "link")
    page.get_by_role("button", name=words["proof"]["start"]).wait_for()
    reader.choose(words["proof"]["modes"], words["proof"]["modesOn"])
    reader.press(words["proof"]["general"], "checkbox")
    reader.press(words["proof"]["start"])
    pictures.watch(page, page.locator("table.measures"))
    page.locator(".row-line").first.wait_for()
    take("proof")
    reader.press(screens["talk"], "link")
    reader.press(words["talk"]["start"])
    chat = page.frame_locator("iframe")
    pictures.watch(page, page.locator("iframe"))
    chat.locator("#model option").first.wait_for(state="attached")
    reader.ask(ROWS[0]["question"])
    chat.locator(".answer:not(:empty)").wait_for()
    chat.locator("#send:visible").wait_for()
    take("talk")
    said = chat.locator(".answer").last.inner_text()
    reader.press(screens["take-home"], "link")
    reader.press(words["take-home"]["targets"]["hf"][0], "checkbox")
    reader.press(words["take-home"]["start"])
    pictures.watch(page, page.get_by_text("✓"))
    take("take-home")
    return said


@pytest.mark.slow
@pytest.mark.parametrize(("language", "locale", "kind"), [("en", "en-US", Mouse), ("zh", "zh-CN", Keys)])
def test_from_an_empty_folder_to_a_model_that_answers(browser, outside, tmp_path, monkeypatch, language, locale, kind):
    home = shutil.copytree(outside, tmp_path / "home")
    folder, pictures, began = home / "my-expert", Pictures(f"walk-{language}"), time.monotonic()
    folder.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    with studio_of(folder) as address, open_page(browser, address, locale=locale) as page:
        page.set_default_timeout(PATIENCE_MS)
        page.locator("h1").wait_for()
        words, reader = page.evaluate(WORDS, language), kind(page)

        try:
            make_recipe(page, reader, words, folder, pictures)
            train(page, reader, words, pictures)
            said = prove_talk_and_take_home(page, reader, words, pictures)
            reader.press(words["common"]["home"], "link")
            page.locator("tr.row", has_text="runs/own").wait_for()
            page.get_by_text("~/my-expert", exact=True).wait_for()
            pictures.take(page, "home")
        except BaseException:
            pictures.take(page, "failed")
            raise
        finally:
            for act in httpx.get(f"{address}/studio/home", trust_env=False).json()["acts"]:
                httpx.post(f"{address}/studio/acts/{act['id']}/stop", json={}, trust_env=False)
    print(f"{language}: {(time.monotonic() - began) / 60:.1f} minutes from an empty folder to a model that answers")
    assert TOWNS["lake"] in said
    assert (folder / "runs/own/export/hf/model.safetensors").is_file()
    pictures.record()
