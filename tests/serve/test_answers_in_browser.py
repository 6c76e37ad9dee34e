"""An answer in a real browser: what is shown says what was written, and nothing in it acts."""

import re

import pytest
from support.api_server import ScriptedBackend, scripted_model, serving
from support.browser import open_browser

SHOW = """async (text) => {
  const { showMarkdown } = await import('/page/markdown.js');
  let answer = document.querySelector('#log .answer');
  if (!answer) document.querySelector('#log').append(answer = Object.assign(document.createElement('div'), { className: 'answer markdown' }));
  showMarkdown(text, answer);
}"""


@pytest.fixture(scope="module")
def page():
    """Open a page; at its end it must have logged no error, and requested nothing from other servers."""
    faults, elsewhere = [], []
    with serving([scripted_model(ScriptedBackend("yes"))]) as address, open_browser() as browser:
        page = browser.new_page(viewport={"width": 390, "height": 700}, locale="en-US")
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.on("console", lambda it: faults.append(it.text) if it.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda it: None if it.url.startswith(address) else elsewhere.append(it.url))
        page.goto(address)
        page.locator("#model option").first.wait_for(state="attached")
        yield page
    assert not faults
    assert not elsewhere


@pytest.fixture
def show(page):
    """Return a function that shows an answer and returns its locator."""

    def show(text):
        page.evaluate(SHOW, text)
        return page.locator(".answer")

    return show


def markers(answer):
    """Return the numbers that the browser draws before the items of lists."""
    return answer.locator("ol > li").evaluate_all("all => all.map(it => it.value)")


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("3. third\n4. fourth", [3, 4]),
        ("Wrong are:\n\n2. this\n5. that\n9. these", [2, 5, 9]),
        ("3. c\n2. b\n1. a", [3, 2, 1]),
        ("0. zero\n1. one", [0, 1]),
        ("7) seven\n8) eight", [7, 8]),
        ("1. one\n\n   more\n\n3. three", [1, 3]),
        ("- x\n\n  4. four\n  6. six", [4, 6]),
        ("2024. a year", [2024]),
    ],
)
def test_list_items_have_the_numbers_that_were_written(show, text, numbers):
    assert markers(show(text)) == numbers


def test_a_bracket_after_a_number_stays(show):
    answer = show("1) one\n2) two")
    assert answer.locator("ol").evaluate("it => getComputedStyle(it).listStyleType") == "bracket"


def test_cells_are_aligned_as_written(show):
    answer = show("| a | b | c | d |\n|:--|:-:|--:|---|\n| 1 | 2 | 3 | 4 |")
    aligned = "all => all.map(it => getComputedStyle(it).textAlign)"
    assert [side.removeprefix("-webkit-") for side in answer.locator("td").evaluate_all(aligned)][:3] == [
        "left",
        "center",
        "right",
    ]


@pytest.mark.parametrize("text", ["$$\\sum_{i=1}^n i$$", "\\[\\sum_{i=1}^n i\\]", "It is $$\\sum_{i=1}^n i$$ here."])
def test_display_formulas_are_drawn_as_such(show, text):
    answer = show(text)
    math = answer.locator("math")
    assert math.get_attribute("display") == "block"
    assert math.evaluate("it => getComputedStyle(it).mathStyle") == "normal"
    upper, sign = (
        answer.locator(it).bounding_box() for it in ("munderover > :nth-child(3)", "munderover > :first-child")
    )
    assert upper["y"] + upper["height"] <= sign["y"] + 6  # the limit stands above the sign, not beside it
    assert show("$\\sum_i i$").locator("math").evaluate("it => getComputedStyle(it).mathStyle") == "compact"


FORMULAS = [
    r"\lim_{x\to0}", r"\left(\frac ab\right)", r"\begin{pmatrix}a&b\\c&d\end{pmatrix}", r"\begin{aligned}a&=b\\c&=d\end{aligned}",
    r"\begin{cases}a&b\\c&d\end{cases}", r"\sqrt[3]{x}", r"\vec{a}\hat b", r"a\hspace{2em}b\quad c", r"\underbrace{y}_{z}",
    r"\begin{array}{|l|r|}\hline a&b\\\hline\end{array}", r"x\tag{1}", r"\dfrac{a}{b}", r"\text{中文 a<b}", r"\cancel{x}", r"{}_a^b X",
]  # fmt: skip


def test_no_attribute_of_a_formula_is_lost(page, show):
    """Whatever the formula's renderer says is there after sanitising, but its inline styles, which a script sets."""
    attributes = """all => all.flatMap(it => [...it.attributes].map(one => `${it.localName} ${one.name}=${one.value}`))
        .filter(one => !/ (data-)?style=/.test(one)).sort()"""
    for tex in FORMULAS:
        drawn = "tex => { const it = document.createElement('template'); it.innerHTML = temml.renderToString(tex, { displayMode: true, annotate: false }).replace(/ style=/g, ' data-style=');"
        wanted = page.evaluate(
            f"{drawn} return ({attributes})([...it.content.querySelectorAll('math, math *')]) }}", tex
        )
        assert show(f"$${tex}$$").locator("math, math *").evaluate_all(attributes) == wanted, tex


def test_looks_of_formulas_that_carry_meaning_are_shown(show):
    assert (
        show(r"$\boxed{42}$").locator("mrow[style], mrow").first.evaluate("it => getComputedStyle(it).borderTopStyle")
        == "solid"
    )
    assert "linear-gradient" in show(r"$\cancel{x}$").locator("menclose").evaluate(
        "it => getComputedStyle(it).backgroundImage"
    )
    assert show(r"$\color{red}{x}$").locator("mi").evaluate("it => getComputedStyle(it).color") == "rgb(255, 0, 0)"
    cells = show(r"$$\begin{array}{lr}a&b\end{array}$$").locator("mtd")
    assert cells.evaluate_all("all => all.map(it => getComputedStyle(it).textAlign)") == ["left", "right"]


@pytest.mark.parametrize(
    "text",
    ["- [x] done\n- [ ] open", "1. [X] done\n2. [ ] open", "- [x] done\n\n- [ ] open", "* [x] **done**\n  - [ ] open"],
)
def test_ticks_of_tasks_are_seen(show, text):
    lines = show(text).inner_text().split("\n")
    assert "☑ done" in [line.strip() for line in lines]
    assert "☐ open" in [line.strip() for line in lines]


def test_each_paragraph_has_its_own_direction(show):
    answer = show("English.\n\nهذا نص عربي.\n\n- one\n- عنصر\n\n> אחת\n\n| a | ب |\n|---|---|\n| 1 | ت |\n\n## עברית")
    direction = "all => all.map(it => getComputedStyle(it).direction)"
    assert answer.locator(":scope > p").evaluate_all(direction) == ["ltr", "rtl"]
    assert answer.locator("li").evaluate_all(direction) == ["ltr", "rtl"]
    assert answer.locator("blockquote, h2").evaluate_all(direction) == ["rtl", "rtl"]
    assert answer.locator("th, td").evaluate_all(direction) == ["ltr", "rtl", "ltr", "rtl"]
    assert answer.locator("p").first.get_attribute("dir") == "auto"


def test_a_narrow_table_scrolls_and_its_words_stay_whole(show, page):
    words = ["Metformin", "Contraindication", "Hypoglycaemia", "Pharmacokinetics", "二甲双胍"]
    answer = show(f"|{'|'.join(words)}|\n|{'---|' * len(words)}\n|{'|'.join(reversed(words))}|")
    lines = "all => all.map(it => { const range = document.createRange(); range.selectNodeContents(it); return range.getClientRects().length; })"
    assert answer.locator("th, td").evaluate_all(lines) == [1] * 10
    frame = answer.locator(".table")
    assert frame.evaluate("it => it.scrollWidth > it.clientWidth")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize(
    "text",
    [
        "Take it for 3~5 days, then 7~10 days.",
        "服用3~5天，再服7~10天。",
        "It is 2*3*4 = 24 and a*b*c.",
        "2**3**2 is 512",
        "(a+b)*(c+d)*2",
        "> 65 years: half the dose",
        ">= 65 years",
        ">5 mg/L is high",
        "[Answer]: B",
        "[1]: https://example.org",
        "first line\nsecond line",
        "A. insulin\nB. glucagon\nC. cortisol",
        "<div>\n  <b>bold</b>\n</div>",
        "<details>\nmore\n</details>",
        "a <b> and <!-- a comment --> here",
        "it costs $5 or $6, not US$7",
        "![a picture](https://example.org/x.png)",
        "$\\unknowncommand{x}$",
        "| a | b |\n|---|---|\n| 1 | 2 | 3 |",
        "if a < b && c > d",
        "snake_case_name and __init__.py",
        "see [doi](10.1000/182), arr[0](1) and [bad](javascript:alert(1))",
        "a footnote[^1]",
        "$HOME/$USER, ${a}/${b}, US$5",
        "Symptoms:\n-",
        "x\n=\ny",
    ],
)
def test_nothing_of_a_text_is_lost(show, text):
    shown = show(text).inner_text()
    assert re.sub(r"\s+", " ", shown).strip() == re.sub(r"\s+", " ", text).strip()
    assert shown.strip().count("\n") == text.count("\n")


def test_an_answer_nested_too_deep_for_the_parser_is_shown_as_text(show):
    text = "> " * 20_000 + "x"
    assert show(text).inner_text() == text


def test_the_language_of_code_is_shown_and_is_no_part_of_it(show):
    pre = show("```python\nprint(1)\n```").locator("pre")
    assert pre.inner_text().strip() == "print(1)"
    assert pre.get_attribute("aria-label") == "Code, python"
    assert show("```python title=x\n1\n```").locator(".code-head span").inner_text() == "python title=x"
    assert show("```\n1\n```").locator("pre").get_attribute("aria-label") == "Code"


@pytest.mark.parametrize("code", ["print(1)", "a\n\n  b\n", "\n  x", "<b>&amp;</b>", "x" * 500, "`` ` ``"])
def test_code_is_copied_as_it_was_written(page, show, code):
    answer = show(f"Text.\n\n- item\n\n  ````html\n{'  ' + code.replace(chr(10), chr(10) + '  ')}\n  ````")
    answer.get_by_role("button", name="Copy code").click()
    answer.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == code


@pytest.mark.parametrize(
    ("text", "strong"),
    [
        ("**注意：**请按时服药。", ["注意："]),
        ("他说**“你好”**然后走了。", ["“你好”"]),
        ("**胰岛素(insulin)**是激素", ["胰岛素(insulin)"]),
        ("**甲。**乙。**丙**", ["甲。", "丙"]),
        ("**A**：b **B**：c", ["A", "B"]),
        ("これは**「重要」**です", ["「重要」"]),
        ("한국어**“강조”**는", ["“강조”"]),
        ("**重点😀**请", ["重点😀"]),
        ("**剂量：5*3*2**是", ["剂量：5*3*2"]),
        ("- **定义：**内容\n- **用法：**口服", ["定义：", "用法："]),
        ("**中文", []),
        ("a ** b ** c", []),
        ("体重2*（3+4）*5", []),
    ],
)
def test_emphasis_needs_no_space_beside_chinese_japanese_and_korean(show, text, strong):
    answer = show(text)
    assert answer.locator("strong").all_inner_texts() == strong
    rest = text if not strong else text.replace("**", "").replace("- ", "")
    assert answer.inner_text().split() == rest.split()


@pytest.mark.parametrize(
    ("text", "href"),
    [
        ("见https://example.org/abc，然后再看。", "https://example.org/abc"),
        ("（https://example.org/a）", "https://example.org/a"),
        ("www.example.org。", "http://www.example.org"),
        ("https://zh.example.org/wiki/心脏", "https://zh.example.org/wiki/%E5%BF%83%E8%84%8F"),
        ("**https://example.org/a_b**", "https://example.org/a_b"),
    ],
)
def test_a_link_ends_where_the_chinese_sentence_goes_on(show, text, href):
    assert show(text).locator("a").get_attribute("href") == href
    assert show(text).inner_text() == text.replace("**", "")


def test_marks_of_a_formula_emphasise_nothing(show):
    answer = show("*note: $a*b$ and $c*d$* are _of $x_1$ and $y_2$_ **or $2**3$**")
    assert answer.locator("em, strong").count() == 3
    assert answer.locator("em math, strong math").count() == 5


@pytest.mark.parametrize("name", ["align", "align*", "equation", "gather*", "cases", "pmatrix"])
def test_environments_need_no_dollars(show, name):
    answer = show(
        f"So:\n\\begin{{{name}}}\na &= b \\\\\nc &= d\n\\end{{{name}}}\nthen."
        if name[0] not in "eg"
        else f"\\begin{{{name}}}\na = b\n\\end{{{name}}}"
    )
    assert answer.locator("math[display=block]").count() == 1
    assert "begin" not in answer.inner_text()


def test_chemistry_is_drawn(show):
    answer = show(r"Burning: $\ce{2H2 + O2 -> 2H2O}$, and $$\ce{SO4^2-}$$ in $\pu{3 mol//L}$.")
    assert answer.locator("math").count() == 3
    assert answer.locator("math code, p > code").count() == 0
    assert answer.locator("math").first.locator("msub").count() == 3


def test_a_long_formula_in_a_line_scrolls_and_stands_on_it(show):
    long = " + ".join(f"a_{{{index}}}" for index in range(14))
    answer = show(f"<b> ${long}$ gap\n\n- ${long}$")
    frames = answer.locator(".formula")
    assert frames.evaluate_all("all => all.map(it => it.scrollWidth > it.clientWidth && it.tabIndex)") == [0, 0]
    assert answer.evaluate("it => it.scrollWidth <= it.clientWidth")
    feet = "all => all.map(it => it.getBoundingClientRect().bottom)"
    [alone] = show("$a_{10}$ gap").locator("mi").evaluate_all(feet)
    [framed] = show(f"$a_{{10}}\\text{{{'x' * 30}}}$ gap").locator("mi").evaluate_all(feet)
    assert show(f"$a_{{10}}\\text{{{'x' * 30}}}$ gap").locator(".within").count() == 1
    assert abs(alone - framed) < 1.5  # the letter stands as low in a frame as without one


def test_code_and_formulas_run_from_left_to_right_in_any_text(show):
    answer = show("الجرعة `a - b` ثم $x - 1$\n\n- بند\n\n  ```\n  a - b\n  ```\n\n`code` ثم هذا")
    assert (
        answer.locator("code, math, pre").evaluate_all("all => all.map(it => getComputedStyle(it).direction)")
        == ["ltr"] * 5
    )
    assert answer.locator("p").evaluate_all("all => all.map(it => getComputedStyle(it).direction)") == ["rtl"] * 3


def test_every_line_has_its_own_direction(show):
    answer = show("English line\nسطر عربي\n\n> Latin\n> עברית")
    place = """all => all.map(it => [...it.childNodes].filter(one => one.nodeType === 3).map(one => {
        const range = document.createRange(); range.selectNodeContents(one); const box = it.getBoundingClientRect(), at = range.getBoundingClientRect();
        return at.left - box.left < box.right - at.right ? 'left' : 'right'; }))"""
    assert answer.locator("p").evaluate_all(place) == [["left", "right"], ["left", "right"]]


@pytest.mark.parametrize("text", ["### a\n\n##### b\n\n# c\n\n## d\n\n###### e\n\n## f"])
def test_headings_of_a_reply_rank_below_it_without_gaps(show, text):
    assert show(text).get_by_role("heading").evaluate_all("all => all.map(it => it.ariaLevel)") == [
        "4",
        "5",
        "4",
        "5",
        "6",
        "5",
    ]


def test_emphasis_strikes_quotes_and_links_are_still_markup(show):
    answer = show("这是**重要**的 *one* ~~gone~~ [site](https://example.org) a *b* c\n\n> quoted\n\n`x*y*z`")
    assert answer.locator("strong").all_inner_texts() == ["重要"]
    assert answer.locator("em").all_inner_texts() == ["one", "b"]
    assert answer.locator("del").inner_text() == "gone"
    assert answer.locator("blockquote").inner_text().strip() == "quoted"
    assert answer.locator("a").get_attribute("href") == "https://example.org"
    assert answer.locator("code").inner_text() == "x*y*z"


HOSTILE = [
    "<script>window.harmed = 1</script>", "<img src=x onerror='window.harmed = 1'>", "<svg onload='window.harmed = 1'>",
    "[x](javascript:window.harmed=1)", "[x](JaVaScRiPt:window.harmed=1)", "[x](java\tscript:window.harmed=1)",
    "[x](data:text/html,<script>window.harmed=1</script>)", "[x](vbscript:x)", "[x](//example.org)", "[x](/v1/models)", "<javascript:alert(1)>",
    "![x](https://example.org/x.png)", "[![x](https://example.org/x.png)](javascript:alert(1))", "[x]: javascript:alert(1)\n\n[x]",
    "<form action=https://example.org><input><button>x</button></form>", "<iframe src=https://example.org></iframe>",
    "<math><mi href='javascript:alert(1)'>x</mi></math>", "$\\href{javascript:window.harmed=1}{x}$", "$\\url{javascript:alert(1)}$",
    "$\\style{background:url(https://example.org)}{x}$", "$\\color{url(https://example.org/x)}{x}$", "$\\text{<img src=x onerror=window.harmed=1>}$",
    "$\\includegraphics{https://example.org/x.png}$", "- [x] <input onfocus=window.harmed=1 autofocus>", "| <img src=x onerror=window.harmed=1> |\n|---|\n| <a href='javascript:x'>y</a> |",
    "```x\" onmouseover=\"window.harmed=1\ny\n```", "<a href=x style=position:fixed;inset:0>x</a>", "<style>*{display:none}</style>", "<meta http-equiv=refresh content=0;url=https://example.org>",
    "[x](https://example.org\" onclick=\"window.harmed=1)", "<https://example.org/\"onmouseover=window.harmed=1>", "1. <b onclick=window.harmed=1>x</b>", "<math><mtext><style><img src=x onerror=window.harmed=1></style></mtext></math>",
]  # fmt: skip


def test_nothing_in_an_answer_acts(page, show):
    """Scripts, handlers, links to code, forms and pictures from elsewhere: all are text, or gone."""
    for text in HOSTILE:
        answer = show(text)
        assert (
            answer.locator(
                "script, style, img, svg, form, input, button:not(.code-head > .copy), iframe, object, embed, meta, link, base"
            ).count()
            == 0
        ), text
        found = answer.locator("*").evaluate_all(
            "all => all.flatMap(it => [...it.attributes].map(one => [one.name, one.value]))"
        )
        for name, value in found:
            assert not name.startswith("on"), text
            assert name not in ("src", "srcset", "action", "background", "poster", "xlink:href"), text
            assert name != "href" or re.match("(https?|mailto):", value), text
            assert "url(" not in value or name == "title", text
        for link in answer.locator("a").all():
            link.dispatch_event("mouseover")
        page.wait_for_timeout(20)
        assert page.evaluate("window.harmed") is None, text
