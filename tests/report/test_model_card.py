"""The model card says what the records say, in two languages, reads as both hubs read it, and is never lost or false."""

import json
import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard as HubCard
from huggingface_hub.repocard import metadata_load
from support.card_runs import DATA, ENVIRONMENT, METRICS, TREE, make_final_run, scores, write_report

import thinktune
from thinktune.errors import UserError
from thinktune.eval.comparison import MEASURES
from thinktune.eval.completion_store import model_fingerprint
from thinktune.report import render_model_card, write_final_card, write_model_card
from thinktune.report.run_sections.evaluation_words import MEASURES_ZH
from thinktune.run import RunFolder

HEADING_ZH = "# 中文说明"
OURS = {
    "95",
    "0",
    "4.57",
    thinktune.__version__,
}  # of our own sentences: confidence, an interval that holds 0, releases


def card_of(run: RunFolder) -> str:
    return render_model_card(run.final, run).text


def halves(text: str) -> tuple[str, str]:
    """Return both languages of a card, without metadata, signature and code."""
    body = text.split("---\n", 2)[2].rpartition("<!--")[0]
    body = re.sub(r"^(`{3,})\w*\n.*?^\1$", "", body, flags=re.DOTALL | re.MULTILINE)
    english, _, chinese = body.partition(f"\n{HEADING_ZH}\n")
    return english, chinese


def figures(text: str) -> list[str]:
    return sorted(re.findall(r"(?<![A-Za-z_])[+−]?\d[\d,.]*\d|(?<![A-Za-z_])\d", text))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return make_final_run(tmp_path)


@pytest.fixture
def evaluated(run: RunFolder) -> RunFolder:
    cut = [{"cut": float(row < 4), "right": 0.0} for row in range(40)]
    right = [{"cut": 0.0, "right": float(row < 30)} for row in range(40)]
    switches = [("thinking", scores("obeyed", 39, 40), scores("obeyed", 40, 40))]
    general = ("general", scores("right", 50, 60), scores("right", 31, 60))
    write_report(run, [("held-out", cut, right), general], switches)
    silent = [("silent", scores("obeyed", 38, 40), scores("obeyed", 11, 40))]
    write_report(run, [("held-out", right, cut)], silent, thinking=False)
    return run


def test_both_hubs_read_the_metadata(run: RunFolder) -> None:
    write_final_card(run.path)
    read = metadata_load(run.final / "README.md")
    assert read == {
        **{"license": "apache-2.0", "language": ["zh", "en"], "base_model": "Qwen/Qwen3-1.7B"},
        **{"base_model_relation": "finetune", "library_name": "transformers", "pipeline_tag": "text-generation"},
        **{"tasks": ["text-generation"], "frameworks": ["Pytorch"], "tags": ["thinktune", "reasoning", "sft"]},
    }
    card = HubCard.load(run.final / "README.md")
    assert (card.data.license, card.data.base_model, card.data.language) == (
        "apache-2.0",
        "Qwen/Qwen3-1.7B",
        ["zh", "en"],
    )
    assert card.text.strip().startswith("# doses")


@pytest.mark.parametrize(
    ("license", "metadata"),
    [
        ({"model_license": "Apache License 2.0"}, {"license": "apache-2.0"}),
        (
            {"model_license": "Tongyi Qianwen RESEARCH", "model_license_link": "LICENSE"},
            {"license": "other", "license_name": "tongyi-qianwen-research", "license_link": "LICENSE"},
        ),
        (
            {"model_license": "other", "model_license_name": "qwen", "model_license_link": "https://x.example/LICENSE"},
            {"license": "other", "license_name": "qwen", "license_link": "https://x.example/LICENSE"},
        ),
        ({"model_license": "other"}, {}),
        ({"model_license_link": "LICENSE"}, {}),
        ({}, {}),
    ],
)
def test_a_licence_is_the_bases_own_and_never_invented(tmp_path: Path, license, metadata) -> None:
    environment = {key: value for key, value in ENVIRONMENT.items() if key != "model_license"} | license
    run = make_final_run(tmp_path, environment=environment)
    write_final_card(run.path)
    read = metadata_load(run.final / "README.md") or {}
    assert {key: value for key, value in read.items() if key.startswith("license")} == metadata
    text = halves(card_of(run))
    assert ("its folder names none" in text[0], "其目录中没有注明" in text[1]) == (not license, not license)


def test_every_figure_is_of_a_record(tmp_path: Path) -> None:
    bare = make_final_run(tmp_path, {"model": {"name": "base"}, "data": {"name": "rows.jsonl"}}, data={}, environment={"data_fingerprint": "d"}, metrics=[])  # fmt: skip
    (bare.final / "state.json").unlink()
    (bare.final / "generation_config.json").unlink()
    for text in halves(card_of(bare)):
        assert set(figures(text.replace("tokens_per_step: 16384", ""))) <= OURS
        assert "**base**" in text


def test_both_languages_give_the_same_figures_and_both_modes_their_proof(evaluated: RunFolder) -> None:
    english, chinese = halves(card_of(evaluated))
    assert figures(english) == figures(chinese)
    for figure in ("+75.0", "215", "23", "51,234", "40,321", "2.345", "1.234", "1,720,574,976", "2,222", "17.2", "317"):
        assert figure in figures(english), figure
    assert "1.5 hours of training" in english
    assert "2 x NVIDIA H200" in english
    assert "of step 60 of 90, as bfloat16" in english
    asked, silent = english.split("### ")[1:]
    assert asked.startswith("Asked to think")
    assert "Better: correct answers 0.0 % → 75.0 %, +75.0 points" in asked
    assert "10 % of the base model's replies had no end within the budget." in asked
    assert silent.startswith("Asked to answer without thinking")
    assert "Worse: correct answers 75.0 % → 0.0 %, −75.0 points" in silent
    assert "变好：答对率 0.0 % → 75.0 %" in chinese
    assert "变差：答对率 75.0 % → 0.0 %" in chinese
    assert "General ability was lost: correct answers 83.3 % → 51.7 %" in english
    assert "通用能力明显下降：答对率 83.3 % → 51.7 %" in chinese
    assert "Switch on (reasons): kept" in english
    assert "Switch off (does not reason): LOST: switch obeyed 95.0 % → 27.5 %" in english
    assert "思考开关关闭：明显下降" in chinese


@pytest.mark.parametrize(
    ("base", "tuned", "en", "zh"),
    [
        (50, 48, "No loss is shown, but so few questions cannot rule out a loss of", "未见下降，但题目太少"),
        (0, 1, "The base had almost none to lose", "基座模型本来就几乎答不出"),
        (50, 50, "General ability is kept within 5 points", "通用能力保持"),
    ],
)
def test_forgetting_is_as_sure_as_its_interval(run: RunFolder, base: int, tuned: int, en: str, zh: str) -> None:
    of = 60 if tuned == 48 else 600
    scale = of // 60
    write_report(run, [("general", scores("right", base * scale, of), scores("right", tuned * scale, of))])
    english, chinese = halves(card_of(run))
    assert en in english
    assert zh in chinese


def test_without_an_evaluation_of_these_weights_the_card_says_so(evaluated: RunFolder) -> None:
    (evaluated.final / "model.safetensors").write_bytes(b"others")
    english, chinese = halves(card_of(evaluated))
    assert "is of other weights than these, so its figures are not shown" in english
    assert "针对的是另一份权重" in chinese
    assert "75.0" not in english + chinese
    write_report(
        evaluated, [("held-out", scores("right", 0, 9), scores("right", 9, 9))], asked="http://10.0.0.5:8000/v1"
    )
    english, chinese = halves(card_of(evaluated))
    assert "a server replied, whose weights this card cannot check" in english
    assert "10.0.0.5" not in english + chinese


def test_an_export_has_the_proof_of_the_model_that_it_was_made_from(evaluated: RunFolder, tmp_path: Path) -> None:
    export, earlier = tmp_path / "export", tmp_path / "earlier"
    for folder in (export, earlier):
        folder.mkdir()
        (folder / "doses-q8_0.gguf").write_bytes(b"GGUF")
        (folder / "model.safetensors").write_bytes(b"others")
    for source in (None, evaluated.final):
        assert "+75.0 points" in render_model_card(export, evaluated, source=source).text
    text = render_model_card(export, evaluated, source=earlier).text
    assert "is of other weights than these" in text
    assert "+75.0 points" not in text


def test_before_an_evaluation_nothing_is_claimed(run: RunFolder) -> None:
    english, chinese = halves(card_of(run))
    assert "Not evaluated yet: nothing here shows that its replies are better" in english
    assert "尚未评估" in chinese
    assert "## What was forgotten\n\nNot measured." in english
    assert "How often it obeys was not measured." in english


def test_a_model_that_is_no_better_than_its_base_says_so_first(tmp_path: Path) -> None:
    worse = [*METRICS[:1], *({**line, "loss": 9.0} for line in METRICS[1:])]
    english, chinese = halves(card_of(make_final_run(tmp_path, metrics=worse)))
    assert english.index("**Worse than the base model.**") < english.index("## Proof")
    assert "**比基座模型更差。**" in chinese


def test_what_others_wrote_is_text_and_no_markup(tmp_path: Path) -> None:
    attack = "a|b <img src=x onerror=y> [c](javascript:d) `e` *f*\n# g\n\n---"
    data = DATA | {"files": [{"path": attack, "rows": 1, "validation": False}], "faults": [{"fault": attack, "actions": {"kept": 1}}]}  # fmt: skip
    system = "Say:\n```\n````sh\nrm -rf /\n```"
    tree = {**TREE, "data": {**TREE["data"], "system": system, "license": attack}, "serve": {"notice": attack}}
    run = make_final_run(tmp_path, tree, data=data, environment=ENVIRONMENT | {"device_name": attack})
    text = card_of(run)
    assert "<img" not in text
    assert not re.search(r"(?<!\\)\[c(?<!\\)\]", text)
    assert "\n# g" not in text
    assert text.count(f"`````\n{system}\n`````") == 2
    english, chinese = halves(text)
    rows = [line for line in (english + chinese).splitlines() if line.startswith("|") and "img" in line]
    assert rows
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 3 for line in rows)


def test_no_secret_and_no_folder_of_the_machine_is_on_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "aB3d" * 9)
    tree = {
        **TREE,
        "model": {"name": str(tmp_path / "deep" / "base"), "template": str(tmp_path / "t.jinja")},
        "data": {"name": "/home/ann/secret/rows.jsonl", "validation": "/home/ann/secret/val.jsonl", "system": f"key hf_{'aB3d' * 9}"},
        "track": {"host": "https://me:hunter2@swan.example"},
    }  # fmt: skip
    run = make_final_run(tmp_path, tree)
    text = card_of(run)
    for word in (str(tmp_path), "ann", "secret", "hunter2", "swan.example", "aB3d"):
        assert word not in text
    assert "name: rows.jsonl" in text
    assert "validation: val.jsonl" in text
    assert "template: t.jinja" in text


def test_a_card_that_people_edited_stays_and_the_new_one_is_beside_it(run: RunFolder) -> None:
    assert write_final_card(run.path) is None
    card = run.final / "README.md"
    first = card.read_text(encoding="utf-8")
    write_report(run, [("held-out", scores("right", 0, 9), scores("right", 9, 9))])
    card.write_bytes(first.replace("\n", "\r\n").encode())  # as git writes it on Windows
    assert write_final_card(run.path) is None
    assert "Better: correct answers" in card.read_text(encoding="utf-8")
    edited = card.read_text(encoding="utf-8").replace("# doses", "# Doses, by Ann")
    card.write_text(edited, encoding="utf-8")
    kept = write_final_card(run.path)
    assert kept == f"{card}: was edited, so it is kept; the card that thinktune wrote is {run.path / 'model-card.md'}"
    assert card.read_text(encoding="utf-8") == edited
    assert not write_model_card(run.final, run)
    assert "# doses" in run.card.read_text(encoding="utf-8")
    card.unlink()
    assert write_final_card(run.path) is None
    assert "# doses" in card.read_text(encoding="utf-8")
    assert not run.card.exists(), "an outdated copy would be read as the newest"


def test_the_card_does_not_change_what_the_model_is(evaluated: RunFolder) -> None:
    before = model_fingerprint(evaluated.final)
    write_final_card(evaluated.path)
    assert model_fingerprint(evaluated.final) == before
    assert not list(evaluated.final.glob("*.partial"))


def test_a_damaged_record_costs_its_part_and_is_named(evaluated: RunFolder) -> None:
    for path in (evaluated.data_summary, evaluated.evaluation().report):
        path.write_text('{"rows_read": ', encoding="utf-8")
    with pytest.raises(UserError, match=r"data\.json: is damaged .*the model card was written without it") as caught:
        write_final_card(evaluated.path)
    assert len(caught.value.faults) == 2
    english, chinese = halves((evaluated.final / "README.md").read_text(encoding="utf-8"))
    assert "NVIDIA H200" in english
    assert "Not evaluated yet" in english
    assert "## 数据\n\n没有记录。" in chinese


def test_a_record_of_another_type_is_a_sentence(run: RunFolder) -> None:
    run.environment.write_text(json.dumps(ENVIRONMENT | {"parameters": []}), encoding="utf-8")
    card_of(run)
    metrics = [{**line, "epoch": "three"} for line in METRICS]
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in metrics), encoding="utf-8")
    with pytest.raises(UserError, match="is damaged"):
        write_final_card(run.path)


def test_the_prompt_sampling_and_modes_of_the_run_are_on_the_card(run: RunFolder) -> None:
    text = card_of(run)
    english, _ = halves(text)
    assert text.count("```\nAnswer as a nurse.\n```") == 2
    assert "temperature 0.6, top\\_p 0.95, top\\_k 20" in english.replace("top_", "top\\_")
    assert "`enable_thinking` true or false. Of the rows read, 19 are answered without thinking." in english
    assert "between `<think>` and `</think>`" in english
    assert "vllm serve . --served-model-name doses" in text


def test_the_card_of_a_gguf_names_its_file_and_of_a_plain_folder_claims_nothing(run: RunFolder, tmp_path: Path) -> None:
    export = tmp_path / "export"
    export.mkdir()
    (export / "doses-q8_0.gguf").write_bytes(b"GGUF")
    assert write_model_card(export, run, "doses")
    text = (export / "README.md").read_text(encoding="utf-8")
    assert "llama-server -m doses-q8_0.gguf --jinja --alias doses" in text
    assert "library_name" not in text
    assert "transformers 4.57" not in text
    assert "temperature" not in text
    assert write_model_card(export, run, "doses", source=run.final)
    text = (export / "README.md").read_text(encoding="utf-8")
    assert text.count("temperature 0.6") == 2
    assert "of step 60 of 90 |" in text, "the dtype of training is not that of a GGUF"
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "config.json").write_text('{"model_type": "qwen3", "license": "mit"}', encoding="utf-8")
    assert write_model_card(plain, None)
    text = (plain / "README.md").read_text(encoding="utf-8")
    assert metadata_load(plain / "README.md")["license"] == "mit"
    assert "There is no record here of how this model was made." in text
    assert "这里没有这个模型的训练记录。" in text
    assert "## Training" not in text
    write_model_card(run.final, run)
    before = (run.final / "README.md").read_bytes()
    assert not write_model_card(run.final, None), "a final model that was moved away from its run has a card already"
    assert (run.final / "README.md").read_bytes() == before


def test_the_longest_row_is_one_that_was_trained(tmp_path: Path) -> None:
    """Rows over data.max_tokens are measured, too, but dropped."""
    data = DATA | {"lengths": {"whole": {"max": 3151.0}}}
    english, chinese = halves(card_of(make_final_run(tmp_path, data=data)))
    assert "at most 2,048 tokens" in english
    assert "最长 2,048 个 token" in chinese
    assert "3,151" not in english + chinese


def test_on_a_hub_the_commands_load_from_there(run: RunFolder) -> None:
    text = render_model_card(run.final, run, repository=("modelscope", "ann/doses")).text
    assert "from modelscope import AutoModelForCausalLM" in text
    assert "from_pretrained('ann/doses')" in text
    assert "VLLM_USE_MODELSCOPE=True vllm serve ann/doses" in text
    assert "thinktune chat ." not in text


def test_every_measure_has_a_name_in_chinese() -> None:
    assert MEASURES_ZH.keys() == {measure.key for measure in MEASURES}
