"""What a recipe will train, shown before anything is spent: the account of the rows, lengths, tokens, and a verdict."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from thinktune.config import MemoryTierName, Recipe
from thinktune.data import Prepared, StepRows, Subset, TokenKind, read_tokenizer
from thinktune.data import summary as account
from thinktune.data.chat_template import reference_ids
from thinktune.data.dataset import reply_digest, select
from thinktune.data.packing import plan_steps
from thinktune.data.pipeline import prepare_with_faults
from thinktune.data.tokenizer import save_and_reload, tokenizer_state
from thinktune.errors import UserError
from thinktune.hub import locate_model
from thinktune.model import pick_device, read_config
from thinktune.planner import PlanInputs, plan, plan_run
from thinktune.planner import disk_space as disk
from thinktune.progress import Say
from thinktune.train import evaluation_interval_steps

TOKEN_KIND_STYLES = {
    TokenKind.PROMPT: "dim",
    TokenKind.REASONING: "cyan",
    TokenKind.ANSWER: "green",
    TokenKind.END: "bold red",
}


TOKEN_KIND_NAMES = {
    TokenKind.PROMPT: "given",
    TokenKind.REASONING: "reasoning",
    TokenKind.ANSWER: "answer",
    TokenKind.END: "end of turn",
}


MAX_RERENDERED = 1000


# Characters that a terminal obeys, or that turn the order of what follows.
CONTROL_CHARACTERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def check_recipe(recipe: Recipe, say: Say) -> tuple[Prepared, dict[str, Any]]:
    """What the rows hold and what will be learned, as plain values beside the prepared rows.

    A run cannot start where `stops` in them is not empty. Raises UserError where a file or the model cannot be read.
    """
    source = locate_model(recipe)
    tokenizer = read_tokenizer(source, trust_remote_code=recipe.model.trust_remote_code)
    prepared = prepare_with_faults(recipe, tokenizer, say)
    facts = prepared.summary | {"stops": list(prepared.stop_reasons)}
    if not prepared.stop_reasons:
        steps = plan_steps(recipe, prepared)
        memory, planned = _plan(recipe, prepared, steps, source)
        facts |= {
            "proof": verify_tokens(prepared, tokenizer),
            "steps": len(steps),
            "epochs": recipe.train.epochs,
            "evaluate_every_steps": evaluation_interval_steps(recipe, steps),
            "plan": planned,
        }
        if memory:
            needs = disk.disk_requirements(
                read_config(source, trust_remote_code=recipe.model.trust_remote_code), memory
            )
            facts["disk"] = disk.disk_as_dict(recipe.run_folder, needs)
            if not recipe.plan.card and (
                told := disk.describe_shortage(recipe.run_folder, needs)
            ):  # else it may run elsewhere
                facts["stops"].append(told)
    return prepared, facts | {"verdict": "not ready" if facts["stops"] else "ready"}


def verify_tokens(prepared: Prepared, tokenizer: Any) -> dict[str, Any]:
    """What holds of the tokens; raises UserError where it does not.

    Of every reply: its tokens are those that were made by `render_batch`, which proves of each that the prompt is a
    prefix, that the last learned token ends the turn, and that the tokens decode to the template's text. Of all
    examples, or a thousand drawn evenly, rendered once more: their ids are those that transformers gives. Of the
    tokenizer: saved and loaded again, it is the same, and so are all ids that it gives.
    """
    rows = select(
        prepared.train.dataset, np.concatenate([prepared.train.example_indices, prepared.validation.example_indices])
    )
    for number in rows.reply_indices:
        reply = rows.dataset.reply(int(number))
        if reply_digest(reply) != rows.dataset.replies["digest"][number]:
            raise UserError(
                f"{reply.source}: its tokens on the disk are damaged; remove {rows.dataset.texts_file.parent}, "
                "and they are made anew"
            )
    drawn = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MAX_RERENDERED)).astype(int))
    replies = _compare_with_template(select(rows.dataset, rows.example_indices[drawn]), tokenizer)
    if tokenizer_state(save_and_reload(tokenizer)) != tokenizer_state(tokenizer):
        raise UserError("model.name: its tokenizer, saved and loaded again, is another one; take another model")
    return {"replies": len(rows.lengths), "rendered_again": replies, "end_of_turn": tokenizer.eos_token}


def print_check(facts: dict[str, Any], console: Console) -> None:
    """Print what `check_recipe` found, the verdict last."""
    for line in account.summary_lines(facts):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if facts["lengths"]:
        console.print(_length_table(facts))
    for shown in facts["shown"]:
        console.print(f"\nWhat is learned of {shown['row']}, token by token:", highlight=False, markup=False)
        console.print(colour_tokens(shown["pieces"]), soft_wrap=True)
    if "proof" in facts:
        for line in _proof_lines(facts):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        _show_plan(facts["plan"], console)
    if "disk" in facts:
        style = None if facts["disk"]["fits"] else "red"
        console.print(disk.describe_disk(facts["disk"]), style=style, highlight=False, markup=False, soft_wrap=True)
    for line in facts.get("written", ()):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    for stop in facts["stops"]:
        console.print(f"  {stop}", style="red", highlight=False, markup=False, soft_wrap=True)
    ready = facts["verdict"] == "ready"
    rest = f"thinktune train, {facts['steps']:,} steps" if ready else "what to mend stands above"
    console.print(f"\n[bold {'green' if ready else 'red'}]{facts['verdict']}[/]: {rest}", highlight=False)


def _plan(
    recipe: Recipe, prepared: Prepared, steps: Sequence[StepRows], source: Path
) -> tuple[MemoryTierName | None, dict[str, Any]]:
    """What is planned for the card that the recipe names, or the one at hand; on the CPU, what is usual there.

    With the memory tier that is taken; none where nothing fits.
    """
    device = pick_device()
    if device.type == "cpu" and not recipe.plan.card:
        setting = plan.cpu_default(recipe.train, int(prepared.train.lengths.max()))
        return setting.memory, {"card": "cpu", "options": [], "why": f"on the CPU: {plan.describe_setting(setting)}"}
    drawn = plan_run(PlanInputs(recipe, prepared, steps, source, device))
    return drawn.chosen and drawn.chosen.setting.memory, plan.plan_as_dict(drawn)


def colour_tokens(pieces: Sequence[tuple[int, str]]) -> Text:
    """Tokens in the colours of their parts, every second one underlined; each part is named, also without colours."""
    text = Text()
    former = None
    for number, (part, piece) in enumerate(pieces):
        if part != former:
            text.append(f"\n[{TOKEN_KIND_NAMES[TokenKind(part)]}] ", "bold")
            former = part
        visible = CONTROL_CHARACTERS.sub(lambda found: found[0].encode("unicode_escape").decode(), piece)
        text.append(visible, f"{TOKEN_KIND_STYLES[TokenKind(part)]}{' underline' * (number % 2)}")
    return text


def _compare_with_template(rows: Subset, tokenizer: Any) -> int:
    """Hold replies to transformers' own ids for them, and count those that were held."""
    expected = [ids for replies in reference_ids(rows.examples(), tokenizer) for ids in replies]
    for reply, ids in zip(rows.replies(), expected, strict=True):
        if ids is not None and reply.ids.tolist() != ids:
            raise UserError(f"{reply.source}: its ids are not those that the chat template gives; please report this")
    return sum(ids is not None for ids in expected)


def _length_table(facts: dict[str, Any]) -> Table:
    table = Table("tokens of", "mean", "median", "95 % below", "longest", "", "how many rows", box=None, pad_edge=False)
    for part in account.LENGTH_KINDS:
        values, histogram = facts["lengths"][part], facts["histograms"][part]
        figures = (f"{values[key]:,.0f}" for key in ("mean", "median", "p95", "max"))
        table.add_row(
            part, *figures, "0", f"{account.sparkline(histogram)} {account.HISTOGRAM_BINS * histogram['width']:,}+"
        )
    return table


def _show_plan(planned: dict[str, Any], console: Console) -> None:
    if planned["options"]:
        many = planned["ranks"] > 1
        columns = ["", "memory tier", "moves", "budget", "batch", "train", "eval", "samples", "host", "tokens/s"]
        columns += ["strategy", "sent inside", "between"] if many else []
        whose = "each one's" if many else "the"
        console.print(
            f"\nPredicted for {_describe_cards(planned)}, GiB at {whose} peak:", highlight=False, markup=False
        )
        table = Table(*columns, box=None, pad_edge=False)
        for option in planned["options"]:
            sizes = (f"{option[f'{name}_gib']:.1f}" for name in ("train", "evaluate", "sample", "host"))
            speed = option["predicted_tokens_per_second"]
            mark = "→" if option["chosen"] else "" if option["fits"] else "too large"
            when = "in backward" if option["update_in_backward"] else "after it"
            figures = [f"{option['activation_budget']:g}", f"{option['batch_tokens']:,}", *sizes]
            figures.append(f"{speed:,}" if speed else "–")
            if many:
                sent = (f"{option[f'sent_{where}_gib']:.1f}" for where in ("inside", "between"))
                figures += [option["strategy"], *sent]
            style = "bold green" if option["chosen"] else None if option["fits"] else "dim"
            table.add_row(mark, option["memory"], when, *figures, style=style)
        console.print(table)
        _show_networks(planned["networks"], console)
    console.print(f"plan: {planned['why']}", highlight=False, markup=False, soft_wrap=True)


def _describe_cards(planned: dict[str, Any]) -> str:
    """Of one card its name and size; of many how they stand, too."""
    card = f"{planned['card']} ({planned['card_gib']:.1f} GiB)"
    machines = planned["ranks"] // planned["per_node"]
    where = f"on {machines:,} machines with {planned['per_node']} each" if machines > 1 else "on one machine"
    return f"{planned['ranks']:,} cards {card} {where}" if planned["ranks"] > 1 else card


def _show_networks(networks: Sequence[dict[str, Any]], console: Console) -> None:
    """How fast many cards are with the chosen line, over each network."""
    if not networks:
        return
    table = Table("between machines", "seconds a step", "tokens/s", "efficiency", box=None, pad_edge=False)
    for each in networks:
        seconds, speed = f"{each['seconds_per_step']:.2f}", f"{each['tokens_per_second']:,.0f}"
        table.add_row(each["network"], seconds, speed, f"{each['efficiency']:.0%}")
    said = (
        "\ntokens/s: of all cards, with 200 Gb/s between machines; sent: GiB of each card in a step. The arrow's line:"
    )
    console.print(said, highlight=False, markup=False, soft_wrap=True)
    console.print(table)


def _proof_lines(facts: dict[str, Any]) -> list[str]:
    proof = facts["proof"]
    return [
        f"\nproved of {proof['replies']:,} replies: the prompt is a prefix of the whole, the last learned token is "
        f"{proof['end_of_turn']}, the tokens decode to the chat template's text",
        f"of {proof['rendered_again']:,} of them once more: transformers' chat template gives the same ids; "
        "the tokenizer, saved and loaded again, is the same",
        f"{facts['steps']:,} steps in {facts['epochs']} epochs, an evaluation every {facts['evaluate_every_steps']:,}",
    ]
