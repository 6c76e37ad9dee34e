"""Proof, Talk, Take home and Think in a real browser: read, found, asked and started by keyboard; axe finds nothing."""

import json

import httpx
import pytest
from support.api_server import ScriptedBackend, scripted_model
from support.axe import EVERY_VIEW, violations
from support.recorded_run import write_run
from support.runs import settings
from support.served_act import served_act
from support.studio import open_page, studio_of

from thinktune.config import load_recipe
from thinktune.config.loading import dump_recipe
from thinktune.eval.comparison import compare
from thinktune.files import write_json, write_json_lines
from thinktune.run import RunFolder
from thinktune.run.feedback import read_votes
from thinktune.run.thought_folder import ThoughtFolder

POINTS = [
    {"budget_tokens": budget, "base": figure, "tuned": figure, "difference": figure | {"value": 0.0, "low": -0.1}, "cut": {"base": 1, "tuned": 0}, "verdict": ""}
    for budget, figure in ((256, {"value": 0.4, "low": 0.3, "high": 0.5}), (512, {"value": 0.5, "low": 0.4, "high": 0.6}))
]  # fmt: skip
EXAM = {
    "name": "cmexam", "title": "CMExam", "language": "zh", "split": "test", "licence": "apache-2.0", "licence_elsewhere": "apache-2.0",
    "asked": 400, "available": 6811, "left_out": 0, "apart": {"whole": 0, "near": 0}, "repository": "fzkuji/CMExam", "hub": "huggingface",
    "revision": "0123456789abcdef", "files": {}, "budgets": POINTS,
    "accuracy": {"rows": 400, "base": POINTS[0]["base"], "tuned": POINTS[1]["tuned"], "difference": POINTS[0]["base"], "verdict": "better"},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, tree):
    """Write a folder with a run that was evaluated, on 300 rows and an exam, and a recipe that was thought about."""
    run = write_run(tmp_path / "runs" / "one", 1e-5)
    recipe = settings(tree | {"name": "one", "runs_folder": "runs"})
    for place in (tmp_path / "one.yaml", run / "recipe.yaml"):
        place.write_text(dump_recipe(recipe), encoding="utf-8")
    report = json.loads((run / "eval/report.json").read_text(encoding="utf-8"))
    report["settings"]["models"] = {side: {"name": side, "print": side} for side in ("base", "tuned")}
    write_json(run / "eval/report.json", report | {"exams": [EXAM]})
    first = json.loads((run / "eval/rows.jsonl").read_text(encoding="utf-8").splitlines()[0])
    rows = [first | {"question": f"Question {number}?", "row": f"v:{number}", "outcome": ("same", "better", "worse")[number % 3]} for number in range(300)]  # fmt: skip
    write_json_lines(run / "eval/rows.jsonl", rows)
    (run / "final").mkdir()
    (run / "final/config.json").write_text("{}")
    facts = {"made": "2026-11-29T20:00:00+00:00", "bytes": 7, "engine": "llama.cpp", "unchecked": None, "notes": ["a note"], "seconds": {},
             "model": "one", "files": {"one-q8_0.gguf": {}}, "check": {"questions": 20, "equal": 19, "kl": 0.1, "kl_limit": 0.2}}  # fmt: skip
    write_json(run / "export/gguf-q8_0/export.json", facts)
    thought = ThoughtFolder(tmp_path / "thought/one")
    write_json(
        thought.settings, {"teacher": "http://127.0.0.1:1/v1#expert", "price": [2.0, 8.0, "CNY"], "instruct": False}
    )
    write_json_lines(thought.rows, [{"question": "2+2?", "think": "Two and two.", "answer": "4"}])
    thought.recipe.write_text("name: x\n")
    account = {"teacher": "expert", "rows": {"read": 3, "asked": 2, "passed": 1, "left_out": 0}, "questions": 2, "replies": 8, "kept_replies": 1,
               "kept_questions": 1, "why_not": [{"why": "wrong answer", "count": 7, "examples": ["r:1, try 1: is not 5"]}], "written_rows": 1,
               "rounds": [{"teacher": "expert", "graded_questions": 2, "pass_at": {"1": [0.5, 0.1, 0.9]}}], "notes": ["a note"], "file": "thought/one/thought.jsonl"}  # fmt: skip
    write_json(thought.account, account)
    return tmp_path


@pytest.fixture(autouse=True)
def patience(browser):
    """Wait ten seconds at most for what a page should show."""
    make = browser.new_context

    def new_context(**options):
        context = make(**options)
        context.set_default_timeout(10_000)
        return context

    browser.new_context = new_context
    yield
    browser.new_context = make


def press(page, *keys):
    for key in keys:
        page.keyboard.press(key)


def test_rows_are_found_and_read_by_keyboard(browser, folder):
    with studio_of(folder) as address, open_page(browser, f"{address}/proof/runs/one") as page:
        page.get_by_text("300 rows found").wait_for()
        assert page.locator(".row-line").count() < 40, "only what is in sight exists"
        page.get_by_role("radio", name="became better 100").focus()
        press(page, "Space", "Tab", "Tab")
        page.keyboard.type("question 298")
        page.get_by_text("1 row found").wait_for()
        page.locator(".row-line", has_text="Question 1?").wait_for(state="detached")
        press(page, "Tab", "Enter")
        opened = page.locator(".opened article")
        assert "Question 298?" in opened.inner_text()
        assert "cut off" in opened.inner_text()
        page.get_by_role("searchbox").fill("")
        page.get_by_text("100 rows found").wait_for()
        page.locator(".row-line").first.focus()
        press(page, "End")
        page.locator(".row-line:focus", has_text="Question 298?").wait_for()
        press(page, "Home", "ArrowDown")
        page.locator(".row-line:focus", has_text="Question 4?").wait_for()


def test_what_is_seen_of_the_rows_is_a_link_a_text_and_a_question(browser, folder):
    models = [scripted_model(ScriptedBackend("Blood."))]
    with (
        studio_of(folder) as address,
        served_act(folder, "runs/one", models),
        open_page(browser, f"{address}/proof/runs/one", permissions=["clipboard-read", "clipboard-write"]) as page,
    ):
        page.get_by_text("became better 100").click()
        page.get_by_role("searchbox").fill("question 29")
        page.get_by_text("4 rows found").wait_for()
        page.locator(".row-line", has_text="Question 292?").click()
        page.locator(".opened article").wait_for()
        other = page.context.new_page()
        other.goto(page.url)
        other.locator(".opened article h3", has_text="Question 292?").wait_for()
        other.get_by_text("4 rows found").wait_for()
        assert other.get_by_role("radio", name="became better 100").is_checked()
        assert other.get_by_role("searchbox").input_value() == "question 29"
        other.get_by_text("all 300").click()
        other.get_by_role("searchbox").fill("")
        assert other.url == f"{address}/proof/runs/one?row=v%3A292"
        page.get_by_role("button", name="Copy the row").click()
        page.get_by_role("button", name="Copied").wait_for()
        copied = page.evaluate("navigator.clipboard.readText()")
        assert copied.startswith("v:292\nQuestion 292?\n\n")
        assert "\n\nBase\n" in copied
        assert "\n\nTuned\n" in copied
        page.get_by_role("link", name="Ask it in Talk").click()
        box = page.frame_locator("iframe").locator("#question")
        page.frame_locator("iframe").locator("#model option").first.wait_for(state="attached")
        assert box.input_value() == "Question 292?"
        box.press("Enter")
        page.frame_locator("iframe").get_by_text("Blood.").wait_for()
        assert page.url == f"{address}/talk/runs/one", "the chat has the question now"
        page.get_by_role("button", name="中文").click()
        page.frame_locator("iframe").get_by_text("Blood.").wait_for()
        assert box.input_value() == ""


def test_a_question_of_any_length_is_carried_to_talk(browser, folder):
    rows = folder / "runs/one/eval/rows.jsonl"
    first = json.loads(rows.read_text(encoding="utf-8").splitlines()[0])
    write_json_lines(rows, [first | {"question": "Why? " * 20_000}])
    with studio_of(folder) as address, open_page(browser, f"{address}/proof/runs/one") as page:
        page.locator(".row-line").click()
        page.get_by_role("link", name="Ask it in Talk").click()
        page.reload()
        page.locator(".as-written", has_text="Why? Why?").wait_for(timeout=10_000)


def test_an_evaluations_command_says_what_the_form_says(browser, folder):
    (folder / "own questions.jsonl").write_text('{"question": "2+2?", "answer": "4"}\n')
    with studio_of(folder) as address, open_page(browser, f"{address}/proof/runs/one") as page:
        page.locator("details.card > summary").click()
        told = page.locator(".workload")
        told.get_by_text("3 held-out questions and 416 general questions, each with thinking and without").wait_for()
        told.get_by_text("1,676 replies are to be generated.").wait_for()
        page.get_by_role("checkbox", name="own questions.jsonl").check()
        told.get_by_text("1 of “own questions”").wait_for()
        page.get_by_role("checkbox", name="Medicine, Chinese").check()
        page.get_by_label("Questions of each set").fill("50")
        page.get_by_role("checkbox", name="general questions").uncheck()
        page.locator("label:has(option[value=off]) select").select_option("off")
        told.get_by_text(
            "3 held-out questions, 1 of “own questions”, at most 50 of CMExam, at most 50 of CMB-Exam, at most 50 of CMMLU (medicine) and at most 50 of C-Eval (medicine), without thinking"
        ).wait_for()
        told.get_by_text("8 replies are to be generated. The exams’ replies come on top.").wait_for()
        line = page.locator("details.card .command code")
        page.locator("details.card .command code", has_text="--no-thinking").wait_for()
        for said in (
            "eval --wait --no-probe --no-thinking",
            "'--tasks=own questions.jsonl'",
            "--exam=medical-zh",
            " runs/one",
        ):
            assert said in line.inner_text()


def test_chat_page_inside_its_votes_and_rows(browser, folder):
    run = RunFolder(folder / "runs/one")
    models = [scripted_model(ScriptedBackend(text), name) for text, name in (("<think>\nSo.\n</think>\n\nBlood.", "tuned"), ("Who knows.", "base"))]  # fmt: skip
    for model in models:
        model.run, model.step = run, 30
    # The votes are of step 30's model, which is the one that the run now serves.
    write_json(run.final / "trainer_state.json", {"step": 30})
    with studio_of(folder) as address, served_act(folder, "runs/one", models) as act:
        with open_page(browser, f"{address}/talk/runs/one") as page:
            chat = page.frame_locator("iframe")
            chat.locator("#compare option").nth(1).wait_for(state="attached")
            chat.locator("#compare").select_option("base")
            chat.locator("#blind").check()
            chat.locator("#question").fill("What does the heart pump?")
            chat.locator("#question").press("Enter")
            chat.get_by_role("button", name="Left").click()
            chat.get_by_role("button", name="Good", exact=True).first.click()
            page.get_by_text("1 good").wait_for()
            assert "data=" in page.locator(".command code").last.inner_text()
            assert len(read_votes(run)) == 1
            page.route("**/v1/**", lambda route: route.fulfill(status=502))
            chat.locator("#question").fill("And the lungs?")
            chat.locator("#question").press("Enter")
            chat.get_by_text("start it again on this screen").wait_for()
            page.unroute_all()
            page.goto(f"{address}/chat/{act}/")
            page.locator("#model option").first.wait_for(state="attached")
        policy = httpx.get(f"{address}/chat/{act}/", trust_env=False).headers["content-security-policy"]
        assert "frame-ancestors 'self'" in policy
        foreign = httpx.get(
            f"{address}/chat/{act}/v1/models", headers={"origin": "http://evil.example"}, trust_env=False
        )
        assert foreign.status_code == 403


def test_key_is_needed_for_a_model_that_was_served_without_one(folder):
    models = [scripted_model(ScriptedBackend("yes"))]
    with studio_of(folder, key="secret") as address, served_act(folder, "runs/one", models) as act:
        chat = f"{address}/chat/{act}"
        assert httpx.get(f"{chat}/", trust_env=False).status_code == 200
        assert httpx.get(f"{chat}/page/main.js", trust_env=False).status_code == 200
        for path in ("v1/models", "api/tags", "metrics", "page%2f..%2fv1/models"):
            assert httpx.get(f"{chat}/{path}", trust_env=False).status_code in (401, 404), path
        key = {"authorization": "Bearer secret"}
        assert httpx.get(f"{chat}/v1/models", headers=key, trust_env=False).status_code == 200
        other = httpx.get(f"{address}/chat/20261129-120000-serve-ffffff/v1/models", headers=key, trust_env=False)
        assert other.status_code == 404


def test_key_that_was_given_once_opens_the_chat_page_inside(browser, folder):
    models = [scripted_model(ScriptedBackend("Blood."))]
    with (
        studio_of(folder, key="secret") as address,
        served_act(folder, "runs/one", models, key="secret"),
        open_page(browser, f"{address}/talk/runs/one") as page,
    ):
        page.locator("dialog input[type=password]").fill("secret")
        page.keyboard.press("Enter")
        chat = page.frame_locator("iframe")
        chat.locator("#model option").first.wait_for(state="attached")
        chat.locator("#question").fill("Why?")
        chat.locator("#question").press("Enter")
        chat.get_by_text("Blood.").wait_for()


def test_a_strangers_card_is_read_as_formatted_text_and_nothing_in_it_runs_or_loads(browser, folder):
    hostile = """---
license: mit
---
# Heart model

| rows | right |
|---|---|
| 3 | 90 % |

<script>window.ran = 1</script><img src=x onerror="window.ran = 2">

![pixel](http://evil.example/p.png) [go](javascript:window.ran=3) [web](https://example.org/a) <a href="javascript:window.ran=4">x</a>

<iframe src="http://evil.example"></iframe><style>body { display: none }</style><svg onload="window.ran = 5"></svg>

[data](data:text/html,<script>1</script>) `code` **bold**
"""
    (folder / "runs/one/final/README.md").write_text(hostile)
    with studio_of(folder) as address, open_page(browser, f"{address}/proof/runs/one") as page:
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.locator(".row-line").first.wait_for()
        assert not any(
            "marked" in one for one in page.evaluate("performance.getEntriesByType('resource').map(one => one.name)")
        )
        page.get_by_role("link", name="Take home").click()
        card = page.get_by_role("group", name="card")
        card.locator("h1[aria-level='3']", has_text="Heart model").wait_for()
        card.get_by_role("cell", name="90 %").wait_for()
        assert card.locator("strong").inner_text() == "bold"
        assert card.locator("script, img, iframe, style, svg, object, embed, form").count() == 0
        assert card.locator("a").evaluate_all("links => links.map(link => link.href)") == ["https://example.org/a"]
        assert "license: mit" not in card.inner_text()
        assert "<script>window.ran = 1</script>" in card.inner_text(), "what is left out is seen"
        page.wait_for_timeout(300)
        assert page.evaluate("window.ran") is None
        assert all(one.startswith(address) for one in asked)


@EVERY_VIEW
@pytest.mark.parametrize("screen", ["proof/runs/one", "talk/runs/one", "take-home/runs/one", "think/one.yaml"])
def test_screens_leave_nobody_out(browser, folder, screen, locale, scheme, width):
    view = {"locale": locale, "color_scheme": scheme, "viewport": {"width": width, "height": 800}}
    with studio_of(folder) as address, open_page(browser, f"{address}/{screen}", **view) as page:
        page.locator("main h2, main .card").first.wait_for()
        page.wait_for_timeout(300)
        for summary in page.locator("main summary:visible").all():
            if not summary.evaluate("it => it.parentElement.open"):
                summary.click()
        if row := page.locator(".row-line").first if screen.startswith("proof") else None:
            row.click()
            page.locator(".opened article").wait_for()
        page.wait_for_timeout(300)
        assert violations(page) == []
        assert not page.evaluate("document.documentElement.scrollWidth > innerWidth"), "nothing is wider than the page"
        shown = page.locator("main").inner_text()
        for missing in ("undefined", "[object", "NaN"):
            assert missing not in shown


def test_what_a_verdict_says_to_change_is_written_as_a_new_recipe(browser, folder):
    before = (folder / "one.yaml").read_bytes()
    report = json.loads((folder / "runs/one/eval/report.json").read_text(encoding="utf-8"))
    [obeyed] = [one for one in compare([{"obeyed": 1.0}] * 60, [{"obeyed": 0.0}] * 60) if one["measure"] == "obeyed"]
    write_json(folder / "runs/one/eval/report.json", report | {"switches": [{"mode": "silent", **obeyed, "rows": 60}]})
    with studio_of(folder) as address, open_page(browser, f"{address}/train/runs/one") as page:
        page.get_by_label("Epochs, more than").fill("7")
        page.get_by_role("button", name="Write the new recipe").click()
        page.wait_for_url("**/plan/one-2.yaml")
        assert page.get_by_label("Passes over the rows").input_value() == "7"
        page.goto(f"{address}/proof/runs/one")
        share = page.get_by_label("Share of rows without reasoning, more than 0")
        assert page.get_by_role("button", name="Write the new recipe").is_disabled()
        share.fill("0.1")
        page.get_by_role("button", name="Write the new recipe").click()
        page.wait_for_url("**/plan/one-3.yaml")
    assert load_recipe(folder / "one-3.yaml").data.silent_share == 0.1
    assert (folder / "one.yaml").read_bytes() == before


def test_a_failed_button_of_the_first_screen_forgets_what_is_over(browser, folder):
    for name in ("two", "three"):
        write_run(folder / "runs" / name, 1e-5)
    with studio_of(folder) as address, open_page(browser, address) as page:
        answers = ['{"error": {"message": "no"}}', ""]  # a refusal, then no studio
        page.route(
            "**/studio/acts",
            lambda route: (
                route.fulfill(status=502, body=answers.pop(0)) if route.request.method == "POST" else route.fallback()
            ),
        )
        ticks = page.locator(".runs tbody input[type=checkbox]")
        ticks.nth(0).check()
        ticks.nth(1).check()
        page.get_by_role("button", name="Side by side").click()
        page.get_by_text("no", exact=True).wait_for()
        ticks.nth(2).check()
        page.get_by_text("no", exact=True).wait_for(state="detached")
        page.get_by_role("button", name="Side by side").click()
        dead = page.get_by_text("The studio does not answer")
        dead.locator("visible=true").wait_for()  # said once
        dead.first.wait_for(state="detached")


def test_the_plan_of_a_run_that_has_ended_starts_none_and_a_served_model_is_told_of(browser, folder):
    (folder / "new.yaml").write_text((folder / "one.yaml").read_text().replace("name: one", "name: new"))
    models = [scripted_model(ScriptedBackend("yes"))]
    with studio_of(folder) as address, served_act(folder, "runs/one", models):
        with open_page(browser, f"{address}/plan/one.yaml") as page:
            page.get_by_text("This run has finished").wait_for()
            page.get_by_role("link", name="Watch it").wait_for()
            assert page.get_by_role("button", name="training").count() == 0
        with open_page(browser, f"{address}/plan/new.yaml") as page:
            page.get_by_text("takes memory").wait_for()
