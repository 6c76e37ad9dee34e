"""Task files in our own layout and in public ones, by mapping; unusable rows are reported one by one."""

import json

import pytest

from thinktune.errors import UserError
from thinktune.eval.general_probe import probe_tasks
from thinktune.eval.runner import find_contaminated
from thinktune.eval.task_files import read_tasks
from thinktune.eval.tasks import (
    grade_answer,
    make_task,
    task_from_example,
    task_from_record,
    task_to_record,
)
from thinktune.tokenization import Example, Turn

OPTIONS = {"A": "lung", "B": "heart", "C": "liver", "D": "skin"}
LAYOUTS = {
    "medqa.jsonl": json.dumps(
        {
            "question": "What pumps blood?",
            "answer": "heart",
            "options": OPTIONS,
            "answer_idx": "B",
            "meta_info": "step1",
        }
    ),
    "cmb.json": json.dumps(
        [{"exam_type": "医师考试", "question": "什么泵血？", "option": OPTIONS | {"E": ""}, "answer": "B"}]
    ),
    "cmmlu.csv": ",Question,A,B,C,D,Answer\n0,什么泵血？,lung,heart,liver,skin,B\n",
    "ceval.csv": "id,question,A,B,C,D,answer,explanation\n0,什么泵血？,lung,heart,liver,skin,B,因为\n",
    "mmlu.csv": "What pumps blood?,lung,heart,liver,skin,B\n",
    "mmlu.jsonl": json.dumps(
        {"question": "What pumps blood?", "choices": [*OPTIONS.values()], "answer": 1, "subject": "anatomy"}
    ),
    "medmcqa.jsonl": json.dumps(
        {"question": "What pumps blood?", "opa": "lung", "opb": "heart", "opc": "liver", "opd": "skin", "cop": 1}
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_public_layouts_of_choices_load_by_mapping(tmp_path, name):
    (tmp_path / name).write_text(LAYOUTS[name], encoding="utf-8")
    [task] = read_tasks(tmp_path / name)
    assert (task.grader, task.references, task.choices) == ("choice", ("B",), tuple(OPTIONS.values()))
    assert "B. heart" in task.question
    assert grade_answer(task, "The answer is B." if "What" in task.question else "答案：B") == {"right": 1}
    assert grade_answer(task, "The answer is A.") == {"right": 0}
    assert ("答案" in task.question) is ("什么" in task.question)


def test_free_answers_of_public_layouts_load(tmp_path):
    rows = {
        "o1.jsonl": ({"Question": "Why?", "Complex_CoT": "because", "Response": "It is " + "so " * 20}, "text"),
        "verifiable.jsonl": ({"Open-ended Verifiable Question": "Where?", "Ground-True Answer": "Heart"}, "short"),
        "own.jsonl": ({"question": "6 x 7?", "answer": 42}, "number"),
        "points.jsonl": ({"question": "Which?", "keypoints": ["iron", "zinc|Zn"]}, "keypoints"),
    }
    for name, (row, grader) in rows.items():
        (tmp_path / name).write_text(json.dumps(row), encoding="utf-8")
        [task] = read_tasks(tmp_path / name)
        assert task.grader == grader
    assert grade_answer(task, "Zn and iron") == {"right": 1, "keypoint_recall": 1}
    assert grade_answer(task, "iron") == {"right": 0, "keypoint_recall": 0.5}


def test_a_mapping_next_to_the_file_is_used(tmp_path):
    (tmp_path / "own.jsonl").write_text('{"ask": "6 x 7?", "say": "42", "question": "no"}', encoding="utf-8")
    mapping = "columns: {question: ask, answer: say}\ngrader: short\nsystem: Be brief."
    (tmp_path / "own.jsonl.yaml").write_text(mapping, encoding="utf-8")
    [task] = read_tasks(tmp_path / "own.jsonl")
    assert (task.grader, task.question, task.turns[0]) == ("short", "6 x 7?", Turn("system", "Be brief."))
    (tmp_path / "own.jsonl.yaml").write_text("column: {question: ask}", encoding="utf-8")
    with pytest.raises(UserError, match=r"own.jsonl.yaml: is not a column mapping"):
        read_tasks(tmp_path / "own.jsonl")


def test_every_row_that_cannot_be_used_is_named(tmp_path):
    rows = [
        {"question": "", "answer": "x"},
        {"question": "q", "answer": ""},
        {"question": "q", "choices": ["a", "b"], "answer": "E"},
        {"question": "q", "choices": ["a"], "answer": "A"},
        {"question": "q", "answer": "x", "grader": "vibes"},
        {"question": "q", "grader": "format", "rules": {"linez": 2}},
    ]
    file = tmp_path / "bad.jsonl"
    file.write_text("\n".join(json.dumps({"keypoints": None, "choices": None, "answer": None} | row) for row in rows))
    with pytest.raises(UserError) as caught:
        read_tasks(file)
    for line, field in enumerate(("question", "nothing to grade with", "answer", "choices", "grader", "rules"), 1):
        assert any(fault.startswith(f"bad.jsonl:{line}") and field in fault for fault in caught.value.faults), field
    file.write_text('{"ask": "q"}')
    with pytest.raises(UserError, match="match no known layout"):
        read_tasks(file)
    file.write_text('{"question": "q"}')
    with pytest.raises(UserError, match=r"none of its columns \(question\) is known to hold the answer"):
        read_tasks(file)
    with pytest.raises(UserError, match="is not a file"):
        read_tasks(tmp_path / "gone.jsonl")


def test_a_held_out_row_is_graded_by_its_key_point_or_its_answer():
    turns = (Turn("user", "What pumps?"), Turn("assistant", "It is the heart.", "a muscle"))
    task = task_from_example(Example(turns, "rows:1", "heart"), "held-out")
    assert (task.grader, task.turns, task.reasoning) == ("keypoints", turns[:1], "a muscle")
    scores = grade_answer(task, "The heart.")
    assert scores["right"] == 1
    assert 0 < scores["rouge_l"] < 1
    assert task_from_example(Example(turns, "rows:1"), "held-out").grader == "short"


def test_a_task_is_written_and_read_back(tmp_path):
    for task in probe_tasks():
        assert task_from_record(json.loads(json.dumps(task_to_record(task)))) == task


def test_a_right_answer_also_follows_the_rules_beside_its_key():
    rules = {"most_words": 3, "without": ["zinc"]}
    by_points = make_task({"question": "Which?", "keypoints": ["iron"], "rules": rules}, "t", "t:1")
    assert grade_answer(by_points, "It is iron") == {"right": 1, "keypoint_recall": 1}
    assert grade_answer(by_points, "iron or zinc") == {"right": 0, "keypoint_recall": 1}
    assert grade_answer(by_points, "I think it is iron")["right"] == 0
    keys = {"number": "7", "short": "seven", "choice": "B"}
    for grader, key in keys.items():
        options = {"choices": ["six", "seven"]} if grader == "choice" else {"grader": grader}
        task = make_task({"question": "Which?", "answer": key, "rules": rules} | options, "t", "t:2")
        assert task.grader == grader
        assert grade_answer(task, key)["right"] == 1
        assert grade_answer(task, f"Sure, the answer is {key}")["right"] == 0


def test_questions_of_the_training_rows_are_found_exactly_and_nearly():
    trained = [
        Example(
            (Turn("user", "What does the human heart pump through the body?"), Turn("assistant", "Blood.")), "rows:1"
        ),
        Example((Turn("user", "心脏泵什么？"), Turn("assistant", "血液。")), "rows:2"),
    ]
    asked = [
        make_task({"question": "what does the HUMAN heart pump through the body?", "answer": "x"}, "t", "t:1"),
        make_task({"question": "What does the human heart pump through a body?", "answer": "x"}, "t", "t:2"),
        make_task({"question": "心脏泵什么？", "choices": ["a", "b"], "answer": "A"}, "t", "t:3"),
        make_task({"question": "Where does bile come from, and what is it for?", "answer": "x"}, "t", "t:4"),
    ]
    assert find_contaminated(asked, trained) == {0: "rows:1", 1: "rows:1", 2: "rows:2"}
    assert find_contaminated(asked, []) == {}
