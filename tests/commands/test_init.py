"""`init` writes a recipe from rows alone: it is ready, its own check warns of nothing, and nothing else is touched."""

import csv
import json
from pathlib import Path

import pytest
from support.hub_client import run as run_client
from support.hub_server import HubServer
from support.prepared_rows import rows_of
from support.runs import quiet

from thinktune.commands.check import check_recipe
from thinktune.commands.init import InitOptions, init_recipe
from thinktune.config.loading import load_recipe
from thinktune.data.summary import summary_lines
from thinktune.errors import UserError
from thinktune.planner.hardware import find_card
from thinktune.planner.model_choice import BEST_TIERS, KNOWN_MODELS, choose_model, plan_for
from thinktune.planner.trace import parameter_count

PROSE = "A long remark that somebody may have meant to train, or may not have meant to."


def as_chat(row):
    reply = f"<think>\n{row['think']}\n</think>\n\n{row['answer']}"
    return {"messages": [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": reply}]}


def write_csv(file, rows, encoding="utf-8"):
    with file.open("w", encoding=encoding, newline="") as opened:
        table = csv.DictWriter(opened, rows[0].keys())
        table.writeheader()
        table.writerows(rows)


def write_lines(file, rows):
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def init(tmp_path, start, monkeypatch):
    """Run `init` in an empty folder; returns whether the recipe is ready, its file, and what was said."""
    monkeypatch.chdir(tmp_path)

    def run(rows, ask=None, **options):
        said = []
        ready = init_recipe(InitOptions(Path(rows), **{"model": str(start)} | options), said.append, ask)
        written = next(line for line in said if "written: " in line).partition("written: ")[2].partition(",")[0]
        return ready, Path(written), said

    return run


FORMS = {
    "bees.jsonl": write_lines,
    "bees.csv": write_csv,
    "bees.excel.csv": lambda file, rows: write_csv(file, [row | {"来源": "内部"} for row in rows], "gbk"),
    "chat.jsonl": lambda file, rows: write_lines(file, map(as_chat, rows)),
}


@pytest.mark.parametrize("name", FORMS)
def test_rows_of_any_form_give_a_recipe_that_is_ready_and_of_which_check_warns_of_nothing(init, name):
    FORMS[name](Path(name), rows_of(40))
    ready, file, said = init(name)
    assert ready
    assert file == Path(f"{name.partition('.')[0]}.yaml")
    assert said[-1].startswith("next: ")
    assert said[-1].endswith(f"train {file}")
    recipe = load_recipe(file)
    prepared, facts = check_recipe(recipe, quiet)
    assert (facts["verdict"], facts["warnings"]) == ("ready", [])
    assert len(prepared.train) + len(prepared.validation) == 40
    assert recipe.data.name == name
    held_out = len(prepared.validation)
    assert f"held out: {held_out} of 40 rows ({held_out / 40:.0%})" in said
    assert recipe.data.silent_share == 0.1
    assert not [line for line in summary_lines(facts) if "forgets how to answer" in line], "it is done, and not urged"
    text = file.read_text(encoding="utf-8")
    assert f"# {held_out} of 40 usable rows are held out, too few to tell a small gain" in text
    assert f"# passes over {40 - held_out} rows" in text
    assert recipe.train.stop_when_overfitting == 2, "of so few rows"
    for part in ("time: ", "disk: ", f"steps: {facts['steps']:,} of "):
        assert any(line.startswith(part) for line in said), part


def test_what_a_comment_says_is_done_and_stands_above_its_line(init):
    """Nothing in a recipe that is ready reads like something that is left to do."""
    write_csv(Path("bees.csv"), [row | {"来源": "内部", "remark": PROSE} for row in rows_of(40)], "gbk")
    ready, file, said = init("bees.csv")
    assert ready
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    above = {line.partition(":")[0]: lines[number - 1] for number, line in enumerate(lines) if not line.startswith("#")}
    assert above["ignore"].startswith("# chosen because: data.ignore: column 'remark' of bees.csv is not used")
    place = lines.index("encoding: repair")
    assert lines[place - 2].startswith("# chosen because: bees.csv: is GBK, not UTF-8 (line ")
    assert lines[place - 1].endswith("bees.csv:1: the whole file is GBK, not UTF-8, and was read as GBK")
    assert above["silent_share"].startswith("# share of the rows that is trained without reasoning")
    assert not [line for line in lines if line.startswith("#") and ("write data." in line or "save it as" in line)]
    assert "  encoding: bees.csv:1: the whole file is GBK, not UTF-8, and was read as GBK" in said
    assert any(line.startswith("  not used: 来源 (") for line in said)


def test_so_few_rows_cannot_show_a_gain_and_that_is_said_beforehand(init):
    write_lines(Path("few.jsonl"), rows_of(12))
    ready, file, said = init("few.jsonl")
    assert ready
    assert any(line.startswith("note: data.validation: ") and "told from chance" in line for line in said)
    assert "usable rows are held out, too few to tell a small gain from chance" in file.read_text(encoding="utf-8")
    assert load_recipe(file).data.silent_share == 0, "of a few rows, a tenth may be none"


def test_nothing_is_overwritten(init):
    write_lines(Path("bees.jsonl"), rows_of(12))
    Path("bees.yaml").write_text("mine")
    _, file, _ = init("bees.jsonl")
    assert (file, Path("bees.yaml").read_text()) == (Path("bees-2.yaml"), "mine")
    with pytest.raises(UserError, match=r"--output: bees\.yaml already exists and is not overwritten"):
        init("bees.jsonl", output=Path("bees.yaml"))
    assert sorted(path.name for path in Path().iterdir()) == ["bees-2.yaml", "bees.jsonl", "bees.yaml"]


def test_what_it_cannot_know_is_asked_on_a_terminal_and_told_in_a_script(init):
    write_lines(Path("bees.jsonl"), [row | {"background": f"{PROSE} {row['question']}"} for row in rows_of(12)])
    asked = []

    def answer(question):
        asked.append(question)
        return "9" if len(asked) == 1 else "2"  # the first is none of those offered

    _, taken, said = init("bees.jsonl")
    assert [line for line in said if line.startswith("not sure: they could also be read with ")]
    _, chosen, told = init("bees.jsonl", answer)
    assert len(asked) == 2
    assert "  2  data.ignore: [background]" in asked[0]
    assert load_recipe(taken).data.columns.question == ("background", "question")
    assert load_recipe(chosen).data.ignore == ("background",)
    assert not [line for line in told if line.startswith("not sure")], "it was asked"
    asked.clear()
    write_lines(Path("plain.jsonl"), rows_of(12))
    init("plain.jsonl", answer)
    assert not asked, "what is sure is not asked"


def test_rows_that_no_remedy_helps_give_a_recipe_that_says_why(init):
    write_lines(Path("odd.jsonl"), [{"a": 1, "b": 2}])
    ready, file, said = init("odd.jsonl")
    assert not ready
    assert "which is not ready" in said[-2]
    assert said[-1].endswith(f"check {file}")
    assert "# Not ready: data.columns" in file.read_text(encoding="utf-8")


def test_what_is_no_rows_or_no_model_is_told(init):
    write_lines(Path("bees.jsonl"), rows_of(3))
    Path("mine.yaml").write_text("model: {name: m}")
    with pytest.raises(UserError, match=r"mine\.yaml: is a recipe, but a file of rows is expected"):
        init("mine.yaml")
    with pytest.raises(UserError, match=r"gone\.jsonl: is not a file or folder here"):
        init("gone.jsonl")
    with pytest.raises(UserError, match=r"--model: 'nowhere' is not a folder here"):
        init("bees.jsonl", model="nowhere")
    with pytest.raises(UserError, match="is not a CUDA card"):
        init("bees.jsonl", card="910B")
    assert not list(Path().glob("bees*.yaml"))


def test_sizes_of_the_known_models_are_those_of_their_configurations():
    for model in KNOWN_MODELS:
        assert parameter_count(model.config()) == model.parameters
    counts = [model.parameters for model in KNOWN_MODELS]
    assert counts == sorted(counts, reverse=True)


@pytest.mark.slow
def test_the_largest_model_is_proposed_that_a_card_trains_whole():
    for card in ("8GiB", "RTX 4090", "A100 80GB"):
        found = find_card(card)
        chosen = choose_model(found).model
        assert plan_for(chosen, found).chosen.setting.memory in BEST_TIERS
        for larger in KNOWN_MODELS[: KNOWN_MODELS.index(chosen)]:
            plan = plan_for(larger, found).chosen
            assert plan is None or plan.setting.memory not in BEST_TIERS
    tiny = choose_model(find_card("4GiB"))
    assert tiny.model == KNOWN_MODELS[-1]
    assert "memory tier" in tiny.reason
    assert "no card; --card" in choose_model(None).reason


def test_a_data_set_that_no_hub_gives_is_named_in_the_recipe_and_told(init, monkeypatch):
    monkeypatch.setenv("MODELSCOPE_OFFLINE", "1")
    ready, file, said = init("bees/facts")
    assert not ready
    assert "  name: bees/facts\n  hub: modelscope\n" in file.read_text(encoding="utf-8")
    assert any("data.name: 'bees/facts'" in line and "MODELSCOPE_OFFLINE is set" in line for line in said)


@pytest.mark.slow
@pytest.mark.parametrize("hub", ["modelscope", "huggingface"])
def test_rows_may_be_a_data_set_on_a_hub(tmp_path, start, monkeypatch, hub):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data-set").mkdir()
    write_lines(tmp_path / "data-set" / "train.jsonl", rows_of(40))
    init = ["-m", "thinktune", "init", "bees/facts", "--hub", hub, "--model", start, "--yes"]
    with HubServer({"datasets/bees/facts": tmp_path / "data-set"}) as server:
        done = run_client(*init, address=server.address, caches=tmp_path / "caches")
    assert done.returncode == 0, done.stderr
    assert load_recipe(Path("facts.yaml")).data.hub == hub
    assert "held out: " in done.stdout


@pytest.mark.parametrize("rows", ["missing.jsonl", "folder/missing.jsonl", "folder/missing", "a/b/c", "./missing"])
def test_what_is_not_here_and_cannot_be_a_name_on_a_hub_is_refused(init, rows):
    Path("folder").mkdir()
    with pytest.raises(UserError, match="is not a file or folder here"):
        init(rows)
