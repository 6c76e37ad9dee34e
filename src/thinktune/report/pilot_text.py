"""A pilot in words, in English and Chinese: what it recommends, how sure that is, and what weakens it."""

import math
from collections.abc import Sequence

from thinktune.report.html import BilingualText
from thinktune.run.environment import shell_command
from thinktune.run.pilot_folder import ComparedRun, LeftOutBecause, PilotResult, spell_rate

NO_RUN = BilingualText("No run has been measured yet.", "还没有测完任何一次训练。")


NOTHING_LEARNED = BilingualText(
    "No run is clearly better than the base model, so nothing is recommended: check the data, try other rates "
    "with --rates, or more rows with --share in a new pilot (another name=...).",
    "没有哪次训练明显优于基座模型，因此没有推荐：请检查数据，用 --rates 换一组学习率，"
    "或换一个 name=... 用更大的 --share 重新试训。",
)


ALL_FAILED = BilingualText(
    "Every run failed: no loss was finite at any rate; try smaller ones with --rates.",
    "所有训练都失败了：每个学习率下 loss 都不是有限的数；请用 --rates 指定更小的学习率。",
)


def chosen_run(result: PilotResult) -> ComparedRun | None:
    """Return the recommended run."""
    return None if result.chosen is None else result.runs[result.chosen]


def recommended_lines(result: PilotResult) -> list[str]:
    """Return the lines of the recipe's section train, each with how sure it is as a comment; none for none."""
    chosen = chosen_run(result)
    if chosen is None:
        return []
    rates, epochs = level_values(result)
    shown = f"{spell_rate(rates[0])} to {spell_rate(rates[-1])}" if len(rates) > 1 else "no other rate tried"
    is_level = "are level" if len(rates) > 1 else "is level"
    tried = ", ".join(map(str, result.epochs_tried))
    same = f"{', '.join(map(str, epochs))} are level" if len(epochs) > 1 else "no other is level"
    return [
        f"learning_rate: {spell_rate(chosen.run.learning_rate)}  # pilot: {shown} {is_level} at 95 %, "
        f"{100 * result.data.share:.0f} % of the rows",
        f"epochs: {chosen.run.epochs}  # pilot: {same}, of {tried} tried",
    ]


def next_command(result: PilotResult) -> str | None:
    """Return the command that trains as recommended, with the overrides that were typed; None for none."""
    chosen = chosen_run(result)
    if chosen is None:
        return None
    found = [f"train.learning_rate={spell_rate(chosen.run.learning_rate)}", f"train.epochs={chosen.run.epochs}"]
    return shell_command("train", result.recipe, *result.overrides, *found)


def level_values(result: PilotResult) -> tuple[list[float], list[int]]:
    """Return the rates and the epochs of the runs that are level with the lowest loss, ascending."""
    level = [each.run for each in result.runs if each.level]
    return sorted({run.learning_rate for run in level}), sorted({run.epochs for run in level})


def headline(result: PilotResult) -> BilingualText:
    """Say what is recommended."""
    chosen = chosen_run(result)
    if chosen is not None:
        rate, epochs = spell_rate(chosen.run.learning_rate), chosen.run.epochs
        return BilingualText(
            f"Recommended: learning_rate {rate} and epochs {epochs}.", f"推荐：learning_rate {rate}，epochs {epochs}。"
        )
    if not result.runs:
        return NO_RUN
    return NOTHING_LEARNED if any(each.run.loss is not None for each in result.runs) else ALL_FAILED


def reasons(result: PilotResult) -> list[BilingualText]:
    """Say why this run: the lowest loss, what is level with it, what of that forgets least, and what trains least."""
    chosen, level = chosen_run(result), [each for each in result.runs if each.level]
    if chosen is None or not level:
        return []
    lowest = min(level, key=lambda each: each.difference.value if each.difference else math.inf)
    rate, epochs, loss = spell_rate(lowest.run.learning_rate), lowest.run.epochs, lowest.run.loss or math.nan
    said = [
        BilingualText(
            f"The lowest held-out loss is {loss:.4f}, at rate {rate} and {_epochs(epochs)}.",
            f"验证 loss 最低的是学习率 {rate}、{epochs} 轮：{loss:.4f}。",
        )
    ]
    if len(level) == 1:
        return [
            *said,
            BilingualText(
                "Every other run is clearly above it: zero is outside the paired 95 % interval of the difference.",
                "其余训练都明显高于它：差值的配对 95 % 置信区间不含零。",
            ),
        ]
    count, rates = len(level), level_values(result)[0]
    span = f"{spell_rate(rates[0])} to {spell_rate(rates[-1])}" if len(rates) > 1 else spell_rate(rates[0])
    zh_span = f"{spell_rate(rates[0])} 至 {spell_rate(rates[-1])}" if len(rates) > 1 else spell_rate(rates[0])
    said.append(
        BilingualText(
            f"{count} runs, of rates {span}, are level with it: the paired 95 % interval of the difference "
            "contains zero, so the held-out rows cannot tell them apart.",
            f"共有 {count} 次训练（学习率 {zh_span}）与最低值持平：差值的配对 95 % 置信区间含零，"
            "留出数据分不出它们的高下。",
        )
    )
    return [*said, _tie_break(level)]


def _tie_break(level: Sequence[ComparedRun]) -> BilingualText:
    forgetful = sum(not each.keeps for each in level)
    last = BilingualText(
        "the smallest rate, then the fewest epochs, because less training forgets less",
        "取学习率最小的，再取轮数最少的，因为训练得越少，遗忘越少",
    )
    if forgetful:
        dropped = "1 is" if forgetful == 1 else f"{forgetful} are"
        return BilingualText(
            f"{dropped} out, with clearly fewer general questions right; of the rest, {last.en}.",
            f"其中 {forgetful} 次答对的通用题明显更少，已排除；余下的{last.zh}。",
        )
    return BilingualText(
        f"The general questions cannot tell them apart either, so {last.en}.", f"通用题也分不出高下；于是{last.zh}。"
    )


def cautions(result: PilotResult) -> list[BilingualText]:
    """Say what makes the recommendation weaker, each in a sentence or two."""
    said = [*_edges(result), *_left_out(result)]
    if result.runs:
        said += [*_transfer(result), *_noise(result)]
    return said


def _edges(result: PilotResult) -> list[BilingualText]:
    chosen = chosen_run(result)
    if chosen is None:
        return []
    said: list[BilingualText] = []
    rates, epochs = level_values(result)
    if rates[-1] == max(result.rates) or rates[0] == min(result.rates):
        upper = rates[-1] == max(result.rates)
        further = (spell_rate(2 * max(result.rates)), "larger", "更大") if upper else None
        further = further or (spell_rate(min(result.rates) / 2), "smaller", "更小")
        grid = ",".join(sorted([*map(spell_rate, result.rates), further[0]], key=float))
        said.append(
            BilingualText(
                f"The {'largest' if upper else 'smallest'} rate is among the best, so a {further[1]} one may be "
                f"even better: --rates {grid} tries it and keeps the finished runs.",
                f"{'最大' if upper else '最小'}的学习率也在最好之列，{further[2]}的可能还要好："
                f"--rates {grid} 会补试，已有的训练会保留。",
            )
        )
    most = max(result.epochs_tried)
    if epochs == [most] and any(each.run.epochs < most for each in result.runs):
        grid = ",".join(map(str, [*result.epochs_tried, 2 * most]))
        said.append(
            BilingualText(
                f"Only the largest number of epochs is good, so more may be even better: --epochs {grid}.",
                f"只有最多的轮数才好，更多的轮数可能还要好：--epochs {grid}。",
            )
        )
    return said


def _left_out(result: PilotResult) -> list[BilingualText]:
    by_reason: dict[LeftOutBecause, list[str]] = {"time": [], "worse": []}
    for each in result.left_out:
        by_reason[each.because].append(f"{spell_rate(each.learning_rate)} × {each.epochs}")
    said: list[BilingualText] = []
    if late := by_reason["time"]:
        named = ", ".join(late)
        said.append(
            BilingualText(
                f"There was no time for all runs: {_were(late)} left out (rate × epochs: {named}). One of them may "
                f"be better. Run the same command with a larger --minutes (now {result.minutes:g}) to try them.",
                f"因时间不够，有 {len(late)} 次训练没有做（学习率 × 轮数：{'、'.join(late)}）：其中可能有更好的，"
                f"这里没有任何反对的证据。同一条命令加大 --minutes（现为 {result.minutes:g}）即可补做。",
            )
        )
    if worse := by_reason["worse"]:
        named = ", ".join(worse)
        said.append(
            BilingualText(
                f"{_were(worse)} not made, because with fewer epochs the rate was clearly worse "
                f"(rate × epochs: {named}).",
                f"有 {len(worse)} 次训练没有做，因为轮数较少时这些学习率已明显更差"
                f"（学习率 × 轮数：{'、'.join(worse)}）。",
            )
        )
    return said


def _transfer(result: PilotResult) -> list[BilingualText]:
    """Say how a share's figures carry over to all rows."""
    data = result.data
    if data.train_rows >= data.all_train_rows:
        return [
            BilingualText(
                "The runs used all training rows, so rate and epochs suit the full run as they are.",
                "试训用了全部训练数据，因此学习率和轮数就是正式训练的。",
            )
        ]
    times = data.all_epoch_tokens / max(1, data.epoch_tokens)
    return [
        BilingualText(
            f"The runs used {data.train_rows:,} of {data.all_train_rows:,} training rows; the full run has about "
            f"{times:.1f} times as many steps. The rate carries over well, to within about one place of the grid: "
            "longer runs prefer somewhat smaller rates, but their longer warm-up tolerates larger ones. The "
            "epochs carry over less well: with more rows a model overfits later, so they are more likely too few "
            "than too many. The losses here are higher than those of the full run will be.",
            f"试训只用了 {data.all_train_rows:,} 行训练数据中的 {data.train_rows:,} 行；"
            f"正式训练的步数约为其 {times:.1f} 倍。学习率大体可以照搬，误差约为网格的一格：训练越长，合适的学习率略小，"
            "但预热也更长，能承受更大的学习率。轮数不那么好照搬：数据越多，过拟合来得越晚，"
            "所以这里的轮数更可能偏少，而不是偏多。这里的 loss 都会高于正式训练。",
        )
    ]


def _noise(result: PilotResult) -> list[BilingualText]:
    held_out = f"{result.data.held_out_rows:,}"
    return [
        BilingualText(
            f"The intervals are over the {held_out} held-out rows. Every run has one seed: another order of the "
            "rows would change the losses too, and the intervals do not include that.",
            f"区间只反映 {held_out} 行留出数据的抽样误差。每次训练只有一个随机种子：换一种数据顺序，loss 也会变，"
            "区间里没有算上。",
        )
    ]


def _were(named: Sequence[str]) -> str:
    return "1 run was" if len(named) == 1 else f"{len(named)} runs were"


def _epochs(number: int) -> str:
    return "1 epoch" if number == 1 else f"{number} epochs"
