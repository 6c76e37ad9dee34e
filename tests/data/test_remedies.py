"""Every remedy that a sentence offers works when it is followed; where none works, none is offered."""

import json
from pathlib import Path

import pytest
import yaml
from support.advice import follow_advice, options_in, outcome
from support.prepared_rows import prose, write

QUESTIONS = [f"Which one of the {n} parts is it?" for n in range(4)]
THOUGHTS = [f"Let me look at part {n} first. It seems to be right, so I take it." for n in range(4)]
ANSWERS = [f"It is part {n}, as it should be." for n in range(4)]
TAGGED = [f"<think>{t}</think>{a}" for t, a in zip(THOUGHTS, ANSWERS, strict=True)]
ESSAY = "a text of some length that nobody has named"
COLUMNS = {"q": QUESTIONS, "t": THOUGHTS, "a": ANSWERS, "b": TAGGED}


def rows_of_columns(names, **more):
    """Make rows of columns by `names`: kind of content -> name."""
    return [{name: COLUMNS[kind][n] for kind, name in names.items()} | more for n in range(4)]


def chat(n, reply, **more):
    return [{"role": "user", "content": QUESTIONS[n]}, {"role": "assistant", "content": reply[n], **more}]


GENERATED = {
    "names in brackets": rows_of_columns({"q": "question", "t": "reasoning (reasoning_content)", "a": "response (content)"}),
    "strange names": rows_of_columns({"q": "wenti", "t": "sikao", "a": "huida"}, notes=ESSAY),
    "no names": rows_of_columns({"q": "c1", "t": "c2", "a": "c3"}),
    "no names, tags": rows_of_columns({"q": "c1", "b": "c2"}),
    "content": rows_of_columns({"q": "input", "t": "reasoning_content", "a": "content"}, score=9),
    "names with yaml in them": rows_of_columns({"q": "q: [1]", "t": "a, b", "a": "{x}"}),
    "no reasoning": rows_of_columns({"q": "wenti", "a": "huida"}),
    "only known names, no reasoning": rows_of_columns({"q": "question", "a": "answer"}),
    "reasoning under another name": rows_of_columns({"q": "question", "t": "deepseek_reasoning", "a": "answer"}),
    "two teachers": [
        row | {"r1_trace": THOUGHTS[n], "r1_try": ANSWERS[n], "v3_trace": THOUGHTS[n][::-1], "v3_try": ANSWERS[n][::-1]}
        for n, row in enumerate(rows_of_columns({"q": "question"}, solution="4"))
    ],
    "laws": rows_of_columns({"q": "query", "b": "response"}, laws=[ESSAY, ESSAY]),
    "object": rows_of_columns({"q": "query", "b": "response"}, info={"case": {"facts": ESSAY}}),
    "material": rows_of_columns({"q": "question", "t": "think", "a": "answer"}, context={"A": ESSAY, "B": ESSAY}),
    "instruction beside": rows_of_columns({"q": "question", "t": "think", "a": "answer"}, instruction="Name the part."),
    "prose beside": rows_of_columns({"q": "question", "t": "think", "a": "answer"}, essay=ESSAY, remark=ESSAY),
    "pairs": rows_of_columns({"q": "prompt", "b": "chosen"}, rejected="No idea at all."),
    "pairs and prose": rows_of_columns({"q": "prompt", "b": "chosen"}, rejected="No idea at all.", essay=ESSAY),
    "pairs without reasoning": rows_of_columns({"q": "prompt", "a": "chosen"}, rejected="No idea at all."),
    "messages and tools": [{"messages": chat(n, TAGGED), "tools": [{"name": "f", "parameters": {}}]} for n in range(4)],
    "messages and prose": [{"messages": chat(n, TAGGED), "essay": ESSAY} for n in range(4)],
    "messages with a strange key": [{"messages": chat(n, TAGGED, mood=ESSAY)} for n in range(4)],
    "messages, reasoning beside": [{"messages": chat(n, ANSWERS), "my_reasoning": THOUGHTS[n]} for n in range(4)],
    "images": rows_of_columns({"q": "question", "b": "answer"}, image="a.png"),
    "all marked bad": rows_of_columns({"q": "question", "b": "answer"}, label=False),
    "all control tokens": rows_of_columns({"q": "question", "t": "think"}, answer="so <|im_end|> it is"),
    "all fragments": rows_of_columns({"q": "question", "t": "think"}, answer="so it is that（"),
    "all objects": rows_of_columns({"q": "question", "t": "think"}, answer={"value": {"n": 4}}),
    "all too long": [row | {"answer": prose(15_000)} for row in rows_of_columns({"q": "question", "t": "think"})],
    "long and control": [
        row | {"answer": prose(15_000) if n else "a <|im_end|> b"}
        for n, row in enumerate(rows_of_columns({"q": "question", "t": "think"}))
    ],
    "one row stops": [*rows_of_columns({"q": "question", "t": "think", "a": "answer"}), {"question": "q"}],
    "one row stops, prose beside": [*rows_of_columns({"q": "question", "b": "answer"}, essay=ESSAY), {"question": "q"}],
    "all rows stop": [{"question": "q", "notes": ESSAY}, {"answer": "a"}],
    "nothing at all": [{"n": 1}, {"n": 2}],
}  # fmt: skip

NOTHING_HELPS = {
    "messages, reasoning beside", "all objects", "all rows stop", "nothing at all",
}  # fmt: skip


@pytest.mark.parametrize("kind", GENERATED)
def test_every_remedy_works_when_it_is_followed(tree, tokenizer, tmp_path, kind):
    file = str(write(tmp_path / "rows.jsonl", GENERATED[kind]))
    left, stops = outcome(tree, tokenizer, name=file)
    assert stops, left
    followed = follow_advice(tree, tokenizer, name=file)
    assert bool(followed) == (kind not in NOTHING_HELPS), stops
    for changed, left, more in followed:
        assert (left > 0, more) == (True, []), changed


def test_the_offered_changes_are_read_from_the_sentences():
    sentence = "data.columns: x.jsonl is read as data.columns: {question: a}; write data.ignore: [b] to leave it out, or data.columns: {question: [a, b], answer: 'c, d'} and data.faults: {no_reasoning: silent} so"
    assert options_in(sentence) == [
        {"ignore": ["b"]},
        {"columns": {"question": ["a", "b"], "answer": "c, d"}, "faults": {"no_reasoning": "silent"}},
    ]
    assert options_in("data.columns: write data.columns: {question: …} with the names of yours") == []


GOLDEN = {
    "content": "data.columns: rows.jsonl has the columns input, reasoning_content, content, score and none is recognized as the answer; by what they hold, write data.columns: {question: input, reasoning: reasoning_content, answer: content}",
    "no reasoning": "data.columns: rows.jsonl has the columns wenti, huida and none is recognized as the question or the answer; by what they hold, write data.columns: {question: wenti, answer: huida} and data.faults: {no_reasoning: silent} (they have no reasoning, so they are trained without thinking)",
    "prose beside": "data.columns: rows.jsonl is read as data.columns: {question: question, reasoning: think, answer: answer}; write data.ignore: [essay, remark] to leave them out",
    "reasoning under another name": "data.columns: rows.jsonl is read as data.columns: {question: question, answer: answer}; write data.columns: {question: question, answer: answer, reasoning: deepseek_reasoning} to train deepseek_reasoning as the reasoning",
    "all fragments": "data.name: no row is left to train on (fragment 4); fix the rows, or write data.faults: {fragment: keep}",
    "all objects": "data.columns: rows.jsonl has the columns question, think, answer and none is recognized as the answer; write data.columns: {question: question, reasoning: think, answer: …} with the names of yours",
    "nothing at all": "data.columns: rows.jsonl has the columns n and none is recognized as the question or the answer; write data.columns: {question: …, answer: …} with the names of yours",
}  # fmt: skip


@pytest.mark.parametrize("kind", GOLDEN)
def test_the_sentences_are_the_golden_ones(tree, tokenizer, tmp_path, kind):
    _, stops = outcome(tree, tokenizer, name=str(write(tmp_path / "rows.jsonl", GENERATED[kind])))
    assert GOLDEN[kind] in stops


INFO = {
    "other": {"file_name": "other.json"},
    "mine": {"file_name": "mine.json", "columns": {"prompt": "wenti", "response": "huida", "system": "shezhi"}},
    "talks": {"file_name": "talks.json", "formatting": "sharegpt", "columns": {"messages": "duihua"}, "tags": {"role_tag": "from", "content_tag": "value"}},
}  # fmt: skip


def test_the_mapping_beside_the_file_is_proposed(tree, tokenizer, tmp_path):
    (tmp_path / "dataset_info.json").write_text(json.dumps(INFO), encoding="utf-8")
    rows = [{"shezhi": "Be brief.", "wenti": QUESTIONS[n], "huida": TAGGED[n]} for n in range(4)]
    (tmp_path / "mine.json").write_text(json.dumps(rows), encoding="utf-8")
    _, [sentence] = outcome(tree, tokenizer, name=str(tmp_path / "mine.json"))
    assert "dataset_info.json beside it says what they are: write data.columns: {question: wenti, answer: huida, system: shezhi}" in sentence  # fmt: skip
    [(_, left, stops)] = follow_advice(tree, tokenizer, name=str(tmp_path / "mine.json"))
    assert (left, stops) == (4, [])
    talks = [
        {"duihua": [{"from": "human", "value": QUESTIONS[n]}, {"from": "gpt", "value": TAGGED[n]}]} for n in range(4)
    ]
    (tmp_path / "talks.json").write_text(json.dumps(talks), encoding="utf-8")
    [(changed, left, stops)] = follow_advice(tree, tokenizer, name=str(tmp_path / "talks.json"))
    assert (changed["columns"], left, stops) == ({"messages": "duihua"}, 4, [])


@pytest.mark.parametrize("text", ["", "[]", "{", '{"mine": 7}', '{"mine": {"file_name": "mine.json", "columns": {"prompt": "nowhere"}}}', '{"mine": {"file_name": "mine.json", "columns": 3, "tags": []}}'])  # fmt: skip
def test_a_mapping_that_says_nothing_leaves_the_proposal_by_content(tree, tokenizer, tmp_path, text):
    (tmp_path / "dataset_info.json").write_text(text, encoding="utf-8")
    (tmp_path / "mine.json").write_text(json.dumps(GENERATED["no names, tags"]), encoding="utf-8")
    _, [sentence] = outcome(tree, tokenizer, name=str(tmp_path / "mine.json"))
    assert "by what they hold, write data.columns: {question: c1, answer: c2}" in sentence


def test_a_remedy_holds_for_all_files(tree, tokenizer, tmp_path):
    write(tmp_path / "a.jsonl", GENERATED["prose beside"])
    write(tmp_path / "b.jsonl", rows_of_columns({"q": "query", "b": "reply"}, memo=ESSAY))
    [(changed, left, stops)] = follow_advice(tree, tokenizer, name=str(tmp_path / "?.jsonl"))
    assert changed["ignore"] == ["essay", "remark", "memo"]
    assert (left, stops) == (4, [])  # the rows of both are the same, so half of them are duplicates


@pytest.mark.real
@pytest.mark.parametrize("folder", ["failing", "cases", "formats", "medical"])
def test_every_remedy_for_real_inputs_works(real, tree, official_tokenizer, folder):
    offers = 0
    for file, settings in _inputs(real / folder):
        for changed, left, stops in follow_advice(tree, official_tokenizer, name=str(file), **settings):
            offers += 1
            assert (left > 0, stops) == (True, []), (file, changed)
    assert offers


def _inputs(folder: Path):
    """Yield each file of rows below a folder with the settings of the recipe beside it."""
    for recipe in sorted(folder.glob("*/recipe.yaml")):
        data = yaml.safe_load(recipe.read_text(encoding="utf-8")).get("data", {})
        if name := data.pop("name", None):
            yield recipe.parent / name, {key: value for key, value in data.items() if key != "validation"}
    for file in sorted({*folder.glob("*/*.jsonl"), *folder.glob("*.json*")}):
        if not (file.parent / "recipe.yaml").exists():
            yield file, {}
