"""Log probabilities: the model's own, of the tokens whose text is the answer, here and behind an endpoint."""

import json
from contextlib import closing
from itertools import product
from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.chat_server import DONE, part, reply, serving, usage
from support.generation import QUESTIONS, ask, decided
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE

from thinktune.errors import UserError
from thinktune.inference import Endpoint
from thinktune.inference.engine import Engine
from thinktune.inference.replies import Detokenizer, ReplyParser, SpecialTokens, join_pieces, parse_reply
from thinktune.inference.requests import Completion, OpenTurn, SamplingParams, render_request
from thinktune.inference.sampling.answer_tokens import RankedToken, TokenLogprob
from thinktune.tokenization import read_tokenizer
from thinktune.tokenization.token_bytes import TokenBytes, token_text


def answer_tokens(pieces):
    """Join the log probabilities as the text is joined: what has moved was none of the answer's."""
    found = []
    for piece in pieces:
        found = [] if piece.kind == "moved" else [*found, *piece.logprobs]
    return found


@pytest.fixture
def engine(model, tokenizer):
    with closing(Engine(decided(model), tokenizer)) as engine:
        yield engine


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"temperature": 1.5, "seed": 3, "top_k": 50},
        {"frequency_penalty": 2.0, "logit_bias": ((40, 9.0),)},
        {"temperature": 0.8, "min_p": 0.05, "repetition_penalty": 1.5},
    ],
    ids=str,
)
def test_they_are_those_of_the_model_whatever_changed_the_draw(engine, tokenizer, asked):
    request = render_request(ask(QUESTIONS[1], 16, top_logprobs=5, **asked), tokenizer, 4096)
    *pieces, last = engine.stream(request)
    [ids] = engine.complete_ids([request])
    with torch.no_grad():
        logits = engine.model(torch.tensor([[*request.prompt_ids, *ids]])).logits[0, len(request.prompt_ids) - 1 :]
    expected, spelled = logits.float().log_softmax(-1), TokenBytes(tokenizer)
    shown = [(place, token) for place, token in enumerate(ids) if token not in engine._special_tokens.skipped_ids]
    found = answer_tokens(pieces)
    assert b"".join(token.bytes for token in found).decode("utf-8", "replace") == last.answer
    assert [token.bytes for token in found] == [spelled.of(token) for _, token in shown]
    for token, (place, number) in zip(found, shown, strict=True):
        assert token.logprob == pytest.approx(float(expected[place, number]), abs=1e-3)
        likeliest = expected[place].topk(5)
        assert [each.logprob for each in token.likeliest] == pytest.approx(likeliest.values.tolist(), abs=1e-3)
        assert [each.bytes for each in token.likeliest] == [spelled.of(each) for each in likeliest.indices.tolist()]


def test_who_does_not_ask_gets_none_and_neighbours_get_as_many_as_each_asked_for(engine):
    requests = [ask(QUESTIONS[0], 9, top_logprobs=count) for count in (None, 0, 3, 20)]
    streams = [engine.stream(request) for request in requests]
    found = [answer_tokens(piece for piece in stream if not isinstance(piece, Completion)) for stream in streams]
    assert found[0] == []
    assert [{len(token.likeliest) for token in each} for each in found[1:]] == [{0}, {3}, {20}]
    assert [[token.text for token in each] for each in found[1:]] == [[token.text for token in found[1]]] * 3


words = st.lists(
    st.sampled_from(["<think>", "</think>", "\n", "\n\n", " ", "why", "答案", "é", "🙂", "STOP", "S", "ST"]),
    max_size=12,
)


@given(words.map("".join), st.integers(1, 40), st.sampled_from([(), ("STOP",), ("案", "\n\n")]), st.booleans())
@settings(max_examples=60)
def test_the_bytes_of_the_tokens_are_the_answer_however_the_reply_is_cut(tokenizer, text, limit, stop, in_reasoning):
    special_tokens = SpecialTokens.from_tokenizer(tokenizer, None)
    prompt = tokenizer.encode("<think>\n", add_special_tokens=False) if in_reasoning else [1]
    detokenizer = Detokenizer(SamplingParams(limit, stop=stop, top_logprobs=0), special_tokens, prompt)
    sampled, pieces = iter([*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]), []
    while not detokenizer.finish_reason:
        pieces += detokenizer.append(token := next(sampled), RankedToken(-float(token), ()))
    answer, tokens = join_pieces(pieces)[1], answer_tokens(pieces)
    written = b"".join(token.bytes for token in tokens).decode("utf-8", "replace")
    if detokenizer.finish_reason == "stop":  # a token on the border is whole
        assert answer in written
        assert written.startswith(answer) or written.lstrip("\n").startswith(answer)
    else:
        assert written.removeprefix(written[: len(written) - len(answer)]) == answer
        assert not written[: len(written) - len(answer)].strip("\n")  # line breaks within the first token


PARTS = ["<think>", "</think>", "\n", "\n\n", " ", "why", "STOP", "S"]
TEXTS = ["".join(parts) for count in (1, 2, 3) for parts in product(PARTS, repeat=count)]


@pytest.mark.parametrize("stop", [(), ("STOP",)])
@pytest.mark.parametrize("lengths", [(1,), (2,), (3,), (5,), (9,), (1, 9), (4, 1)], ids=str)
def test_a_token_belongs_to_the_answer_that_it_has_text_of_wherever_tokens_are_cut(lengths, stop):
    for text in TEXTS:
        owns_the_tokens_of_its_answer(text, lengths * 40, stop)


def owns_the_tokens_of_its_answer(text, lengths, stop):
    parser, pieces, tokens, fed = ReplyParser(stop), [], [], ""
    for length in lengths:
        if (part := text[len(fed) : len(fed) + length]) and not parser.stopped:
            tokens.append((len(fed), TokenLogprob(part, -1.0, None)))
            pieces += parser.feed(part, [(len(part), tokens[-1][1])])
            fed += part
    pieces += parser.flush()
    answer = join_pieces(pieces)[1]
    first = len(fed) - len(parse_reply(fed).answer)  # the answer is the end of the text, but for a stop string
    expected = [token for start, token in tokens if start < first + len(answer) and start + len(token.text) > first]
    assert answer_tokens(pieces) == (expected if answer else [])


def test_an_answer_that_goes_on_has_those_of_all_its_tokens():
    for has_text in (True, False):
        parser = ReplyParser(open_turn=OpenTurn("answer", has_text))
        tokens = [TokenLogprob(part, -1.0, None) for part in (" is", " so.")]
        pieces = [piece for token in tokens for piece in parser.feed(token.text, [(len(token.text), token)])]
        assert answer_tokens([*pieces, *parser.flush()]) == tokens


def stands_for_what_it_writes(tokenizer):
    spelled = TokenBytes(tokenizer)
    for text in ("the heart", "心脏🙂é", "a  b\n\n<b>"):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert b"".join(map(spelled.of, ids)).decode() == text
    assert spelled.of(tokenizer.eos_token_id).decode() == tokenizer.eos_token
    assert spelled.of(10**6) == b""


def test_each_token_stands_for_the_bytes_that_it_writes(tokenizer):
    stands_for_what_it_writes(tokenizer)


@pytest.mark.real
def test_each_token_of_qwen3_stands_for_the_bytes_that_it_writes(real):
    stands_for_what_it_writes(read_tokenizer(real / "qwen3-tokenizer"))


def test_sentencepieces_bytes_and_blanks_are_read():
    class Written:
        added_tokens_decoder: ClassVar = {}
        backend_tokenizer = Tokenizer(BPE({"▁a": 0, "<0xE5>": 1, "<0xBF>": 2, "<0x83>": 3, "b": 4}, []))

    Written.backend_tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    assert b"".join(map(TokenBytes(Written).of, range(5))).decode() == " a心b"


def test_a_part_of_a_character_is_written_as_its_bytes():
    assert (token_text("心".encode()), token_text(b"\xe5\xbf")) == ("心", "bytes:\\xe5\\xbf")


def token(text, logprob=-0.5, **more):
    spelled = text if isinstance(text, bytes) else text.encode()
    return {"token": spelled.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(spelled), **more}


def ranked(content, *tokens, **more):
    """Make a part of a stream with the log probabilities of its tokens."""
    body = json.loads(part(content, **more)[6:])
    body["choices"][0]["logprobs"] = {"content": list(tokens)}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


STREAMS = {
    "a field": [ranked(None, token("why"), reasoning="why"), ranked("The", token("The")), ranked(" 心", token(" 心"))],
    "tags": [
        ranked("<think>", token("<think>")),
        ranked("why</think>", token("why"), token("</think>")),
        ranked("\n\nThe", token("\n\n"), token("The")),
        ranked(" 心", token(" "), token(b"\xe5\xbf"), token(b"\x83")),
    ],
    "characters in parts": [
        ranked("The ", token("The"), token(" ")),
        ranked("", token(b"\xe5\xbf")),
        ranked("心", token(b"\x83")),
    ],
    "vLLM's end token": [ranked("The 心", token("The"), token(" 心")), ranked("", token("<|im_end|>"))],
    "an end token beside text": [ranked("The", token("The")), ranked(" 心", token(" 心"), token("<|im_end|>"))],
    "all in one": [ranked("The 心", token("why"), token("The"), token(" 心"), reasoning="why")],
}


@pytest.mark.parametrize("form", STREAMS)
def test_those_of_a_server_are_passed_on(form):
    script = lambda _: reply(*STREAMS[form], part(finish="stop"), usage(3, 3), DONE)  # noqa: E731
    with serving(script) as (url, asked), closing(Endpoint(url)) as endpoint:
        *pieces, last = endpoint.stream(ask("q?", top_logprobs=2))
    assert last.answer == "The 心"
    assert b"".join(each.bytes for each in answer_tokens(pieces)) == "The 心".encode()
    assert (asked[0]["logprobs"], asked[0]["top_logprobs"]) == (True, 2)


def test_a_server_that_sends_none_is_named_and_what_json_has_not_is_a_number():
    with (
        serving(lambda _: reply(part("heart"), part(finish="stop"), DONE)) as (url, _),
        closing(Endpoint(url)) as endpoint,
        pytest.raises(UserError, match="logprobs: this server sends none"),
    ):
        list(endpoint.stream(ask("q?", top_logprobs=0)))
    likeliest = [token("x", float("-inf"))]
    script = lambda _: reply(ranked("a", token("a", float("-inf"), top_logprobs=likeliest)), part(finish="stop"))  # noqa: E731
    with serving(script) as (url, _), closing(Endpoint(url)) as endpoint:
        [first, *_] = endpoint.stream(ask("q?", top_logprobs=1))
    [found] = first.logprobs
    assert (found.logprob, found.likeliest[0].logprob) == (-9999, -9999)


def test_a_server_is_sent_what_is_asked_and_nothing_else():
    with (
        serving(lambda _: reply(part("heart"), part(finish="stop"), DONE)) as (url, asked),
        closing(Endpoint(url)) as endpoint,
    ):
        list(endpoint.stream(ask("q?")))
        rarer = {"frequency_penalty": 0.5, "presence_penalty": -0.5, "repetition_penalty": 1.2, "min_p": 0.1}
        list(endpoint.stream(ask("q?", **rarer, logit_bias=((7, 2.0),))))
    names = {*rarer, "logit_bias", "logprobs", "top_logprobs", "top_k"}
    assert not names & asked[0].keys()
    assert (rarer | {"logit_bias": {"7": 2.0}}).items() <= asked[1].items()
