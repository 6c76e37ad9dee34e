"""Chinese words of the pages: each fault and fact has some, and one term stands for one thing in every Chinese text."""

import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from thinktune.config.row_faults import ROW_FAULTS, FaultPolicy
from thinktune.data.types import Action
from thinktune.planner.memory import Setting
from thinktune.report import html
from thinktune.report.html import BilingualText
from thinktune.report.run_sections import data_words
from thinktune.run.environment import LIBRARIES, describe_environment

ROOT = Path(__file__).parents[2]
SERVE_PAGE = Path(html.__file__).parents[1] / "serve" / "page"
CHINESE = re.compile("[\u4e00-\u9fff]")

# What a text must not say, as a regular expression, and what docs/glossary.zh.md says instead.
FORBIDDEN = {
    "词元": "token",
    "(训练|验证|评估|推理|思考|答案|回答|留出)损失": "训练 loss、验证 loss……",
    "损失": "loss，说能力时用“下降”",
    "评估 ?loss|留出 ?loss": "验证 loss",
    "老师": "教师模型",
    "微调[前后]": "训练前、训练后",
    "基础模型|底座": "基座模型",
    "基座(?!模型)": "基座模型",
    "推理(?!引擎)": "思考（指生成时才说推理）",
    "结束符|终止符": "结束标记",
    "验证数据|验证行|评估集": "留出数据",
    "留出留出|留出的留出": "留出数据",
    "探针": "通用题",
    "(训练|运行)(文件夹|目录)(?<!运行目录)|文件夹": "运行目录、目录",
    "内存档位|显存级别|显存分级": "显存档位",
    "动量": "一阶、二阶矩",
    "最佳(步|检查点)": "最好的一步、最好的检查点",
    "数据问题|[0-9]+ 种问题": "数据缺陷",
    "评审": "裁判模型",
    "(?<![a-z])[a-z]*(?:token|loss)[\u4e00-\u9fff]|[\u4e00-\u9fff](?:token|loss)(?![a-z_])": "中文与 token、loss 之间空一格",
    "加速卡": "显卡",
    "系统提示(?!词)": "系统提示词",
    "思考标签": "think 标签",
    "聊天(网页|页面)": "对话网页",
    "社区": "模型库",
    "续跑|恢复训练": "断点续训",
    "陌生人|坏数字|地基": "不可信的文件、数值异常、中途有东西变了",
}


def chinese_texts() -> Iterator[Path]:
    """Every file that holds a Chinese text of ours; the glossary may name a word in order to explain it."""
    yield ROOT / "README.zh.md"
    yield from sorted((ROOT / "docs").glob("*.zh.md"))
    report = Path(html.__file__).parent
    yield from sorted(path for ending in ("py", "jinja", "js") for path in report.rglob(f"*.{ending}"))
    package = SERVE_PAGE.parents[1]
    yield from (SERVE_PAGE / "words.js", package / "http" / "page" / "shared-words.js")
    yield from sorted((package / "studio" / "page" / "words").glob("*.js"))
    yield from sorted((Path(html.__file__).parents[1] / "translation" / "zh").glob("*.json"))


@pytest.mark.parametrize("path", chinese_texts(), ids=lambda path: path.name)
def test_one_term_stands_for_one_thing_in_every_chinese_text(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    wrong = [
        f"{path.name}:{number}: {found.group()!r} in {line.strip()[:80]!r}; write {better}"
        for number, line in enumerate(lines, 1)
        if CHINESE.search(line)
        for word, better in FORBIDDEN.items()
        if (found := re.search(word, line))
    ]
    assert not wrong, "\n".join(wrong)


def test_every_fault_policy_and_action_has_chinese_words() -> None:
    for fault, known in ROW_FAULTS.items():
        meaning = data_words.fault_meaning(fault)
        assert meaning.en == known.meaning
        assert CHINESE.search(meaning.zh)
        assert CHINESE.search(data_words.fault_name(fault).zh)
        assert f"（{fault}）" in data_words.fault_name(fault).zh
        if "repair" in known.policies and ("repair" in known.meaning or "leaves out" in known.meaning):
            assert "修复" in meaning.zh
    for policy in FaultPolicy.__args__:
        assert CHINESE.search(data_words.policy_name(policy).zh)
    for action in Action.__args__:
        assert CHINESE.search(data_words.action_name(action).zh)


def test_no_fault_is_described_that_is_no_longer_one_and_no_two_have_one_name() -> None:
    names = [data_words.fault_name(fault).zh.partition("（")[0] for fault in ROW_FAULTS]
    assert len(set(names)) == len(names)
    assert data_words.fault_name("gone_since") == BilingualText("gone_since", "gone_since")
    assert data_words.fault_meaning("gone_since", "as it was") == BilingualText("as it was", "as it was")


def test_every_fact_of_the_environment_but_a_library_has_a_chinese_name() -> None:
    facts = [key for key in describe_environment(["thinktune"]) if key not in (*LIBRARIES, "command", "python")]
    of_the_plan = [field.name for field in fields(Setting)]
    for key in (*facts, *of_the_plan, "parameters", "device", "precision", "world_size", "weights_fingerprint"):
        assert CHINESE.search(data_words.environment_name(key).zh), key
    assert data_words.environment_value(False) == BilingualText("no", "否")
    assert data_words.environment_value(0) == 0
