"""Requests as tokens: what is surely longer than the model's context is refused before it is tokenized."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinktune.inference.requests import ContextLengthError, Request, SamplingParams, render_request
from thinktune.tokenization import Turn
from thinktune.tokenization.chat_template import TooLongError, render_prompt
from thinktune.tokenization.tokenizer import exceeds_tokens

TEXTS = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"]),
        st.sampled_from("the heart pumps blood 心脏泵血液 ----==== <|im_end|>\n"),
    )
)


@given(text=TEXTS, repeated=st.integers(1, 40), tokens=st.integers(0, 40))
def test_a_text_that_exceeds_so_many_tokens_by_its_characters_has_more(tokenizer, text, repeated, tokens):
    text = text * repeated
    count = len(tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)
    assert not exceeds_tokens(text, tokens, tokenizer) or count > tokens


@pytest.mark.real
@given(text=TEXTS, repeated=st.integers(1, 200), tokens=st.integers(0, 20))
def test_the_same_of_qwen3s_tokenizer(official_tokenizer, text, repeated, tokens):
    text = text * repeated
    count = len(official_tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)
    assert not exceeds_tokens(text, tokens, official_tokenizer) or count > tokens


@pytest.mark.parametrize("text", ["<|im_end|>" * 10_000, "word " * 20_000, "心脏" * 50_000, "-" * 100_000])
def test_a_conversation_far_beyond_the_context_is_refused_by_its_characters(tokenizer, text):
    request = Request((Turn("user", text),), SamplingParams(8))
    with pytest.raises(ContextLengthError, match=r"messages: the conversation has [\d,]+ characters"):
        render_request(request, tokenizer, 50)
    with pytest.raises(TooLongError):
        render_prompt(request.turns, tokenizer, max_tokens=50)


def test_a_tokenizer_that_drops_what_it_does_not_know_bounds_nothing():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[UNK]": 0, "word": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    lossy = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")
    assert not exceeds_tokens("x" * 100_000, 1, lossy)
