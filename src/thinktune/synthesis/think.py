"""Reasoning for rows that have none: ask a teacher, keep what is right, write the rows and the account."""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any

from thinktune import __version__
from thinktune.config import Recipe
from thinktune.config.loading import dump_recipe
from thinktune.config.schema import ColumnsConfig
from thinktune.data.columns.provenance import MAKER_KEY
from thinktune.data.faults.checks import CheckRules
from thinktune.errors import UserError
from thinktune.files import atomic_write_text, write_json, write_json_lines
from thinktune.hub import locate_model
from thinktune.inference import Completion, Request
from thinktune.progress import Say
from thinktune.run.thought_folder import ThoughtFolder
from thinktune.synthesis.account import AskingProgress, reasons, spending, spending_record
from thinktune.synthesis.answer_agreement import answer_agreement, row_task
from thinktune.synthesis.answer_judge import make_judge
from thinktune.synthesis.engines import OpenedEngine, is_address, open_model, open_server
from thinktune.synthesis.questions import (
    Question,
    Rows,
    hinted_request,
    prepare_written,
    read_rows_to_ask,
    read_rows_to_shorten,
    teacher_request,
)
from thinktune.synthesis.reply_journal import ReplyJournal
from thinktune.synthesis.rounds import earlier_rounds, round_record
from thinktune.synthesis.rows import KeptReply, WrittenRow, written_rows
from thinktune.synthesis.selection import Judge, SelectionRules, Try, Verdict, select
from thinktune.synthesis.settings import ThinkOptions, default_folder, keep_settings
from thinktune.synthesis.shortening import Shortening, shorten
from thinktune.synthesis.teacher import Patience, Teacher
from thinktune.tokenization import ChatTokenizer, read_tokenizer
from thinktune.tokenization.tokenizer import control_tokens


@dataclass(frozen=True, slots=True)
class AskedTry:
    """A try that got a reply: its number, its request's key, and the reply."""

    number: int
    key: str
    reply: Completion
    hinted: bool = False


@dataclass(slots=True)
class Thought:
    """What came of the questions: by question its tries and those kept, and a record of every verdict."""

    tries: list[list[AskedTry]]
    kept: list[list[KeptReply]] = field(default_factory=list[list[KeptReply]])
    verdicts: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


@dataclass(frozen=True, slots=True)
class Work:
    """All that is needed to ask and to select."""

    recipe: Recipe
    options: ThinkOptions
    rows: Rows
    tokenizer: ChatTokenizer
    journal: ReplyJournal
    teacher: Teacher
    judge: Judge | None
    say: Say


def think(recipe: Recipe, options: ThinkOptions, say: Say, patience: Patience | None = None) -> dict[str, Any]:
    """Give reasoning to the rows of a recipe that have none, and return the account, as in account.json.

    Every reply is on the disk before it counts, so after a stop the same call goes on where it was. Raises UserError
    for mistakes in the options, where another process works in the folder, and where the teacher is gone.
    """
    options.refuse_mistakes()
    if recipe.other_sources:
        raise UserError(
            f"data: is a list of {len(recipe.sources)} sources, and thinktune think works on one; write a recipe "
            "with only that source, then name the written file in the list"
        )
    patience = patience or Patience()
    template, trusted = recipe.model.template, recipe.model.trust_remote_code
    tokenizer = read_tokenizer(locate_model(recipe), trust_remote_code=trusted, template=template)
    rows = _read_rows(recipe, options, tokenizer, say)
    folder = ThoughtFolder(options.folder or default_folder(recipe, "-short" if options.shorten else ""))
    with ExitStack() as stack:
        stack.enter_context(folder.locked())
        if not (options.teacher and is_address(options.teacher)):
            from thinktune.model.device import hold_own_cards  # imported late: a server needs no torch

            stack.enter_context(hold_own_cards(say, wait=options.wait, most=1))
        opened = _open(options.teacher, recipe, patience, say)
        engines = stack.enter_context(ExitStack())
        engines.callback(opened.engine.close)
        keep_settings(folder, options, recipe, opened.identity)
        journal = stack.enter_context(closing(ReplyJournal(folder.replies)))
        ledger = options.ledger()
        ledger.charge(journal.spent)
        teacher = Teacher(opened.engine, opened.name, opened.identity, journal, ledger, patience)
        engines.pop_all()
        stack.callback(teacher.close)
        judge = None
        if options.judge:
            asked = open_server(options.judge, patience.timeout_seconds)
            judging = Teacher(asked.engine, asked.name, asked.identity, journal, ledger, patience)
            stack.callback(judging.close)
            judge = make_judge(judging)
        work = Work(recipe, options, rows, tokenizer, journal, teacher, judge, say)
        thought = _shorten(work) if options.shorten else _think_about(work)
        account = _write(work, thought, folder)
        account |= spending_record(ledger) | {"spent_in_words": spending(ledger)}
        write_json(folder.account, account)
    return account


def _read_rows(recipe: Recipe, options: ThinkOptions, tokenizer: ChatTokenizer, say: Say) -> Rows:
    if not options.shorten:
        return read_rows_to_ask(recipe, tokenizer, say)
    most = options.reasoning_tokens[1] or 0
    return read_rows_to_shorten(recipe, tokenizer, say, lambda text: _count_tokens(text, tokenizer) > most)


def _open(teacher: str | None, recipe: Recipe, patience: Patience, say: Say) -> OpenedEngine:
    if teacher and is_address(teacher):
        return open_server(teacher, patience.timeout_seconds)
    return open_model(teacher, recipe, say)


def _think_about(work: Work) -> Thought:
    """Ask each question so often, select, and ask once more with a hint where nothing was right."""
    options, questions = work.options, work.rows.questions
    everyone = range(len(questions))
    thought = Thought([[] for _ in questions])
    # One try of every question before the second of any: if the budget ends, every question had its chance.
    asked = [
        (
            index,
            number,
            teacher_request(questions[index], options.sampling(work.recipe, number), instruct=options.instruct),
        )
        for number in range(options.tries)
        for index in everyone
    ]
    _ask(work, thought, asked, hinted=False)
    _select(work, thought)
    if options.hints:
        asked = [
            (
                index,
                number,
                hinted_request(questions[index], options.sampling(work.recipe, number), instruct=options.instruct),
            )
            for number in range(options.tries)
            for index in everyone
            if thought.tries[index] and not thought.kept[index]
        ]
        if asked:
            work.say(
                f"{len({index for index, _, _ in asked}):,} questions without a correct reply are asked with a hint"
            )
            _ask(work, thought, asked, hinted=True)
            _select(work, thought)
    return thought


def _shorten(work: Work) -> Thought:
    """Have long reasoning rewritten, again where a rewriting was not kept; what is not shortened stays as it was."""
    questions = work.rows.questions
    thought = Thought([[] for _ in questions], [[] for _ in questions])
    shortening = Shortening(_rules(work), lambda text: _count_tokens(text, work.tokenizer), work.judge)
    for number in range(work.options.tries):
        left = [index for index, kept in enumerate(thought.kept) if not kept]
        examples = [questions[index].example for index in left]
        for made in shorten(examples, work.teacher, shortening, work.options.sampling(work.recipe, number)):
            question, key, verdict = questions[left[made.index]], work.teacher.key(made.request), made.verdict
            record: dict[str, Any] = {
                **{"row": question.place, "try": number, "kind": "shortened", "kept": verdict.kept},
                **{"why": verdict.why, "detail": verdict.detail, "grader": verdict.grader, "right": None},
                **{"tokens": made.reply.tokens, "reasoning_tokens": made.tokens},
            }
            thought.verdicts.append(record)
            if verdict.kept:
                facts = _facts(work, question, key, number, verdict) | {"kind": "shortened"}
                thought.kept[left[made.index]].append(KeptReply(question, verdict.reasoning, verdict.answer, facts))
        kept = sum(map(bool, thought.kept))
        work.say(
            f"rewriting {number + 1} of {work.options.tries}: {kept:,} of {len(questions):,} reasonings are shorter"
        )
        if kept == len(questions) or work.teacher.is_spent:
            break
    return thought


def _ask(work: Work, thought: Thought, asked: Sequence[tuple[int, int, Request]], *, hinted: bool) -> None:
    """Ask all requests, and put the replies to their questions in the order of the tries."""
    requests = [request for _, _, request in asked]
    known = work.teacher.known(requests)
    if known:
        work.say(f"{known:,} of {len(requests):,} replies are already saved")
    progress = AskingProgress(work.say, len(requests), known, work.teacher.ledger)
    for done, (place, reply) in enumerate(work.teacher.complete(requests), 1):
        index, number, request = asked[place]
        thought.tries[index].append(AskedTry(number, work.teacher.key(request), reply, hinted))
        progress.update(done)
    for tries in thought.tries:
        tries.sort(key=lambda each: (each.hinted, each.number))


def _select(work: Work, thought: Thought) -> None:
    """Decide on all tries of all questions; the replies that a judge needs are asked side by side."""
    rules = _rules(work)

    def decide(index: int) -> tuple[list[KeptReply], list[dict[str, Any]]]:
        return _decide(work, work.rows.questions[index], thought.tries[index], rules)

    with ThreadPoolExecutor(work.teacher.max_concurrency if work.judge else 1) as pool:
        decisions = list(pool.map(decide, range(len(thought.tries))))
    thought.kept = [kept for kept, _ in decisions]
    thought.verdicts = [record for _, records in decisions for record in records]


def _rules(work: Work) -> SelectionRules:
    settings = work.recipe.data
    least, most = work.options.reasoning_tokens
    return SelectionRules(
        CheckRules(settings.faults, settings.handed_phrases, tuple(control_tokens(work.tokenizer))),
        min_reasoning_tokens=least,
        max_reasoning_tokens=most,
        own_answers=work.options.own_answers,
        max_kept=work.options.keep,
    )


def _decide(
    work: Work, question: Question, tries: Sequence[AskedTry], rules: SelectionRules
) -> tuple[list[KeptReply], list[dict[str, Any]]]:
    """Decide on the tries of one question; return those kept, and a record of each verdict."""
    made = [
        Try(
            each.reply.reasoning,
            each.reply.answer,
            each.reply.finish,
            each.reply.closed,
            _count_tokens(each.reply.reasoning, work.tokenizer),
            each.hinted,
        )
        for each in tries
    ]
    task = row_task(question.example)
    kept: list[KeptReply] = []
    records: list[dict[str, Any]] = []
    for each, verdict in zip(tries, select(question.example, made, rules, work.judge) if made else (), strict=True):
        records.append(
            {
                **{"row": question.place, "try": each.number, "kind": verdict.kind, "kept": verdict.kept},
                **{"why": verdict.why, "detail": verdict.detail, "grader": verdict.grader},
                **{"right": answer_agreement(task, each.reply.answer).holds},
                **{"tokens": each.reply.tokens, "reasoning_tokens": each.reply.reasoning_tokens},
            }
        )
        if verdict.kept:
            facts = _facts(work, question, each.key, each.number, verdict)
            kept.append(KeptReply(question, verdict.reasoning, verdict.answer, facts))
    return kept, records


def _facts(work: Work, question: Question, key: str, number: int, verdict: Verdict) -> dict[str, Any]:
    """Return the provenance of a kept reply."""
    record = work.journal.record(key)
    return {
        **{"turn": question.turn_index, "teacher": record["teacher"], "kind": verdict.kind, "try": number},
        **{"seed": work.options.seed + number, "temperature": work.options.temperature},
        **{"date": record["date"], "grader": verdict.grader},
    }


def _count_tokens(text: str, tokenizer: ChatTokenizer) -> int:
    """Count a text's tokens in the model that is to be trained."""
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def _write(work: Work, thought: Thought, folder: ThoughtFolder) -> dict[str, Any]:
    """Write rows, verdicts and recipe, and return the account; what `check` would leave out is not written."""
    made = list(written_rows(work.rows, thought.kept, work.recipe.data.system, own_answers=work.options.own_answers))
    written, faults = _accepted(work, made, folder)
    write_json_lines(folder.rows, (row.record for row in written))
    write_json_lines(folder.verdicts, thought.verdicts)
    atomic_write_text(folder.recipe, dump_recipe(_recipe_of(work.recipe, folder)))
    kept = [reply for row in written for reply in row.replies]
    summary = work.rows.summary
    dropped = [fault for fault in summary["faults"] if "dropped" in fault["actions"]]
    kept_questions = len({(reply.question.row_index, reply.question.turn_index) for reply in kept})
    this_round = round_record(work.teacher.name, thought.verdicts, len(work.rows.questions), kept_questions)
    asked_rows = len(work.rows.examples) - work.rows.passed_rows
    return {
        MAKER_KEY: __version__,
        "teacher": work.teacher.name,
        "lacking": "reasoning that is short enough" if work.options.shorten else "reasoning",
        "rows": {
            "read": summary["rows_read"],
            "asked": asked_rows,
            "passed": work.rows.passed_rows,
            "left_out": summary["rows_read"] - len(work.rows.examples),
        },
        "faults": [
            {"fault": each["fault"], "count": each["actions"]["dropped"], "examples": each["examples"]}
            for each in dropped
        ],
        "questions": len(work.rows.questions),
        "tries": work.options.tries,
        "replies": len(thought.verdicts),
        "kept_replies": len(kept),
        "kept_questions": kept_questions,
        "why_not": reasons(thought.verdicts),
        "rounds": [*earlier_rounds(work.options.teacher), this_round],
        "failures": dict(work.teacher.failures),
        "rows_with_a_fault": faults,
        "written_rows": len(written),
        "file": str(folder.rows),
        "recipe": str(folder.recipe),
        "notes": list(_notes(work, thought, faults)),
    }


def _accepted(work: Work, made: Sequence[WrittenRow], folder: ThoughtFolder) -> tuple[list[WrittenRow], dict[str, int]]:
    """Read the rows as `check` will, with all rows beside each other, and keep what it would train on.

    Returns the rows, and what is wrong with the others by fault.
    """
    if not made:
        return [], {}
    trial = folder.path / ".thought.jsonl"
    try:
        write_json_lines(trial, (row.record for row in made))
        prepared = prepare_written(work.recipe, str(trial), work.tokenizer)
    finally:
        trial.unlink(missing_ok=True)
    lines = {int(source.rpartition(":")[2]) for source in (row.source for row in prepared.train.examples())}
    faults = Counter[str]()
    for fault in prepared.summary["faults"]:
        faults[fault["fault"]] += sum(
            count for action, count in fault["actions"].items() if action in ("dropped", "stops")
        )
    accepted = [row for number, row in enumerate(made, 1) if number in lines]
    return accepted, {fault: count for fault, count in faults.items() if count}


def _notes(work: Work, thought: Thought, faults: dict[str, int]) -> Iterator[str]:
    """Yield what a reader should do next, or know."""
    unasked = sum(not tries for tries in thought.tries)
    if work.teacher.is_spent:
        yield (
            f"the budget is spent, and {unasked:,} questions were not asked; with a larger one, the same command "
            "continues"
        )
    for fault, count in faults.items():
        yield f"  not written, because check would drop them: {fault}: {count:,} rows"
    whys = Counter(verdict["why"] for verdict in thought.verdicts)
    if whys["answer cannot be graded"]:
        yield (
            "answers in free text can only be graded by a judge: name one, as in --judge URL#MODEL, and run the same "
            "command; the teacher is not asked again"
        )
    if whys["empty"] and whys["empty"] + whys["not well formed"] == len(thought.verdicts):
        yield "no reply had any reasoning: ask for it with --instruct, and --to another folder"
    if whys["cut off"] > len(thought.verdicts) // 2:
        yield "most replies were cut off: allow more tokens with --reply-tokens, and --to another folder"
    if isinstance(work.recipe.data.validation, str):
        yield (
            f"data.validation: the rows of {work.recipe.data.validation} were not asked; think about them with "
            "data.name=THAT_FILE data.validation=0"
        )


def _recipe_of(recipe: Recipe, folder: ThoughtFolder) -> Recipe:
    """Return a recipe that trains on the rows with reasoning."""
    data: dict[str, Any] = {"name": str(folder.rows), "hub": None, "revision": None, "files": None}
    data |= {"columns": ColumnsConfig(), "ignore": ()}
    updated = recipe.data.model_copy(update=data)
    return recipe.model_copy(update={"name": f"{folder.path.name}-think", "data": updated})
