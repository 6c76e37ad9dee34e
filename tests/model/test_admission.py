"""Admission: check and train say the same of every folder, in one sentence, before any row is read."""

import json
from pathlib import Path

import pytest
import torch
from support.first_steps import save_kind
from support.model_folders import ADMITTED, REFUSED, WEIGHTS, edit, make_folder, set_nan, weights
from support.runs import quiet, settings
from support.tiny_models import KINDS, tiny_config
from transformers import AutoModelForCausalLM, T5Config

from thinktune.commands.check import check_recipe, print_check
from thinktune.errors import UserError
from thinktune.model.admission import admit, admit_model
from thinktune.model.loading import load_model
from thinktune.run.journal import read_metrics
from thinktune.train import train


def refusals(tree, folder):
    """Return what check and train say of a model folder; neither may raise anything else."""
    said = []
    for verb in (check_recipe, train):
        with pytest.raises(UserError) as refused:
            verb(settings(tree, model={"name": str(folder)}), quiet)
        said.append(refused.value.faults)
    return said


@pytest.fixture
def unreadable_rows(tree):
    """Rows that would be refused at the first line, so that only a refusal before them can be about the model."""
    Path(tree["data"]["name"]).write_text("no JSON\n")
    return tree


@pytest.mark.parametrize("kind", REFUSED)
def test_check_and_train_refuse_a_folder_in_the_same_words_before_any_row(kind, start, tmp_path, unreadable_rows):
    change, words = REFUSED[kind]
    folder = make_folder(start, tmp_path / "model", change)
    checked, trained = refusals(unreadable_rows, folder)
    assert checked == trained
    assert any(words in sentence for sentence in checked), checked
    for sentence in checked:
        assert sentence.startswith("model.name: ")
        assert "\n" not in sentence
        assert str(folder) in sentence
        assert ";" in sentence, "no remedy"
        assert "this code ran" not in sentence
    assert not Path(unreadable_rows["runs_folder"]).exists()


@pytest.mark.parametrize("kind", ADMITTED)
def test_what_is_admitted_is_ready_and_trains_and_what_is_not_used_is_said(kind, start, tmp_path, tree):
    change, words = ADMITTED[kind]
    folder = make_folder(start, tmp_path / "model", change)
    recipe = settings(tree, model={"name": str(folder)}, train={"epochs": 1}, generate={"sample_questions": 0})
    _, facts = check_recipe(recipe, quiet)
    assert facts["verdict"] == "ready"
    lines = []
    run = train(recipe, lines.append)
    assert (run / "final" / WEIGHTS).is_file() or list((run / "final").glob("model-*"))
    notes = [line for line in lines if line.startswith("model.name: ")]
    assert notes == facts["model_notes"]
    assert [words.format(folder) in note for note in notes] == ([True] if words else [])


FOREIGN = ("llama", "mistral, window", "gemma2", "gpt_oss", "qwen3_5_text")


@pytest.mark.parametrize("name", [FOREIGN[0], *(pytest.param(each, marks=pytest.mark.slow) for each in FOREIGN[1:])])
def test_a_class_that_is_proved_is_ready_and_trains_and_one_row_an_entry_is_said(name, start, tmp_path, tree):
    folder = make_folder(start, tmp_path / "model", lambda folder: save_kind(name, folder))
    settled = {"memory": "fp32", "batch_tokens": 512, "activation_budget": 1, "epochs": 1, "precision": "fp32"}
    recipe = settings(tree, model={"name": str(folder)}, train=settled, generate={"sample_questions": 0})
    _, facts = check_recipe(recipe, quiet)
    assert facts["verdict"] == "ready"
    apart = KINDS[name].rows == "apart"
    words = f"{folder} is of type {name}, which does not keep packed rows apart"
    assert [words in note for note in facts["model_notes"]] == ([True] if apart else [])
    assert ("padding" in facts) == apart
    run = train(recipe, quiet)
    losses = [record["loss"] for record in read_metrics(run) if record["kind"] == "eval"]
    assert losses[-1] < losses[0]


def test_a_class_that_writes_no_text_is_refused(start, tmp_path, unreadable_rows):
    folder = make_folder(start, tmp_path / "model", lambda folder: T5Config().save_pretrained(folder))
    checked, trained = refusals(unreadable_rows, folder)
    assert checked == trained
    assert "is of type t5, which is not a causal language model; use a model that continues a text" in checked[0]


def test_all_that_is_wrong_with_a_folder_is_said_at_once(start, tmp_path, tree):
    folder = make_folder(start, tmp_path / "model", weights(set_nan("model.norm.weight")))
    (folder / "generation_config.json").write_text('{"top_p": 0, "top_k": 1.5}')
    (folder / "tokenizer.json").write_text("{}")
    checked, trained = refusals(tree, folder)
    assert checked == trained
    assert len(checked) == 4
    for words in (
        "top_p is 0",
        "top_k is 1.5",
        "no tokenizer that can be loaded",
        "NaN or infinity in model.norm.weight",
    ):
        assert any(words in sentence for sentence in checked)


def test_a_file_instead_of_a_folder_is_named(tmp_path, tree):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    checked, trained = refusals(tree, file)
    assert (
        checked
        == trained
        == [f"model.name: {file} is a GGUF file, which is for inference; {checked[0].split('; ')[1]}"]
    )


def test_weights_that_are_not_finite_are_refused_at_load_by_name(start, tmp_path):
    folder = make_folder(start, tmp_path / "model", weights(set_nan("model.layers.0.self_attn.q_proj.weight")))
    with pytest.raises(UserError, match=r"NaN or infinity in model\.layers\.0\.self_attn\.q_proj\.weight; download"):
        load_model(folder, torch.device("cpu"))


def test_large_finite_weights_are_not_taken_for_infinite_ones(start, tmp_path):
    folder = make_folder(start, tmp_path / "model", weights(lambda stored: stored["model.norm.weight"].fill_(3e38)))
    admit(folder)


def test_a_weight_too_large_for_the_dtype_it_is_loaded_in_is_refused(start, tmp_path):
    folder = make_folder(start, tmp_path / "model", weights(set_nan("model.norm.weight", 1e30)))
    with pytest.raises(UserError, match=r"NaN or infinity in model\.norm\.weight"):
        load_model(folder, torch.device("cpu"), torch.float16)


def test_admission_reads_no_weights_where_it_is_told_not_to(start, tmp_path):
    folder = make_folder(start, tmp_path / "model", weights(set_nan("model.norm.weight")))
    admit(folder, read_weights=False)
    assert admit_model(folder).weights.unread == ()


def test_what_is_not_used_is_among_the_facts_and_printed(start, tmp_path, tree, capsys):
    from rich.console import Console

    change, _ = ADMITTED["unused tensor"]
    folder = make_folder(start, tmp_path / "model", change)
    _, facts = check_recipe(settings(tree, model={"name": str(folder)}), quiet)
    print_check(json.loads(json.dumps(facts)), Console(width=400))
    assert f"1 tensors in {folder} are not used" in capsys.readouterr().out


def test_rows_longer_than_the_models_context_are_refused_by_both(start, tmp_path, tree):
    folder = make_folder(start, tmp_path / "model", lambda folder: None)
    edit(folder, "config.json", max_position_embeddings=24)
    recipe = settings(tree, model={"name": str(folder)})
    _, facts = check_recipe(recipe, quiet)
    assert facts["verdict"] == "not ready"
    [stop] = facts["stops"]
    assert "and the model's context has 24; set data.max_tokens: 24" in stop
    with pytest.raises(UserError) as refused:
        train(recipe, quiet)
    assert refused.value.faults == [stop]
    edit(folder, "config.json", max_position_embeddings=64)
    assert check_recipe(recipe, quiet)[1]["verdict"] == "ready"


def test_rows_beyond_the_original_context_of_longrope_are_refused_by_both(start, tmp_path, tree):
    def change(folder):
        config = tiny_config("phi3")
        factors = [1.0] * 8
        config.vocab_size, config.original_max_position_embeddings = 448, 24
        config.rope_parameters = {"rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 1.0, "short_factor": factors,
            "long_factor": [4.0] * 8, "original_max_position_embeddings": 24}  # fmt: skip
        (folder / WEIGHTS).unlink()
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)

    folder = make_folder(start, tmp_path / "model", change)
    recipe = settings(tree, model={"name": str(folder)})
    _, facts = check_recipe(recipe, quiet)
    assert "beyond 24 the rope of type phi3 changes for all rows of a batch" in facts["stops"][0]
    with pytest.raises(UserError) as refused:
        train(recipe, quiet)
    assert refused.value.faults == facts["stops"]
