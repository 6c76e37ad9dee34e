"""Tokenizers of a GGUF: the pre-tokenizer's name is measured, and what llama.cpp would cut otherwise is refused."""

import json

import pytest
from support.gguf_models import PRETOKENIZERS, byte_level_tokenizer, sentencepiece_tokenizer
from tokenizers import AddedToken, Regex, Tokenizer, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from thinktune.errors import UserError
from thinktune.export.gguf.pretokenizer import PRETOKENIZERS as WAYS
from thinktune.export.gguf.pretokenizer import find_pretokenizer
from thinktune.export.gguf.tokenizer import TokenType, read_gguf_tokenizer

ROWS = 1024


def read(tokenizer, *, stops=(), rows=ROWS):
    tokenizer.stop_tokens = stops
    return read_gguf_tokenizer(tokenizer, rows)


def changed(tokenizer, change):
    """Return a tokenizer whose tokenizer.json is changed."""
    tree = json.loads(tokenizer.backend_tokenizer.to_str())
    change(tree)
    names = {name: value for name, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}
    made = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(tree)), **names)
    made.chat_template = tokenizer.chat_template
    return made


@pytest.mark.parametrize("name", PRETOKENIZERS)
def test_the_pre_tokenizer_is_named_by_how_it_cuts(name):
    assert read(byte_level_tokenizer(name)).pretokenizer == name


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_no_two_of_llama_cpps_ways_cut_all_probes_alike(way):
    backend = byte_level_tokenizer("gpt-2").backend_tokenizer
    backend.pre_tokenizer = way.build()
    tree = json.loads(backend.to_str())
    tree["model"]["ignore_merges"] = way.ignores_merges
    found, _ = find_pretokenizer(Tokenizer.from_str(json.dumps(tree)))
    assert found == way


def test_merging_decides_between_ways_that_cut_alike():
    def merge_all(tree):
        tree["model"]["ignore_merges"] = False

    assert read(changed(byte_level_tokenizer("llama-bpe"), merge_all)).pretokenizer == "dbrx"


def test_a_cut_that_llama_cpp_does_not_know_is_refused_with_the_closest_way():
    tokenizer = byte_level_tokenizer("qwen2")
    cut = pre_tokenizers.Split(Regex(r"\p{N}{1,2}|\p{L}+|\s+|[^\s\p{L}\p{N}]+"), "isolated")
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, last])
    with pytest.raises(UserError, match=r"the closest is \w+, at .*\); export to hf"):
        read(tokenizer)


@pytest.mark.parametrize("step", [{"type": "Lowercase"}, {"type": "Strip", "strip_left": True, "strip_right": True}])
def test_a_normalizer_that_llama_cpp_lacks_is_refused(step):
    tokenizer = changed(byte_level_tokenizer("qwen2"), lambda tree: tree.update(normalizer=step))
    with pytest.raises(UserError, match=r"llama\.cpp would split .* into other tokens"):
        read(tokenizer)


def test_composing_is_a_note():
    assert any("does not combine letters and accents" in note for note in read(byte_level_tokenizer("qwen2")).notes)
    assert read(byte_level_tokenizer("smollm"), stops=("<|endoftext|>",)).notes == ()


def test_a_prefix_space_before_bytes_is_refused():
    def prefix(tree):
        tree["pre_tokenizer"]["add_prefix_space"] = True

    with pytest.raises(UserError, match="no name for how this tokenizer splits"):
        read(changed(byte_level_tokenizer("gpt-2"), prefix))


def test_another_kind_of_model_is_refused():
    def unigram(tree):
        tree["model"] = {"type": "Unigram", "unk_id": 0, "vocab": [[text, -1.0] for text in tree["model"]["vocab"]]}

    with pytest.raises(UserError, match="Unigram"):
        read(changed(byte_level_tokenizer("gpt-2"), unigram))


def test_sentencepiece_is_read_by_scores_with_blanks_as_the_tokenizer_takes_them():
    made = read(sentencepiece_tokenizer(), stops=("<eos>",))
    assert (made.kind, made.add_space_prefix, made.adds_bos) == ("llama", False, True)
    assert made.notes == ()
    # An added token of blanks is merged like any other, because the tokenizer itself never finds it in a text.
    assert made.types[made.tokens.index("▁▁")] is TokenType.NORMAL
    assert read(sentencepiece_tokenizer(prefix=True)).add_space_prefix is True


def test_scores_that_would_merge_otherwise_are_refused():
    def swap(tree):  # the order of merges is no longer that of tokens: a score cannot say it
        merges = tree["model"]["merges"]
        tree["model"]["merges"] = merges[len(merges) // 2 :: -1] + merges[len(merges) // 2 + 1 :]

    def drop(tree):  # a token that no merge makes, but that scores would
        tree["model"]["merges"] = [merge for merge in tree["model"]["merges"] if "".join(merge) != "er"]

    for change in (drop,):
        with pytest.raises(UserError, match=r"llama\.cpp would split .* into other tokens"):
            read(changed(sentencepiece_tokenizer(), change))
    read(changed(sentencepiece_tokenizer(), swap))  # still one order of tokens


def test_bytes_that_are_missing_are_refused():
    def rename(tree):
        vocabulary = tree["model"]["vocab"]
        vocabulary["ZZZZ"] = vocabulary.pop("<0xF0>")

    with pytest.raises(UserError, match="no token for byte 0xf0"):
        read(changed(sentencepiece_tokenizer(), rename))


def test_ends_beyond_what_a_file_can_name_are_refused():
    tokenizer = byte_level_tokenizer("qwen2")
    tokenizer.add_tokens([AddedToken(f"<end{number}>", normalized=False) for number in range(4)])
    made = read(tokenizer, stops=("<end0>", "<|endoftext|>", "<end1>"))
    assert [made.tokens[end] for end in made.ends] == ["<|im_end|>", "<end0>", "<end1>", "<|endoftext|>"]
    assert made.types[made.ends[1]] is TokenType.CONTROL
    with pytest.raises(UserError, match="'<end2>'"):
        read(tokenizer, stops=("<end0>", "<end1>", "<end2>"))


def test_an_end_that_llama_cpp_alone_knows_is_said():
    tokenizer = byte_level_tokenizer("smollm")
    assert any("'<|endoftext|>'" in note for note in read(tokenizer).notes)
    assert read(tokenizer, stops=("<|endoftext|>",)).notes == ()


def test_a_token_without_a_row_is_left_out_and_said():
    tokenizer = byte_level_tokenizer("qwen2")
    tokenizer.add_tokens([AddedToken("<image>", normalized=False, special=True)])
    made = read(tokenizer, rows=len(tokenizer) - 1)
    assert "<image>" not in made.tokens
    assert any("'<image>'" in note for note in made.notes)


def test_a_token_that_takes_spaces_away_is_a_note_and_refused_where_the_template_writes_it():
    tokenizer = byte_level_tokenizer("smollm")
    tokenizer.add_tokens([AddedToken("<mask>", lstrip=True, normalized=False)])
    assert any("'<mask>'" in note for note in read(tokenizer).notes)
    tokenizer.chat_template = "{{ messages[0].content }}\n<mask>"
    with pytest.raises(UserError, match="<mask>"):
        read(tokenizer)


def test_the_template_gets_the_tokens_that_llama_cpp_does_not_pass():
    tokenizer = byte_level_tokenizer("qwen2", bos=True)
    tokenizer.chat_template = "{{ bos_token }}{{ messages[0].content }}{{ pad_token }}{{ eos_token }}"
    assert read(tokenizer).chat_template.startswith('{%- set pad_token = "<|endoftext|>" -%}{{ bos_token }}')
