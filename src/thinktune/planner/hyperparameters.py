"""Hyper-parameters that suit a model's size and its rows: so many steps that a run learns, so many rows that it shows.

`init` takes its values from here, and `check` its warnings, so that no recipe of the one is warned of by the other.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from thinktune.config import Recipe
from thinktune.config.schema import DEFAULT_TOKENS_PER_STEP

MIN_STEPS = 60  # with fewer, the warm-up and the fall of the rate leave hardly a step at the peak
AIMED_STEPS = 240  # four evaluations an epoch are then some 30 steps apart
FEWEST_ROWS_PER_STEP = 4  # of a step that is cut no further for the sake of more steps, if there are enough without

MIN_HELD_OUT, AIMED_HELD_OUT = 30, 50  # rows
MOST_HELD_OUT = 500  # more tell little more, and each evaluation takes longer
MAX_VALIDATION_SHARE = 0.3  # of the rows
USUAL_VALIDATION_SHARE = 0.1

# A line through the rates that learned well here and elsewhere: 2e-3 at 1.1 million parameters and 1e-4 at 135 million
# (both measured: docs/benchmarks.md), 1e-5 to 2e-5 at 1.7 to 8 billion and 2e-6 at 70 (published recipes of full
# fine-tuning). Within five times of it, in either direction, runs are usual.
RATE_AT_A_MILLION, RATE_EXPONENT = 2e-3, -0.6
RATE_SPREAD = 5

# Parameters from which a model soon knows rows by heart. A smaller one has to see them more often.
FAST_LEARNER_PARAMETERS = 50_000_000
MOST_EPOCHS, MOST_EPOCHS_OF_SMALL_MODELS = 5, 20
EPOCHS_BY_ROWS = ((1_000, 3), (20_000, 2), (math.inf, 1))  # fewer than so many rows: so many epochs
EPOCHS_OF_SMALL_MODELS = ((1_000, 10), (20_000, 5), (math.inf, 2))

MAX_TOO_LONG_SHARE = 0.02  # of the replies
LENGTH_STEP_TOKENS = 256  # to a multiple of which the longest row is rounded up
SHORTEST_LIMIT_TOKENS = 512


@dataclass(frozen=True, slots=True)
class RunSize:
    """A run as far as its hyper-parameters go: parameters, rows and tokens of an epoch, rows held out, steps.

    `rows_read` and `own_rows` count the first source alone, one's own: those that its share is held out of, and those
    that are left to train on (None: all). `over` counts replies above some lengths, `replies` all of them;
    `context_tokens` is what the model can take.
    """

    parameters: int
    train_rows: int
    epoch_tokens: int
    held_out_rows: int
    rows_read: int
    steps: int
    replies: int = 0
    over: dict[int, int] = field(default_factory=dict[int, int])
    context_tokens: int | None = None
    own_rows: int | None = None

    @property
    def suited_epochs(self) -> int:
        """Return the epochs that suit the model's size and one's own rows."""
        return suit_epochs(self.parameters, self.train_rows if self.own_rows is None else self.own_rows)


@dataclass(frozen=True, slots=True)
class Advice:
    """Sentences about a recipe: warnings, each with what to write, and notes about what no setting can change."""

    warnings: tuple[str, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the advice as JSON values."""
        return {"warnings": list(self.warnings), "notes": list(self.notes)}


def suit_learning_rate(parameters: int) -> float:
    """Return the peak rate that suits a model's size, to one digit."""
    rate = RATE_AT_A_MILLION * (max(1, parameters) / 1e6) ** RATE_EXPONENT
    return float(f"{rate:.0e}")


def usual_rates(parameters: int) -> tuple[float, float]:
    """Return the lowest and the highest usual rate for a model's size."""
    suited = suit_learning_rate(parameters)
    return suited / RATE_SPREAD, suited * RATE_SPREAD


def most_epochs(parameters: int) -> int:
    """Return the epochs after which a model of this size usually knows the rows by heart."""
    return MOST_EPOCHS if parameters >= FAST_LEARNER_PARAMETERS else MOST_EPOCHS_OF_SMALL_MODELS


def suit_epochs(parameters: int, rows: int) -> int:
    """Return the epochs that suit a model's size and the number of its rows."""
    steps = EPOCHS_BY_ROWS if parameters >= FAST_LEARNER_PARAMETERS else EPOCHS_OF_SMALL_MODELS
    return next(epochs for fewer, epochs in steps if rows < fewer)


def suit_step_size(epoch_tokens: int, rows: int, epochs: int) -> int:
    """Return the tokens of a step by which a run has steps enough: a power of two, at most the usual size.

    A step holds a few rows at least, unless the run would then have too few steps.
    """
    tokens = epoch_tokens * epochs
    aimed = max(tokens / AIMED_STEPS, FEWEST_ROWS_PER_STEP * epoch_tokens / max(1, rows))
    size = min(DEFAULT_TOKENS_PER_STEP, aimed, tokens / MIN_STEPS)
    return 2 ** int(math.log2(max(1, size)))


def suit_validation(rows: int) -> float:
    """Return the share of rows to hold out, so that enough are and most are left to train on."""
    share = min(MAX_VALIDATION_SHARE, max(USUAL_VALIDATION_SHARE, AIMED_HELD_OUT / max(1, rows)))
    return math.ceil(100 * min(share, max(0.01, MOST_HELD_OUT / max(1, rows)))) / 100


def suit_max_tokens(lengths: list[int], context_tokens: int | None, usual: int) -> int:
    """Return the tokens of the longest row to train: all rows fit, or all but a few where those are far longer.

    `usual` is the limit up to which no row is left out.
    """
    ordered = sorted(lengths)
    kept = ordered[min(len(ordered) - 1, math.ceil(len(ordered) * (1 - MAX_TOO_LONG_SHARE / 2)) - 1)]
    longest = ordered[-1] if ordered[-1] <= max(usual, 2 * kept) else kept
    wanted = max(SHORTEST_LIMIT_TOKENS, -(-longest // LENGTH_STEP_TOKENS) * LENGTH_STEP_TOKENS)
    return min(wanted, context_tokens) if context_tokens else wanted


def resolution_points(rows: int) -> float:
    """Return the points of per cent to which so many rows give a share, at its widest: half of a 95 % interval."""
    return 100 * 1.96 * math.sqrt(0.25 / max(1, rows))


def advise(recipe: Recipe, size: RunSize) -> Advice:
    """Say what in a recipe keeps a run from learning, or from showing that it has."""
    warnings = [*_rate_warnings(recipe, size), *_epoch_warnings(recipe, size)]
    notes: list[str] = []
    for sentence, has_remedy in filter(None, (_few_steps(recipe, size), _few_held_out(recipe, size))):
        (warnings if has_remedy else notes).append(sentence)
    warnings += _length_warnings(recipe, size)
    return Advice(tuple(warnings), tuple(notes))


def _rate_warnings(recipe: Recipe, size: RunSize) -> list[str]:
    rate, (lowest, highest) = recipe.train.learning_rate, usual_rates(size.parameters)
    if lowest <= rate <= highest:
        return []
    then = "learns almost nothing" if rate < lowest else "may be destroyed"
    return [
        f"train.learning_rate: is {rate:g}; full fine-tuning of {_millions(size.parameters)} parameters usually takes "
        f"{lowest:g} to {highest:g}, and at this rate a model {then}; write train.learning_rate: "
        f"{suit_learning_rate(size.parameters):g}"
    ]


def _epoch_warnings(recipe: Recipe, size: RunSize) -> list[str]:
    most = most_epochs(size.parameters)
    if recipe.train.epochs <= most or recipe.train.stop_when_overfitting:
        return []
    return [
        f"train.epochs: is {recipe.train.epochs}; a model of {_millions(size.parameters)} parameters usually "
        f"memorizes the rows after {most}, and more is wasted time; write train.epochs: {size.suited_epochs}, or "
        "train.stop_when_overfitting: 2"
    ]


def _few_steps(recipe: Recipe, size: RunSize) -> tuple[str, bool] | None:
    """Return a sentence about too few steps, and whether a setting would make more; None where there are enough."""
    if size.steps >= MIN_STEPS:
        return None
    short = f"a run of {size.steps:,} {'step' if size.steps == 1 else 'steps'} is short and may learn little"
    train, epochs = recipe.train, recipe.train.epochs
    if size.train_rows * epochs < MIN_STEPS:  # even with one row a step
        epochs = max(epochs, size.suited_epochs)
    more = f" and train.epochs: {epochs}" if epochs > train.epochs else ""
    rows = max(1, size.train_rows * epochs // MIN_STEPS)
    tokens = suit_step_size(size.epoch_tokens, size.train_rows, epochs)
    alone = size.steps >= size.train_rows * epochs  # each row is a step
    if alone or (not more and (train.tokens_per_step or tokens) <= tokens and (train.rows_per_step or rows) <= rows):
        few = f"{size.train_rows:,} {'row makes' if size.train_rows == 1 else 'rows make'} no more"
        return f"train: {short}, and {few}; add rows", False
    key, value = ("expert.rows_per_step", rows) if train.rows_per_step else ("train.tokens_per_step", tokens)
    return f"{key}: {short}; write {key}: {value}{more}", True


def _few_held_out(recipe: Recipe, size: RunSize) -> tuple[str, bool] | None:
    """Return a sentence about too few held-out rows, and whether a setting would hold out more."""
    if size.held_out_rows >= MIN_HELD_OUT:
        return None
    count = size.held_out_rows
    rows = f"{count:,} {'row is' if count == 1 else 'rows are'}" if count else "no row is"
    means = (
        "nothing shows when the model is best, or whether it is better than its base"
        if not count
        else f"the share of correct answers is then known to ± {resolution_points(count):.0f} points, so only a "
        "large gain can be told from chance"
    )
    key = recipe.in_source("data.validation", 0)
    if isinstance(recipe.data.validation, str):
        return f"{key}: {rows} held out; {means}; add rows to {recipe.data.validation}", True
    wanted = suit_validation(size.rows_read)
    if recipe.data.validation >= wanted:
        return f"{key}: {rows} held out; {means}; add rows", False
    return f"{key}: {rows} held out; {means}; write {key}: {wanted:g}", True


def _length_warnings(recipe: Recipe, size: RunSize) -> list[str]:
    too_long = size.over.get(recipe.max_tokens, 0)
    if too_long <= MAX_TOO_LONG_SHARE * size.replies:
        return []
    enough = [tokens for tokens, count in sorted(size.over.items()) if count <= MAX_TOO_LONG_SHARE * size.replies]
    longer = next((tokens for tokens in enough if tokens > recipe.max_tokens), None)
    if longer is None or (size.context_tokens and longer > size.context_tokens):
        return []
    listed = enumerate(recipe.sources if recipe.other_sources else (recipe.data,))
    keys = [
        recipe.in_source("data.max_tokens", number)
        for number, source in listed
        if source.answers == "rows" and source.max_tokens < longer
    ]
    if not keys:  # own answers alone may be so long
        return []
    return [
        f"{keys[0]}: {too_long:,} of {size.replies:,} replies ({too_long / size.replies:.0%}) are longer than "
        f"{recipe.max_tokens:,} tokens; write {' and '.join(f'{key}: {longer}' for key in keys)}, which needs more "
        "memory, or leave them out"
    ]


def _millions(parameters: int) -> str:
    """Format a count of parameters, as in 1.7 billion."""
    value, unit = (parameters / 1e9, "billion") if parameters >= 1e9 else (parameters / 1e6, "million")
    return f"{value:.2g} {unit}" if value < 100 else f"{value:.0f} {unit}"
