"""The curve over reasoning budgets: cut replies answer as the engine itself answers within such a budget."""

import json
from contextlib import closing
from dataclasses import asdict, replace

import pytest
import torch
from support.chat_templates import KINDS, tokenizer_of

from thinktune.demo.tiny_model import ModelShape, make_model, make_tokenizer
from thinktune.eval.completion_store import RecordWriter
from thinktune.eval.exams.budgets import (
    answer_within_budgets,
    budget_key,
    cut_reasoning,
    missing_budgets,
    pick_budgets,
    read_budget_answers,
)
from thinktune.eval.exams.scoring import ExamRow, score_exams
from thinktune.eval.settings import SIDES, EvalSampling, EvalSettings, EvaluatedModel
from thinktune.eval.tasks import make_task
from thinktune.inference.engine import Engine
from thinktune.inference.requests import Request, SamplingParams
from thinktune.run import EvaluationFolder

LETTERS = "abcdefghijklmnop ABCDE"
LIMIT = 48
TASKS = [
    make_task(
        {"question": f"Question {number}?", "choices": ["one", "two", "three"], "answer": "B"}, "medqa", f"f:{number}"
    )
    for number in range(3)
]
SETTINGS = EvalSettings(
    models={side: EvaluatedModel(side, side) for side in SIDES},
    sampling=EvalSampling(LIMIT, 0.0, 0, True),
    exams=[{"name": "medqa"}],
    reasoning_budgets=pick_budgets(LIMIT),
)


@pytest.fixture(scope="module")
def engine():
    """Make a model that only writes letters, each a token, so that its text and its tokens are one to one.

    Its prompt opens the reasoning, which it never closes: what closes it is the budget alone.
    """
    kind = KINDS["opens in the prompt and strips"]
    tokenizer = tokenizer_of(kind.template, kind.eos, base=make_tokenizer(["a"], 300))
    model = make_model(tokenizer, ModelShape())
    model.config.tie_word_embeddings = False
    model = type(model)(model.config)
    torch.manual_seed(1)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    wanted = [tokenizer.convert_tokens_to_ids(tokenizer.tokenize(letter)[0]) for letter in LETTERS]
    others = [token for token in range(model.lm_head.weight.shape[0]) if token not in wanted]
    with torch.no_grad():
        model.lm_head.weight[others] = 0
    with closing(Engine(model.eval(), tokenizer, torch.float32)) as opened:
        yield opened


def folder_with(tmp_path, replies):
    """Save the replies of the base in an evaluation's folder."""
    folder = EvaluationFolder(tmp_path)
    with RecordWriter(folder.completions("base")) as writer:
        for task, reply in zip(TASKS, replies, strict=True):
            writer.add({"key": SETTINGS.completion_key(task, "base"), **reply})
    return folder


def answer(folder, engine):
    missing = missing_budgets(SETTINGS, TASKS, folder, "base")
    asked = answer_within_budgets(SETTINGS, missing, folder, "base", engine)
    return asked, read_budget_answers(folder.budget_answers("base"))


def test_an_answer_after_cut_reasoning_is_the_one_that_the_engine_gives_within_that_budget(engine, tmp_path):
    whole = engine.complete_all([Request(task.turns, SamplingParams(LIMIT)) for task in TASKS])
    assert all(not reply.closed and len(reply.reasoning) > 30 for reply in whole)
    folder = folder_with(tmp_path, map(asdict, whole))
    asked, records = answer(folder, engine)
    assert asked == len(TASKS) * len(SETTINGS.reasoning_budgets) == len(records)
    different = set()
    for budget in SETTINGS.reasoning_budgets:
        params = SamplingParams(LIMIT, max_reasoning_tokens=budget)
        within = engine.complete_all([Request(task.turns, params) for task in TASKS])
        for task, reply, budgeted in zip(TASKS, whole, within, strict=True):
            assert budgeted.closed
            assert reply.reasoning.startswith(budgeted.reasoning.rstrip())
            found = records[budget_key(SETTINGS.completion_key(task, "base"), budget)]["answer"]
            assert len(budgeted.answer) >= 8
            assert found.startswith(budgeted.answer.rstrip())
            different.add(found[:8])
    assert len(different) > len(TASKS)  # budgets matter
    assert missing_budgets(SETTINGS, TASKS, folder, "base") == {}


def test_a_stopped_curve_goes_on_where_it_stopped_and_what_fits_is_not_asked(engine, tmp_path):
    replies = [
        {"reasoning": text, "answer": "Answer: B", "finish": "end", "tokens": 9, "closed": True}
        for text in ("abcd", "abcdefgh" * 3, "")
    ]
    folder = folder_with(tmp_path, replies)
    asked, records = answer(folder, engine)
    keys = [SETTINGS.completion_key(task, "base") for task in TASKS]
    fits = [[bool(records[budget_key(key, budget)]["fits"]) for budget in SETTINGS.reasoning_budgets] for key in keys]
    assert SETTINGS.reasoning_budgets == (2, 4, 8, 16, 32)
    assert fits == [[False, True, True, True, True], [False, False, False, False, True], [True] * 5]
    assert asked == 5
    file = folder.budget_answers("base")
    kept = file.read_text(encoding="utf-8").splitlines()
    lost = next(line for line in kept if not json.loads(line)["fits"])
    file.write_text("".join(f"{line}\n" for line in kept if line != lost) + '{"key": "torn', encoding="utf-8")
    assert answer(folder, engine) == (1, records)


def test_budgets_are_the_largest_powers_of_two_below_the_limit():
    assert pick_budgets(4096) == (128, 256, 512, 1024, 2048)
    assert pick_budgets(4097)[-1] == 4096
    assert pick_budgets(1) == ()
    assert pick_budgets(3) == (1, 2)


def test_a_cut_never_ends_in_half_a_character(engine):
    text = "心脏泵血液，所以答案是乙。"
    for budget in range(1, 3 * len(text)):
        cut = cut_reasoning(text, budget, engine.tokenizer)
        assert cut is None or text.startswith(cut)
    assert cut_reasoning(text, 1000, engine.tokenizer) is None


def test_points_count_cut_replies_by_their_new_answer_and_the_others_as_they_are():
    settings = replace(SETTINGS, reasoning_budgets=(2,))
    rows = [ExamRow(task, {"base": 0.0, "tuned": 1.0}) for task in TASKS]
    answers = {side: {} for side in SIDES}
    for number, task in enumerate(TASKS):
        key = {side: budget_key(settings.completion_key(task, side), 2) for side in SIDES}
        answers["base"][key["base"]] = {"fits": True}
        answers["tuned"][key["tuned"]] = {"fits": False, "answer": "Answer: B" if number == 0 else "Answer: A"}
    [exam] = score_exams(settings, rows, {}, answers)
    cut, whole = exam["budgets"]
    assert (cut["budget_tokens"], cut["cut"]) == (2, {"base": 0, "tuned": 3})
    assert (cut["base"]["value"], cut["tuned"]["value"]) == (0, pytest.approx(1 / 3))
    assert (whole["budget_tokens"], whole["base"]["value"], whole["tuned"]["value"]) == (LIMIT, 0, 1)
    assert cut["tuned"]["low"] < 1 / 3 < cut["tuned"]["high"]
    assert whole["difference"]["low"] > cut["difference"]["low"]
