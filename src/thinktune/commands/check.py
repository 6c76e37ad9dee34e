"""What a recipe will train, before any GPU time is spent: row statistics, tokens by kind, plan, disk and a verdict."""

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from thinktune.checkpoint.base_files import BaseFiles
from thinktune.config import MemoryTierName, Recipe
from thinktune.data import Prepared, Subset, summary
from thinktune.data.dataset import select
from thinktune.data.doubts import find_doubts
from thinktune.data.own_answers.entry import rows_with_real_tokens
from thinktune.data.packing import account_for_sources, padding_share, plan_steps
from thinktune.data.pipeline import prepare_with_faults
from thinktune.data.rows_first import RowsFirst
from thinktune.errors import UserError, redact_all
from thinktune.eval.averaging.questions import describe_cost, few_rows_fault
from thinktune.hub import locate_model
from thinktune.model import pick_device
from thinktune.model.admission import Admitted, admit, context_fault
from thinktune.model.loading import many_ranks_fault
from thinktune.model.low_precision.float8 import require_float8
from thinktune.planner import PlanInputs, disk_space, plan, plan_run, resolve_setting
from thinktune.planner.hyperparameters import RunSize, advise
from thinktune.planner.resolve import UnpredictedModelError, describe_stated, stated_setting
from thinktune.planner.run_time import (
    ALWAYS_LEFT_OUT,
    HourlyPrice,
    RunTokens,
    cpu_speeds,
    describe_time,
    parse_hourly_price,
    run_seconds,
    time_as_dict,
)
from thinktune.planner.speed import format_speeds
from thinktune.planner.trace import parameter_count
from thinktune.progress import Say, say_nothing
from thinktune.report.doubts_page import write_doubts
from thinktune.run.environment import shell_command
from thinktune.terminal import guard_console, show_controls, translated
from thinktune.tokenization import ChatTokenizer, TokenKind, read_tokenizer
from thinktune.tokenization.chat_template import reference_ids
from thinktune.tokenization.model_template import read_tokenizer_with_notes
from thinktune.tokenization.tokenizer import tokenizer_state
from thinktune.train import evaluation_interval_steps
from thinktune.train.objective import objective_lines, unlearned_fault
from thinktune.translation import translate

# Columns of a terminal that the table of settings needs: in its wide form, of one card and of several, and closer.
NARROW_ONE_CARD, NARROW_MANY_CARDS, NARROW_ONE_CARD_SIZES = 100, 130, 78
LEFT_OUT_OF_NARROW = {"budget", "batch", "eval", "samples", "host"}

TOKEN_KIND_STYLES = {
    TokenKind.PROMPT: "dim",
    TokenKind.REASONING: "cyan",
    TokenKind.ANSWER: "green",
    TokenKind.END: "bold red",
}
TOKEN_KIND_NAMES = {
    TokenKind.PROMPT: "prompt",
    TokenKind.REASONING: "reasoning",
    TokenKind.ANSWER: "answer",
    TokenKind.END: "end of turn",
}
SLOW_PRECISION = (
    "expert.precision: is fp32 without TF32 rounding, which runs at a half to a fifteenth of bf16's speed on a "
    "card; leave it out unless you need every digit"
)
MAX_RERENDERED = 1000  # examples
SHOWN_BATCH_TOKENS = 8192  # of a batch for which the price of padding is shown, where the recipe names none


def check_recipe(
    recipe: Recipe, say: Say, first: RowsFirst | None = None, price: HourlyPrice | None = None
) -> tuple[Prepared, dict[str, Any]]:
    """Admit a recipe's model, prepare its rows unless they were `first`, and collect facts about them as plain values.

    A run cannot start while `stops` among the facts is not empty, and may not learn where there are `warnings`; `notes`
    are what no setting can change. With a `price` the facts say what the run costs. Raises UserError if a file cannot
    be read, or the model cannot be trained.
    """
    source, trusted = locate_model(recipe), recipe.model.trust_remote_code
    if first and first.source != source:  # the hub has another one by now
        first = None
    admitted = _admit(recipe, source, first)
    tokenizer = admitted.tokenizer
    if first and first.agrees(tokenizer) and isinstance(first.prepared, Prepared):
        prepared = first.prepared
    else:
        prepared = prepare_with_faults(recipe, tokenizer, say)
    faults = (
        context_fault(prepared, admitted.config),
        unlearned_fault(recipe.train, prepared.train),
        few_rows_fault(recipe, prepared.validation),
    )
    stops = [*prepared.stop_reasons, *filter(None, faults)]
    facts = prepared.summary | {"stops": stops, "model_notes": list(admitted.notes)}
    facts["objective"] = objective_lines(recipe.train, prepared.train)
    if not prepared.stop_reasons:
        steps = plan_steps(recipe, prepared)
        inputs = PlanInputs(recipe, prepared, steps, admitted.config, admitted.traits, pick_device())
        memory, planned = _plan(inputs)
        _verify_carried_tokenizer(source, tokenizer, trust_remote_code=trusted)
        facts |= {
            "proof": verify_tokens(prepared, tokenizer),
            "steps": len(steps),
            "epochs": recipe.train.epochs,
            "evaluate_every_steps": evaluation_interval_steps(recipe, steps),
            "plan": planned,
            **account_for_sources(recipe, prepared, steps),
            **advise(recipe, _run_size(inputs)).as_dict(),
            **_time_and_cost(inputs, planned, price),
        }
        if recipe.train.average is not None:
            facts["averaging"] = describe_cost(recipe, prepared)
        if not admitted.traits.packed:
            capacity = recipe.train.batch_tokens or max(SHOWN_BATCH_TOKENS, int(prepared.train.lengths.max()))
            share = padding_share(prepared.train.lengths, steps, capacity)
            facts["padding"] = {"batch_tokens": capacity, "share": round(share, 4)}
        stops += filter(None, [planned.pop("stop", None)])
        if planned.get("ranks", 1) > 1:
            stops += filter(None, [many_ranks_fault(source, admitted, trust_remote_code=trusted)])
        if memory:
            averages = recipe.train.average is not None
            needed = disk_space.disk_requirements(admitted.config, memory, averages=averages)
            facts["disk"] = disk_space.disk_as_dict(recipe.run_folder, needed)
            shortage = disk_space.describe_shortage(recipe.run_folder, needed)
            if shortage and not recipe.plan.card:  # with a card named, it may be meant for another machine
                facts["stops"].append(shortage)
    return prepared, facts | {"verdict": "not ready" if facts["stops"] else "ready"}


def finish_facts(
    facts: Mapping[str, Any], recipe: Path, overrides: Sequence[str], *, strict: bool = False
) -> dict[str, Any]:
    """Return the verdict on a recipe's facts, where warnings count if it is strict, and the line to paste next."""
    ready = facts["verdict"] == "ready" and not (strict and facts["warnings"])
    following = {"next": shell_command("train", recipe, *overrides)} if ready else {}
    return {"verdict": "ready" if ready else "not ready", "strict": strict} | following


def read_price(text: str | None) -> HourlyPrice | None:
    """Read the price of an hour; raises UserError for a text that is none."""
    return parse_hourly_price(text) if text else None


def _admit(recipe: Recipe, source: Path, first: RowsFirst | None) -> Admitted:
    """Admit a recipe's model folder; raises one UserError with its faults, and those found in rows that came first."""
    read = (first.tokenizer, first.notes) if first and first.known else None
    try:
        return admit(
            source, trust_remote_code=recipe.model.trust_remote_code, template=recipe.model.template, read=read
        )
    except UserError as error:
        if first is None:
            raise
        rows = first.prepared.faults if isinstance(first.prepared, UserError) else first.prepared.stop_reasons
        raise UserError(list(dict.fromkeys((*error.faults, *rows)))) from error


def peak_memory_mib() -> int | None:
    """Return the most memory (RSS, MiB) that this process has had, None on Windows; workers, which read rows, apart."""
    try:
        import resource  # which Windows has not
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if sys.platform == "darwin" else 2**10)  # macOS counts bytes


def write_doubts_page(recipe: Recipe, folder: Path) -> list[str]:
    """Write the page of doubts about a recipe's rows into a folder; return lines about it for people."""
    trusted, template = recipe.model.trust_remote_code, recipe.model.template
    tokenizer, _ = read_tokenizer_with_notes(locate_model(recipe), trust_remote_code=trusted, template=template)
    return write_doubts(find_doubts(recipe, tokenizer), folder)


def verify_tokens(prepared: Prepared, tokenizer: ChatTokenizer) -> dict[str, Any]:
    """Verify the prepared tokens and return how many were; raises UserError on the first that are wrong.

    Every reply: its tokens are still those that `render_batch` made, which proved that the prompt is a prefix, that the
    last trained token ends the turn, and that the tokens decode to the template's text. All examples, or a thousand
    evenly spaced ones: rendered again by transformers, their ids are the same. Own answers that are not made yet have
    no tokens.
    """
    dataset = prepared.train.dataset
    indices = np.concatenate([prepared.train.example_indices, prepared.validation.example_indices])
    real = rows_with_real_tokens(prepared.summary, dataset.sources_of_examples(indices).tolist())
    rows = select(dataset, indices[real])
    for number in rows.reply_indices:
        rows.dataset.reply(int(number))  # reading it holds it to its digest
    sampled = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MAX_RERENDERED)).astype(int))
    compared = _compare_with_template(select(rows.dataset, rows.example_indices[sampled]), tokenizer)
    return {"replies": len(rows.lengths), "rendered_again": compared, "end_of_turn": tokenizer.eos_token}


def _verify_carried_tokenizer(source: Path, tokenizer: ChatTokenizer, *, trust_remote_code: bool) -> None:
    """Raise UserError unless the files that a run's `final/` carries on load as the same tokenizer."""
    with tempfile.TemporaryDirectory() as folder:
        BaseFiles.read(source, tokenizer).write(Path(folder))
        carried = read_tokenizer(Path(folder), trust_remote_code=trust_remote_code)
    if tokenizer_state(carried) != tokenizer_state(tokenizer):
        raise UserError("model.name: its tokenizer changes when its files are copied; use another model")


def _compare_with_template(rows: Subset, tokenizer: ChatTokenizer) -> int:
    """Compare replies with transformers' own ids for them; return how many could be compared."""
    expected = [ids for replies in reference_ids(rows.examples(), tokenizer) for ids in replies]
    for reply, ids in zip(rows.replies(), expected, strict=True):
        if ids is not None and reply.ids.tolist() != ids:
            raise UserError(f"{reply.source}: its token ids differ from the chat template's; please report this")
    return sum(ids is not None for ids in expected)


def _plan(inputs: PlanInputs) -> tuple[MemoryTierName | None, dict[str, Any]]:
    """Plan for the recipe's card or the one at hand; on the CPU, take its defaults.

    Returns the chosen memory tier, None if nothing fits, and the plan as plain values; `stop` among them says why a run
    cannot start without one. Raises UserError, as `train` does, for a setting that this machine or these rows cannot
    have.
    """
    recipe, device = inputs.recipe, inputs.device
    try:
        if not recipe.plan.card:  # with one, it may be for another machine
            require_float8(recipe.train.precision, device)
        if device.type == "cpu" and not recipe.plan.card:
            setting = resolve_setting(inputs, say_nothing)
            why = f"on the CPU: {plan.describe_setting(setting)}"
            return setting.memory, {"card": "cpu", "options": [], "why": why}
        made = plan_run(inputs)
    except UnpredictedModelError as error:
        stated = stated_setting(recipe.train, 1)
        why = describe_stated(stated) if stated else f"none: {error}"
        return stated and stated.memory, {"options": [], "why": why} | ({} if stated else {"stop": str(error)})
    slow = {"precision": SLOW_PRECISION} if recipe.train.precision == "fp32" else {}
    if made.chosen is None:
        return None, plan.plan_as_dict(made) | slow | {"stop": plan.no_fit_fault(made)}
    return made.chosen.setting.memory, plan.plan_as_dict(made) | slow


def _run_size(inputs: PlanInputs) -> RunSize:
    """Describe a run to those who judge its hyper-parameters."""
    recipe, summary, lengths = inputs.recipe, inputs.prepared.summary, inputs.step_lengths
    epochs = recipe.train.epochs
    histogram = summary["histograms"].get("whole", {"counts": []})
    own = summary.get("sources", [summary])[0]
    return RunSize(
        parameters=parameter_count(inputs.config),
        train_rows=round(sum(map(len, lengths)) / epochs),
        epoch_tokens=round(sum(map(sum, lengths)) / epochs),
        held_out_rows=summary["validation_rows"],
        rows_read=own["rows_read"],
        steps=len(inputs.steps),
        replies=sum(histogram["counts"]),
        over={int(tokens): count for tokens, count in summary["over"].items()},
        context_tokens=getattr(inputs.config, "max_position_embeddings", None),
        own_rows=own["train_rows"] if recipe.is_mixture else None,
    )


def _time_and_cost(inputs: PlanInputs, planned: dict[str, Any], price: HourlyPrice | None) -> dict[str, Any]:
    """Return how long a run takes and what it costs; nothing where no speed is known."""
    recipe, steps = inputs.recipe, inputs.steps
    if planned.get("card") == "cpu":
        speeds = cpu_speeds(inputs.config, inputs.prepared.train.lengths)
        basis = "if nothing else runs on this machine"
    else:
        chosen = next((option for option in planned["options"] if option["chosen"]), {})
        speeds, basis = chosen.get("predicted_range"), f"predicted for {planned.get('card')}"
    if not speeds:
        return {}
    evaluations = 1 + -(-len(steps) // evaluation_interval_steps(recipe, steps))
    held_out = int(inputs.prepared.validation.lengths.sum()) * evaluations
    sampled = recipe.generate.sample_share if recipe.generate.sample_questions and held_out else 0.0
    tokens = RunTokens(sum(map(sum, inputs.step_lengths)), held_out, sampled)
    left_out = [*ALWAYS_LEFT_OUT, *_replies_first_or_last(recipe, inputs.prepared)]
    return time_as_dict(run_seconds(tokens, (speeds[0], speeds[1])), basis, price, left_out)


def _replies_first_or_last(recipe: Recipe, prepared: Prepared) -> list[str]:
    """Name the replies that a run has its models write outside of training, of which no speed is known yet."""
    accounts = [source.get("own_answers") for source in prepared.summary.get("sources", ())]
    unmade = any(account and not account["made"] for account in accounts)
    return ["the base's own answers"] * unmade + ["the replies for averaging"] * (recipe.train.average is not None)


def print_check(facts: dict[str, Any], console: Console) -> None:
    """Print the facts of `check_recipe`, the verdict last; no secret among them is shown."""
    guard_console(console)
    facts = redact_all(facts)
    for line in (*facts.get("model_notes", ()), *summary.summary_lines(facts), *facts.get("objective", ())):
        _print(line, console)
    if padding := facts.get("padding"):
        _print(f"padding: {padding['share']:+.0%} tokens, at {padding['batch_tokens']:,} tokens a batch", console)
    if facts["lengths"]:
        console.print(translated(_length_table(facts)))
    for shown in facts["shown"]:
        _print(f"\nTokens of {shown['row']}, by kind:", console)
        console.print(colour_tokens(shown["pieces"]), soft_wrap=True, end="")  # which leaves its lines as they are
        console.print()
    if "proof" in facts:
        for line in _proof_lines(facts):
            _print(line, console)
        _print_plan(facts["plan"], console)
    if "averaging" in facts:
        _print(facts["averaging"], console)
    for line in describe_time(facts):
        _print(line, console)
    if "disk" in facts:
        _print(disk_space.describe_disk(facts["disk"]), console, None if facts["disk"]["fits"] else "red")
    for line in facts.get("written", ()):
        _print(line, console)
    _print_verdict(facts, console)


def _print_verdict(facts: Mapping[str, Any], console: Console) -> None:
    """Print what speaks against a run, the verdict, and the command that starts it."""
    for note in facts.get("notes", ()):
        _print(f"note: {note}", console)
    for warning in facts.get("warnings", ()):
        _print(f"warning: {warning}", console, "yellow")
    for stop in facts["stops"]:
        _print(f"  {stop}", console, "red")
    ready = facts["verdict"] == "ready"
    verdict = translate(facts["verdict"])
    rest = translate(f"{facts['steps']:,} steps" if ready else "fix what is listed above")
    console.print(f"\n[bold {'green' if ready else 'red'}]{verdict}[/]: {rest}", highlight=False)
    if ready and "next" in facts:
        _print(f"next: {facts['next']}", console)


def _print(line: str, console: Console, style: str | None = None) -> None:
    console.print(translate(line), style=style, highlight=False, markup=False, soft_wrap=True)


def colour_tokens(pieces: Sequence[tuple[int, str]]) -> Text:
    """Colour tokens by their kind, every second one underlined; each kind is also named, for terminals without colours.

    `pieces` are pairs of a `TokenKind` and a token's text.
    """
    text = Text()
    former = None
    for number, (kind, piece) in enumerate(pieces):
        if kind != former:
            text.append(f"\n[{translate(TOKEN_KIND_NAMES[TokenKind(kind)])}] ", "bold")
            former = kind
        text.append(show_controls(piece), f"{TOKEN_KIND_STYLES[TokenKind(kind)]}{' underline' * (number % 2)}")
    return text


def _length_table(facts: dict[str, Any]) -> Table:
    table = Table("tokens of", "mean", "median", "p95", "longest", "", "distribution", box=None, pad_edge=False)
    for kind in summary.LENGTH_KINDS:
        values, histogram = facts["lengths"][kind], facts["histograms"][kind]
        figures = (f"{values[key]:,.0f}" for key in ("mean", "median", "p95", "max"))
        bars = f"{summary.sparkline(histogram)} {summary.HISTOGRAM_BINS * histogram['width']:,}+"
        table.add_row(kind, *figures, "0", bars)
    return table


def _print_plan(planned: dict[str, Any], console: Console) -> None:
    if planned["options"]:
        each = " of each card" if planned["ranks"] > 1 else ""
        _print(f"\nPredicted for {_describe_cards(planned)}, peak GiB{each}:", console)
        console.print(translated(plan_table(planned, console.width)))
        _print_networks(planned["networks"], console)
    _print(f"plan: {planned['why']}", console)
    for line in (planned[name] for name in ("card_note", "precision") if name in planned):
        _print(line, console)


def plan_table(planned: dict[str, Any], columns: int) -> Table:
    """Make the table of settings; where `columns` are too few, its columns are closer, then some are left out."""
    many = planned["ranks"] > 1
    narrow = columns < (NARROW_MANY_CARDS if many else NARROW_ONE_CARD)
    left_out = LEFT_OUT_OF_NARROW if narrow and (many or columns < NARROW_ONE_CARD_SIZES) else set[str]()
    rows = [
        {key: text for key, text in _plan_row(each, many).items() if key not in left_out} for each in planned["options"]
    ]
    table = Table(*rows[0], box=None, pad_edge=False, padding=(0, 1, 0, 0) if narrow else (0, 1))
    for option, row in zip(planned["options"], rows, strict=True):
        if narrow and not option["fits"]:
            row |= {"": "", "tokens/s": row[""]}
        style = "bold green" if option["chosen"] else None if option["fits"] else "dim"
        table.add_row(*row.values(), style=style)
    return table


def _plan_row(option: dict[str, Any], many: bool) -> dict[str, str]:
    """Return the cells of a setting by their headings; those of several cards only with `many`."""
    speeds = option["predicted_range"]
    row = {
        "": "→" if option["chosen"] else "" if option["fits"] else "too large",
        "memory tier": option["memory"],
        "update": "in backward" if option["update_in_backward"] else "after",
        "budget": "on host" if option["offload_activations"] else f"{option['activation_budget']:g}",
        "batch": f"{option['batch_tokens']:,}",
        "train": f"{option['train_gib']:.1f}",
        "eval": f"{option['evaluate_gib']:.1f}",
        "samples": f"{option['sample_gib']:.1f}",
        "host": f"{option['host_gib']:.1f}",
        "tokens/s": format_speeds(*speeds) if speeds else "–",
    }
    volumes = {"intra-node": "inside", "inter-node": "between"}
    sent = {name: f"{option[f'sent_{where}_gib']:.1f}" for name, where in volumes.items()} if many else {}
    return row | ({"strategy": option["strategy"]} if many else {}) | sent


def _describe_cards(planned: dict[str, Any]) -> str:
    """Describe one card by name and size; several also by how they are spread over machines."""
    card = f"{planned['card']} ({planned['card_gib']:.1f} GiB)"
    machines = planned["ranks"] // planned["per_node"]
    where = f"on {machines:,} machines of {planned['per_node']}" if machines > 1 else "on one machine"
    return f"{planned['ranks']:,} × {card} {where}" if planned["ranks"] > 1 else card


def _print_networks(networks: Sequence[dict[str, Any]], console: Console) -> None:
    """Print the throughput of the chosen option on several cards, over each assumed network."""
    if not networks:
        return
    _print(
        "\ntokens/s: all cards together, at 200 Gb/s between machines; intra-node, inter-node: GiB that a card sends "
        "in a step. The chosen plan by network:",
        console,
    )
    table = Table("between machines", "s/step", "tokens/s", "efficiency", box=None, pad_edge=False)
    for each in networks:
        seconds, speed = f"{each['seconds_per_step']:.2f}", format_speeds(each["poor"], each["good"])
        table.add_row(each["network"], seconds, speed, f"{each['efficiency']:.0%}")
    console.print(translated(table))


def _proof_lines(facts: dict[str, Any]) -> list[str]:
    proof = facts["proof"]
    return [
        f"\nverified for {proof['replies']:,} replies: the prompt is a prefix of the conversation, the last trained "
        f"token is {proof['end_of_turn']}, the tokens decode to the chat template's text",
        f"checked again for {proof['rendered_again']:,} of them: transformers' chat template gives the same token "
        "ids; the tokenizer is unchanged after saving and loading",
        f"{facts['steps']:,} steps in {facts['epochs']} epochs, an evaluation every {facts['evaluate_every_steps']:,}",
    ]
