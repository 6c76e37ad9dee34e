"""Reading of public sets: files in their real layouts become the questions and keys that their authors meant."""

import json
import random

import pytest
from support.exam_sets import SETS, ZH, write_repository

from thinktune.errors import UserError
from thinktune.eval.exams.catalogue import HUBS, choose_files, find_sets, match_subjects, read_catalogue
from thinktune.eval.exams.fetching import FetchedSet
from thinktune.eval.exams.reading import ExamQuestions, draw_questions, read_questions
from thinktune.eval.exams.records import FetchRecord, digest_file
from thinktune.eval.tasks import grade_answer

# Of each set: the letters of its right options in order, and the kinds of its questions.
EXPECTED = {
    "cmexam": (["B", "A", "CD"], [""]),
    "cmb": (["B", "ACE"], ["医师考试", "护理考试"]),
    "medqa": (["C"], [""]),
    "medmcqa": (["A", "D"], [""]),
    "mmlu": (["D", "D", "D", "A"], ["anatomy", "astronomy", "econometrics", "medical_genetics"]),
    "cmmlu-law": (["B", "A", "C"], ["college_law"]),
    "ceval-law": (["B", "A", "C"], ["law"]),
    "financeiq": (["A", "B"], ["注册会计师（CPA）", "税务师"]),
    "jec-qa-kd": (["AB"], [""]),
}


def fetched(folder, name):
    exam_set = read_catalogue().sets[name]
    place = exam_set.places["huggingface"]
    write_repository(folder, place.repository)
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    files = choose_files(exam_set, place, names)
    assert files, names
    digests = {file.name: digest_file(folder / file.name) for file in files}
    record = FetchRecord(hub="huggingface", repository=place.repository, revision="c0ffee", files=digests)
    return exam_set, FetchedSet(folder, tuple(files), record)


def questions(folder, name) -> ExamQuestions:
    exam_set, found = fetched(folder, name)
    return read_questions(name, exam_set, found, None, print)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_set_in_its_real_layout_is_read_whole(name, tmp_path):
    read = questions(tmp_path, name)
    letters, kinds = EXPECTED[name]
    assert [task.references[0] for task in read.tasks] == letters
    assert sorted({task.kind for task in read.tasks}) == sorted(kinds)
    assert read.left_out == 0
    assert {task.set for task in read.tasks} == {name}
    assert len({task.source for task in read.tasks}) == len(read.tasks)  # by path in the repository and line
    for task in read.tasks:
        assert grade_answer(task, f"答案：{task.references[0]}")["right"] == 1
        assert grade_answer(task, "答案：E" if task.references[0] != "E" else "答案：A")["right"] == 0


def test_a_pattern_finds_the_files_of_every_subject_or_none():
    kept = match_subjects("test/{subject}.csv", ["test/law.csv", "test/arts.csv", "dev/law.csv"], ["law"])
    assert kept == {"test/law.csv": "law"}
    assert match_subjects("test/{subject}.csv", ["test/law.csv"], ["law", "arts"]) == {}  # one is missing
    assert match_subjects("{subject}/val-*.parquet", ["a/b/val-0.parquet", "a/val-0.parquet"], []) == {
        "a/val-0.parquet": "a"
    }


def test_of_rows_with_a_subject_only_those_wanted_are_asked(tmp_path):
    read = questions(tmp_path, "mmlu-medical")
    assert {task.kind for task in read.tasks} == {"anatomy", "medical_genetics"}
    assert all(task.source.startswith("all/test-") for task in read.tasks)


def test_a_question_of_which_several_options_may_be_right_says_so_and_is_right_only_whole(tmp_path):
    single, several = questions(tmp_path, "cmb").tasks
    for task in (single, several):  # else the words would tell which has one
        assert "可能有多个" in task.question
    assert single.choices == tuple(ZH[0][1])  # a blank option is none
    for answer, right in (("答案：ACE", 1), ("所以选 A、C、E", 1), ("答案：AC", 0), ("答案：ABCE", 0), ("答案：A", 0)):
        assert grade_answer(several, answer)["right"] == right, answer


def test_options_that_the_question_lists_are_not_written_twice(tmp_path):
    [task] = questions(tmp_path, "jec-qa-kd").tasks
    assert task.question.count("甲可以请求逾期利息") == 1
    assert task.question.endswith("字母，如“答案：AC”。")


def test_the_draw_depends_on_the_questions_alone(tmp_path):
    read = questions(tmp_path, "mmlu")
    drawn = draw_questions(read, 2)
    assert drawn.available == 4
    mixed = list(read.tasks)
    random.Random(1).shuffle(mixed)
    again = draw_questions(ExamQuestions(tuple(mixed), 4, 0), 2)
    assert {task.key for task in drawn.tasks} == {task.key for task in again.tasks}
    assert draw_questions(read, 0) == draw_questions(read, 9) == read
    assert [task for task in read.tasks if task in drawn.tasks] == list(drawn.tasks)  # in their order


def test_a_row_that_is_no_question_is_left_out_and_told(tmp_path):
    exam_set, found = fetched(tmp_path, "cmexam")
    rows = json.loads(SETS["fzkuji/CMExam"]["test.json"])
    rows[1]["Answer"] = "Z"
    (tmp_path / "test.json").write_text(json.dumps(rows), encoding="utf-8")
    said = []
    read = read_questions("cmexam", exam_set, found, None, said.append)
    assert (len(read.tasks), read.left_out) == (2, 1)
    assert "is not an option" in said[0]


def test_an_archive_without_a_subject_is_refused_in_words(tmp_path):
    _, found = fetched(tmp_path, "cmmlu-law")
    medicine = read_catalogue().sets["cmmlu-medical"]
    with pytest.raises(UserError, match="has no parts like"):
        read_questions("cmmlu-medical", medicine, found, None, print)


def test_the_catalogue_names_each_set_s_hub_files_and_licence_and_no_digest():
    catalogue = read_catalogue()
    for name, exam_set in catalogue.sets.items():
        assert exam_set.places, name
        assert {*exam_set.places} <= {*HUBS}
        assert exam_set.language in ("zh", "en")
        assert not any(len(word) >= 40 for place in exam_set.places.values() for word in place.files)
    assert {*catalogue.exams} == {"medical-zh", "medical-en", "law-zh", "finance", "general"}


def test_exams_and_sets_are_named_alike_and_an_unknown_name_is_told_with_all_that_are_known():
    assert [*find_sets(["medical-en", "medqa", "cmb"])] == ["medqa", "medmcqa", "mmlu-medical", "cmb"]
    with pytest.raises(UserError, match=r"does not know physics.*medical-zh.*cmexam"):
        find_sets(["physics", "medqa"])
