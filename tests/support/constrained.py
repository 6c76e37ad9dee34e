"""Replies under a grammar without a model: a script for the reasoning, and then tokens at random of those allowed."""

import random

import numpy as np

from thinktune.inference.replies import Detokenizer, SpecialTokens
from thinktune.inference.requests import SamplingParams
from thinktune.inference.sampling.constraint import GrammarCompiler
from thinktune.inference.sequence import SequenceState
from thinktune.inference.streaming import EventQueue
from thinktune.tokenization import Turn
from thinktune.tokenization.chat_template import render_prompt
from thinktune.tokenization.tokenizer import tokenize

ASKED = (Turn("user", "What is it?"),)


def end_ids(tokenizer):
    return [tokenizer.convert_tokens_to_ids(token) for token in getattr(tokenizer, "stop_tokens", ())] or None


class Writer:
    """Writes replies of one tokenizer; `allowed` is what the mask allows next."""

    def __init__(self, tokenizer, spare_columns=0):
        self.tokenizer = tokenizer
        self.special = SpecialTokens.from_tokenizer(tokenizer, end_ids(tokenizer))
        self.width = len(tokenizer) + spare_columns
        self.compiler = GrammarCompiler(self.special, self.width)

    def begin(self, grammar, *, thinking=False, tokens=400, **sampling):
        prompt = render_prompt(ASKED, self.tokenizer, thinking=thinking)
        reply = Detokenizer(SamplingParams(tokens, **sampling), self.special, prompt)
        self.sequence = SequenceState(prompt, reply, EventQueue(), index=0, streamed=False)
        self.sequence.follow(self.compiler.constrain(grammar, reply, thinking=thinking))
        return self

    @property
    def allowed(self):
        return set(self._allowed().tolist())

    def _allowed(self):
        mask = self.sequence.sampler.mask
        return np.arange(self.width) if mask is None else np.flatnonzero(np.unpackbits(mask, bitorder="little"))

    def write(self, text):
        """Append the tokens of a text; each must be allowed."""
        for token in tokenize([text], self.tokenizer)[0]:
            assert token in self.allowed, (text, self.tokenizer.decode([token]))
            self.sequence.append_token(token)
        return self

    def finish(self, seed=0):
        """Append tokens at random up to the end; an end token is likelier than another."""
        chance = random.Random(seed)
        while not self.sequence.is_finished:
            allowed = self._allowed()
            ends = sorted(end for end in self.special.eos_token_ids if end in allowed)
            self.sequence.append_token(int(chance.choice(ends if ends and chance.random() < 0.5 else allowed)))
        return self.sequence.detokenizer.completion()
