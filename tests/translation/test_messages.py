"""Messages in Chinese: whole, of parts, and none of what a user wrote."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinktune.commands.fix import Fixing, format_recipe
from thinktune.config.strict_yaml import parse_yaml
from thinktune.report.html import recorded
from thinktune.terminal import print_json, say
from thinktune.translation import find_language, translate
from thinktune.translation.catalogue import PLACE, Template, read_catalogue

MESSAGES = sorted(english for entries in read_catalogue().values() for english in entries)

# What is printed, by way of several templates, and what a reader of Chinese sees.
GOLDEN = {
    "train.batch_size: unknown key; did you mean expert.batch_tokens?": "train.batch_size: 没有这个设置；是不是想写 expert.batch_tokens？",
    "form.jsonl: 450 rows, columns: question = question, reasoning = think, answer = answer; ignored: keypoint": "form.jsonl: 450 行，列：问题 = question，思考 = think，回答 = answer；不使用：keypoint",
    "near_duplicate: 3 kept, as in form.jsonl:44: its question is 82% like that of form.jsonl:31": "near_duplicate: 保留 3 行，例如 form.jsonl:44: 问题与 form.jsonl:31 的相似度为 82%",
    "step 120/360 eval loss 2.8421 on 28 held-out rows in 0.2 s: still learning. The eval loss is still falling.": "第 120/360 步，验证 loss 2.8421（28 行留出数据，用时 0.2 秒）：仍在学习。验证 loss 还在下降。",
    "step 40/360 11% loss 6.5714 1,758 tokens/s memory 0.5 GiB left 3:00": "第 40/360 步 11% loss 6.5714 1,758 tokens/s 显存 0.5 GiB 剩余 3:00",
    "overfitting since step 80. The eval loss is still falling.": "自第 80 步起过拟合。验证 loss 还在下降。",
    "step 513: loss 0.023 is a spike; rows: train.jsonl:208, train.jsonl:163": "第 513 步：loss 0.023 突增；数据：train.jsonl:208, train.jsonl:163",
    "final model: runs/a/final (step 648, the best of those evaluated)": "最终模型：runs/a/final（第 648 步，在评估过的各步中最好）",
    "held-out: better; correct answers 0.0 % → 85.0 %, +85.0 points (+76.2 to +90.2), 120 rows": "留出数据：变好；答对率 0.0 % → 85.0 %，+85.0 个百分点（+76.2 到 +90.2），120 行",
    "nofile.yaml: cannot be read (No such file or directory); name a recipe file, such as one in recipes/": "nofile.yaml: 无法读取（没有这个文件或目录）；请指定配方文件，例如 recipes/ 里的一份",
    "\nwritten: mine.yaml, which is not ready: fix what is listed above": "\n已写入：mine.yaml，但还不能训练：请先修正上面列出的内容",
}


@pytest.mark.parametrize("english", GOLDEN)
def test_what_is_printed_is_translated_as_a_whole(english: str):
    assert translate(english, "zh") == GOLDEN[english]


def test_english_stays_as_it_is():
    for english in GOLDEN:
        assert translate(english, "en") == translate(english) == english


@pytest.mark.parametrize("message", MESSAGES[:: max(1, len(MESSAGES) // 300)])
def test_a_text_that_a_user_wrote_is_not_translated_where_it_is_quoted(message: str):
    """A row's text may be, to the letter, a message of ours."""
    text = PLACE.sub("3", message)
    said = f"rows.jsonl:3: answer: only repeats the question ({text!r}); fix the row"
    assert translate(said, "zh") == f"rows.jsonl:3: answer: 只是把问题重复一遍（{text!r}）；请修正这一行"


@given(st.text(max_size=60))
def test_any_other_text_stays_as_it_is_or_keeps_what_is_not_english(text: str):
    """Numbers, Chinese and marks that no template has come through."""
    made = translate(text, "zh")
    if not any(letter.isascii() and letter.isalpha() for letter in text):
        assert made == text


@given(st.lists(st.text("abcxyz/.-_0123456789", min_size=1, max_size=12), min_size=5, max_size=5))
def test_every_template_is_found_again_in_what_it_makes(values: list[str]):
    """Filled with what needs no translation, a long template becomes its translation, filled the same way."""
    entries = [pair for each in read_catalogue().values() for pair in each.items()]
    english, chinese = entries[sum(map(len, values)) * 97 % len(entries)]
    places = len(PLACE.findall(english))
    if not 1 <= places <= 5 or len(english) < 60 or "{}{}" in english or "!" in chinese or "{!r}" in english:
        return
    filled = iter(values)
    said = PLACE.sub(lambda _: next(filled), english)
    assert translate(said, "zh") == Template.parse(english, chinese).fill(values[:places])


@pytest.mark.parametrize(
    ("variables", "language"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "en_US.UTF-8"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "C.UTF-8", "LC_MESSAGES": "zh_TW"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": ""}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "THINKTUNE_LANG": "en"}, "en"),
        ({"LC_ALL": "C", "THINKTUNE_LANG": "zh"}, "zh"),
    ],
)
def test_the_first_variable_that_is_set_decides(variables: dict[str, str], language: str):
    assert find_language(variables) == language


def test_lines_are_translated_and_json_is_not(monkeypatch, capsys):
    monkeypatch.setenv("THINKTUNE_LANG", "zh")
    say("stopped; nothing was written")
    print_json({"stops": ["stopped; nothing was written"]})
    assert (
        capsys.readouterr().out
        == '已停止，没有写入任何内容\n{\n  "stops": [\n    "stopped; nothing was written"\n  ]\n}\n'
    )


def test_a_recipe_has_its_reasons_in_the_terminals_language(monkeypatch):
    monkeypatch.setenv("THINKTUNE_LANG", "zh")
    fixing = Fixing({"data": {"name": "rows.jsonl", "validation": 0.2}})
    fixing.reasons["data.validation"] = ["60 of 300 usable rows are held out, enough to tell a gain from chance"]
    text = format_recipe(fixing, "Written by thinktune init for rows.jsonl; the reason is above each choice.")
    assert "# 由 thinktune init 为 rows.jsonl 写成" in text
    assert "  # 300 行可用数据中留出 60 行，足以区分" in text
    assert parse_yaml(text).value == fixing.tree


def test_a_page_shows_a_recorded_sentence_in_both_languages():
    assert recorded("the checkpoint of step 3 is intact") == (
        '<span class="en">the checkpoint of step 3 is intact</span>'
        '<span class="zh" lang="zh">第 3 步的检查点完好</span>'
    )
    assert recorded("<b>") == "&lt;b&gt;"


def run_thinktune(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path), **variables}
    return subprocess.run(
        [sys.executable, "-m", "thinktune", *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=environment,
    )


def test_the_command_line_speaks_the_systems_language_or_the_one_asked_for():
    done = run_thinktune("init", "--help", LANG="zh_CN.UTF-8", COLUMNS="80")
    assert "根据你的数据和显卡写一份合适的配方" in done.stdout
    assert "[必填]" in done.stdout
    assert done.returncode == 0
    wrong = run_thinktune("--lang", "zh", "train", "none.yaml", LANG="en_US.UTF-8")
    assert wrong.stderr.startswith("错误: none.yaml: 无法读取")
    assert wrong.returncode == 2
    unknown = run_thinktune("--lang=zh", "trian")
    assert "没有命令 'trian'。是不是想用 'train'" in unknown.stderr
    assert unknown.returncode == 2
    english = run_thinktune("--lang", "en", "train", "none.yaml", LANG="zh_CN.UTF-8")
    assert english.stderr.startswith("error: none.yaml: cannot be read")
