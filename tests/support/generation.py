"""Helpers of generation tests: a model with clear decisions, and questions of several lengths."""

from contextlib import closing

import torch

from thinktune.distributed import SINGLE
from thinktune.inference.engine import Engine, RunningBatch
from thinktune.inference.requests import Request, SamplingParams
from thinktune.inference.streaming import EventQueue
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


def sequences_of(model, tokenizer, requests):
    """Make the sequences of requests, which no engine runs."""
    with closing(Engine(model, tokenizer)) as engine:
        return [engine._make_sequence(request, EventQueue(), 0, streamed=False) for request in requests]


def run_batch(model, runner, sequences, rows):
    """Run a batch of at most so many rows, which sequences join in turn and leave when they end; return their replies."""
    waiting, batch = list(sequences), RunningBatch(model.eval(), runner, rows, SINGLE)
    with torch.inference_mode():
        while waiting or batch.sequences():
            while waiting and batch.has_room():
                batch.prefilling.append(waiting.pop(0))
            batch.step()
            batch.free_finished()
    return [sequence.ids[sequence.prompt_tokens :] for sequence in sequences]
