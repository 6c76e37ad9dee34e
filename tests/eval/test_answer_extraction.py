"""The final answer is extracted as a reader would: letters inside prose, numbers with their units."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinktune.eval.answer_extraction import extract_letters, extract_number, parse_chinese_numeral, same_number

OPTIONS = ["insulin", "glucagon", "cortisol", "growth hormone", "none of these"]


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(b)", "B"),
        ("**B**", "B"),
        ("B.", "B"),
        ("Ｂ", "B"),
        ("B. glucagon", "B"),
        ("B：胰高血糖素", "B"),
        ("(B) glucagon raises the blood sugar", "B"),
        ("The answer is B.", "B"),
        ("The correct answer is (C).", "C"),
        ("The answer is **D**, since A is made elsewhere.", "D"),
        ("Answer: C", "C"),
        (r"So the result is $\boxed{C}$.", "C"),
        (r"The answer is $\boxed{\text{C}}$", "C"),
        ("I first took A. No: the answer is B.", "B"),
        ("The answer is not A; the answer is C", "C"),
        ("The answer is C\nA is wrong, for it lowers it.", "C"),
        ("The best option is E", "E"),
        ("答案是B", "B"),
        ("答案：Ｂ。", "B"),
        ("正确答案为（C）", "C"),
        ("排除A、B、D，故选C。", "C"),
        ("不选A，应选B", "B"),
        ("答案不是A，而是C。", "C"),
        ("C项正确，A项错误", "C"),
        ("综上，选择D选项。", "D"),
        ("答案是C,A项错误", "C"),
        ("ABD", "ABD"),
        ("A、B、D", "ABD"),
        ("答案是A和C", "AC"),
        ("The answer is A, B and D.", "ABD"),
        ("DBA", "ABD"),
        ("Option B is correct; option A is not.", "B"),
        ("A fall of sugar calls for glucagon.", "B"),  # the article is not an option
        ("I think that it is D", "D"),
        ("Growth hormone", "D"),
        ("It is cortisol that does it.", "C"),
        ("Either A or B", ""),
        ("insulin or glucagon", ""),
        ("Not known", ""),
        ("", ""),
        ("The answer is Acetylcholine", ""),
    ],
)
def test_letters_are_found_inside_prose(answer, wanted):
    assert extract_letters(answer, OPTIONS) == wanted


def test_the_longer_of_two_nested_options_wins():
    assert extract_letters("it is the left ventricle", ["ventricle", "left ventricle"]) == "B"


@given(st.text(), st.lists(st.text(max_size=8), min_size=2, max_size=10))
def test_letters_are_options(text, options):
    assert set(extract_letters(text, options)) <= set("ABCDEFGHIJ"[: len(options)])


@pytest.mark.parametrize(
    ("answer", "wanted", "right"),
    [
        ("42", "42", True),
        ("The answer is 42.", "42", True),
        ("４２", "42", True),
        ("1,234", "1234", True),
        ("6 × 7 = 42", "42", True),
        ("The answer is 42 (check: 42 / 6 = 7)", "42", True),
        ("First 12, then 30, together 42", "42", True),
        ("not 42 but 43", "42", False),
        (r"\boxed{42}", "42", True),
        ("#### 42", "42", True),
        ("−5", "-5", True),
        ("9-5=4", "4", True),
        ("from 3-5", "5", True),
        ("3/4", "0.75", True),
        ("3.14159", "3.14", True),
        ("3.15", "3.14", False),
        ("3e8", "300000000", True),
        ("3×10^8", "3e8", True),
        ("5 mg", "5", True),
        ("5", "5 mg", True),
        ("0.005 g", "5 mg", True),
        ("5毫克", "5 mg", True),
        ("5 g", "5 mg", False),
        ("5 ml", "5 mg", False),
        ("90 minutes", "1.5 hours", True),
        ("1.5小时", "90分钟", True),
        ("20%", "0.2", True),
        ("20 %", "20%", True),
        ("百分之二十", "20%", True),
        ("一共是一百二十三个", "123", True),
        ("两万三千", "23000", True),
        ("3万元", "30000元", True),
        ("答案是二十。", "20", True),
        ("五", "5", True),
        ("一般来说没有", "1", False),
        ("千万不要", "10000000", False),
        ("12 apples", "12", True),
        ("no number", "3", False),
        ("", "3", False),
        ("37.0°C", "37°C", True),
    ],
)
def test_numbers_are_compared_by_value_and_unit(answer, wanted, right):
    found, reference = extract_number(answer), extract_number(wanted)
    assert reference is not None
    assert (found is not None and same_number(found, reference)) is right


@given(st.integers(-(10**12), 10**12), st.sampled_from(["{}", "The answer is {}.", "答案是{}。", "= {:,}"]))
def test_every_integer_is_read_back(value, form):
    found = extract_number(form.format(value))
    assert found is not None
    assert found.value == value


@given(st.text())
def test_any_text_can_be_searched_for_a_number(text):
    extract_number(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("十", 10),
        ("二十", 20),
        ("一百零五", 105),
        ("两千", 2000),
        ("三点一四", Fraction(157, 50)),
        ("一亿零三万", 100030000),
        ("负七", -7),
        ("一一", None),
        ("百百", None),
        ("点", None),
        ("万一", None),
        ("", None),
    ],
)
def test_chinese_numerals(text, value):
    assert parse_chinese_numeral(text) == value
