"""A GGUF in llama.cpp itself: the same tokens, logits and replies as transformers, and faults that show.

`llama-cpp-python` is built from source; a folder that has it can stand on PYTHONPATH.
"""

import numpy as np
import pytest
import torch
from support.gguf_models import FAMILIES, make_gguf_model
from tokenizers import Tokenizer, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer

from thinktune.errors import UserError
from thinktune.export.gguf.file import plan_gguf, write_gguf, write_planned_gguf
from thinktune.export.gguf.llama_cpp import LlamaCpp, is_installed
from thinktune.export.gguf.pretokenizer import PRETOKENIZERS, PROBES, probe_texts
from thinktune.export.gguf.programs import find_program, quantized_kinds
from thinktune.tokenization import Turn

pytest.importorskip("gguf")
needs_llama_cpp = pytest.mark.skipif(not is_installed(), reason="llama-cpp-python is not installed")
TOKENS = 160
# Its GELU is read from a table of f16, so Gemma's logits are rounded in every form.
TOLERANCE = {"gemma3": 2e-2}
ROUNDED = {"f16": 0.05, "bf16": 0.5, "q8_0": 1.5}  # of logits of about 5


@pytest.fixture
def asked(tmp_path):
    """Return a function that writes a folder's GGUF and opens it."""
    opened = []

    def ask(folder, kind="f32", change=None):
        file = tmp_path / f"{folder.name}-{kind}.gguf"
        if change is None:
            write_gguf(folder, file, kind, lambda _: None)
        else:
            write_planned_gguf(change(plan_gguf(folder, kind)), file, lambda _: None)
        opened.append(LlamaCpp(file))
        return opened[-1]

    yield ask
    for each in opened:
        each.close()


def reference(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.randint(
        0, len(AutoTokenizer.from_pretrained(folder)), (1, TOKENS), generator=torch.Generator().manual_seed(1)
    )
    with torch.no_grad():
        return model, ids[0].tolist(), model(input_ids=ids).logits[0].numpy()


@pytest.mark.skipif(is_installed(), reason="llama-cpp-python is installed")
def test_without_llama_cpp_python_its_remedy_is_said(tmp_path):
    with pytest.raises(UserError, match="pip install llama-cpp-python"):
        LlamaCpp(tmp_path / "m.gguf")


@pytest.mark.slow
@needs_llama_cpp
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_tokens_are_those_of_transformers(asked, tmp_path, family):
    folder = make_gguf_model(tmp_path / family.replace(", ", "-"), family)
    _, ids, wanted = reference(folder)
    found = asked(folder)
    assert np.abs(found.logits(ids) - wanted).max() < TOLERANCE.get(family, 1e-4)
    for kind, most in ROUNDED.items():
        assert np.abs(asked(folder, kind).logits(ids) - wanted).max() < most
    backend = AutoTokenizer.from_pretrained(folder).backend_tokenizer
    for text in (*PROBES, *(probe_texts()[::3] if family in ("qwen3", "llama", "smollm2", "llama, linear") else ())):
        if "\u0301" not in text:
            assert found.tokenize(text) == backend.encode(text, add_special_tokens=False).ids, text


@pytest.mark.slow
@needs_llama_cpp
@pytest.mark.parametrize("family", ["qwen3", "llama", "gemma3"])
def test_a_prompt_and_its_greedy_reply_are_those_of_transformers(asked, tmp_path, family):
    folder = make_gguf_model(tmp_path / family, family)
    model, _, _ = reference(folder)
    tokenizer, found = AutoTokenizer.from_pretrained(folder), asked(folder)
    for thinking in (True, False):
        prompt = found.render([Turn("system", "Be brief."), Turn("user", "心脏泵什么？")], thinking=thinking)
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "心脏泵什么？"}]
        options = {"add_generation_prompt": True, "enable_thinking": thinking}
        assert prompt == tokenizer.apply_chat_template(messages, tokenize=False, **options)
        ids = found.tokenize(prompt)
        assert ids == tokenizer(prompt, add_special_tokens=False).input_ids
        made = model.generate(torch.tensor([ids]), max_new_tokens=24, do_sample=False)[0, len(ids) :].tolist()
        assert found.reply(ids, 24) == made
    for end in model.generation_config.eos_token_id:
        assert found.is_end(end)
    assert not found.is_end(tokenizer.convert_tokens_to_ids("<think>"))


@pytest.mark.slow
@needs_llama_cpp
def test_a_reply_ends_at_every_end_that_the_model_names(asked, tmp_path):
    folder = make_gguf_model(tmp_path / "m", "qwen3")
    model, ids, _ = reference(folder)
    reply = asked(folder).reply(ids, 8)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = tokenizer.convert_ids_to_tokens(reply[1])
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, reply[1]]
    model.save_pretrained(folder)
    again = make_again(asked, folder, tmp_path)
    assert again.is_end(reply[1]), text
    assert again.reply(ids, 8) == reply[:2]


def make_again(asked, folder, tmp_path):
    (tmp_path / f"{folder.name}-f32.gguf").unlink(missing_ok=True)
    return asked(folder)


def learn_merges_over_cuts(file, texts):
    """Train a tokenizer's merges on uncut texts, so that every cut between two characters shows in the ids."""
    raw = Tokenizer.from_file(str(file))
    cut, raw.pre_tokenizer = raw.pre_tokenizer, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=raw.get_vocab_size(with_added_tokens=False),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(3 * texts, trainer)
    raw.pre_tokenizer = cut
    raw.save(str(file))


@pytest.mark.slow
@needs_llama_cpp
def test_each_pre_tokenizer_cuts_in_llama_cpp_as_it_does_here(asked, tmp_path):
    """The names in our table mean in llama.cpp what the table says; a wrong name shows on some probe."""
    import dataclasses

    folder = make_gguf_model(tmp_path / "m", "smollm2")
    texts = [text for text in probe_texts() if "\u0301" not in text][::5]
    learn_merges_over_cuts(folder / "tokenizer.json", texts)
    backend = AutoTokenizer.from_pretrained(folder).backend_tokenizer
    seen = {}
    for way in PRETOKENIZERS:

        def rename(plan, name=way.name):
            return dataclasses.replace(plan, tokenizer=dataclasses.replace(plan.tokenizer, pretokenizer=name))

        found = asked(folder, change=rename)
        seen[way.name] = [found.tokenize(text) for text in texts]
        backend.pre_tokenizer = way.build()
        if not way.ignores_merges:
            wanted = [backend.encode(text, add_special_tokens=False).ids for text in texts]
            differ = [(text, a, b) for text, a, b in zip(texts, seen[way.name], wanted, strict=True) if a != b]
            assert not differ, (way.name, len(differ), differ[:3])
    assert [name for name in seen if seen[name] == seen["smollm"]] == ["smollm"]


@pytest.mark.slow
@needs_llama_cpp
def test_a_wrong_rope_shows_in_the_logits(asked, tmp_path):
    import dataclasses

    for family in ("qwen3", "llama", "qwen3, yarn", "gemma3"):
        folder = make_gguf_model(tmp_path / family.replace(", ", "-"), family)
        _, ids, wanted = reference(folder)

        def turn(plan):
            import copy

            config = copy.deepcopy(plan.config)
            for settings in (config.rope_parameters, *config.rope_parameters.values()):
                if isinstance(settings, dict) and "rope_theta" in settings:
                    settings["rope_theta"] = 300.0
            return dataclasses.replace(plan, config=config)

        assert np.abs(asked(folder, change=turn).logits(ids) - wanted).max() > 0.2


@pytest.mark.slow
@needs_llama_cpp
def test_what_is_no_gguf_is_said_in_a_sentence(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(UserError, match=r"m\.gguf cannot be loaded by llama\.cpp"):
        LlamaCpp(tmp_path / "m.gguf")


@pytest.mark.slow
@needs_llama_cpp
@pytest.mark.skipif(find_program("llama-quantize") is None, reason="llama-quantize is not installed (LLAMA_CPP)")
def test_llama_quantize_makes_what_llama_cpp_reads(tmp_path):
    from thinktune.export.gguf.file import make_gguf

    folder, done = make_gguf_model(tmp_path / "m", "smollm2", hidden_size=256, head_dim=64, intermediate_size=512), []
    assert "q4_k_m" in quantized_kinds()
    make_gguf(folder, tmp_path / "m-q4_k_m.gguf", "q4_k_m", done.append)
    assert len(done) > 10
    _, ids, wanted = reference(folder)
    made = LlamaCpp(tmp_path / "m-q4_k_m.gguf")
    differ = np.abs(made.logits(ids) - wanted)
    assert 0.01 < differ.max() < np.abs(wanted).max()
    made.close()
