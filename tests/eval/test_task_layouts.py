"""Task files of many kinds: options in any form and number, instructions, conversations; nothing is left out unsaid."""

import json
import string

import pytest

from thinktune.errors import UserError
from thinktune.eval.task_files import read_task_file
from thinktune.eval.task_prompts import instruction_language
from thinktune.eval.tasks import grade_answer

PLANETS = ["Mercury", "Venus", "Earth", "Mars"]
QUESTION = "Which planet is called the red one?"
LETTERED = "\n".join(f"{letter}. {text}" for letter, text in zip("ABCD", PLANETS, strict=True))


def read(folder, rows, mapping=None, name="exam.jsonl"):
    file = folder / name
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    if mapping:
        file.with_name(f"{name}.yaml").write_text(mapping, encoding="utf-8")
    return read_task_file(file)


def only(folder, row, mapping=None):
    [task] = read(folder, [row], mapping).tasks
    return task


@pytest.mark.parametrize(
    "row",
    [
        {"question": QUESTION, "choices": PLANETS, "answer": 3},
        {"question": QUESTION, "choices": PLANETS, "answer": "mars."},
        {"question": QUESTION, "choices": [f"{letter}) {text}" for letter, text in zip("ABCD", PLANETS, strict=True)], "answer": "D) Mars"},
        {"question": QUESTION, "choices": {"text": PLANETS, "label": ["1", "2", "3", "4"]}, "answerKey": "4"},
        {"question_stem": QUESTION, "choices": [{"label": letter, "text": text} for letter, text in zip("ABCD", PLANETS, strict=True)], "answerKey": "D"},
        {"question": QUESTION, "options": json.dumps(PLANETS), "answer": "D"},
        {"question": QUESTION, "options": repr(PLANETS), "label": 3},
        {"question": QUESTION, "options": LETTERED, "answer": "The answer is (D) Mars."},
        {"question": QUESTION, "options": [{letter: text} for letter, text in zip("ABCD", PLANETS, strict=True)], "answer": ["D"]},
        {"question": QUESTION, **{f"choice{n}": text for n, text in enumerate(PLANETS, 1)}, "answer": "4"},
        {"question": QUESTION, **{f"option_{letter}": text for letter, text in zip("abcd", PLANETS, strict=True)}, "answer": "d"},
        {"question": QUESTION, **{f"Option {letter}": text for letter, text in zip("ABCD", PLANETS, strict=True)}, "Correct Answer": "D"},
        {"问题": QUESTION, **{f"选项{letter}": text for letter, text in zip("ABCD", PLANETS, strict=True)}, "正确答案": "D"},
        {"input": QUESTION, "output": "D", **dict(zip("ABCD", PLANETS, strict=True))},
        {"question": QUESTION, **{f"ending{n}": text for n, text in enumerate(PLANETS)}, "label": 3},
        {"problem": f"{QUESTION}\n{LETTERED}", "answer": "D"},
        {"prompt": f"{QUESTION} (A) Mercury (B) Venus (C) Earth (D) Mars", "answer": "D. Mars"},
        {"query": f"{QUESTION}\nA: Mercury; B: Venus; C: Earth; D: Mars.", "solution": "Mars"},
        {"question": f"{QUESTION}\n**A)** Mercury\n**B)** Venus\n**C)** Earth\n**D)** Mars\n", "answer": "(D)"},
        {"prompt": [{"role": "user", "content": f"{QUESTION}\n{LETTERED}"}], "reward_model": {"style": "rule", "ground_truth": "D"}},
    ],
)  # fmt: skip
def test_options_are_read_in_every_form(tmp_path, row):
    task = only(tmp_path, row)
    assert (task.grader, task.references, task.choices) == ("choice", ("D",), tuple(PLANETS))
    assert all(task.question.count(planet) == 1 for planet in PLANETS)
    for right in ("D", r"\boxed{D}", "The answer is (D) Mars", "D. Mars", "Mars"):
        assert grade_answer(task, right) == {"right": 1}
    assert grade_answer(task, "The answer is B") == {"right": 0}


@pytest.mark.parametrize("count", [2, 11, 14, 22, 26])
def test_every_letter_of_the_alphabet_may_be_an_option(tmp_path, count):
    letters = string.ascii_uppercase[:count]
    texts = [f"thing number {number}" for number in range(count)]
    task = only(
        tmp_path, {"question": "Which?", "options": dict(zip(letters, texts, strict=True)), "answer": letters[-1]}
    )
    assert grade_answer(task, f"So the answer is {letters[-1]}.") == {"right": 1}
    assert grade_answer(task, f"{letters[0]}") == {"right": 0}


def test_one_odd_row_is_left_out_and_named_and_the_rest_load(tmp_path):
    odd = [
        {"question": "Which?", "choices": [f"thing {n}" for n in range(27)], "answer": 3},
        {"question": "Which?", "choices": ["one"], "answer": "A"},
        {"question": "", "choices": PLANETS, "answer": "A"},
        {"question": "Which?", "choices": PLANETS, "answer": "Jupiter"},
        {"question": "Which?", "choices": PLANETS, "answer": None},
    ]
    found = read(tmp_path, [{"question": QUESTION, "choices": PLANETS, "answer": "D"}, *odd])
    assert len(found.tasks) == 1
    assert [sentence.split(":")[1] for sentence in found.left_out] == ["2", "3", "4", "5", "6"]
    assert "give 2 to 26" in found.left_out[0]
    said = []
    found.tell(said.append)
    assert sum(line.startswith("left out: exam.jsonl:") for line in said) == 5
    with pytest.raises(UserError) as caught:
        read(tmp_path, odd)
    assert len(caught.value.faults) == 5


def test_capitals_of_an_option_are_not_letters(tmp_path):
    groups = ["A型", "B型", "AB型", "O型"]
    task = only(tmp_path, {"question": "哪种血型可以接受任何血？", "choices": groups, "answer": "C"})
    assert grade_answer(task, "答案是AB型") == {"right": 1}
    assert grade_answer(task, "答案是C") == {"right": 1}
    several = only(tmp_path, {"question": "哪些对？", "choices": ["甲", "乙", "丙"], "answer": ["A", "C"]})
    assert grade_answer(several, "[正确答案]AC<eoa>") == {"right": 1}
    assert grade_answer(several, "[正确答案]A<eoa>") == {"right": 0}


def test_options_that_the_question_lists_are_not_put_there_twice(tmp_path):
    listed = f"{QUESTION}\n(A) Mars\n(B) Earth\n(C) Venus\n(D) Mercury"
    columns = {
        "Correct Answer": "Mars",
        **{f"Incorrect Answer {n}": text for n, text in enumerate(("Venus", "Earth", "Mercury"), 1)},
    }
    task = only(tmp_path, {"Question": listed} | columns)
    assert (task.references, task.question.count("Mars")) == (("A",), 1)
    same = only(tmp_path, {"question": f"{QUESTION}\n{LETTERED}", "options": PLANETS, "answer": 3})
    assert (same.references, same.question.count("Mars")) == (("D",), 1)
    unsure = {"question": listed, "options": PLANETS, "answer": "D"}
    with pytest.raises(UserError, match="lists them in another order"):
        read(tmp_path, [unsure])


def test_a_right_answer_given_first_is_not_always_asked_first(tmp_path):
    rows = [
        {
            "question": f"Number {n}?",
            "correct_answer": f"yes {n}",
            **{f"distractor{k}": f"no {k} {n}" for k in (1, 2, 3)},
        }
        for n in range(40)
    ]
    tasks = read(tmp_path, rows).tasks
    letters = [task.references[0] for task in tasks]
    assert {*letters} == {*"ABCD"}
    assert all(
        task.choices["ABCD".index(letter)].startswith("yes") for task, letter in zip(tasks, letters, strict=True)
    )
    assert letters == [task.references[0] for task in read(tmp_path, rows).tasks]


def test_answers_counted_from_one_are_found_by_the_whole_file(tmp_path):
    rows = [{"question": f"Number {n}?", "options": PLANETS, "answer": n} for n in (1, 2, 4)]
    found = read(tmp_path, rows)
    assert [task.references for task in found.tasks] == [("A",), ("B",), ("D",)]
    assert any("numbers from 1" in note for note in found.notes)
    rows[0]["answer"] = 0
    assert [task.references for task in read(tmp_path, rows).tasks] == [("A",), ("C",)]


@pytest.mark.parametrize(
    ("language", "question", "how"),
    [
        ("en", "Which planet is red?", "Answer"),
        ("en", "What does the character 心 mean in that old poem about spring?", "Answer"),
        ("zh", "阿莫西林（amoxicillin）属于哪一类药？", "答案"),
        ("ja", "心臓のはたらきはどれですか？", "答え"),
        ("ja", "アスピリンの作用機序は？", "答え"),
        ("ko", "심장은 무엇을 합니까?", "정답"),
        ("ru", "Какая планета называется красной?", "Ответ"),
        ("uk", "Яка з цих планет є червоною, якщо дивитися на неї з Землі, і що це за колір?", "Відповідь"),
        ("de", "Welche von den Planeten ist die rote, und wie ist sie mit dem bloßen Auge zu sehen?", "Antwort"),
        ("fr", "Quelle est la planète que les gens appellent la rouge, et qui est dans le ciel ?", "Réponse"),
        ("ar", "ما هو الكوكب الأحمر؟", "الإجابة"),
        ("th", "ดาวเคราะห์ดวงใดเป็นสีแดง", "คำตอบ"),
        ("hi", "लाल ग्रह कौन सा है?", "उत्तर"),
    ],
)
def test_the_instruction_is_in_the_language_of_the_question(tmp_path, language, question, how):
    assert instruction_language(question) == language
    task = only(tmp_path, {"question": question, "choices": ["1", "2", "3"], "answer": "B"})
    ending = task.question.rsplit("\n", 1)[-1]
    assert how in ending
    assert grade_answer(task, f"1 … 3 … C? {how}: B") == {"right": 1}


def test_a_column_that_says_how_to_answer_is_asked_with_the_question(tmp_path):
    row = {
        "instruction": "从选项中选出答案，写在[正确答案]和<eoa>之间。",
        "question": "哪项对？A:甲;B:乙;C:丙。",
        "answer": "正确答案：B。",
    }
    task = only(tmp_path, row)
    assert task.references == ("B",)
    assert task.question == f"{row['instruction']}\n{row['question']}"
    alpaca = only(tmp_path, {"instruction": "Translate.", "input": "Guten Tag", "output": "Good day"})
    assert (alpaca.question, alpaca.references) == ("Translate.\nGuten Tag", ("Good day",))
    passage = only(tmp_path, {"passage": "Bees dance.", "question": "What do bees do?", "answer": "dance"})
    assert passage.question == "Bees dance.\nWhat do bees do?"


def test_conversations_and_lists_of_messages_are_asked(tmp_path):
    system = {"role": "system", "content": "Be brief."}
    first, reply, last = (
        {"role": "user", "content": "My tooth hurts."},
        {"role": "assistant", "content": "Since when?"},
        {"role": "user", "content": "Since when does the moon shine?"},
    )
    verl = only(
        tmp_path, {"prompt": [system, first, reply, last], "reward_model": {"ground_truth": "42"}, "data_source": "x"}
    )
    assert [turn.role for turn in verl.turns] == ["system", "user", "assistant", "user"]
    assert (verl.grader, verl.references) == ("number", ("42",))
    share = {"conversations": [{"from": "human", "value": "6 x 7?"}, {"from": "gpt", "value": "42"}]}
    dialogue = only(tmp_path, share)
    assert (dialogue.question, dialogue.references) == ("6 x 7?", ("42",))
    bench = read(tmp_path, [{"question_id": 81, "category": "writing", "turns": ["Write a poem.", "Shorter."]}])
    assert [task.question for task in bench.tasks] == ["Write a poem."]
    assert any("only the first" in note for note in bench.notes)
    assert any("has no answers" in note for note in bench.notes)


def test_a_worked_solution_is_graded_by_the_answer_that_it_marks(tmp_path):
    solved = only(tmp_path, {"question": "6 x 7?", "answer": "Six sevens.\nThat is 42.\n#### 42"})
    assert (solved.grader, solved.references) == ("number", ("42",))
    boxed = only(tmp_path, {"problem": "Half?", "solution": r"It is a half, so $\boxed{\frac{1}{2}}$."})
    assert (boxed.grader, boxed.references) == ("short", (r"\frac{1}{2}",))
    assert grade_answer(boxed, r"Thus \boxed{\frac{1}{2}}.") == {"right": 1}
    assert grade_answer(boxed, r"Thus \boxed{\frac{1}{3}}.") == {"right": 0}


def test_text_that_only_looks_like_options_is_no_choice(tmp_path):
    for row in (
        {"question": "Vitamin A. Is it fat-soluble? Vitamin B. Is it?", "answer": "yes and no"},
        {"question": "Name the letters A) and B) of the list.", "answer": "alpha, beta"},
        {"question": "A. Smith and B. Jones met. Who was older?", "answer": "Jones was older by 3 years"},
        {"question": f"{QUESTION}\n{LETTERED}", "answer": "Jupiter, which has a red spot that is well known"},
    ):
        assert only(tmp_path, row).grader != "choice"


def test_columns_that_are_not_used_are_named(tmp_path):
    row = {"question": QUESTION, "choices": PLANETS, "answer": "D", "explanation": "It is rusty.", "year": 2020}
    notes = read(tmp_path, [row]).notes
    assert any("not used: explanation, year" in note for note in notes)
    hidden = {"question": QUESTION, "a": "x", "choice1": "Venus", "choice2": "Mars", "key": "Mars"}
    notes = read(tmp_path, [hidden], "columns: {question: question, answer: key}").notes
    assert any("asked without options" in note and "choice1, choice2" in note for note in notes)
    with pytest.raises(UserError, match="none of its columns"):
        read(tmp_path, [{"question": "Why?", "gist": "because"}], name="other.jsonl")
