"""Helpers of generation tests: a model with clear decisions, and questions of several lengths."""

import torch

from thinktune.inference.requests import Request, SamplingParams
from thinktune.tokenization import Turn

QUESTIONS = ["q?", "What does the heart pump?", "心脏泵什么？", "blood " * 12, "a"]


def decided(model):
    """Give the model weights so large that rounding does not decide the token."""
    torch.manual_seed(3)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return model


def ask(question, tokens=20, **sampling):
    return Request((Turn("user", question),), SamplingParams(tokens, **sampling))


def alone(engine, request):
    ((_, reply),) = engine.complete([request])
    return reply
