"""Replies that speak of a reference, a passage, tools or an answer: a fault only where the prompt lacks them."""

import json
import time
from collections import Counter

import pytest
from support.row_checks import FIELD_NAMES, conversation, example

from thinktune.config.row_faults import HANDED_PHRASES, resolve_policies
from thinktune.data.columns.mapping import ColumnMapping, to_example
from thinktune.data.faults.checks import CheckRules, check_example
from thinktune.data.faults.quoted_columns import with_unused_columns
from thinktune.data.types import RawRow
from thinktune.tokenization import Turn

ASKED = {"zh": "租房押金可以不退吗？", "en": "Can a landlord keep the deposit?"}
ANSWER = {"zh": "一般应当退还，除非房屋有损坏。", "en": "Only to pay for damage, as a rule."}


def found(language, think, question=None, answer=None, phrases=()):
    row = example({"question": question or ASKED[language], "think": think, "answer": answer or ANSWER[language]})
    rules = CheckRules(resolve_policies({"handed_answer": "keep", "handed_context": "keep"}), phrases)
    return [finding.fault for finding in check_example(row, FIELD_NAMES, rules).findings if "handed" in finding.fault]


CONTEXT = [
    ("zh", "用户给了参考资料，里面写着押金应当退还。"),
    ("zh", "根据提供的背景信息，押金是担保。"),
    ("zh", "检索结果显示，押金在退房时返还。"),
    ("zh", "参考内容里只提到了房屋损坏的情况。"),
    ("zh", "按照上述参考文本，先看合同。"),
    ("zh", "先看一下。文中提到，押金是担保。"),
    ("zh", "用户提供了一篇文章，讲的是押金。"),
    ("zh", "给出的法条说，押金应当退还。"),
    ("zh", "提供的工具里没有查合同的，我自己回答。"),
    ("zh", "没有合适的工具，只好自己回答。"),
    ("zh", "这里不用调用 search_law 工具。"),
    ("en", "The reference material says that it must be returned."),
    ("en", "According to the search results, it must be returned. The search results mention damage."),
    ("en", "I should stick to the provided context and not add facts."),
    ("en", "The passage states that it must be returned."),
    ("en", "Based on the document, the deposit is a security."),
    ("en", "The retrieved documents mention thirty days."),
    ("en", "The excerpt provided covers damage only."),
    ("en", "None of the available tools can help, so I answer myself."),
    ("en", "The functions provided are for weather and maps."),
    ("en", "There is no tool for this, so I rely on what I know."),
    ("en", "I could call the get_rent_law tool, but it is not needed."),
]


@pytest.mark.parametrize(("language", "think"), CONTEXT)
def test_speaking_of_what_the_prompt_lacks_is_a_fault(language, think):
    assert found(language, think) == ["handed_context"]
    assert found(language, ANSWER[language] + " So it is.", answer=think) == ["handed_context"]  # the answer as well


ANSWERS = [
    ("zh", "用户给了一个答案，我来补上过程。"),
    ("zh", "参考答案里说要退，所以往这个方向写。"),
    ("zh", "对照标准答案，应当退还。"),
    ("zh", "不过答案里没有提到利息，可以不写。"),
    ("zh", "答案已经概括了要点，我只要展开。"),
    ("zh", "根据答案，押金应当退还。"),
    ("zh", "题目已经给出了正确的答案，只需解释。"),
    ("en", "The official solution says that it must be returned."),
    ("en", "The given explanation points to damage."),
    ("en", "The user has provided the correct answer, so I explain it."),
    ("en", "I need to match the expected answer, which says no."),
    ("en", "That looks fine, but the answer mentions thirty days."),
    ("en", "The answer doesn't mention interest, so I leave it out."),
    ("en", "The explanation given above is short."),
]


@pytest.mark.parametrize(("language", "think"), ANSWERS)
def test_speaking_of_an_answer_that_lies_there_is_a_fault_without_any_phrase_of_the_recipe(language, think):
    assert found(language, think) == ["handed_answer"]


HELD = [
    ("zh", "参考资料：押金是担保。请回答：押金可以不退吗？", "参考资料里说，押金是担保。"),
    ("zh", "阅读下面的文章。张三租房，押金两千。他能要回吗？", "文中提到押金两千。"),
    ("zh", "你有哪些可用的工具？", "提供的工具里没有天气。"),
    ("zh", "我的答案是不退，对吗？", "用户给了一个答案，先判断对不对。"),
    ("zh", "哪个选项正确？\nA. 退\nB. 不退", "不过答案里没有提到利息，A 更好。"),
    ("en", "Context: The deposit is a security. Can it be kept?", "The provided context says it is a security."),
    ("en", "Read the passage below and answer.\n\nAnn rents a flat.", "The passage states that Ann rents."),
    ("en", "Which functions does this API have?", "The available functions are listed on its page."),
    ("en", "Is the solution 7 right?", "The given solution is seven; let me check."),
    ("en", "My answer is no. Is it right?", "The user provided the answer no, so I check it."),
]


@pytest.mark.parametrize(("language", "question", "think"), HELD)
def test_what_the_prompt_holds_may_be_spoken_of(language, question, think):
    assert found(language, think, question) == []


PLANS = [
    ("zh", "可能要查阅资料确认，权威资料显示押金是担保。"),
    ("zh", "有些资料提到可以约定违约金。"),
    ("zh", "需要确保答案里提到房屋损坏，答案里应该提到时间。"),
    ("zh", "在答案中给出建议，最终答案中包括三点。"),
    ("zh", "根据上下文，用户应该是租客。"),
    ("zh", "根据用户提供的信息，他已经退房。"),
    ("zh", "血压计是常用的工具，没有更好的工具。"),
    ("zh", "可以建议他参考官方网站，或者查文献。"),
    ("en", "I recall an article that says thirty days."),
    ("en", "The answer should mention damage, and the answer depends on the lease."),
    ("en", "In this context, a deposit is a security. Sources differ."),
    ("en", "So the answer is no. The answer lies in the lease."),
    ("en", "A lawyer has several tools for that; the tool of choice is a letter."),
    ("en", "The given answer choices are A and B."),
    ("en", "Given the context of a lease, the text of the law matters."),
    ("en", "The law provides a solution: the response must come in thirty days."),
]


@pytest.mark.parametrize(("language", "think"), PLANS)
def test_plans_memory_and_the_question_itself_are_no_handed_context(language, think):
    assert found(language, think) == []


def test_a_system_prompt_that_only_says_that_there_are_tools_does_not_hold_them():
    system = Turn("system", "You solve tasks with a set of available tools.")
    turns = Turn("user", "Where is a school?"), Turn("assistant", "I do not know.", "The available tools do not help.")
    rules = CheckRules(resolve_policies({}))
    example_, places = conversation(system, *turns)
    [finding] = check_example(example_, places, rules).findings
    assert (finding.fault, finding.action) == ("handed_context", "dropped")
    listing = Turn("system", "You have tools: find_school, which finds a school near a place.")
    example_, places = conversation(listing, *turns)
    assert check_example(example_, places, rules).findings == ()


def test_in_a_conversation_the_reply_becomes_history_and_later_ones_may_speak_of_what_was_said():
    turns = (
        *(Turn("user", ASKED["en"]), Turn("assistant", ANSWER["en"], "The provided passage says so.")),
        *(Turn("user", "What is a lease?"), Turn("assistant", "A contract.", "It is what both sides sign.")),
    )
    example_, places = conversation(*turns)
    found_ = check_example(example_, places, CheckRules(resolve_policies({})))
    assert [(finding.fault, finding.action) for finding in found_.findings] == [("handed_context", "repaired")]
    assert [turn.trained for turn in found_.example.turns if turn.role == "assistant"] == [False, True]


LAW = {
    "zh": "出租人收取的押金，性质上属于担保，租赁关系终止后应当在扣除欠租和损失之后如数返还给承租人。",
    "en": "A deposit is held as a security only, and must be returned within thirty days after the tenancy has ended.",
}
MAPPING = ColumnMapping(question="question", reasoning="think", answer="answer")


def row_findings(columns, **chosen):
    row = RawRow("rows.jsonl:7", columns)
    policies = resolve_policies(chosen)
    read = to_example(row, MAPPING)
    checked = check_example(read.example, read.field_names, CheckRules(policies, HANDED_PHRASES))
    return with_unused_columns(checked, columns, MAPPING, policies)


@pytest.mark.parametrize("language", ["zh", "en"])
def test_reasoning_that_quotes_an_unused_column_is_told_with_its_share(language):
    think = f"Let me see, hm. {LAW[language]} So I answer no, as one would expect."
    base = {"question": ASKED[language], "think": think, "answer": ANSWER[language]}
    for value in (LAW[language], [LAW[language][:20], LAW[language]], {"text": LAW[language]}):
        kept = row_findings({**base, "law": value, "id": "7"})
        [finding] = kept.findings
        assert (finding.fault, finding.action) == ("quoted_column", "kept")
        assert finding.sentence.startswith("rows.jsonl:7: law: ")
        assert "% of the reasoning quotes this column, which is not used" in finding.sentence
        assert kept.example is not None
    assert row_findings({**base, "law": LAW[language]}, quoted_column="drop").example is None
    in_question = {**base, "question": f"{LAW[language]}\n{ASKED[language]}"}
    assert row_findings({**in_question, "law": LAW[language]}).findings == ()
    assert row_findings({**base, "text": f"Q: {think}\n{ANSWER[language]}"}).findings == ()  # a copy of the whole row
    assert row_findings({**base, "law": LAW["en" if language == "zh" else "zh"]}).findings == ()


def test_handed_context_names_the_column_that_may_be_meant():
    columns = {"question": ASKED["zh"], "think": "参考资料里说要退。", "answer": ANSWER["zh"], "material": LAW["zh"]}
    [finding] = row_findings(columns).findings
    assert finding.sentence == (
        "rows.jsonl:7: think: mentions a reference that the prompt does not contain ('参考资料里说要退。'); "
        "column material, which is not used, may be what is meant"
    )


@pytest.mark.parametrize(
    "text",
    ["参考资料" * 50_000, "the answer " * 20_000, "提供的的的" * 40_000, "the " * 100_000, "答案里已经" * 40_000],
)
def test_no_text_takes_long(text):
    began = time.process_time()
    found("zh", text, question="为" * 50_000)
    found("en", text)
    assert time.process_time() - began < 5


@pytest.mark.real
def test_the_real_rows_that_speak_of_a_handed_answer(real):
    """All that fire were read: each speaks of an answer that its question does not give."""
    lines = (real / "medical" / "delicate_medical_r1_val.jsonl").read_text(encoding="utf-8").splitlines()
    rules = CheckRules(resolve_policies({}), HANDED_PHRASES)
    faults = Counter(
        finding.fault
        for row in map(json.loads, lines)
        for finding in check_example(example(row), FIELD_NAMES, rules).findings
        if finding.action == "dropped"
    )
    assert faults == {"handed_answer": 105}
