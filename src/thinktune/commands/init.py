"""A first recipe from rows: their form is found, sure repairs are made, and steps, epochs and rate suit them."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from thinktune.commands.check import check_recipe
from thinktune.commands.fix import (
    Change,
    Fixing,
    describe_fault,
    follow_remedies,
    format_recipe,
    free_name,
    take_first,
    try_recipe,
    write_out_choices,
)
from thinktune.commands.init_options import InitOptions, are_here, model_fault, refuse_options
from thinktune.config.schema import Hub
from thinktune.data.columns.mapping import to_flow_yaml
from thinktune.data.columns.unused import unused_lines
from thinktune.errors import UserError
from thinktune.files import atomic_write_text
from thinktune.hub import RepoType, find_in_cache, locate_model
from thinktune.model import pick_device
from thinktune.model.admission import admit
from thinktune.planner.disk_space import describe_disk
from thinktune.planner.hardware import Card, find_cluster
from thinktune.planner.hyperparameters import (
    MIN_HELD_OUT,
    suit_epochs,
    suit_learning_rate,
    suit_max_tokens,
    suit_step_size,
    suit_validation,
    usual_rates,
)
from thinktune.planner.model_choice import choose_model
from thinktune.planner.resolve import local_card
from thinktune.planner.run_time import describe_time
from thinktune.planner.trace import parameter_count
from thinktune.progress import Say, say_nothing
from thinktune.run.environment import shell_command

LONGEST_READ_TOKENS = 32_768  # of a row while lengths are measured
PATIENCE_EVALUATIONS = 2  # that show overfitting end the run: one alone may be chance
USUAL_LIMIT_TOKENS = 2048  # up to which no row is left out
LIMIT_REASON = "rows of up to so many tokens are trained"

Ask = Callable[[str], str]


def init_recipe(options: InitOptions, say: Say, ask: Ask | None = None) -> bool:
    """Write a recipe for rows, and say what was chosen and why; True if it is ready to train.

    `ask` puts a question to the user and returns the answer; without it nothing is asked, and the first reading of
    several is taken and told. No file is overwritten. Raises UserError where the rows or the model cannot be had.
    """
    refuse_options(options)
    target = _find_target(options)
    card = _find_card(options.card) if options.card else _card_here()
    model = _choose_model(options, card, say, ask)
    fixing = Fixing({"model": model, "data": _name_rows(options) | {"max_tokens": LONGEST_READ_TOKENS}})
    follow_remedies(fixing, say_nothing, lambda changes: _pick(changes, ask))
    if ask:
        fixing.unsure.clear()  # the user has decided
    if fixing.prepared is not None and not fixing.left:
        _choose_sizes(fixing)
        fixing.left = tuple(try_recipe(fixing, say_nothing))
        _explain_split(fixing)
    _say_reading(fixing, say)
    facts: dict[str, Any] = {}
    if fixing.prepared is not None and not fixing.left:
        write_out_choices(fixing, fixing.prepared.summary)
        facts = _check(fixing, options.card, target.stem, say)
    heading = f"Written by thinktune init for {options.rows.name}; the reason is above each choice."
    atomic_write_text(target, format_recipe(fixing, heading))
    return _say_end(fixing, facts, target, say)


def ask_on_terminal(read: Ask) -> Ask | None:
    """Return a question to the user where both ends are a terminal, None in a script; no more input means no answer."""

    def ask(question: str) -> str:
        try:
            return read(question)
        except EOFError:
            return ""

    return ask if sys.stdin.isatty() and sys.stdout.isatty() else None


def _find_card(text: str) -> Card:
    """Find the card that `--card` names; raises UserError, which says what to write there."""
    try:
        return find_cluster(text).card
    except UserError as error:
        here = [fault.replace("plan.card=", "--card ").replace("plan.card", "--card") for fault in error.faults]
        raise UserError(here) from None


def _name_rows(options: InitOptions) -> dict[str, Any]:
    """Return the recipe's `data.name`, and the hub that has such a data set where it is not here."""
    if are_here(options.rows):
        return {"name": str(options.rows)}
    name = options.rows.as_posix()
    return {"name": name, "hub": _hub_that_has(name, options.hub, "dataset")}


def _find_target(options: InitOptions) -> Path:
    """Return the recipe's file: the one named, or a new one named after the rows."""
    if options.output is None:
        stem = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in _plain_stem(options.rows))
        return free_name(Path(f"{stem.strip('-') or 'recipe'}.yaml"))
    return options.output


def _plain_stem(rows: Path) -> str:
    return rows.name.split(".")[0] or rows.resolve().name


def _card_here() -> Card | None:
    device = pick_device()
    return None if device.type == "cpu" else local_card(device)


def _choose_model(options: InitOptions, card: Card | None, say: Say, ask: Ask | None) -> dict[str, Any]:
    """Return the recipe's `model`: the one named, or the one that suits the card, on a terminal after asking."""
    named = options.model
    if named is None:
        choice = choose_model(card)
        size = f"{choice.model.download_gib:.1f} GiB to download, unless it is already here"
        say(f"model: {choice.model.name}, {choice.reason} ({size})")
        named = choice.model.name
        if ask and (other := ask(f"another model, or Enter for {named}: ").strip()):
            named = other
    if Path(named).expanduser().exists():
        return {"name": named}
    if fault := model_fault(named):
        raise UserError(fault)
    return {"name": named, "hub": _hub_that_has(named, options.hub, "model")}


def _hub_that_has(name: str, hub: Hub, repo_type: RepoType) -> Hub:
    """Return the hub whose cache on this machine has a model or data set, or else the one asked for."""
    other: Hub = "huggingface" if hub == "modelscope" else "modelscope"
    for each in (hub, other):
        try:
            find_in_cache(name, each, None, repo_type)
        except Exception:  # the clients raise many kinds where it is not there
            continue
        return each
    return hub


def _pick(changes: Sequence[Change], ask: Ask | None) -> Change:
    """Choose among the readings of one sentence: the user does on a terminal, and else the first is taken."""
    if len(changes) == 1 or ask is None:
        return take_first(changes)
    numbered = "\n".join(f"  {number}  {_spell(change)}" for number, change in enumerate(changes, start=1))
    while True:
        answer = ask(f"{changes[0].sentence.partition('; ')[0]}\n{numbered}\nwhich [1]: ").strip() or "1"
        if answer.isdecimal() and 0 < int(answer) <= len(changes):
            return changes[int(answer) - 1]


def _spell(change: Change) -> str:
    return " and ".join(f"{key}: {to_flow_yaml(value)}" for key, value in change.values.items())


def _choose_sizes(fixing: Fixing) -> None:
    """Choose the share held out, the longest row, steps, epochs and rate by the numbers of rows and tokens."""
    prepared = fixing.prepared
    assert prepared is not None
    recipe = fixing.recipe
    config = admit(locate_model(recipe), read_weights=False, template=recipe.model.template).config
    lengths = np.concatenate([prepared.train.lengths, prepared.validation.lengths])
    rows, mean, parameters = len(lengths), float(lengths.mean()), parameter_count(config)
    context = getattr(config, "max_position_embeddings", None)
    limit = suit_max_tokens(lengths.tolist(), context, USUAL_LIMIT_TOKENS)
    share = suit_validation(rows)
    train_rows = max(1, round(rows * (1 - share)))
    epochs = suit_epochs(parameters, train_rows)
    size, rate = suit_step_size(round(train_rows * mean), train_rows, epochs), suit_learning_rate(parameters)
    fixing.tree["data"] |= {"validation": share, "max_tokens": limit}
    fixing.tree["train"] = {"epochs": epochs, "tokens_per_step": size, "learning_rate": rate}
    fixing.tree["train"] |= {"stop_when_overfitting": PATIENCE_EVALUATIONS} if epochs > 1 else {}
    lowest, highest = usual_rates(parameters)
    together = max(1, round(size / mean))
    longest, longer = int(lengths.max()), int((lengths > limit).sum())
    fits = f"{longer:,} rows are longer and left out" if longer else f"the longest has {longest:,}"
    reasons = {
        "data.max_tokens": f"{LIMIT_REASON}; {fits}",
        "train.stop_when_overfitting": "evaluations in a row that show only memorizing; the run then ends",
        "train.tokens_per_step": f"about {together:,} {'row' if together == 1 else 'rows'} a step, for enough steps",
        "train.learning_rate": f"for {parameters / 1e6:,.0f} million parameters; usual are {lowest:g} to {highest:g}",
    }
    for key, reason in reasons.items():
        fixing.reasons.setdefault(key, []).append(reason)


def _explain_split(fixing: Fixing) -> None:
    """Note why so many rows are held out and how many are left to train on, by the split as it came out."""
    if fixing.prepared is None:
        return
    held_out, trained = len(fixing.prepared.validation), len(fixing.prepared.train)
    enough = held_out >= MIN_HELD_OUT
    tells = "enough to tell a gain from chance" if enough else "too few to tell a small gain from chance"
    reasons = {
        "data.validation": f"{held_out:,} of {held_out + trained:,} usable rows are held out, {tells}",
        "train.epochs": f"passes over {trained:,} rows; the best checkpoint is kept",
    }
    for key, reason in reasons.items():
        fixing.reasons.setdefault(key, []).append(reason)


def _check(fixing: Fixing, card: str | None, name: str, say: Say) -> dict[str, Any]:
    """Check the recipe under its run's name, for the card that was named, and say why each size was chosen."""
    recipe = fixing.recipe
    recipe = recipe.model_copy(update={"name": name, "plan": recipe.plan.model_copy(update={"card": card})})
    prepared, facts = check_recipe(recipe, say_nothing)
    train, data = recipe.train, recipe.data
    held_out, count = len(prepared.validation), len(prepared.train) + len(prepared.validation)
    say(f"held out: {held_out:,} of {count:,} rows ({held_out / max(1, count):.0%})")
    if "silent_share" in fixing.tree["data"]:
        say(f"without reasoning: {data.silent_share:.0%} of the rows, so that the model can still answer without it")
    say(f"limit: rows of up to {data.max_tokens:,} tokens; {_fits(fixing)}")
    if "steps" in facts:
        say(
            f"steps: {facts['steps']:,} of {train.tokens_per_step:,} tokens in {train.epochs} epochs, at a rate of "
            f"{train.learning_rate:g} ({fixing.reasons['train.learning_rate'][0]})"
        )
        say(f"plan: {facts['plan']['why']}")
    return facts


def _fits(fixing: Fixing) -> str:
    """Return what the reason for `data.max_tokens` says of the longest rows."""
    reasons = (reason.partition("; ") for reason in fixing.reasons["data.max_tokens"])
    return next(rest for begin, _, rest in reasons if begin == LIMIT_REASON)


def _say_reading(fixing: Fixing, say: Say) -> None:
    """Say how the rows are read, how sure that is, and what becomes of rows with faults."""
    if fixing.prepared is None:
        return
    summary = fixing.prepared.summary
    how = "likely: by what the columns hold" if "data.columns" in fixing.reasons else "sure: by their usual names"
    for file in summary["files"]:
        say(f"{file['path']}: {file['rows']:,} rows, {file['format']} ({how})")
        for line in unused_lines(file.get("unused", ())):
            say(line)
    if ignored := fixing.tree["data"].get("ignore"):
        say(f"left out: {', '.join(ignored)}")
    for other in fixing.unsure:
        say(f"not sure: they could also be read with {_spell(other)}")
    for fault in summary["faults"]:
        say(f"  {describe_fault(fault['fault'], fault)}")


def _say_end(fixing: Fixing, facts: Mapping[str, Any], target: Path, say: Say) -> bool:
    """Say what a run takes, what speaks against it, and the line to paste; True if the recipe is ready."""
    stops = [*fixing.left, *facts.get("stops", ())]
    for line in describe_time(dict(facts)):
        say(line)
    if "disk" in facts:
        say(describe_disk(facts["disk"]))
    for note in (*facts.get("notes", ()), *facts.get("warnings", ())):
        say(f"note: {note}")
    for stop in stops:
        say(f"  {stop}")
    say(f"\nwritten: {target}" + (", which is not ready: fix what is listed above" if stops else ""))
    say(f"next: {shell_command('check' if stops else 'train', target)}")
    return not stops
