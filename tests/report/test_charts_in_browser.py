"""Charts and rows of a page are read, zoomed, sorted and saved by mouse, touch and keys, in a real browser."""

import csv
import io
import json
import re
from pathlib import Path

import pytest
from support.recorded_run import REPLY, write_run

from thinktune.report import write_comparison
from thinktune.report.run_page import write_run_page

pytestmark = pytest.mark.usefixtures("browser")


@pytest.fixture(scope="module")
def page_file(tmp_path_factory) -> Path:
    run = write_run(tmp_path_factory.mktemp("charts") / "one", 1e-5)
    steps = [{"kind": "train", "step": step, "epoch": step / 20, "loss": 8 / step, "learning_rate": 1e-5, "gradient_norm": 1.0,
              "tokens": 1000, "tokens_per_second": 500.0, "seconds": 2.0 * step} for step in range(1, 61)]  # fmt: skip
    evals = [{"kind": "eval", "step": step, "epoch": step / 20, "loss": 9 / (step + 1)} for step in (0, 30, 60)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in [*evals[:1], *steps, *evals[1:]]))
    rows = [{"question": f"Question {n} about {'bees' if n % 3 else 'wasps'}", "set": "held-out", "row": f"val.jsonl:{n}", "outcome": ("worse", "better", "same")[n % 3],
             "apart": False, "references": ["Because."], "reference_reasoning": "", "keypoints": [], "base": REPLY | {"scores": {}},
             "tuned": REPLY | {"answer": "x" * n, "scores": {}}} for n in range(1, 61)]  # fmt: skip
    (run / "eval" / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    return write_run_page(run)


@pytest.fixture
def tab(browser, page_file):
    view = browser.new_context(viewport={"width": 1280, "height": 900}, locale="en-US", offline=True, accept_downloads=True)  # fmt: skip
    page, wrong = view.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text))
    page.goto(page_file.resolve().as_uri())
    yield page
    assert wrong == []
    view.close()


def loss_chart(page):
    chart = page.locator("#learning .chart").first
    chart.locator("svg.plot").evaluate("plot => plot.scrollIntoView({ block: 'center' })")
    return chart


def read(chart) -> str:
    return " ".join(chart.locator(".readout").inner_text().split())


def x_ticks(chart) -> list[str]:
    return chart.locator("text.tick.x").all_text_contents()


def test_values_are_read_by_pointer_keys_and_touch_and_on_all_charts_at_once(tab):
    chart, rates = loss_chart(tab), tab.locator("#health .chart").first
    box = chart.locator("svg.plot").bounding_box()
    tab.mouse.move(box["x"] + box["width"] - 20, box["y"] + box["height"] / 2)
    assert read(chart).startswith("step 60 epoch 3.00 time 2:00 tokens 60,000")
    assert re.search(r"eval 0.1475", read(chart))
    assert read(rates).startswith("step 60")
    assert chart.locator(".cursor").count() == rates.locator(".cursor").count() == 1
    tab.mouse.move(5, 5)
    assert chart.locator(".cursor").count() == 0
    chart.locator("svg.plot").focus()
    for key in ("Home", "ArrowRight", "ArrowRight"):
        tab.keyboard.press(key)
    assert read(chart).startswith("step 2 ")
    assert "train, each record 4" in read(chart)
    chart.locator("svg.plot").dispatch_event("pointerdown", {"clientX": box["x"] + box["width"] / 2, "clientY": box["y"] + 50, "pointerType": "touch", "pointerId": 7})  # fmt: skip
    assert re.match(r"step (2[5-9]|3[0-3])", read(chart))


def test_a_part_is_zoomed_by_dragging_and_by_keys_and_the_whole_comes_back(tab):
    chart = loss_chart(tab)
    whole, box = x_ticks(chart), chart.locator("svg.plot").bounding_box()
    tab.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 80)
    tab.mouse.down()
    tab.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + 80, steps=4)
    tab.mouse.up()
    zoomed = [int(tick) for tick in x_ticks(chart)]
    assert min(zoomed) >= 20
    assert max(zoomed) <= 45
    tab.click(".chart-whole")
    assert x_ticks(chart) == whole
    chart.locator("svg.plot").focus()
    tab.keyboard.press("End")
    tab.keyboard.press("+")
    assert int(x_ticks(chart)[0]) >= 25
    tab.keyboard.press("Escape")
    assert x_ticks(chart) == whole


def test_x_is_shown_as_epochs_time_or_tokens_and_losses_on_either_axis(tab):
    chart = loss_chart(tab)
    y_ticks = chart.locator("text.tick.y").all_text_contents()
    assert y_ticks == ["0.1", "0.2", "0.5", "1", "2", "5", "10"][-len(y_ticks) :]
    for over, last in (("epoch", "3.0"), ("seconds", "2:00"), ("tokens", "60,000"), ("step", "60")):
        tab.select_option("[name=over]", over)
        assert x_ticks(chart)[-1] == last
    options = tab.locator("[name=over]").inner_text().split()
    tab.click("#language")
    assert {tuple(options), tuple(tab.locator("[name=over]").inner_text().split())} == {
        ("step", "epoch", "time", "tokens"),
        ("步", "轮", "时间", "token"),
    }
    tab.click("#language")
    tab.uncheck("[name=log]")
    assert chart.locator("text.tick.y").first.text_content() == "0"
    before = chart.locator("path.line.train").last.get_attribute("d")
    tab.locator("[name=smoothing]").fill("30")
    assert chart.locator("path.line.train").last.get_attribute("d") != before


def test_a_chart_is_saved_as_csv_and_picture_and_all_figures_as_json(tab):
    chart = loss_chart(tab)
    with tab.expect_download() as saved:
        chart.locator(".chart-files button").first.click()
    assert saved.value.suggested_filename == "one-Loss.csv"
    rows = [*csv.DictReader(io.StringIO(Path(saved.value.path()).read_text(encoding="utf-8-sig")))]
    assert rows[0]["eval"] == "9"
    assert (rows[30]["step"], rows[30]["seconds"], float(rows[30]["train, each record"])) == ("30", "60", pytest.approx(8 / 30, rel=1e-5))  # fmt: skip
    with tab.expect_download() as saved:
        chart.locator(".chart-files button").last.click()
    assert Path(saved.value.path()).read_bytes().startswith(b"\x89PNG")
    assert Path(saved.value.path()).stat().st_size > 10_000
    with tab.expect_download() as saved:
        tab.click(".run-json")
    figures = json.loads(Path(saved.value.path()).read_text(encoding="utf-8"))
    assert [each["key"] for each in figures["answer"]] == ["right", "general", "best", "time"]
    assert len(figures["clock"]["step"]) == 61


def test_rows_are_searched_filtered_sorted_and_come_a_few_at_a_time(tab):
    shown = tab.locator(".read:visible")
    assert shown.count() == 20
    tab.click(".more-rows button")
    assert shown.count() == 60
    tab.fill(".row-tools input", "WASPS")
    assert shown.count() == 20
    assert all("wasps" in text for text in shown.all_inner_texts())
    tab.locator(".filters label").nth(2).click()
    assert shown.count() == 0
    tab.fill(".row-tools input", "")
    tab.select_option(".row-tools select", "longest")
    assert [text.split()[1] for text in shown.all_inner_texts()[:2]] == ["58", "55"]


def test_the_theme_is_switched_and_kept(tab):
    def background():
        return tab.evaluate("getComputedStyle(document.documentElement).backgroundColor")

    light = background()
    tab.click("#theme")
    dark = background()
    assert dark != light
    tab.reload()
    assert background() == dark
    tab.click("#theme")
    assert background() == light


def test_a_phone_is_not_asked_to_scroll_through_what_it_did_not_open(browser, page_file):
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.goto(page_file.resolve().as_uri())
    assert page.evaluate("document.documentElement.scrollHeight") < 8000
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert not page.locator("#data .facts-table").is_visible()
    page.click("#data-fold > summary")
    assert page.locator("#data .facts-table").is_visible()
    page.close()


def test_two_runs_are_read_on_one_chart(tmp_path, browser):
    runs = [write_run(tmp_path / name, 1e-5) for name in ("one", "other")]
    page = browser.new_page()
    page.goto(write_comparison(runs).resolve().as_uri())
    page.locator("svg.plot").first.focus()
    page.keyboard.press("End")
    assert re.match(r"(epoch|轮) 3 .*one: eval 1.6 .*other: eval 1.6", read(page.locator(".chart").first))
    assert "one：验证" in page.content()
    page.close()
