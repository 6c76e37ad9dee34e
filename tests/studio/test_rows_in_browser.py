"""The rows screen and the plan in a real browser: by keyboard, in both languages, with hostile rows and very many."""

import json
import os
import time

import httpx
import pytest
from support.axe import EVERY_VIEW, violations
from support.bases import make_base
from support.studio import open_page, studio_of

from thinktune.config.loading import load_recipe

RECIPE = "# mine\nmodel:\n  name: base  # small\ndata:\n  name: rows.jsonl\n  columns: {question: q, answer: a}\n"
EVIL = "<img src=x onerror=\"document.title='evil'\"><script>document.title='evil'</script>\u202e\x00\x1b[31m"
FACTS = {
    **{"verdict": "ready", "stops": [], "notes": [], "rows_read": 40, "train_rows": 30, "validation_rows": 8, "dropped_rows": 2},
    **{"stopping_rows": 0, "train_learned_tokens": 999, "steps": 12, "epochs": 3, "evaluate_every_steps": 3, "max_tokens": 2048},
    "files": [{"path": "rows.jsonl", "rows": 40, "format": "columns: question = q, answer = a", "columns": "{question: q, answer: a}"}],
    "faults": [
        {"fault": "duplicate", "meaning": "m", "policy": "drop", "count": 2, "actions": {"dropped": 2}, "dropped_share": 0.05, "examples": ["rows.jsonl:2: is the same as rows.jsonl:1"]},
        {"fault": "markup", "meaning": "m", "policy": "repair", "count": 1, "actions": {"repaired": 1}, "dropped_share": 0.0, "examples": [f"rows.jsonl:1: q: contains {EVIL}"]},
    ],
    "lengths": {part: {"mean": 10.0, "median": 9.0, "p95": 20.0, "max": 30.0} for part in ("whole", "prompt", "reasoning", "answer")},
    "histograms": {part: {"width": 2, "counts": [*range(24)]} for part in ("whole", "prompt", "reasoning", "answer")},
    "over": {"512": 0, "2048": 0},
    "languages": {"en": 30},
    "warnings": ["train.learning_rate: is 1; a model may be destroyed by it; write train.learning_rate: 0.002"],
    "time": {"seconds": [1800.0, 3600.0], "basis": "predicted for RTX 4090", "left_out": ["starting", "saving"]},
    "disk": {"most_bytes": 2**31, "free_bytes": 2**35, "fits": True},
    "plan": {
        **{"card": "RTX 4090", "card_gib": 24.0, "ranks": 1, "per_node": 1, "why": "exact is the best tier that fits", "networks": []},
        "options": [
            {"memory": memory, "update_in_backward": False, "activation_budget": 0.5, "offload_activations": False, "batch_tokens": 1024, "train_gib": 9.0, "evaluate_gib": 2.0, "sample_gib": 2.0, "host_gib": 0.0, "predicted_range": [100, 200], "fits": chosen, "chosen": chosen}
            for memory, chosen in (("exact", True), ("fp32", False))
        ],
    },
}  # fmt: skip
TURNS = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": f"a<br>b {EVIL}"}]
DOUBT = {
    **{
        "row": "rows.jsonl:1",
        "file": "rows.jsonl",
        "path": "rows.jsonl",
        "digest": "d",
        "fault": "markup",
        "meaning": "m",
    },
    **{"sentence": "rows.jsonl:1: a: contains markup", "action": "repaired", "policy": "repair", "turns": TURNS},
    "outcomes": {"repair": [TURNS[0], {"role": "assistant", "content": f"a\nb {EVIL}"}], "keep": TURNS, "drop": None},
}


@pytest.fixture
def folder(tmp_path):
    """Write a folder with hostile rows, a recipe, and a check of it that has ended."""
    rows = [{"q": f"Question {number}? {EVIL}", "a": f"Answer {number}", "n": number} for number in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n")
    (tmp_path / "mine.yaml").write_text(RECIPE)
    act = tmp_path / ".thinktune/acts/20260101-000000-check-aaaaaa"
    act.mkdir(parents=True)
    record = {
        "verb": "check",
        "argv": ["check"],
        "about": {"recipe": "mine.yaml"},
        "command": "thinktune check mine.yaml",
    }
    (act / "act.json").write_text(json.dumps(record | {"started_at": time.time() - 50, "folder": "."}))
    for name in ("rows.jsonl", "mine.yaml"):
        os.utime(tmp_path / name, (time.time() - 100, time.time() - 100))
    (act / "stdout").write_text(json.dumps(FACTS))
    (act / "exit.json").write_text(json.dumps({"code": 0, "ended_at": time.time()}))
    (tmp_path / "doubts/mine").mkdir(parents=True)
    (tmp_path / "doubts/mine/doubts.json").write_text(
        json.dumps({"format": 1, "counts": {"markup": 1}, "rows": [DOUBT]})
    )
    return tmp_path


@pytest.fixture
def address(folder):
    with studio_of(folder) as address:
        yield address


def recipe_in(folder, until):
    """Read the recipe once it is as it should be by now."""
    deadline = time.monotonic() + 10
    while not until(recipe := load_recipe(folder / "mine.yaml")) and time.monotonic() < deadline:
        time.sleep(0.05)
    return recipe


def test_columns_and_policies_are_changed_in_the_file_and_comments_stay(browser, folder, address):
    with open_page(browser, f"{address}/rows/mine.yaml") as page:
        page.get_by_label("What n is read as").select_option("keypoint")
        page.get_by_role("button", name="Write this into the recipe").click()
        assert recipe_in(folder, lambda recipe: recipe.data.columns.keypoint).data.columns.keypoint == "n"
        page.get_by_label("What to do about duplicate", exact=True).select_option("keep")
        policies = recipe_in(folder, lambda recipe: recipe.data.faults["duplicate"] == "keep").data.faults
        assert policies["duplicate"] == "keep"
        assert (folder / "mine.yaml").read_text().startswith("# mine\nmodel:\n  name: base  # small\n")
        page.get_by_text("Changed; check again").wait_for()
        page.get_by_text("have changed since this was checked").wait_for()
        (folder / "mine.yaml").write_text("# another's\n" + RECIPE)
        page.get_by_label("What to do about markup", exact=True).select_option("keep")
        page.wait_for_timeout(300)
        text = (folder / "mine.yaml").read_text()
        assert text.startswith("# another's\n"), "a change of the file is never lost"


def test_a_changed_column_leaves_the_others_lines_and_their_order(browser, folder, address):
    given = "columns:\n    question: [n, q]  # in this order\n    answer: a  # the reply\n"
    (folder / "mine.yaml").write_text(RECIPE.replace("columns: {question: q, answer: a}\n", given))
    with open_page(browser, f"{address}/rows/mine.yaml") as page:
        page.get_by_label("What a is read as").select_option("reasoning")
        page.get_by_role("button", name="Write this into the recipe").click()
        recipe_in(folder, lambda recipe: recipe.data.columns.reasoning)
        text = (folder / "mine.yaml").read_text()
        assert "    question: [n, q]  # in this order\n" in text
        assert "    reasoning: a\n" in text
        assert "answer: a" not in text


def test_hostile_rows_are_shown_as_text(browser, address):
    with open_page(browser, f"{address}/rows/mine.yaml?view=raw") as page:
        page.locator(".raw-row").first.click()
        shown = page.locator("dialog dd").first.inner_text()
        assert "<script>document.title='evil'</script>" in shown
        assert "⟨U+202E⟩" in shown
        assert "␀␛[31m" in shown
        page.keyboard.press("ArrowRight")
        page.get_by_role("heading", name="rows.jsonl:2", exact=True).wait_for()
        page.keyboard.press("Escape")
        page.locator("dialog dd").wait_for(state="detached")
        for view in ("Columns and faults", "Rows to look at"):
            page.get_by_role("button", name=view).click()
        page.get_by_text("a<br>b").first.wait_for()
        assert page.locator("main img, main script").count() == 0
        assert "evil" not in page.title()


def test_rows_are_found_opened_and_left_by_keyboard(browser, address):
    with open_page(browser, f"{address}/rows/rows.jsonl") as page:
        page.get_by_text("41 rows").wait_for()
        assert page.locator(".raw-row").count() < 25, "only what is in sight exists"
        page.get_by_label("Search").fill("answer 33")
        page.get_by_text("1 of 41 rows").wait_for()
        page.get_by_label("Search").fill("")
        page.get_by_text("41 rows", exact=True).wait_for()
        page.locator(".raw-row").first.focus()
        for key in ("End", "ArrowUp"):
            page.keyboard.press(key)
        page.locator(".raw-row:focus", has_text="Question 39?").press("Enter")
        page.get_by_role("heading", name="rows.jsonl:40", exact=True).wait_for()
        page.keyboard.press("ArrowRight")
        page.get_by_text("is not valid JSON").first.wait_for()
        page.keyboard.press("ArrowRight")
        page.get_by_role("heading", name="rows.jsonl:41", exact=True).wait_for()
        assert page.get_by_role("button", name="next").is_disabled(), "no row comes after the last"


def test_a_doubt_is_decided_beside_the_rows(browser, folder, address):
    with open_page(browser, f"{address}/rows/mine.yaml?view=doubts") as page:
        held = []
        page.route(
            "**/studio/doubts/**",
            lambda route: held.append(route) if route.request.method == "PUT" else route.continue_(),
        )
        radio = page.get_by_role("radio", name="train it as it is")
        radio.check()
        radio.blur()  # the page is drawn again
        page.wait_for_timeout(200)
        assert radio.is_checked(), "the choice stays while the server writes it"
        held.pop().continue_()
        page.get_by_text("decided", exact=True).wait_for()
        kept = json.loads((folder / "rows.jsonl.doubts.json").read_text())["decisions"]
        assert kept == [{"row": "rows.jsonl:1", "digest": "d", "policies": {"markup": "keep"}}]
        page.unroute("**/studio/doubts/**")
        page.get_by_role("button", name="Take it back").click()
        page.get_by_text("decided", exact=True).wait_for(state="detached")


@pytest.fixture
def plants(folder):
    """Make the rows a table in GBK, as a spreadsheet writes it, that was checked on a machine without a card."""
    rows = "".join(f"{n},第{n}种植物怎么养？{'很长的问题。' * 9},先看光照。,放在{n}号窗边。,园艺\n" for n in range(40))
    (folder / "plants.csv").write_bytes(("序号,问题,思考,回答,分类\n" + rows).encode("gbk"))
    (folder / "mine.yaml").write_text("model: {name: base}\ndata: {name: plants.csv, faults: {encoding: repair}}\n")
    file = {
        "path": "plants.csv",
        "rows": 40,
        "format": "f",
        "columns": "{question: 问题, reasoning: 思考, answer: 回答}",
    }
    whole = "plants.csv:1: the whole file is GBK, not UTF-8, and was read as GBK"
    fault = FACTS["faults"][1] | {"fault": "encoding", "examples": [whole]}
    plan = {"card": "cpu", "options": [], "why": "on the CPU: memory tier fp32, activation budget 1"}
    [act] = folder.glob(".thinktune/acts/*")
    (act / "stdout").write_text(json.dumps(FACTS | {"files": [file], "faults": [fault], "plan": plan}))
    return folder


@pytest.mark.parametrize("path", ["rows/mine.yaml?view=raw", "rows/plants.csv"])
def test_a_phone_shows_the_columns_that_are_read_below_each_other(browser, plants, address, path):
    with open_page(browser, f"{address}/{path}", locale="zh-CN", viewport={"width": 390, "height": 800}) as page:
        first = page.locator(".raw-row").first
        first.get_by_text("放在0号窗边").wait_for()
        assert first.locator(".cell-name").all_inner_texts() == ["问题", "思考", "回答"]
        boxes = [cell.bounding_box() for cell in first.locator(".cell").all()]
        assert [box["x"] for box in boxes] == [boxes[0]["x"]] * 3
        bottoms = [box["y"] + box["height"] for box in (boxes[-1], first.bounding_box())]
        assert bottoms[0] <= bottoms[1], "a row is as high as its lines"
        page.get_by_text("整个文件都是 GBK，不是 UTF-8，已按 GBK 读取").wait_for()
        assert page.locator(".fault-mark").count() == 0, "the file's encoding is no fault of a row"
        page.get_by_label("搜索").fill("园艺")
        page.get_by_text("40 行中有 40 行").wait_for()
        assert "园艺" in first.inner_text(), "what was searched for is seen"
        page.set_viewport_size({"width": 1280, "height": 800})
        first.get_by_text("序号").wait_for()
        assert first.locator(".cell-name").all_inner_texts() == ["序号", "问题", "思考", "回答", "分类"]


def test_a_phone_shows_the_mapping_whole_and_a_file_has_no_row_to_look_at(browser, plants, address):
    with open_page(
        browser, f"{address}/rows/mine.yaml", locale="zh-CN", viewport={"width": 390, "height": 800}
    ) as page:
        page.locator(".mapping .example").filter(has_text="放在2号窗边").wait_for()
        table, example = page.locator(".mapping"), page.locator(".mapping .example").last
        assert example.bounding_box()["width"] == table.bounding_box()["width"], "an example has the whole width"
        assert page.get_by_role("table").get_by_role("row").count() == 6, "it stays a table for those who hear it"
        card = page.get_by_role("article", name="编码错误")
        card.get_by_text("问题在整个文件").wait_for()
        assert card.get_by_role("button").count() == 0


def test_a_fault_of_a_row_has_the_readers_name_and_its_line_on_a_phone(browser, folder, address):
    row = {"question": "What is it?", "think": "It is one.", "answer": "One."}
    (folder / "loose.jsonl").write_text("".join(f"{line}\n" for line in (json.dumps(row), repr(row))))
    with open_page(
        browser, f"{address}/rows/loose.jsonl", locale="zh-CN", viewport={"width": 390, "height": 800}
    ) as page:
        mark = page.get_by_text("JSON 不规范（loose_json）")
        mark.wait_for()
        row = page.locator(".raw-row").nth(1)
        inside, boxes = row.bounding_box(), [mark.bounding_box(), row.locator(".cell").last.bounding_box()]
        assert inside["y"] <= boxes[0]["y"]
        assert boxes[1]["y"] + boxes[1]["height"] <= inside["y"] + inside["height"]
        page.get_by_role("button", name="English").click()
        page.get_by_text("loose_json", exact=True).wait_for()


def test_a_plan_for_the_cpu_says_so_in_plain_words(browser, plants, address):
    with open_page(browser, f"{address}/plan/mine.yaml", locale="zh-CN") as page:
        page.get_by_text("在 CPU 上运行，速度慢").wait_for()
        assert "激活预算" not in page.locator("main").inner_text()


def test_a_dropped_file_comes_into_the_folder_and_a_taken_name_is_told(browser, folder, address, tmp_path_factory):
    own = tmp_path_factory.mktemp("mine") / "new rows.jsonl"
    own.write_text('{"question": "a", "answer": "b"}\n')
    with open_page(browser, f"{address}/rows") as page:
        page.set_input_files("input[type=file]", own)
        page.get_by_role("heading", name="new rows.jsonl").wait_for()
        assert (folder / "new rows.jsonl").read_bytes() == own.read_bytes()
        page.get_by_text("thinktune init --yes 'new rows.jsonl'").wait_for()
        page.goto(f"{address}/rows")
        page.set_input_files("input[type=file]", own)
        page.get_by_text("is in the folder already").wait_for()
        other = own.with_name("other.jsonl")
        other.write_bytes(own.read_bytes())
        page.set_input_files("input[type=file]", [own, other])
        page.get_by_text("In the folder now").wait_for()
        page.get_by_text("is in the folder already").wait_for()
        assert (folder / "other.jsonl").read_bytes() == own.read_bytes(), "every file is taken"


def test_settings_are_written_whole_or_not_at_all_and_warnings_carry_their_value(browser, folder, address):
    with open_page(browser, f"{address}/plan/mine.yaml", locale="zh-CN") as page:
        page.get_by_role("button", name="写入 train.learning_rate: 0.002").click()
        assert recipe_in(folder, lambda recipe: recipe.train.learning_rate == 0.002).train.learning_rate == 0.002
        page.get_by_label("训练轮数").fill("7")
        page.get_by_label("最长的行").fill("99999999999")
        page.get_by_role("button", name="写入配方").click()
        page.get_by_role("alert").filter(has_text="data.max_tokens").wait_for()
        assert load_recipe(folder / "mine.yaml").train.epochs == 2
        page.get_by_label("最长的行").fill("512")
        page.get_by_role("button", name="写入配方").click()
        recipe = recipe_in(folder, lambda recipe: recipe.train.epochs == 7)
        assert (recipe.train.epochs, recipe.data.max_tokens, recipe.train.learning_rate) == (7, 512, 0.002)
        assert page.get_by_role("button", name="开始训练").is_disabled(), (
            "what was checked is not what would be trained"
        )


def test_a_recipe_with_mistakes_is_mended_as_a_text(browser, folder, address):
    (folder / "mine.yaml").write_text(RECIPE + "train: {epoch: 3}\n")
    with open_page(browser, f"{address}/rows/mine.yaml") as page:
        page.get_by_text("train.epoch: unknown key").wait_for()
        text = page.get_by_label("The recipe as a text")
        text.fill(RECIPE + "train: {epochs: none}\n")
        page.get_by_role("button", name="Write this text").click()
        page.get_by_text("train.epochs: is").wait_for()
        text.fill(RECIPE + "train: {epochs: 3}  # three\n")
        page.get_by_role("button", name="Write this text").click()
        page.get_by_text("What n is read as").or_(page.get_by_label("What n is read as")).first.wait_for()
        assert (folder / "mine.yaml").read_text() == RECIPE + "train: {epochs: 3}  # three\n"


def test_a_typed_text_never_replaces_another_ones(browser, folder, address):
    with open_page(browser, f"{address}/plan/mine.yaml") as page:
        page.get_by_text("The recipe as a text").click()
        text = page.get_by_label("The recipe as a text")
        text.fill(RECIPE + "# typed\n")
        (folder / "mine.yaml").write_text(RECIPE + "# another's\n")
        page.get_by_text("has changed in the file since you began").wait_for()
        assert page.get_by_role("button", name="Write this text").is_disabled()
        assert text.input_value() == RECIPE + "# typed\n", "what was typed stays"
        assert (folder / "mine.yaml").read_text() == RECIPE + "# another's\n"
        page.get_by_role("button", name="Replace it by mine").click()
        page.get_by_role("button", name="Write this text").click()
        page.get_by_role("button", name="Write this text").wait_for(state="detached")
        assert (folder / "mine.yaml").read_text() == RECIPE + "# typed\n"


def test_time_disk_and_cost_are_told_at_the_price_of_an_hour(browser, address):
    with open_page(browser, f"{address}/plan/mine.yaml") as page:
        page.get_by_label("Price of an hour").fill("2.5")
        page.get_by_label("Currency").fill("CNY")
        takes = page.locator(".takes")
        takes.get_by_text("1.25–2.50 CNY").wait_for()
        assert "30–60 min" in takes.inner_text()
        assert "at most 2.0 GiB" in takes.inner_text()
        assert page.locator("tr.chosen").inner_text().startswith("chosen")
        page.reload()
        page.locator(".takes").get_by_text("1.25–2.50 CNY").wait_for()


@EVERY_VIEW
@pytest.mark.parametrize(
    "path",
    [
        *("rows/mine.yaml", "plan/mine.yaml"),
        *(pytest.param(path, marks=pytest.mark.slow) for path in ("rows", "rows/rows.jsonl", *(f"rows/mine.yaml?view={view}" for view in ("lengths", "doubts", "raw")))),
    ],
)  # fmt: skip
def test_axe_finds_nothing_and_nothing_is_wider_than_the_page(browser, address, path, locale, scheme, width):
    looks = {"locale": locale, "color_scheme": scheme, "viewport": {"width": width, "height": 800}}
    with open_page(browser, f"{address}/{path}", **looks) as page:
        page.locator("main h1").wait_for()
        page.wait_for_timeout(400)
        assert violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.slow
def test_a_recipe_is_made_checked_and_looked_at_in_tokens_from_new_rows(browser, tmp_path):
    make_base(tmp_path / "base", "tied")
    rows = [
        {"question": f"What is {n}?", "think": f"It is {n}, I say so.", "answer": f"The number {n}."} for n in range(40)
    ]
    (tmp_path / "new.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with studio_of(tmp_path) as address, open_page(browser, f"{address}/rows/new.jsonl") as page:
        page.set_default_timeout(180_000)
        page.get_by_label("Model").fill("base")
        page.get_by_role("button", name="Make a recipe").click()
        page.get_by_role("link", name="Go on with new.yaml").click()
        page.get_by_role("button", name="Check the rows").click()
        page.get_by_text("tokens learned").wait_for()
        page.get_by_role("button", name="Tokens").click()
        page.get_by_text("new.jsonl:1 ·").wait_for()
        assert "The number 0." in page.locator(".token-text").inner_text()
        page.locator(".token-text").focus()
        page.keyboard.press("ArrowRight")
        page.get_by_text("new.jsonl:2 ·").wait_for()
        page.get_by_role("button", name="On to the plan").click()
        page.get_by_role("button", name="Start training").wait_for()
        page.get_by_role("button", name="Start training").click()
        page.wait_for_url("**/train/runs/new")
        deadline = time.monotonic() + 120
        while not (tmp_path / "runs/new").is_dir() and time.monotonic() < deadline:
            time.sleep(0.2)
        assert (tmp_path / "runs/new").is_dir(), "the command line's own process trains"
        for act in httpx.get(f"{address}/studio/acts").json()["acts"]:
            while httpx.get(f"{address}/studio/acts/{act['id']}").json()["state"] in ("waiting", "running"):
                httpx.post(f"{address}/studio/acts/{act['id']}/stop", json={})
                time.sleep(1)


@pytest.mark.slow
def test_a_hundred_thousand_rows_scroll_and_are_searched_quickly(browser, tmp_path):
    with (tmp_path / "many.jsonl").open("w") as file:
        for number in range(100_000):
            file.write(json.dumps({"question": f"Question {number}? " * 9, "answer": "An answer. " * 40}) + "\n")
    with studio_of(tmp_path) as address, open_page(browser, f"{address}/rows/many.jsonl") as page:
        page.set_default_timeout(60_000)
        started = time.monotonic()
        page.get_by_text("Question 0?").first.wait_for()
        first = time.monotonic() - started
        page.get_by_text("100,000 rows", exact=True).wait_for()
        read = time.monotonic() - started
        page.locator(".raw-row").first.focus()
        started = time.monotonic()
        page.keyboard.press("End")
        page.get_by_text("Question 99999?").first.wait_for()
        end = time.monotonic() - started
        started = time.monotonic()
        page.get_by_label("Search").fill("question 77777?")
        page.get_by_text("1 of 100,000 rows").wait_for()
        found = time.monotonic() - started
        print(f"first {first:.2f} s, read {read:.1f} s, end {end:.2f} s, found {found:.2f} s")
        assert page.locator(".raw-row").count() < 30
        assert first < 3
        assert end < 2
        assert found < 20
