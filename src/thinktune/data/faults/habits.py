"""What a file's own rows mostly do, so that a row is judged by its neighbours rather than by a rule for all files."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from thinktune.data.faults.endings import is_prose, stops
from thinktune.data.faults.marks.reply_forms import NO_FORMS, ReplyForms, measure_reply_forms
from thinktune.data.faults.repairs import comparison_key
from thinktune.tokenization import Example

MIN_OTHERS = 3  # texts of a column that show a habit


MIN_STOP_SHARE = 0.9  # of the other texts, from which one without a stop is odd


MAX_SHARED_CHARACTERS = 120  # longer reasoning that rows share is a method, or a copy of the row


MIN_SHARED_ROWS, MIN_SHARED_SHARE = 3, 0.2  # that have the same short reasoning and other answers


MANY_SHARED_ROWS = 10  # enough whatever their share is


@dataclass(frozen=True, slots=True)
class TextHabit:
    """How the texts of one field end: of `texts` longer ones, `stopped` end in a stop."""

    texts: int = 0
    stopped: int = 0

    def expects_stop(self, min_others: int = MIN_OTHERS, min_share: float = MIN_STOP_SHARE) -> bool:
        """Return True if nearly all others end in a stop; the text that is judged is one of them and has none."""
        others = self.texts - 1
        return others >= min_others and self.stopped >= min_share * others


@dataclass(frozen=True, slots=True)
class Habits:
    """Counts and texts measured from a file's first rows: of `replies`, the answers that end or look in some way.

    `shared_reasoning` holds comparison keys of short reasoning that several rows with different answers have.
    """

    replies: int = 0
    answers: TextHabit = TextHabit()
    reasoning: TextHabit = TextHabit()
    colon_answers: int = 0
    comma_answers: int = 0
    one_character_answers: int = 0
    shared_reasoning: frozenset[str] = frozenset()
    reply_forms: ReplyForms = NO_FORMS


NO_HABITS = Habits()


def measure_habits(examples: Iterable[Example]) -> Habits:
    """Measure the habits of sample rows by their trained replies."""
    turns = [turn for example in examples for turn in example.turns if turn.is_trained_reply]
    answers = [turn.content.strip() for turn in turns]
    reasoning = [turn.reasoning.strip() for turn in turns]
    return Habits(
        replies=len(turns),
        answers=_text_habit(answers),
        reasoning=_text_habit(reasoning),
        colon_answers=sum(answer.endswith((":", "：")) for answer in answers),
        comma_answers=sum(answer.endswith((",", "，", "、")) for answer in answers),
        one_character_answers=sum(len(answer) == 1 for answer in answers),
        shared_reasoning=_shared_reasoning(answers, reasoning),
        reply_forms=measure_reply_forms((turn.content, turn.has_reasoning) for turn in turns),
    )


def _text_habit(texts: Iterable[str]) -> TextHabit:
    prose = [text for text in texts if is_prose(text)]
    return TextHabit(len(prose), sum(map(stops, prose)))


def _shared_reasoning(answers: Iterable[str], reasoning: Iterable[str]) -> frozenset[str]:
    """Return short reasoning that goes with several answers, so that it says nothing about any of them."""
    counts, answers_of = Counter[str](), defaultdict[str, set[str]](set)
    for answer, text in zip(answers, reasoning, strict=True):
        if text and len(text) <= MAX_SHARED_CHARACTERS:
            key = comparison_key(text)
            counts[key] += 1
            answers_of[key].add(comparison_key(answer))
    enough = min(max(MIN_SHARED_ROWS, MIN_SHARED_SHARE * counts.total()), MANY_SHARED_ROWS)
    return frozenset(key for key, count in counts.items() if min(count, len(answers_of[key])) >= enough)
