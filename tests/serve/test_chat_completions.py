"""Failures of a served model: the client is told, in the body or in the stream, that no reply can be made."""

import httpx
import pytest
import torch
from support.api_server import QUESTION, serving

from thinktune.inference.chat_defaults import ChatDefaults
from thinktune.inference.engine import Engine
from thinktune.inference.requests import SamplingParams
from thinktune.serve import ServedModel


@pytest.fixture
def address(model, tokenizer):
    """Serve a model whose weights are finite and whose logits are not."""
    with torch.no_grad():
        model.model.norm.weight.fill_(3e38)
    defaults = ChatDefaults(sampling=SamplingParams(16))
    served = ServedModel("broken", "here", defaults, lambda: Engine(model, tokenizer), tokenizer, 4096)
    with serving([served]) as address:
        yield address


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "top_p": 0.9}])
def test_a_model_without_finite_logits_answers_with_an_error_and_not_with_an_empty_reply(address, options):
    asked = {"model": "broken", "messages": QUESTION, **options}
    whole = httpx.post(f"{address}/v1/chat/completions", json=asked, timeout=60)
    assert whole.status_code == 500
    error = whole.json()["error"]
    assert (error["type"], error["code"]) == ("server_error", "generation_failed")
    assert error["message"].startswith("model: no finite logits (NaN or infinity) at token 1 of a reply")
    streamed = httpx.post(f"{address}/v1/chat/completions", json=asked | {"stream": True}, timeout=60)
    assert "no finite logits" in streamed.text
    assert '"finish_reason"' not in streamed.text
