"""Think tags that are written oddly, reasoning in other marks, and tags around answers: read where it is sure."""

import pytest
from support.row_checks import EN, FIELD_NAMES, TOKENS, ZH, checked, example, texts_of

from thinktune.config.row_faults import HANDED_PHRASES, resolve_policies
from thinktune.data.faults.checks import CheckRules, check_example
from thinktune.data.faults.habits import Habits
from thinktune.data.faults.marks.reply_forms import ReplyForms, measure_reply_forms

THOUGHT = {"en": "Let me think about the heart.", "zh": "想一想，心脏推动血液流动。"}
ANSWER = {"en": "It pumps blood.", "zh": "心脏泵血。"}

TAGGED = [
    *("<Thought>{r}</Thought>{a}", "<thinking>\n{r}\n</thinking>\n\n{a}", "<reasoning>{r}</reasoning><answer>{a}</answer>"),
    *("<|begin_of_thought|>\n{r}\n<|end_of_thought|>\n\n<|begin_of_solution|>\n{a}\n<|end_of_solution|>", "[THINK]{r}[/THINK]{a}"),
    *("<seed:think>{r}</seed:think>{a}", "<mm:think>{r}</mm:think>\n{a}", "◁think▷{r}◁/think▷{a}", "<scratchpad>{r}</scratchpad>{a}"),
    "<|START_THINKING|>{r}<|END_THINKING|><|START_RESPONSE|>{a}<|END_RESPONSE|>",
    "<|channel|>analysis<|message|>{r}<|end|><|start|>assistant<|channel|>final<|message|>{a}<|return|>",
    *("<|channel>thought\n{r}<channel|>{a}", "<|im_start|>think\n{r}\n<|im_start|>answer\n{a}", "<|im_start|>think\n{r}<|im_end|>\n<|im_start|>answer\n{a}"),
    *("## Thinking\n\n{r}\n\n## Final Response\n\n{a}", "### Reasoning\n{r}\n### Answer\n{a}", "**Thinking:**\n{r}\n\n**Answer:**\n{a}"),
    *("Thought: {r}\nFinal Answer: {a}", "思考过程：\n{r}\n最终答案：\n{a}", "【思考】{r}【回答】{a}", "<思考>{r}</思考>{a}", "【推理】{r}【/推理】{a}"),
]  # fmt: skip


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("form", TAGGED)
def test_reasoning_in_other_marks_is_read_as_reasoning(form, language):
    reply = form.format(r=THOUGHT[language], a=ANSWER[language])
    found = checked(example({**EN, "think": "", "answer": reply}), language_mix="keep")
    turn = found.example.turns[1]
    assert (turn.reasoning, turn.content) == (THOUGHT[language], ANSWER[language])
    assert (found.findings[0].fault, found.findings[0].action) == ("reasoning_tag", "repaired")
    assert "is read as the reasoning" in found.findings[0].sentence


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ("<thinking>The heart pumps", "begins with <thinking>, but nothing shows where its reasoning ends"),
        ("<Thought>想一想</Thought>", "but no answer follows its reasoning"),
        ("<thought>a</thought>b</thought>c", "begins with <thought> twice"),
        ("<|begin_of_thought|>想一想。", "nothing shows where its reasoning ends"),
    ],
)
def test_marks_that_do_not_close_drop_the_row_and_are_never_kept(reply, why):
    row = example({**EN, "think": "", "answer": reply})
    found = checked(row, no_reasoning="silent")
    assert [(finding.fault, finding.action) for finding in found.findings] == [("reasoning_tag", "dropped")]
    assert why in found.findings[0].sentence


@pytest.mark.parametrize(
    "reply",
    [
        "<thinking>",
        "[Thoughts on hearts](https://example.org) are here.",
        "Analysis: it beats.\nAnswer: blood.",
        "分析：因为心脏跳动。\n答案：血液。",
        "<p>Thinking</p> helps.",
        "# Thinking\nIt matters.\n# Results\nGood.",
        "## Thinking\nIn code:\n```\n## Answer\n```\nwe write.",
    ],
)
def test_what_only_looks_like_a_form_is_an_answer(reply):
    row = example({**EN, "answer": reply})
    assert checked(row, markup="keep").example is row
    assert not [one for one in checked(example({**EN, "think": "", "answer": reply}), no_reasoning="silent").findings if one.fault == "reasoning_tag"]  # fmt: skip


def test_a_reply_with_reasoning_of_its_own_is_not_taken_apart():
    row = example({**EN, "answer": "<thinking>Other.</thinking>Blood."})
    assert checked(row).example is row


def test_the_recipe_names_marks_that_are_not_known_and_the_sentence_says_how():
    row = example({**EN, "think": "", "answer": "<plan>Ask the heart.</plan>It pumps blood."})
    told = checked(row).findings[0]
    assert told.fault == "no_reasoning"
    assert (
        'it begins with <plan> … </plan>; if that is its reasoning, write expert: {think_tags: ["<plan>", "</plan>"]}'
        in told.sentence
    )
    rules = CheckRules(resolve_policies({}), HANDED_PHRASES, TOKENS, think_tags=("<plan>", "</plan>"))
    turn = check_example(row, FIELD_NAMES, rules).example.turns[1]
    assert (turn.reasoning, turn.content) == ("Ask the heart.", "It pumps blood.")


ODD = [
    *("<think><think>{r}</think>{a}", "<think>{r}</think></think>\n{a}", "<think>\n\n</think>\n\n<think>{r}</think>{a}"),
    *("<THINK>{r}</Think>{a}", "< think >{r}</ think >{a}", "<think>\n{r}\n< /think>\n\n{a}", "{r}</think></think>{a}"),
    *("&lt;think&gt;{r}&lt;/think&gt;{a}", "<think>{r}<\\/think>{a}", "＜think＞{r}＜/think＞{a}", "\\<think\\>{r}\\</think\\>{a}"),
    *("<think>{r}</think>{a}</think>", "<think>\\n{r}\\n</think>\\n\\n{a}</THINK>", "<think></think><think>{r}</think>{a}"),
]  # fmt: skip


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("form", ODD)
def test_a_think_block_of_one_meaning_is_read_however_it_is_written(form, language):
    reply = form.format(r=THOUGHT[language], a=ANSWER[language])
    found = checked(example({**EN, "think": "", "answer": reply}), language_mix="keep")
    turn = found.example.turns[1]
    assert (turn.reasoning, turn.content) == (THOUGHT[language], ANSWER[language])
    assert [(finding.fault, finding.action) for finding in found.findings] == [("think_tag", "repaired")]
    again = checked(found.example, language_mix="keep")
    assert again.example is found.example


@pytest.mark.parametrize(
    "reply", ["<think>a<think>b", "<think>a</think>b<think>c</think>d", "<think>a", "x<think>a</think>b"]
)
def test_a_think_block_that_may_mean_several_things_drops_the_row(reply):
    found = checked(example({**EN, "think": "", "answer": reply}))
    assert [(finding.fault, finding.action) for finding in found.findings] == [("think_tag", "dropped")]


@pytest.mark.parametrize("end", ["<think>", "<think>\n", " <think>", "\n<THINK>\n\n"])
def test_a_think_tag_at_the_end_of_a_question_is_what_the_template_writes(end):
    found = checked(example({**ZH, "question": ZH["question"] + end}))
    assert texts_of(found.example.turns) == ZH
    assert [(finding.fault, finding.action) for finding in found.findings] == [("think_tag", "repaired")]
    assert "ends with a think tag, which the chat template writes itself" in found.findings[0].sentence


def test_an_empty_think_block_after_the_question_asks_for_no_reasoning():
    found = checked(example({**ZH, "question": ZH["question"] + "<think>\n\n</think>\n\n", "think": ""}))
    assert found.example.turns[0].content == ZH["question"]
    assert found.example.turns[1].mode == "silent"


@pytest.mark.parametrize("form", ["<answer>{a}</answer>", "<Output>\n{a}\n</Output>", "[ANSWER]{a}[/ANSWER]", "<final_answer>{a}</final_answer>", "<回答>{a}</回答>"])  # fmt: skip
def test_tags_around_an_answer_are_taken_off_and_told(form):
    row = example({**ZH, "answer": form.format(a=ANSWER["zh"])})
    found = checked(row)
    assert texts_of(found.example.turns) == {**ZH, "answer": ANSWER["zh"]}
    assert [(finding.fault, finding.action) for finding in found.findings] == [("answer_tag", "repaired")]
    assert checked(row, answer_tag="keep").example is row


def test_tags_that_the_prompt_asks_for_stay():
    row = example(
        {**EN, "question": "What does it pump? Put it into <answer> tags.", "answer": "<answer>Blood.</answer>"}
    )
    found = checked(row)
    assert found.example is row
    assert "which stays, since the row's prompt asks for it" in found.findings[0].sentence


@pytest.mark.parametrize("answer", ["<answer>A</answer> because", "Say <answer>A</answer>", "<answer></answer>", "<solution name='x'>A</solution>", "<answer>A</answer><answer>B</answer>"])  # fmt: skip
def test_tags_around_a_part_of_an_answer_are_a_part_of_it(answer):
    row = example({**EN, "answer": answer})
    assert checked(row).example is row


def test_a_form_that_only_some_replies_have_is_not_taken_for_the_files():
    headed, plain = "## Thinking\nAsk the heart.\n## Answer\nBlood.", "It pumps blood."
    forms = measure_reply_forms([(headed, False), *[(plain, False)] * 9])
    assert forms == ReplyForms(some_headings=True)
    assert measure_reply_forms([(headed, False)] * 9) == ReplyForms()
    assert measure_reply_forms([("<answer>x</answer>", True), (plain, True)]) == ReplyForms(some_answer_tags=True)

    def with_forms(answer, **changes):
        rules = CheckRules(resolve_policies({}), HANDED_PHRASES, TOKENS, Habits(reply_forms=ReplyForms(**changes)))
        return check_example(example({**EN, "think": "", "answer": answer}), FIELD_NAMES, rules)

    assert [one.fault for one in with_forms(headed, some_headings=True).findings] == ["no_reasoning"]
    assert with_forms(headed).example.turns[1].reasoning == "Ask the heart."
    tagged = with_forms("<think>Ask the heart.</think><answer>Blood.</answer>", some_answer_tags=True)
    assert tagged.example.turns[1].content == "<answer>Blood.</answer>"
    assert "which stays, since other answers have no tags" in tagged.findings[-1].sentence
