"""Chinese text of docs/recipe.zh.md around its tables, whose sentences are the catalogue's."""

HEAD = """\
# 全部设置

[English](recipe.md)

本页由 `python docs/recipe_page.py zh > docs/recipe.zh.md` 根据 `src/thinktune/config/schema.py` 生成，
有测试保证两者一致。必填的只有 `model.name` 和 `data.name`。命令行上用 `key.path=value` 设置任何一项，
例如 `thinktune train recipe.yaml train.epochs=1`。几乎用不到的设置[另列一表](#专家设置)。

配方只有一种读法，命令行上的设置也一样：一个键只出现一次；只有 `true` 和 `false` 是布尔值；数是十进制的有限数；`yes`、
`1:30` 和 `2026-01-01` 都是文本。不接受锚点、别名、合并键和标签，报错会指出所在的行。路径开头的 `~` 是你的主目录。

| 设置 | 默认值 | 含义 |
|---|---|---|
"""

EXPERT = """
## 专家设置

写在 `expert:` 下面，例如 `expert: {rows_per_step: 8, log_every_steps: 1}`。写在旧位置的配方仍然可用，`check`
和 `train` 会指出新的位置。

| 设置 | 默认值 | 含义 |
|---|---|---|
"""

SOURCES = """
## 回放

写在 `data` 下面的 `replay` 在你自己的数据里混入通用数据，不必写列表；用少量数据训练的模型因此忘得少一些，
`thinktune eval` 可以看出效果。

| 写法 | 通用数据 |
|---|---|
| `replay: 0.1` | 自带的 216 行（中英文，带思考），占参与训练的 token 的十分之一 |
| `replay: {share: 0.1, answers: own}` | 同样的问题，训练之前由基座模型自己回答 |
| `replay: {share: 0.1, rows: general.jsonl}` | 你自己的文件 |
| `replay: {share: 0.1, rows: questions.jsonl, answers: own}` | 你的问题（`{"question": …}`），由基座模型回答 |

回放的数据不会被留出，因此留出数据的 loss 含义不变；也没有一行超过 `data.max_tokens`。
基座模型自己的回答怎样生成和保存，见[data.zh.md](data.zh.md)。回放的数据若需要别的设置（列、数据缺陷、系统提示词），
请写成下面的列表：自带的数据写作 `name: bundled:general`，第一个之后的任何来源都可以用 `answers: own`。

## 多个来源

`data` 写成列表就是几个来源：各有自己的文件、列、数据缺陷、系统提示词、标签、模式和留出数据，读取时互不影响。
命令行上用编号指定来源：`data.1.share=0.2`。关于数据的专家设置对没有自己设置它的来源都有效；来源也可以直接设置，
例如 `data.1.license`。

```yaml
data:
- name: mine.jsonl
- name: general.jsonl
  share: 0.1
  validation: 0
```

`share` 是一个来源占全部参与训练的 token 的比例，与 `train.weights` 无关。在整次训练上精确到半行，每一步也大致如此；
分配在打包之前完成，因此显卡和批次不会改变它。`train.epochs` 指不带 share 的来源遍历几遍；若都带 share，则指第一个。
其余来源按种子决定的次序取用，一遍用完才开始下一遍：按 share 的需要重复几遍，或只用一部分。`check` 会给出次数。

一行的问题若被另一个来源留出，算作 `leak`；两个来源都有的行，后一个来源的算作 `duplicate`；
怎样处理由这一行所在来源的策略决定。所有来源的留出数据一起决定最好的检查点；不想用来评估的来源请写 `validation: 0`。
对话和考试用第一个来源的系统提示词，样例和 `eval` 先问它的留出数据。`check`、报告页和 `metrics.jsonl`
分别统计每个来源及其 loss。
"""

FAULTS = """
## 数据缺陷与 `data.faults`

`drop` 丢弃这一行，`keep` 照原样训练，`silent` 按不思考模式训练，`repair` 修复有把握的、丢弃其余的，`stop`
结束训练并指出这样的行。`thinktune check` 和报告统计每一种并举例。写法：
`data.faults: {handed_answer: keep, too_long: trim-reasoning}`。

| 缺陷 | 策略，第一个是默认值 | 含义 |
|---|---|---|
"""
