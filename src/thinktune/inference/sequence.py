"""A request that is being answered: its tokens so far, and whoever waits for its pieces."""

from collections.abc import Sequence

from thinktune.inference.replies import Detokenizer
from thinktune.inference.requests import GenerationError
from thinktune.inference.sampling.answer_tokens import RankedToken
from thinktune.inference.sampling.constraint import AnswerConstraint
from thinktune.inference.sampling.sampler import NO_TOKEN, Sampler
from thinktune.inference.streaming import EventQueue


class SequenceState:
    """One request in the queue or in the batch: its tokens so far, its sampler and detokenizer, and its event queue.

    `cancelled` may be set by any thread; the row in the cache is freed at the next token. `constraint` holds its answer
    to a grammar.
    """

    def __init__(
        self, prompt: Sequence[int], detokenizer: Detokenizer, events: EventQueue, *, index: int, streamed: bool
    ) -> None:
        self.ids, self.prompt_tokens = list(prompt), len(prompt)
        self.detokenizer = detokenizer
        self.sampler = Sampler(detokenizer.sampling, self.ids, self.prompt_tokens)
        self.cancelled = False
        self.constraint: AnswerConstraint | None = None
        self._events, self._index, self._streamed = events, index, streamed

    def follow(self, constraint: AnswerConstraint) -> None:
        """Hold its answer to a grammar; to be called before its first token."""
        self.constraint, self.sampler.mask = constraint, constraint.mask

    def cancel(self) -> None:
        """Ask for its end."""
        self.cancelled = True

    @property
    def is_finished(self) -> bool:
        """True once no more tokens are to be generated."""
        return self.cancelled or self.detokenizer.finish_reason is not None

    def append_token(self, sampled: int, ranks: RankedToken | None = None) -> None:
        """Append the next token and deliver the pieces that are final; raises GenerationError if it is `NO_TOKEN`."""
        if sampled == NO_TOKEN:
            raise GenerationError(
                f"model: no finite logits (NaN or infinity) at token {self.detokenizer.tokens + 1} of a reply; "
                "its weights are damaged, or training has ruined them: download the model again, or use another run"
            )
        token = self.detokenizer.next_token(sampled)
        self.ids.append(token)
        if self.constraint:
            self.constraint.take(token)
        pieces = self.detokenizer.append(token, ranks if token == sampled else None)
        if pieces and self._streamed:
            self._events.put((self._index, pieces))
        if self.constraint and not self.detokenizer.finish_reason:
            self.constraint.look_ahead()
            self.sampler.mask = self.constraint.mask
        if self.detokenizer.finish_reason:
            self._events.put((self._index, self.detokenizer.completion()))

    def fail(self, error: Exception) -> None:
        """End it with an error, which its caller raises."""
        self.cancelled = True
        self._events.put((self._index, error))
