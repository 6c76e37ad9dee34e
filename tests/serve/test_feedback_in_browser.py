"""Feedback in a real browser: thumbs and corrections become rows, blind votes hide the names, and all can be undone."""

import json
import re

import pytest
from support.api_server import ScriptedBackend, scripted_model, serving

from thinktune.errors import UserError
from thinktune.run import RunFolder
from thinktune.run.feedback import read_votes

REPLY = "<think>\nA muscle.\n</think>\n\nIt pumps **blood**."


@pytest.fixture
def run(tmp_path):
    (tmp_path / "mine").mkdir()
    return RunFolder(tmp_path / "mine")


class FailingBackend(ScriptedBackend):
    def stream(self, request):
        raise UserError("the model is gone")


QUESTIONS = ("What does the heart pump?", "心脏泵什么？", "<b>Bold?</b>")


def models_of(run):
    backends = {
        "tuned": ScriptedBackend(REPLY),
        "base": ScriptedBackend("Who knows."),
        "cut": ScriptedBackend(REPLY, finish="length"),
        "gone": FailingBackend(""),
    }
    models = [scripted_model(backend, name) for name, backend in backends.items()]
    for model in models:
        model.run, model.step, model.questions = run, 120, QUESTIONS if run else ()
    return models


@pytest.fixture
def open_page(browser, run):
    """Return a function that serves and opens the page, of a run or of none; no page may log an error."""
    faults, closing = [], []

    def opened(of=run, locale="en-US", **context):
        server = serving(models_of(of))
        address = server.__enter__()
        context = browser.new_context(viewport={"width": 1100, "height": 760}, locale=locale, **context)
        closing.extend((context.close, lambda: server.__exit__(None, None, None)))
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(address)
        page.locator("#model option").first.wait_for(state="attached")
        return page

    yield opened
    for close in closing:
        close()
    assert not faults


def ask(page, question="Why?", model="tuned"):
    page.select_option("#model", model)
    page.fill("#question", question)
    page.click("#send")
    page.locator("#send").wait_for()
    page.locator(".rate-corrected").last.wait_for()


def kept(run):
    return [json.loads(line) for line in run.chat_rows.read_text().splitlines()] if run.chat_rows.exists() else []


def said(page, text):
    page.locator(".reply [role=status]", has_text=text).wait_for()


@pytest.mark.slow
def test_an_empty_page_offers_held_out_questions_and_a_click_asks_one(open_page):
    page = open_page()
    samples = page.locator(".samples button")
    samples.first.wait_for()
    assert samples.all_inner_texts() == [*QUESTIONS]
    samples.nth(1).focus()
    page.keyboard.press("Enter")
    page.locator(".question .text", has_text="心脏泵什么？").wait_for()
    page.locator(".answer", has_text="It pumps").wait_for()
    assert page.locator(".samples").count() == 0
    assert page.input_value("#question") == ""


def test_a_thumb_is_kept_survives_a_reload_and_is_taken_back_by_another_press(open_page, run):
    page = open_page()
    ask(page)
    page.click(".rate-good")
    said(page, "Saved to rows-from-chat.jsonl")
    [row] = kept(run)
    assert row["messages"] == [
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "It pumps **blood**.", "reasoning_content": "A muscle."},
    ]
    assert (row["label"], row["enable_thinking"], row["provenance"]["model"]) == (True, True, "tuned")
    page.reload()
    page.locator(".rate-good[aria-pressed=true]").wait_for()
    page.click(".rate-bad")
    said(page, "Saved")
    assert [row["label"] for row in kept(run)] == [False]
    assert page.locator(".rate-good").get_attribute("aria-pressed") == "false"
    page.click(".rate-bad")
    said(page, "Taken back")
    assert kept(run) == []
    assert page.locator(".rate-bad").get_attribute("aria-pressed") == "false"


@pytest.mark.slow
def test_a_correction_is_written_by_keyboard_and_can_be_changed_and_taken_back(open_page, run):
    page = open_page()
    ask(page, "First?")
    ask(page, "Then?")
    correct = page.locator(".rate-corrected").last
    correct.focus()
    page.keyboard.press("Enter")
    answer = page.get_by_label("Answer", exact=True)
    assert answer.input_value() == "It pumps **blood**."
    assert answer.evaluate("it => it === document.activeElement")
    answer.fill("It pumps blood, all day.")
    page.get_by_label("Reasoning", exact=True).fill("The heart is a muscle.")
    page.keyboard.press("Control+Enter")
    said(page, "Saved")
    assert correct.evaluate("it => it === document.activeElement")
    [row] = kept(run)
    assert row["messages"][-1] == {
        "role": "assistant",
        "content": "It pumps blood, all day.",
        "reasoning_content": "The heart is a muscle.",
    }
    assert row["messages"][1]["loss_weight"] == 0
    assert [message["content"] for message in row["messages"]][::2] == ["First?", "Then?"]
    page.reload()
    page.locator(".rate-corrected").last.click()
    assert page.get_by_label("Answer", exact=True).input_value() == "It pumps blood, all day."
    page.keyboard.press("Escape")
    assert page.locator(".correction").count() == 0
    page.locator(".rate-corrected").last.click()
    page.get_by_role("button", name="Take back").click()
    said(page, "Taken back")
    assert kept(run) == []


@pytest.mark.slow
def test_a_reply_that_was_cut_is_no_example_and_a_system_prompt_of_ones_own_is_in_the_row(open_page, run):
    page = open_page()
    page.click("#settings-open")
    page.fill("#set-system", "Be brief.")
    page.uncheck("#set-thinking")
    page.click("#settings button[value=done]")
    ask(page, model="cut")
    assert page.locator(".rate-good").is_hidden()
    page.click("#settings-open")
    page.fill("#set-system", "Something else, later.")
    page.click("#settings button[value=done]")
    page.click(".rate-bad")
    said(page, "Saved")
    [row] = kept(run)
    assert row["messages"][0] == {"role": "system", "content": "Be brief."}
    assert row["enable_thinking"] is False


@pytest.mark.slow
def test_what_the_server_refuses_is_said_and_not_shown_as_kept(open_page, run):
    page = open_page()
    ask(page)
    run.chat_rows.mkdir()
    page.click(".rate-good")
    said(page, "rows-from-chat.jsonl: could not be written")
    assert page.locator(".rate-good").get_attribute("aria-pressed") == "false"
    page.reload()
    page.locator(".rate-good").wait_for()
    assert page.locator(".rate-good").get_attribute("aria-pressed") == "false"


@pytest.mark.slow
def test_without_a_run_the_rows_are_a_download(open_page, run):
    page = open_page(None)
    ask(page)
    assert page.locator(".samples").count() == 0
    assert page.locator("#export-rows").is_hidden()
    page.click(".rate-good")
    said(page, "Saved in this browser")
    page.click("#new")
    ask(page, "And the lung?")
    page.click(".rate-corrected")
    page.get_by_label("Answer", exact=True).fill("It takes in air.")
    page.get_by_role("button", name="Save as a row").click()
    said(page, "Saved in this browser")
    with page.expect_download() as download:
        page.click("#export-rows")
    rows = [json.loads(line) for line in download.value.path().read_text().splitlines()]
    assert {row["messages"][-1]["content"] for row in rows} == {"It pumps **blood**.", "It takes in air."}
    assert all(row["label"] for row in rows)
    page.click(".rate-corrected")
    page.get_by_role("button", name="Take back").click()
    page.click("#history .title >> text=Why?")
    page.click(".rate-good")
    page.locator("#export-rows").wait_for(state="hidden")
    assert kept(run) == []


def compare_blindly(page, question="Why?"):
    page.select_option("#compare", "base")
    page.check("#blind")
    ask(page, question)
    page.locator(".vote").last.wait_for()


def test_a_blind_comparison_hides_every_name_until_the_vote(open_page, run):
    page = open_page()
    assert page.locator("#blind-label").is_hidden()
    compare_blindly(page)
    assert page.locator(".reply h3").all_inner_texts() == ["Left", "Right"]
    shown = page.locator("#log").evaluate("it => it.outerHTML") + page.inner_text("#status")
    assert not re.search("tuned|base", shown)
    assert page.locator(".facts").all_inner_texts() == ["", ""]  # speed and lengths tell, too
    vote = page.locator(".vote")
    vote.get_by_role("button", name="Left").click()
    page.locator(".vote [aria-pressed=true]").wait_for()
    [cast] = read_votes(run)
    sides = ["base", "tuned"][:: -1 if cast["seed"] % 2 else 1]
    answers = {"base": "Who knows.", "tuned": "It pumps blood."}
    assert page.locator(".reply .answer").all_inner_texts() == [answers[side] for side in sides]
    assert (cast["preferred"], cast["question"], cast["step"]) == (sides[0], "Why?", 120)
    assert page.locator(".reply h3").all_inner_texts() == ["Left", "Right"]
    vote.get_by_role("button", name="Equally good").click()
    page.locator(".vote [aria-pressed=true]", has_text="Equally good").wait_for()
    assert [each["preferred"] for each in read_votes(run)] == ["tie"]
    vote.get_by_role("button", name="Show the names").click()
    assert page.locator(".reply h3").all_inner_texts() == sides
    assert vote.get_by_role("button", name="Left").is_disabled()
    held = []  # the reader may be quicker than the server's word on where votes are kept
    page.route("**/v1/feedback", lambda route: held.append(route))
    page.reload()
    page.locator(".reply h3", has_text="tuned").wait_for()
    page.locator(".vote").get_by_role("button", name="Equally good").click()
    held[0].continue_()
    page.unroute("**/v1/feedback")
    said_in_vote = page.locator(".vote [role=status]", has_text="Taken back")
    said_in_vote.wait_for()
    assert read_votes(run) == []
    assert page.locator(".vote").get_by_role("button", name="Equally good").is_disabled()


@pytest.mark.slow
def test_sides_are_drawn_anew_by_the_seed_and_each_model_keeps_its_own_history(open_page, run):
    page = open_page()
    page.evaluate("""() => { const draw = crypto.getRandomValues.bind(crypto), seeds = [7, 12, 2 ** 32 - 1, 4];
      crypto.getRandomValues = (into) => (into instanceof Uint32Array ? into.fill(seeds.shift()) : draw(into)); }""")
    for number in range(3):
        compare_blindly(page, f"Question {number}?")
        page.locator(".vote").last.get_by_role("button", name="Both bad").click()
        page.locator(".vote").last.locator("[aria-pressed=true]").wait_for()
    votes = read_votes(run)
    assert [(vote["seed"], vote["left"]["model"]) for vote in votes] == [
        (7, "tuned"),
        (12, "base"),
        (2**32 - 1, "tuned"),
    ]
    assert {vote["preferred"] for vote in votes} == {"neither"}
    for vote in votes:
        for side in ("left", "right"):
            assert vote[side]["answer"] == ("Who knows." if vote[side]["model"] == "base" else "It pumps **blood**.")
    page.locator(".regenerate").last.click()
    page.locator(".vote").last.wait_for()
    page.locator(".vote").last.get_by_role("button", name="Left").click()
    page.locator(".vote").last.locator("[aria-pressed=true]").wait_for()
    assert len(read_votes(run)) == 4  # another comparison of the same question


@pytest.mark.slow
def test_a_reply_that_failed_is_no_vote(open_page, run):
    page = open_page()
    page.select_option("#compare", "gone")
    page.check("#blind")
    ask(page)
    page.locator(".mark.failed").wait_for()
    vote = page.locator(".vote")
    assert vote.locator("button:visible").all_inner_texts() == ["Show the names"]
    vote.locator("button:visible").click()
    assert sorted(page.locator(".reply h3").all_inner_texts()) == ["gone", "tuned"]


@pytest.mark.slow
def test_the_blind_choice_is_remembered_and_one_model_alone_is_never_hidden(open_page):
    page = open_page()
    page.select_option("#compare", "base")
    page.check("#blind")
    page.reload()
    page.locator("#blind:checked").wait_for()
    page.select_option("#compare", "")
    ask(page)
    assert page.locator(".reply").get_attribute("aria-label") == "tuned"
    assert page.locator(".vote").count() == 0


@pytest.mark.slow
def test_all_of_it_is_in_chinese_and_fits_a_phone(open_page):
    page = open_page(locale="zh-CN")
    page.set_viewport_size({"width": 390, "height": 800})
    page.locator(".samples", has_text="留出数据里的问题").wait_for()
    page.select_option("#compare", "base")
    page.locator("#blind-label", has_text="盲评").wait_for()
    page.check("#blind")
    ask(page)
    assert page.locator(".reply h3").all_inner_texts() == ["左边", "右边"]
    assert page.locator(".vote button:visible").all_inner_texts() == ["左边", "右边", "一样好", "都不好"]
    page.locator(".rate-corrected").first.click()
    page.get_by_role("button", name="保存为数据").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
