# ruff: noqa: E501 (lines of the Chinese page are as wide as its characters)
"""Print docs/models.md, or docs/models.zh.md with `--zh`: which kinds of model train, and how, as the proof finds.

Each row is a tiny model that is made on the spot (tests/support/tiny_models.py), proved, planned, saved and read back.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.tiny_models import KINDS, tiny_config, tiny_model

from thinktune.errors import UserError
from thinktune.model.admission import admit_model
from thinktune.model.loading import many_ranks_fault
from thinktune.model.proof import ModelTraits, prove_class
from thinktune.planner.memory import Setting, Workload, memory_peaks

TEXTS: dict[str, dict[str, str]] = {
    "en": {
        "head": """\
# Which models train

`python docs/models_page.py > docs/models.md` makes this page; a slow test keeps them equal. [中文](models.zh.md)

There is no list of supported classes. `check` and `train` make a twin of the model: its class and its switches, but
small (size 64, window 4, one layer of each kind, fp32). For each row of a packed batch the twin must get what its own
forward pass, with transformers' plainest attention, gives for that row alone: logits, loss and the gradient of every
weight, to 1e-4. That takes about a second, needs no weights and comes before any row is read. Then:

- **packed**: rows share one sequence, and no token is wasted.
- **apart**: the class carries something from token to token (a state, a convolution, a chunk), so each row is an entry
  of a batch, padded at its end; rows of like length come together. Nothing else changes. `check` says so. Where kernels
  for such layers are installed (`flash-linear-attention` with `causal-conv1d`, or `mamba-ssm`) and pass the same proof
  on the card, the rows are packed after all. That was tried with stand-ins for those packages, never on a card.
- **refused**, in one sentence that says what differs.

Scale and cap of logits are measured with the class's own forward pass and used by loss and generation. An attention
option that is not known is refused, not ignored. Before the first step the loaded model is checked once more: one row
changes, and the row after it must not move.

The templates are those of the models named. `own` carries reasoning as it is, `think` needs `model.template: think`.
"Plan" says whether memory and speed are predicted; without it, set `train.memory` and `expert.batch_tokens`. "Many
ranks" says whether the weights can be read in shards, which needs files that name them as the class does, and whether
the rest (rotary frequencies) can be computed without them.

| kind | of it are | rows | logits | template | plan | many ranks |
|---|---|---|---|---|---|---|
""",
        "tail": """
## Refused

- Heads with a bias (Phi-1.5 and Phi-2, GPT-J), logits that are not scaled or capped products of the last states.
- Sparse attention by an index (DeepSeek-V3.2, GLM-5 kinds): its attention needs `indices`, which is not supported.
- Models of images or sound, and models that translate one text into another (T5, BART).
- A class of which no small twin can be made: it cannot be proved, and the sentence gives the reason.

Not tried with real weights: all of the above but the models in [benchmarks.md](benchmarks.md).
""",
        "yes": "yes",
        "no": "no",
        "packed": "packed",
        "apart": "apart",
    },
    "zh": {
        "head": """\
# 哪些模型可以训练

`python docs/models_page.py --zh > docs/models.zh.md` 生成本页，有一个慢测试保证两者一致。[English](models.md)

没有“支持的模型”名单。`check` 和 `train` 会先造一个模型的微型副本：同一个类、同样的开关，但很小（宽度 64，窗口 4，每种层一层，
fp32）。把几行数据打包在一起跑，每一行得到的结果，必须和它单独跑模型自己的前向（用 transformers 最朴素的注意力）一样：logits、
loss、每个权重的梯度，误差不超过 1e-4。整个过程约一秒，不需要权重，在读任何一行数据之前完成。结果有三种：

- **打包**：多行共用一个序列，不浪费 token。
- **分开**：这个类会把前面的东西带到后面（状态、卷积、分块），所以每行是批里的一项，尾部填充；长度相近的行放在一起。其他不变。
  `check` 会说明。如果装了这类层的内核（`flash-linear-attention` 加 `causal-conv1d`，或 `mamba-ssm`），并且在显卡上通过同样的
  证明，就仍然打包。这一点只用替身包试过，没有在显卡上跑过。
- **拒绝**：用一句话说明哪里不一样。

logits 的缩放和上限用模型自己的前向测出来，loss 和生成都照此计算。遇到不认识的注意力选项会拒绝，而不是忽略。第一步之前还会再问一次
真正加载的模型：改动一行，后面那一行不许变。

模板一列指表中所列模型的模板。`own` 表示自带模板就能写思考过程，`think` 表示需要设 `model.template: think`。“预估”表示能否预测显存
和速度；不能时请设 `train.memory` 和 `expert.batch_tokens`。“多卡”表示权重能否分片读取：文件里的名字必须和类里的一致，
其余的（如旋转频率）不靠权重也能算出来。

| 种类 | 模型 | 行 | logits | 模板 | 预估 | 多卡 |
|---|---|---|---|---|---|---|
""",
        "tail": """
## 会被拒绝的

- 输出头带偏置的（Phi-1.5、Phi-2、GPT-J），以及 logits 不是最后状态的缩放或截断乘积的。
- 用索引选取的稀疏注意力（DeepSeek-V3.2、GLM-5 一类）：注意力收到不认识的 `indices`。
- 图像或声音模型，以及把一段文本变成另一段的模型（T5、BART）。
- 造不出微型副本的类：无法证明，会说明原因。

除 [benchmarks.md](benchmarks.md) 里的模型外，以上都没有用真实权重试过。
""",
        "yes": "可以",
        "no": "不可以",
        "packed": "打包",
        "apart": "分开",
    },
}


def page(language: str) -> str:
    """Return the whole page in a language (en, zh)."""
    words = TEXTS[language]
    rows = [_row(name, words) for name in KINDS]
    return words["head"] + "\n".join(rows) + "\n" + words["tail"]


def _row(name: str, words: dict[str, str]) -> str:
    kind, config = KINDS[name], tiny_config(name)
    traits = prove_class(AutoModelForCausalLM._model_mapping[type(config)], config)
    answers = [words["yes" if found else "no"] for found in (can_plan(config), can_shard(name))]
    cells = [f"`{name}`", kind.people, words[traits.rows], _logits(traits), kind.template, *answers]
    return f"| {' | '.join(cells)} |"


def _logits(traits: ModelTraits) -> str:
    scale, cap = traits.logits.scale, traits.logits.cap
    parts = [f"× {scale:g}"] if scale != 1 else []
    return ", ".join([*parts, *([f"≤ {cap:g}"] if cap is not None else [])]) or "–"


def can_plan(config: Any) -> bool:
    """Return True if the plan predicts the memory of a model of this configuration."""
    workload = Workload(config, torch.device("meta"), True, False, 512, 64, 0.9, [32, 64])
    try:
        memory_peaks(workload, Setting("fp32", False, 1.0, 256))
    except Exception:  # whatever a class raises that cannot be traced
        return False
    return True


def can_shard(name: str) -> bool:
    """Return True if many ranks can read the shards of a saved model, and compute the rest of it."""
    with TemporaryDirectory() as folder:
        path = Path(folder)
        try:
            tiny_model(name).save_pretrained(path)
            return many_ranks_fault(path, admit_model(path), trust_remote_code=False) is None
        except (UserError, OSError, ValueError):
            return False


if __name__ == "__main__":
    print(page("zh" if "--zh" in sys.argv else "en"), end="")
