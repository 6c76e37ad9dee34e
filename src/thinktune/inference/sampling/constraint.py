"""Constrained decoding: which tokens may come next in a reply whose answer has a grammar.

The reasoning is free. The grammar begins with the answer: after the closing tag, or with the reply if it opens no
reasoning. https://github.com/guidance-ai/llguidance follows the grammar and says which tokens it allows.
"""

from __future__ import annotations

import threading
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from thinktune.errors import UserError, shorten_error
from thinktune.inference.replies import Detokenizer, SpecialTokens
from thinktune.inference.requests import GenerationError
from thinktune.inference.sampling.grammar import Grammar, check_grammar, grammar_text
from thinktune.tokenization.tags import read_form, template_text
from thinktune.tokenization.tokenizer import tokenize

if TYPE_CHECKING:  # an extra
    from llguidance import LLMatcher, LLTokenizer

MAX_LEXER_STATES = 50_000  # of one reply's grammar, 1 to 2 kB each


class GrammarVocabulary:
    """The tokens of a model as grammars see them: their bytes, and those that may stand between tag and answer.

    Made at the first grammar, which takes a second for a large vocabulary. May be used from many threads.

    Args:
        special_tokens: the tokenizer, its end tokens and its tags.
        width: number of columns of the model's logits.
    """

    def __init__(self, special_tokens: SpecialTokens, width: int) -> None:
        from llguidance import LLTokenizer

        tokenizer = special_tokens.tokenizer
        self.size = max(width, len(tokenizer))
        self.end_tokens = special_tokens.eos_token_ids
        try:
            self.tokens: LLTokenizer = LLTokenizer(
                tokenizer.backend_tokenizer.to_str(), n_vocab=self.size, eos_token=sorted(self.end_tokens)
            )
        except Exception as error:  # of a kind of tokenizer that it does not know
            raise UserError(
                f"response_format: llguidance cannot read this model's tokenizer ({shorten_error(error)}); leave it out"
            ) from None
        self.bytes = [self.tokens.decode_bytes([token]) for token in range(self.size)]
        for token in special_tokens.skipped_ids:
            self.bytes[token] = b""  # no part of the text
        form = read_form(tokenizer)
        may_reason = form.written or form.tags.closing in template_text(tokenizer)
        begins = may_reason and form.opening.strip() == form.tags.opening  # or else the prompt opens the reasoning
        self.opening = tuple(tokenize([form.opening.rstrip()], tokenizer)[0]) if begins else ()
        self.closing = form.tags.closing.encode()
        self.line_breaks = {token: len(text) for token, text in enumerate(self.bytes) if text and not text.strip(b"\n")}
        self.max_line_breaks = form.between.rpartition(form.tags.closing)[2].count("\n")
        self.crossing = cache(self._find_crossing)

    def _find_crossing(self, rest: bytes) -> tuple[int, ...]:
        """Return the tokens that end the closing tag, of which `rest` is to come, and go on with more than line breaks.

        What they go on with would belong to the answer, and no grammar has seen it. Where the whole tag is to come, it
        may stand anywhere in the token.
        """
        is_whole = rest == self.closing
        return tuple(
            token
            for token, text in enumerate(self.bytes)
            if (rest in text if is_whole else text.startswith(rest)) and text.partition(rest)[2].strip(b"\n")
        )

    def pack(self, tokens: tuple[int, ...]) -> NDArray[np.uint8]:
        """Return the mask of some tokens, as long as one of `LLMatcher`."""
        flags = np.zeros(-(-self.size // 32) * 32, bool)
        flags[list(tokens)] = True
        return np.packbits(flags, bitorder="little")


class GrammarCompiler:
    """Makes the constraints of a model's replies; the vocabulary is made once, by whichever thread asks first."""

    def __init__(self, special_tokens: SpecialTokens, width: int) -> None:
        self._special_tokens, self._width = special_tokens, width
        self._vocabulary: GrammarVocabulary | None = None
        self._lock = threading.Lock()

    def constrain(self, grammar: Grammar, reply: Detokenizer, *, thinking: bool) -> AnswerConstraint:
        """Hold a reply to a grammar, from its first token on; raises UserError where the grammar has a fault."""
        check_grammar(grammar)
        from llguidance import LLMatcher, LLParserLimits

        with self._lock:
            if self._vocabulary is None:
                self._vocabulary = GrammarVocabulary(self._special_tokens, self._width)
        limits = LLParserLimits(max_lexer_states=MAX_LEXER_STATES, verbose_errors=False)
        matcher = LLMatcher(self._vocabulary.tokens, grammar_text(grammar), log_level=0, limits=limits)
        return AnswerConstraint(self._vocabulary, matcher, reply, grammar.field, thinking=thinking)


class AnswerConstraint:
    """A grammar that one reply's answer follows; `mask` says which tokens may come next, None that any may.

    A reply with thinking may begin with the opening tag or with the answer; the model chooses.
    """

    def __init__(
        self, vocabulary: GrammarVocabulary, matcher: LLMatcher, reply: Detokenizer, field: str, *, thinking: bool
    ) -> None:
        self._vocabulary, self._matcher, self._reply, self._field = vocabulary, matcher, reply, field
        self._opening = vocabulary.opening if thinking else ()  # what of the opening tag may still come
        self._fits = True  # the tokens since the start of the answer, if it is one, fit the grammar
        self._line_breaks = 0  # how many may still come before the answer
        self._reasoned = False
        self._tail = b""  # of the reasoning: where the closing tag may have begun
        reply.must_answer = True
        if not self._opening and not reply.in_reasoning:
            reply.begin_answer()
        self.mask = self._next_mask()

    def take(self, token: int) -> None:
        """Follow a token before its text is parsed; raises GenerationError where the grammar does not allow it."""
        if token in self._vocabulary.end_tokens:
            return
        if self._reply.in_reasoning:
            self._reasoned = True
            self._tail = (self._tail + self._vocabulary.bytes[token])[1 - len(self._vocabulary.closing) :]
            return
        is_opening = token in self._opening[:1]
        self._opening = self._opening[1:] if is_opening else ()
        line_breaks = self._vocabulary.line_breaks.get(token)
        if line_breaks and line_breaks <= self._line_breaks:
            self._line_breaks -= line_breaks
            return
        self._line_breaks = 0
        self._fits = self._fits and self._matcher.try_consume_tokens([token]) == 1
        if not is_opening:
            if not self._fits:
                raise GenerationError(
                    f"{self._field}: token {self._reply.tokens + 1} of the reply does not follow the grammar"
                )
            self._reply.begin_answer()

    def look_ahead(self) -> None:
        """Compute the mask of the next token, once the last one's text is parsed; raises UserError if there is none."""
        if self._reasoned and not self._reply.in_reasoning:
            self._matcher.reset()
            self._reasoned, self._fits, self._opening = False, True, ()
            self._line_breaks = self._vocabulary.max_line_breaks
        self.mask = self._next_mask()

    def _next_mask(self) -> NDArray[np.uint8] | None:
        if self._reply.in_reasoning:
            return self._reasoning_mask()
        mask = self._vocabulary.pack(
            (
                *self._opening[:1],
                *(token for token, count in self._vocabulary.line_breaks.items() if count <= self._line_breaks),
            )
        )
        if self._fits:
            mask |= np.frombuffer(self._matcher.compute_bitmask(), np.uint8)[: mask.size]  # it may be a word longer
            if self._matcher.is_stopped() and not self._matcher.is_accepting():  # the mask would let the reply end
                raise UserError(f"{self._field}: {self._why_stuck()}")
        return mask

    def _why_stuck(self) -> str:
        cause = self._matcher.get_error().partition("\n")[0] or self._matcher.stop_reason()
        if not cause.startswith("NoExtension"):
            return f"is too complex to be followed ({cause}); make it simpler"
        return f"the tokens of this model cannot write what it asks for after token {self._reply.tokens}; change it"

    def _reasoning_mask(self) -> NDArray[np.uint8] | None:
        """Return the mask without the tokens that would end the reasoning and begin the answer at once."""
        closing = self._vocabulary.closing
        begun = (length for length in range(len(closing)) if self._tail.endswith(closing[:length]))
        crossing = [token for length in begun for token in self._vocabulary.crossing(closing[length:])]
        return ~self._vocabulary.pack(tuple(crossing)) if crossing else None
