"""Target `hf`: the model's own files in another place, and what transformers says when it is asked."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from support.our_logits import our_logits
from support.runs import quiet, settings, small_tree, stop_after

from thinktune.errors import UserError
from thinktune.export import find_source
from thinktune.export.hf import TransformersModel, write_hf
from thinktune.files import read_json, write_json
from thinktune.tokenization import Turn, read_tokenizer
from thinktune.tokenization.chat_template import render_prompt
from thinktune.train import train


def exported(path: Path, folder: Path) -> tuple[dict[str, bytes], int]:
    """Export a run or a model; returns the files that were written, and the bytes that were reported."""
    folder.mkdir()
    told: list[int] = []
    write_hf(find_source(path), folder, told.append)
    return files_of(folder), sum(told)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return train(settings({**small_tree(tmp_path_factory.mktemp("run")), "generate": {"sample_questions": 0}}), quiet)


def test_a_runs_final_model_is_copied_to_the_byte(run, tmp_path):
    written, told = exported(run, tmp_path / "hf")
    final = files_of(run / "final")
    del final["files.json"]  # of the folder as it is there
    assert written == final
    assert told == sum(map(len, final.values()))


def test_a_run_without_its_end_gives_its_best_model_and_nothing_of_its_training(tmp_path):
    tree = {**small_tree(tmp_path), "generate": {"sample_questions": 0}}
    with pytest.raises(KeyboardInterrupt):
        train(settings(tree), stop_after(6))
    run = tmp_path / "runs" / "small"
    assert any((run / "checkpoints").glob("*/state/state.safetensors"))
    written, _ = exported(run, tmp_path / "hf")
    assert {"model.safetensors", "tokenizer.json", "config.json"} <= written.keys()
    assert not [name for name in written if "state" in name or name == "files.json"]


def test_what_is_no_part_of_a_model_stays_behind_and_older_releases_can_read_it(start, tmp_path):
    model = tmp_path / "model"
    exported(start, model)
    config = read_json(start / "config.json")
    for key in ("rope_theta", "rope_scaling", "torch_dtype"):
        config.pop(key, None)
    write_json(model / "config.json", config)  # as transformers 5 alone writes it
    before = files_of(model)
    for name in (".git/config", "original/consolidated.00.pth", "pytorch_model.bin", "adapter.safetensors"):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_bytes(b"other")
    (model / "additional_chat_templates").mkdir()
    (model / "additional_chat_templates" / "rag.jinja").write_text("{{ messages }}")
    (model / "LICENSE").write_text("terms")
    written, _ = exported(model, tmp_path / "hf")
    assert written.keys() == before.keys() | {"additional_chat_templates/rag.jinja", "LICENSE"}
    assert all(written[name] == before[name] for name in before if name != "config.json")
    now = read_json(tmp_path / "hf" / "config.json")
    assert now["rope_theta"] == now["rope_parameters"]["rope_theta"] == config["rope_parameters"]["rope_theta"]
    assert now["torch_dtype"] == now["dtype"]
    assert {key: now[key] for key in config} == config


def test_a_file_that_cannot_be_written_is_named(run, tmp_path):
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").mkdir()
    with pytest.raises(OSError, match=r"hf/config\.json"):
        write_hf(find_source(run), tmp_path / "hf", lambda _: None)


TURNS = (
    Turn("system", "Be brief."),
    Turn("user", "What does the heart pump?"),
    Turn("assistant", "Blood.", "A muscle."),
)


def test_transformers_is_asked_by_its_own_template_tokenizer_and_forward_pass(run):
    final = run / "final"
    tokenizer = read_tokenizer(final)
    with closing(TransformersModel(final)) as asked:
        for thinking in (True, False):
            text = asked.render([*TURNS, Turn("user", "心脏泵什么？")], thinking=thinking)
            assert asked.tokenize(text) == render_prompt(
                [*TURNS, Turn("user", "心脏泵什么？")], tokenizer, thinking=thinking
            )
        ids = asked.tokenize(asked.render(TURNS[:2], thinking=True))
        theirs = asked.logits(ids)
        assert (theirs.dtype, theirs.shape[0]) == (np.float32, len(ids))
        torch.testing.assert_close(torch.from_numpy(theirs), our_logits(final, ids), rtol=1e-5, atol=1e-5)
        reply = asked.reply(ids, 5)
        wanted = our_logits(final, [*ids, *reply[:-1]])[len(ids) - 1 :].argmax(-1).tolist()
        assert reply == wanted


def test_a_reply_ends_at_the_folders_own_end_tokens_and_is_greedy_whatever_its_sampling(run, tmp_path):
    written, _ = exported(run, tmp_path / "hf")
    assert written
    with closing(TransformersModel(tmp_path / "hf")) as asked:
        ids = asked.tokenize(asked.render(TURNS[:2], thinking=True))
        reply = asked.reply(ids, 6)
    sampling = {"do_sample": True, "temperature": 5.0, "top_k": 3, "repetition_penalty": 9.0, "max_new_tokens": 1}
    config = read_json(tmp_path / "hf" / "generation_config.json")
    write_json(tmp_path / "hf" / "generation_config.json", config | sampling)
    with closing(TransformersModel(tmp_path / "hf")) as asked:
        assert asked.reply(ids, 6) == reply
    ends = reply[2:3]
    write_json(tmp_path / "hf" / "generation_config.json", config | {"eos_token_id": ends})
    with closing(TransformersModel(tmp_path / "hf")) as asked:
        assert asked.reply(ids, 6) == reply[: reply.index(ends[0]) + 1]
    write_json(tmp_path / "hf" / "generation_config.json", {"top_k": 3})  # a lost end
    with closing(TransformersModel(tmp_path / "hf")) as asked:
        assert len(asked.reply(ids, 6)) == 6


def test_a_folder_that_transformers_does_not_load_is_told_in_one_sentence(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be loaded by transformers"):
        TransformersModel(tmp_path)
