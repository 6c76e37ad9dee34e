"""The whole page that `check` prints about rows, one golden text for each fault.

After a change that is meant: THINKTUNE_GOLDEN=1 pytest -n 0 tests/commands/test_check_pages.py, and read the diff.
"""

import io
import json
import os
import re
from pathlib import Path

import pytest
from rich.console import Console
from support.prepared_rows import prose
from support.runs import settings

from thinktune.commands.check import print_check
from thinktune.config.row_faults import ROW_FAULTS
from thinktune.data.packing import plan_steps
from thinktune.data.pipeline import prepare_with_faults

GOLDEN = Path(__file__).parent / "golden"
SUBJECTS = [
    "heart",
    "liver",
    "lung",
    "kidney",
    "skin",
    "brain",
    "bone",
    "eye",
    "nose",
    "hand",
    "foot",
    "knee",
    "neck",
    "back",
    "vein",
    "nerve",
    "tooth",
]
ASKED = (
    "What is the {} for?",
    "Tell a child of ten where one finds the {} in the body.",
    "Does anybody live well without a {}, and for how long?",
    "Name two illnesses that a doctor sees in a {}.",
    "Which other part works most closely with the {}?",
    "How heavy is a {} in a grown woman of sixty kilograms?",
)
THINK = "The {} comes up in every first lesson, so I go back to what was said there."
ANSWER = "The {} is needed every day, and it lies where the drawing on page {} shows it."


def row(subject="stomach", **changes):
    """Return a row without a fault, but for the changes."""
    number = len(subject) * 7 + ord(subject[0])
    texts = {"question": ASKED[number % len(ASKED)].format(subject), "think": THINK.format(subject)}
    return texts | {"answer": ANSWER.format(subject, number)} | changes


GOOD = [row(subject) for subject in SUBJECTS]
SPOKEN = [
    {"role": "user", "content": "What is blood?"},
    {"role": "assistant", "content": "<think>Red.</think>A fluid."},
]


def messages(*turns):
    """Return rows of messages of which the last one holds these turns."""
    usual = [
        {
            "messages": [
                {"role": "user", "content": each["question"]},
                {"role": "assistant", "content": f"<think>\n{each['think']}\n</think>\n\n{each['answer']}"},
            ]
        }
        for each in GOOD
    ]
    return [*usual, {"messages": list(turns)}]


def spelled(rows):
    return "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in rows).encode()


# What is wrong in the last row of the file, or the rows or the bytes of the whole file.
PLANTED = {
    "unreadable": spelled(GOOD) + b'{"question": "What is blood?", "think\n',
    "encoding": spelled(GOOD)
    + '{"question": "café?", "think": "A place.", "answer": "A place to sit."}\n'.encode("latin-1"),
    "byte_order_mark": b"\xef\xbb\xbf" + spelled(GOOD),
    "file_form": json.dumps({"data": GOOD}).encode(),
    "loose_json": spelled(GOOD) + str(row()).encode() + b"\n",
    "not_text": row(answer=42),
    "blank": row(answer=""),
    "role": messages({"role": "user", "content": "What is blood?"}, {"role": "wizard", "content": "A fluid."}),
    "loss_weight": messages(SPOKEN[0], SPOKEN[1] | {"weight": 0.5}),
    "marked_bad": [*(each | {"label": True} for each in GOOD), row() | {"label": False}],
    "media": row(question="<image>\nWhat is shown in this picture of the stomach?", images=["stomach.png"]),
    "ends_on_user": messages(*SPOKEN, {"role": "user", "content": "And where is it?"}),
    "soft_switch": row(question="What is the stomach for? /think"),
    "mode_conflict": row(question="What is the stomach for? /no_think"),
    "no_reasoning": row(think="..."),
    "reasoning_tag": row(think="", answer="<Thought>It digests what we eat.</Thought>It digests food, every day."),
    "answer_tag": [each | {"answer": f"<answer>{each['answer']}</answer>"} for each in GOOD],
    "role_mark": row(answer="Assistant: It digests the food that we eat."),
    "placeholder": row(answer="The {{organ}} digests the food that we eat."),
    "fill_in": row(answer="Yours truly, [Your Name], who digests food."),
    "markup": row(answer="It digests food.<br>It lies below the&nbsp;lung."),
    "spreadsheet": row(answer="#NAME?"),
    "garbled": row(answer="It digests what is eaten in a cafÃ©, and lies below the lung."),
    "think_tag": row(answer="</think>\n\nIt digests the food that we eat."),
    "control_token": row(answer="It digests food.<|im_end|> And more."),
    "control_character": row(answer="It digests\u200b the food that we eat."),
    "odd_space": row(answer="  It digests the food that we eat."),
    "literal_newline": row(answer="Two things:\\n\\n1. It digests food.\\n2. It holds food."),
    "reasoning_is_answer": row(think=ANSWER.format("stomach", 1), answer=ANSWER.format("stomach", 1)),
    "answer_is_question": row(answer=row()["question"]),
    "loop": row(think="It digests. I think again. " * 40),
    "repetition": row(think="It digests. I think again. " * 9),
    "handed_answer": row(think="The given answer says that it digests food, so I write that."),
    "handed_context": row(think="According to the passage above, it digests food, so that is the purpose."),
    "quoted_column": [
        *GOOD,
        *(row(name, think=f"It is as the note has it. {prose(150)}", note=prose(150)) for name in ("rib", "toe")),
    ],
    "bare_number": row(answer="42"),
    "fragment": row(answer="It digests the anti-"),
    "cut_text": row(answer="It digests food. It also holds the food that we"),
    "language_mix": row(answer="它消化我们每天吃下去的各种食物。"),
    "too_long": row(think=prose(20_000)),
    "duplicate": GOOD[0],
    "leak": GOOD[3],
    "one_question": [each | {"question": "Explain the organ that is named in the lesson."} for each in GOOD],
    "conflict": row(SUBJECTS[0], answer="It is for nothing at all, as far as anybody knows today."),
    "near_duplicate": row(question=f"{row(SUBJECTS[1])['question']} Please.", answer="It lies below the lung."),
}


def test_every_fault_has_its_page():
    assert PLANTED.keys() == ROW_FAULTS.keys()
    assert {file.stem for file in GOLDEN.iterdir()} == ROW_FAULTS.keys()


@pytest.mark.parametrize("fault", PLANTED)
def test_the_page_about_a_fault_is_the_golden_one(tree, tokenizer, tmp_path, fault):
    page = page_about(tree, tokenizer, PLANTED[fault], "leak" if fault == "leak" else "")
    # What the tokenizer of the tests decides is no part of a page.
    page = re.sub(r"[\d,]+ (tokens|learned)", r"N \1", page.replace(str(tmp_path), "FOLDER")).rstrip() + "\n"
    assert f"  {fault}: " in page or fault == "unreadable"
    golden = GOLDEN / f"{fault}.txt"
    if os.environ.get("THINKTUNE_GOLDEN"):
        golden.write_text(page, encoding="utf-8")
    assert page == golden.read_text(encoding="utf-8")


def page_about(tree, tokenizer, planted, leak):
    """Return what `check` prints of the rows: without the plan, lengths, and tokens of single rows."""
    file = Path(tree["data"]["name"])
    planted = [*GOOD, planted] if isinstance(planted, dict) else planted
    file.write_bytes(spelled(planted) if isinstance(planted, list) else planted)
    held_out = file.with_name("held-out.jsonl")
    held_out.write_bytes(spelled([GOOD[3]] if leak else [row("thumb"), row("wrist")]))
    tree = {**tree, "data": {**tree["data"], "columns": {}, "ignore": [], "max_tokens": 2048}}
    recipe = settings(tree, data={"validation": str(held_out)})
    prepared = prepare_with_faults(recipe, tokenizer, lambda line: None)
    facts = prepared.summary | {"stops": list(prepared.stop_reasons), "shown": [], "lengths": {}}
    if not facts["stops"]:
        facts["steps"] = len(plan_steps(recipe, prepared))
    console = Console(file=io.StringIO(), width=100, color_system=None)
    print_check(facts | {"verdict": "not ready" if facts["stops"] else "ready"}, console)
    return console.file.getvalue()
