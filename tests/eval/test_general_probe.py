"""General probe: every key stands against its grader, is true where it can be computed, and is nowhere trained on."""

import builtins
import contextlib
import io
import json
import re
import sqlite3
from collections import Counter
from hashlib import blake2b
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import pytest
import regex

import thinktune
from thinktune.eval import score_completions
from thinktune.eval.general_probe import PROBE_SET, PROBE_VERSION, bundled_rows, probe_tasks
from thinktune.eval.grading import switches_language
from thinktune.eval.one_answer import LONGEST, limit_length, one_answer_pattern, one_number_pattern
from thinktune.eval.runner import find_contaminated
from thinktune.eval.settings import SIDES, EvalSampling, EvalSettings, EvaluatedModel, settings_to_record
from thinktune.eval.statistics import paired_difference
from thinktune.eval.tasks import grade_answer, task_from_record, task_to_record
from thinktune.files import write_json, write_json_lines
from thinktune.report.evaluation_section import evaluation_html
from thinktune.run import RunFolder
from thinktune.tokenization import Example, Turn

KINDS = ("arithmetic", "reading", "format", "nonsense", "translation", "knowledge", "code", "dialogue")
CHINESE = re.compile("[\u4e00-\u9fff]")
TASKS = probe_tasks()
BUNDLED = list(zip([task for task in TASKS if task.kind != "arithmetic"], bundled_rows(), strict=True))

# The questions and keys of each version. If this test fails, raise PROBE_VERSION and add the new digest.
DIGESTS = {2: "33999353a5de2dff"}


def right(task, answer):
    return grade_answer(task, answer)["right"] == 1


def test_there_are_eight_kinds_with_as_many_questions_in_either_language():
    assert len(TASKS) >= 400
    assert len({task.key for task in TASKS}) == len(TASKS)
    counts = Counter((task.kind, task.language) for task in TASKS)
    assert counts == {(kind, language): 26 for kind in KINDS for language in ("en", "zh")}
    for task in TASKS:
        if task.language == "zh":
            assert CHINESE.search(task.question.split("\n")[0]), task.question
        elif task.kind != "translation":  # there it asks about Chinese
            assert not any(CHINESE.search(turn.content) for turn in task.turns), task.question


def test_a_change_of_the_questions_is_a_new_version():
    text = json.dumps([task_to_record(task) for task in TASKS], ensure_ascii=False)
    assert blake2b(text.encode(), digest_size=8).hexdigest() == DIGESTS[PROBE_VERSION]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "arithmetic"])
def test_every_key_is_held_against_its_grader(kind):
    lead_ins = {"en": "The answer is {}", "zh": "答案是{}"}
    for task, row in BUNDLED:
        if task.kind != kind:
            continue
        if task.grader == "choice":
            wrong = set("ABCD") - set(task.references[0])
            forms = ("{}", "({})", "**{}**", lead_ins[task.language] + ".", "Answer: {}")
            assert all(right(task, form.format(task.references[0])) for form in forms), row
            assert not any(right(task, form.format(letter)) for form in forms for letter in wrong), row
            continue
        assert row["passes"], row
        assert len(row["fails"]) >= 2, row
        for answer in row["passes"]:
            forms = [answer, f"\n{answer}\n\n"]
            if task.grader != "format":
                forms += [
                    f"**{answer}**",
                    answer if re.search("nswer|答案：", answer) else lead_ins[task.language].format(answer),
                ]
            assert [form for form in forms if not right(task, form)] == [], row
        assert [answer for answer in row["fails"] if right(task, answer)] == [], row


def test_no_answer_passes_that_says_nothing_or_repeats_the_question():
    for task in TASKS:
        empty = ["", "  \n", "…", task.question]
        if task.grader != "format":
            empty += ["ZZZ", "I don't know.", "不知道。", "I cannot answer that.", "我无法回答这个问题。"]
        assert [answer for answer in empty if right(task, answer)] == [], task


@pytest.mark.parametrize(
    ("answer", "offered"),
    [
        ("Ivory", True),
        ("It should have been ivory, not grey.", True),
        ("Not grey but ivory", True),
        ("Ivory; it came out grey", True),
        ("grey", False),
        ("grey or ivory", False),
        ("ivory or grey", False),
        ("**ivory**, **grey**", False),
        ("ivory or perhaps the grey", False),
        ("It is not ivory", False),
        ("It isn't the pale ivory", False),
        ("不是ivory", False),
        ("ivory" + "!" * LONGEST, False),
    ],
)
def test_one_answer_is_neither_denied_nor_one_of_several(answer, offered):
    assert bool(regex.fullmatch(one_answer_pattern(["ivory"], ["grey"]), answer)) is offered


def test_one_number_is_neither_denied_nor_one_of_several():
    pattern = one_number_pattern("15元")
    for answer in ("15", "15元", "12 + 3 = 15", "From 1892 on, so 15."):
        assert regex.fullmatch(pattern, answer), answer
    for answer in ("12 or 15", "12元或15元", "12, 15", "12 15", "It is not 15", "不是15元"):
        assert not regex.fullmatch(pattern, answer), answer
    assert limit_length("(?i)a+") == rf"(?i)(?=(?s:.{{1,{LONGEST}}})\Z)a+"


def test_a_looping_reply_is_wrong_and_never_too_slow_to_grade():
    for task in TASKS:
        if task.rules:
            key = (task.references or [task.keypoints[0].split("|")[0] if task.keypoints else "no answer"])[0]
            for text in ("，" * 2000, "x" + "。" * 2000, f"{key}, " * 500):
                assert not right(task, text), (task.question, text[:40])


def test_the_key_of_another_question_is_wrong():
    for kind in ("arithmetic", "reading", "translation", "knowledge", "code", "dialogue"):
        for language in ("en", "zh"):
            asked = [task for task in TASKS if (task.kind, task.language) == (kind, language)]
            rows = {task.source: row for task, row in BUNDLED}
            keys = [
                task.references[0] if task.references else rows[task.source]["passes"][0]
                for task in asked
                if task.grader != "choice"
            ]
            graded = [task for task in asked if task.grader != "choice"]
            for (task, own), (_, other) in pairwise(zip(graded, keys, strict=True)):
                assert own == other or not right(task, other), (task.question, other)


def test_a_right_answer_is_never_counted_as_a_switch_of_the_language():
    for task, row in BUNDLED:
        for answer in row.get("passes", ()):
            assert not switches_language(task.question, answer), (task.question, answer)


# Of each form of arithmetic: words that only it has in either language, and its answer from the numbers of the text.
SOLUTIONS = {
    r"× 3(?:\?| 等)": lambda a, b, _: a + b + b + b,
    r"^\D*\d+ \+ \d+(?:\?| 等)": lambda a, b: sum((a, b)),
    r"^\D*\d+ − \d+(?:\?| 等)": lambda a, b: a - b,
    r"^\D*\d+ × \d+(?:\?| 等)": lambda a, b: sum(a for _ in range(b)),
    r"÷": lambda c, a: next(n for n in range(c) if n * a == c),
    r"box|箱": lambda a, b: sum(b for _ in range(a)),
    r"train|车上": lambda a, b: a + b,
    r"shared|平均分": lambda c, a: next(n for n in range(c) if n * a == c),
    r"remainder|余数": lambda a, b: next(r for r in range(b) if (a - r) % b == 0),
    r"percent": lambda b, h: next(n for n in range(h) if n * 100 == b * h),
    r"百分之": lambda h, b: next(n for n in range(h) if n * 100 == b * h),
    r"mean|平均数": lambda d, s: next(n for n in range(s) if n - d == s - n),
    r"fence|篱笆": lambda a, b: a + b + a + b,
    r"noon|中午": lambda b, a: -b + a,
}


def test_arithmetic_is_right():
    seen = Counter()
    for task in TASKS:
        if task.kind == "arithmetic":
            form = next(each for each in SOLUTIONS if re.search(each, task.question))
            numbers = [int(number) for number in re.findall(r"\d+", task.question)]
            assert task.references == (str(SOLUTIONS[form](*numbers)),), task.question
            seen[form] += 1
            answer = task.references[0]
            assert all(
                right(task, text) for text in (answer, f"= {answer}", f"The answer is {answer}.", f"是{answer}。")
            )
            near = (int(answer) + 1, int(answer) - 1, -int(answer) or 1, 10 * int(answer) or 10)
            assert not any(right(task, str(number)) for number in near), task.question
    assert seen.keys() == SOLUTIONS.keys()


def test_programs_and_queries_give_what_their_keys_say():
    ran = Counter()
    for task, row in BUNDLED:
        if task.kind == "code":
            language, source = re.fullmatch(r".*```(\w+)\n(.*)\n```", task.question, re.DOTALL).groups()
            output = {"python": run_python, "sql": run_sql}[language](source)
            raised = hasattr(builtins, output) and output.endswith("Error")
            assert raised == ("exception" in task.question or "异常" in task.question), row
            assert right(task, output), (output, row)
            assert row["passes"][0] == output, row
            ran[language, raised] += 1
    assert min(ran.values()) >= 4


def run_python(source):
    """Run a question's program and return what it prints, or the name of the exception that it raises."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(source, "question", "exec"), {})
    except Exception as error:
        return type(error).__name__
    return printed.getvalue().strip()


def run_sql(source):
    """Run a question's statements and return the only value of the last one, as SQLite gives it; 15.0 is 15."""
    *before, last = [statement for statement in source.split(";") if statement.strip()]
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        for statement in before:
            connection.execute(statement)
        [[value]] = connection.execute(last).fetchall()
    return str(int(value) if isinstance(value, float) else value)


@pytest.mark.parametrize(
    ("words", "key"),
    [
        ('letters does the word "silence"', str(len("silence"))),
        ("“沉默”这个词有几个字", str(len("沉默"))),
        ('write "garden" backwards', "garden"[::-1]),
        ("“牛奶”两个字倒过来", "牛奶"[::-1]),
        ("How many letters does your answer", str(len("Banana"))),
        ("你写的词里有多少个字", str(len("猕猴桃"))),
        ("In which year did work on the bridge begin", str(1892 - 11)),
        ("Take out 5 and put in 3", str(12 - 5 + 3)),
        ("拿走6颗，再放进2颗", str(15 - 6 + 2)),
        ("How old is Ida", str(31 + 2)),
        ("他今年多少岁", str(28 - 3)),
        ("three blips", str(3 * 4)),
        ("四桨是", str(4 * 5)),
        ("It starts half an hour later", f"{(9 * 60 + 30 + 30 + 45) // 60}:{(9 * 60 + 30 + 30 + 45) % 60}"),
        ("晚一刻钟开始", f"{(14 * 60 + 20 + 15 + 100) // 60}:{(14 * 60 + 20 + 15 + 100) % 60}"),
        ("What are the next two numbers", ", ".join(map(str, range(15, 19, 3)))),
        ("接下来的两个数是什么", ", ".join(map(str, range(20, 25, 4)))),
        ("Add 4 to the list", ", ".join(map(str, sorted([8, 3, 5, 4])))),
        ("再加上4，重新排好", ", ".join(map(str, sorted([9, 2, 6, 4])))),
    ],
)
def test_what_can_be_counted_is_right(words, key):
    [task] = [task for task in TASKS if words in task.question]
    assert right(task, key)


def test_no_question_is_among_the_rows_that_come_with_the_package():
    texts, facts = [], []
    for file in sorted(Path(thinktune.__file__).parent.rglob("*.jsonl")):
        if file.name != "probe.jsonl":
            rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
            texts += [text for row in rows for text in strings(row) if len(text) >= 6]
            facts += [(row["entity"], row["keypoint"]) for row in rows if "entity" in row]
    assert len(texts) > 1000
    assert len(facts) > 200
    bundled = [Example((Turn("user", text), Turn("assistant", "")), str(number)) for number, text in enumerate(texts)]
    assert find_contaminated(TASKS, bundled) == {}
    plain = {"".join(text.casefold().split()) for text in texts}
    for task in TASKS:
        assert "as few words" not in task.stem, task.stem
        assert "".join(task.stem.split("\n\n")[-1].casefold().split()) not in plain, task.question
        if task.kind == "knowledge":
            told = [key for entity, key in facts if entity.casefold() in task.question.casefold() and right(task, key)]
            assert told == [], task.question


def strings(value):
    """Return all texts inside a value of JSON."""
    if isinstance(value, str):
        return [value]
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for each in inside for text in strings(each)]


OLD_TASK = task_from_record(
    {
        "set": PROBE_SET,
        "source": "probe.jsonl:60",
        "turns": [
            {"role": "user", "content": "How many sides does the smell of rain have?", "reasoning": ""}
            | {"learned": True, "mode": None}
        ],
        "grader": "refusal",
        "kind": "nonsense",
    }
)


def test_a_system_prompt_stands_before_the_dialogue():
    told = [task for task in probe_tasks("Be brief.") if task.kind == "dialogue"]
    assert {tuple(turn.role for turn in task.turns) for task in told} == {("system", "user", "assistant", "user")}
    assert files("thinktune.eval").joinpath("probe.jsonl").is_file()


def evaluation_of(run, tasks, answer_of):
    """Write an evaluation's questions and both sides' replies, as `thinktune eval` does."""
    folder = RunFolder(run).evaluation()
    models = {side: EvaluatedModel(side, side) for side in SIDES}
    written = EvalSettings(models, EvalSampling(64, 0.0, 0, thinking=True))
    write_json(folder.settings, settings_to_record(written))
    write_json_lines(folder.tasks, map(task_to_record, tasks))
    for side in SIDES:
        replies = [
            {"reasoning": "so", "answer": answer_of(task, side), "finish": "end", "closed": True}
            | {"tokens": 3, "reasoning_tokens": 1, "key": written.completion_key(task, side)}
            for task in tasks
        ]
        write_json_lines(folder.completions(side), replies)
    return folder


def test_the_report_counts_each_kind_and_language_with_the_interval_of_its_difference(tmp_path):
    keys = {task.source: (row.get("passes") or [row["answer"]])[0] for task, row in BUNDLED}

    def answer_of(task, side):
        key = keys.get(task.source) or task.references[0]
        return "I forgot." if side == "tuned" and (task.language, task.kind) == ("zh", "code") else key

    report = score_completions(evaluation_of(tmp_path, TASKS, answer_of))
    [general] = report["sets"]
    figures = {group["kind"]: (group["base"], group["tuned"], group["rows"]) for group in general["kinds"]}
    assert figures == {kind: (52, 26 if kind == "code" else 52, 52) for kind in KINDS}
    english, chinese = general["languages"]
    assert (english["language"], english["base"], english["tuned"], english["rows"]) == ("en", 208, 208, 208)
    assert (chinese["language"], chinese["base"], chinese["tuned"], chinese["rows"]) == ("zh", 208, 182, 208)
    assert chinese["difference"]["high"] < 0 < english["difference"]["high"]
    assert next(each for each in general["measures"] if each["measure"] == "language_switch")["base"]["value"] == 0
    page = str(evaluation_html(tmp_path))
    assert "code 52 → 26 of 52" in page
    assert "Chinese 208 → 182 of 208" in page
    widths = [50 * (group["difference"]["high"] - group["difference"]["low"]) for group in general["kinds"]]
    assert f"of one kind by up to ±{max(widths):.0f}, of one language by up to ±" in page


def test_an_evaluation_of_the_first_version_is_read_and_graded_as_it_was(tmp_path):
    folder = evaluation_of(
        tmp_path, [OLD_TASK], lambda _, side: "Four." if side == "tuned" else "It does not have any."
    )
    lines = folder.tasks.read_text(encoding="utf-8").splitlines()
    write_json_lines(folder.tasks, [without(json.loads(line), "language") for line in lines])
    report = score_completions(folder)
    [group] = report["sets"][0]["kinds"]
    assert (group["kind"], group["base"], group["tuned"], report["sets"][0]["languages"]) == ("nonsense", 1, 0, [])
    old = report | {
        "sets": [without(each, "languages") | {"kinds": [without(group, "difference")]} for each in report["sets"]]
    }
    write_json(folder.report, old)
    assert "nonsense 1 → 0 of 1." in str(evaluation_html(tmp_path))


def without(record, name):
    return {key: value for key, value in record.items() if key != name}


@pytest.mark.parametrize("page", ["evaluation.md", "evaluation.zh.md"])
def test_the_noise_that_the_docs_state_is_that_of_the_interval(page):
    text = (Path(__file__).parents[2] / "docs" / page).read_text(encoding="utf-8")
    stated = {
        int(re.search(r"\d+", first)[0]): [float(width) for width in widths.split("|")]
        for first, widths in re.findall(r"^\| ([^|]*\d[^|]*) \| ([\d. |]+) \|$", text, re.MULTILINE)
    }
    assert stated.keys() == {416, 208, 52}
    for rows, widths in stated.items():
        for turned, width in zip((0.05, 0.1, 0.2, 0.3), widths, strict=True):
            gained = round(rows * turned) // 2
            lost = round(rows * turned) - gained
            change = paired_difference(
                [0.0] * gained + [1.0] * (rows - gained), pattern(gained, lost, rows), bounded=True
            )
            assert 50 * (change.high - change.low) == pytest.approx(width, abs=0.06)


def pattern(gained, lost, rows):
    return [1.0] * gained + [0.0] * lost + [1.0] * (rows - gained - lost)
