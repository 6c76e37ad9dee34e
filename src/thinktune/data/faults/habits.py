"""What a file's own rows mostly do, so that a row is judged by its neighbours rather than by a rule for all files."""

from dataclasses import dataclass

from thinktune.data.faults.marks.reply_forms import NO_FORMS, ReplyForms


@dataclass(frozen=True, slots=True)
class Habits:
    """Shares and texts measured from a file's first rows."""

    reply_forms: ReplyForms = NO_FORMS


NO_HABITS = Habits()
