"""A base's own files: every checkpoint and `final/` carry them byte for byte, and a configuration that all releases read."""

import json
from contextlib import closing
from pathlib import Path

import pytest
from support.bases import BASES, make_base
from support.chat_templates import KINDS
from support.runs import quiet, settings, small_tree_of
from transformers import AutoConfig, AutoTokenizer

from thinktune.checkpoint import find_checkpoint
from thinktune.checkpoint.base_files import BaseFiles
from thinktune.checkpoint.manifest import MANIFEST
from thinktune.demo.tiny_model import ModelShape, make_model, make_tokenizer, save_model_folder
from thinktune.errors import UserError
from thinktune.files import read_json, write_json
from thinktune.inference.session import open_chat
from thinktune.model.folder import INDEX, stored_tensors
from thinktune.tokenization import read_tokenizer
from thinktune.tokenization.tokenizer import tokenizer_state
from thinktune.train import train

WRITTEN_BY_THE_RUN = {"config.json", "model.safetensors", "model.safetensors.index.json", "state.json", MANIFEST}


def train_from(base: Path, folder: Path, **changes) -> Path:
    tree = small_tree_of(folder, base)
    return train(settings({**tree, "generate": {"sample_questions": 0}}, **changes), quiet)


def weights_of(folder: Path) -> dict:
    """Return file, shape and dtype of each stored weight, and what the index says."""
    found = {name: (each.file.name, each.shape, each.dtype) for name, each in stored_tensors(folder).items()}
    index = folder / INDEX
    described = read_json(index) if index.is_file() else {"metadata": {}}
    described["metadata"].pop("total_parameters", None)
    return found | described


@pytest.mark.parametrize("name", BASES)
def test_final_and_checkpoints_hold_the_bases_own_files(tmp_path, name):
    base = make_base(tmp_path / "base", name)
    (base / "chat_template.jinja").write_text(read_json(base / "tokenizer_config.json")["chat_template"])
    (base / "additional_chat_templates").mkdir()
    (base / "additional_chat_templates" / "rag.jinja").write_text("{{ messages }}")
    (base / "tokenization_own.py").write_text("# never run\n")
    (base / "README.md").write_text("the base's own card")
    (base / "License.txt").write_text("the base's terms")
    run = train_from(base, tmp_path)
    for folder in (run / "final", find_checkpoint(run, "last").folder):
        for file in (path for path in base.rglob("*") if path.is_file()):
            if file.name not in WRITTEN_BY_THE_RUN | {"README.md"} and file.suffix != ".safetensors":
                copy = folder / file.relative_to(base)
                assert copy.read_bytes() == file.read_bytes(), copy
        added = {path.name for path in folder.rglob("*") if path.is_file()} - {path.name for path in base.rglob("*")}
        assert added <= WRITTEN_BY_THE_RUN | {"state.safetensors"}
        mine, theirs = read_json(folder / "config.json"), read_json(base / "config.json")
        kept = {
            key: value for key, value in mine.items() if key in theirs and not key.startswith(("rope", "torch_dtype"))
        }
        assert theirs.keys() <= mine.keys()
        assert kept == {key: theirs[key] for key in kept}
        loaded, known = AutoConfig.from_pretrained(folder), AutoConfig.from_pretrained(base)
        assert loaded.rope_parameters == known.rope_parameters
        assert mine["rope_theta"] == mine["rope_parameters"]["rope_theta"] == 1_000_000
        assert mine["rope_scaling"] == BASES[name].get("scaling")  # in the base's own form
        if folder.name == "final":
            assert mine["dtype"] == mine["torch_dtype"] == theirs["torch_dtype"]
            assert weights_of(folder) == weights_of(base)
        assert tokenizer_state(read_tokenizer(folder)) == tokenizer_state(read_tokenizer(base))


def test_a_base_that_changes_or_goes_during_the_run_changes_nothing_of_it(tmp_path):
    base = make_base(tmp_path / "base", "tied")
    before = (base / "tokenizer.json").read_bytes()
    tree = {**small_tree_of(tmp_path, base), "generate": {"sample_questions": 0}}

    def say(line):
        if "saved" in line:
            (base / "tokenizer.json").unlink(missing_ok=True)
            (base / "tokenizer_config.json").write_text("{}")

    run = train(settings(tree), say)
    assert (run / "final" / "tokenizer.json").read_bytes() == before
    assert read_json(run / "final" / "tokenizer_config.json")["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_the_dtype_of_final_stands_under_both_names(tmp_path):
    base = make_base(tmp_path / "base", "tied")
    config = read_json(base / "config.json")
    write_json(base / "config.json", config | {"torch_dtype": "bfloat16"})
    mine = read_json(train_from(base, tmp_path) / "final" / "config.json")
    assert mine["dtype"] == mine["torch_dtype"] == "bfloat16"


def test_files_that_are_no_files_are_not_read(tmp_path):
    base = make_base(tmp_path / "base", "tied")
    (base / "vocab.txt").symlink_to("/dev/zero")
    (base / "tokenizer.d").mkdir()
    assert "vocab.txt" not in BaseFiles.read(base).carried


def test_the_demos_base_is_written_for_every_release(tmp_path):
    tokenizer = make_tokenizer(["What does the heart pump?"], 300)
    save_model_folder(tmp_path / "start", tokenizer, make_model(tokenizer, ModelShape()))
    described = json.loads((tmp_path / "start" / "tokenizer_config.json").read_text())
    assert described["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert not isinstance(described.get("extra_special_tokens"), list)
    config = read_json(tmp_path / "start" / "config.json")
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]
    assert config["rope_scaling"] is None
    assert tokenizer_state(read_tokenizer(tmp_path / "start")) == tokenizer_state(tokenizer)


QWEN25 = KINDS["drops the reasoning"].template


def base_that_drops_reasoning(folder: Path, *, inside: bool, eos: str = "<|endoftext|>") -> Path:
    """Make a base like Qwen2.5's: its template writes no reasoning, and its eos ends a document."""
    base = make_base(folder, "tied")
    described = read_json(base / "tokenizer_config.json") | {"eos_token": eos}
    described.pop("chat_template")
    if inside:
        described["chat_template"] = QWEN25
    else:
        (base / "chat_template.jinja").write_text(QWEN25)
    write_json(base / "tokenizer_config.json", described)
    write_json(base / "special_tokens_map.json", {"eos_token": {"content": eos}, "pad_token": "<|endoftext|>"})
    write_json(base / "generation_config.json", {"eos_token_id": 0, "do_sample": False})
    return base


@pytest.mark.parametrize("inside", [True, False])
def test_final_has_the_template_of_the_run_and_its_end_of_turn(tmp_path, inside):
    base = base_that_drops_reasoning(tmp_path / "base", inside=inside)
    before = {path.name: path.read_bytes() for path in base.iterdir()}
    tree = small_tree_of(tmp_path, base)
    tree["generate"] = {"sample_questions": 1, "max_new_tokens": 8}
    tree["model"]["template"] = "think"
    said = []
    final = train(settings(tree), said.append) / "final"
    assert any(line.startswith("model.template: a reply is '<think>\\n', the reasoning") for line in said)
    assert {path.name: path.read_bytes() for path in base.iterdir()} == before
    for folder in (final, find_checkpoint(final.parent, "last").folder):
        loaded = AutoTokenizer.from_pretrained(folder)  # by transformers alone, as any engine does
        assert loaded.eos_token == "<|im_end|>"
        assert "chat_template" not in read_json(folder / "tokenizer_config.json")
        assert read_json(folder / "special_tokens_map.json")["eos_token"] == "<|im_end|>"
        ends = read_json(folder / "generation_config.json")["eos_token_id"]
        assert set(ends) == {0, loaded.convert_tokens_to_ids("<|im_end|>")}
        ask, reply = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "reasoning_content": "r"}
        whole = loaded.apply_chat_template([ask, reply], tokenize=False)
        assert whole.startswith("<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n<think>\nr\n</think>\n")
        assert whole.endswith("a<|im_end|>\n")
        assert tokenizer_state(read_tokenizer(folder)) == tokenizer_state(read_tokenizer(base, template="think"))
    with closing(open_chat(final.parent)) as chat:
        assert chat.ask("What does the heart pump?").tokens


def test_without_think_such_a_base_is_refused_with_the_line_to_write(tmp_path):
    base = base_that_drops_reasoning(tmp_path / "base", inside=True)
    with pytest.raises(UserError, match=r"reasoning and answer in full.*; write model\.template: think, which keeps"):
        train_from(base, tmp_path)


@pytest.mark.parametrize("beside", ["nothing", "a list", "a folder", "a processor's file"])
def test_other_templates_of_a_base_are_carried_on(tmp_path, beside):
    base = base_that_drops_reasoning(tmp_path / "base", inside=beside == "nothing")
    if beside == "a list":
        (base / "chat_template.jinja").unlink()
        named = [{"name": "default", "template": QWEN25}, {"name": "rag", "template": "{{ messages }}"}]
        write_json(base / "tokenizer_config.json", read_json(base / "tokenizer_config.json") | {"chat_template": named})
    elif beside == "a folder":
        (base / "additional_chat_templates").mkdir()
        (base / "additional_chat_templates" / "rag.jinja").write_text("{{ messages }}")
    elif beside == "a processor's file":
        write_json(base / "chat_template.json", {"chat_template": QWEN25})
    tokenizer = read_tokenizer(base, template="think")
    (tmp_path / "written").mkdir()
    BaseFiles.read(base, tokenizer).write(tmp_path / "written")
    assert tokenizer_state(read_tokenizer(tmp_path / "written")) == tokenizer_state(tokenizer)
    if beside == "a processor's file":
        assert read_json(tmp_path / "written" / "chat_template.json")["chat_template"] == tokenizer.chat_template


@pytest.mark.parametrize(("named", "ends"), [(None, [7]), (0, [7, 0]), ([0, 3], [7, 0, 3]), (7, 7), ([3, 7], [3, 7])])
def test_generation_ends_at_the_learned_end_of_a_turn_too(tmp_path, named, ends):
    settings_of_base = {"eos_token_id": named} if named is not None else {}
    write_json(tmp_path / "generation_config.json", settings_of_base | {"top_k": 20, "_from_model_config": True})
    BaseFiles({"model_type": "qwen3"}, end_token_id=7).write(tmp_path)
    written = read_json(tmp_path / "generation_config.json")
    assert (written["eos_token_id"], written["top_k"]) == (ends, 20)
    assert ("_from_model_config" in written) == (named == ends)  # releases before 5 would not read what was added


def test_a_base_that_needs_no_change_is_carried_byte_for_byte(tmp_path):
    base = make_base(tmp_path / "base", "tied")
    assert BaseFiles.read(base, read_tokenizer(base)).carried == BaseFiles.read(base).carried
