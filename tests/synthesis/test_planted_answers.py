"""Of a hundred planted wrong answers, hardly one is taken for right; right ones in usual words are."""

from support.planted_answers import PLANTED, UNSEEN

from thinktune.synthesis.answer_agreement import answer_agreement, row_task

WRONG = [(row, kind, answer) for row in PLANTED for kind, answer in row.wrong.items()]
RIGHT = [(row, answer) for row in PLANTED for answer in row.right]


def test_a_hundred_planted_wrong_answers_are_rejected():
    """Ninety-five would do; all are, and a grader that takes one again has become more lenient."""
    assert len(WRONG) >= 100
    taken = [
        (kind, answer) for row, kind, answer in WRONG if answer_agreement(row_task(row.example()), answer).holds is True
    ]
    assert not taken


def test_so_are_those_that_the_graders_were_not_made_with():
    wrong = [(row, kind, answer) for row in UNSEEN for kind, answer in row.wrong.items()]
    taken = [(kind, answer) for row, kind, answer in wrong if answer_agreement(row_task(row.example()), answer).holds]
    assert len(taken) <= 0.05 * len(wrong), taken


def test_right_answers_in_usual_words_are_kept():
    lost = [
        (answer, answer_agreement(row_task(row.example()), answer))
        for row, answer in RIGHT
        if answer_agreement(row_task(row.example()), answer).holds is not True
    ]
    assert len(lost) <= 0.1 * len(RIGHT), lost


def test_the_rows_own_answer_agrees_with_itself():
    for row in PLANTED:
        assert answer_agreement(row_task(row.example()), row.answer).holds, row.question
