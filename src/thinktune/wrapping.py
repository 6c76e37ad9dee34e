"""Lines for a terminal, broken at words and never inside what a reader copies."""

import re
from itertools import pairwise

from rich.cells import cell_len
from rich.text import Text

HANGING_INDENT = 2  # spaces that the following lines of a broken one begin with, more than the first

# What is pasted stays on one line: the terminal may break it where it likes, which the clipboard does not see.
_COPIED = re.compile(
    r"`[^`]*`|^ *next: .*$"
    r"|(?:(?<=: )|(?<=：)|(?<=^)|(?<=  ))(?:\S*python\S* -m )?(?:thinktune|pip|wandb|swanlab|tensorboard|ollama) .*$"
)
# Where a line may end: at spaces, and between Chinese characters, but not before a mark that closes or after one that
# opens.
_WIDE = "\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef"
_OPENS, _CLOSES = "（“《「", "，。；：、）？！”》」"
_GAP = re.compile(
    rf"(?<=\S) +(?=[^\s{_CLOSES}])"
    rf"|(?<=[{_WIDE}])(?<![{_OPENS}])(?=[^\s{_CLOSES}])"
    rf"|(?<=[^\s{_OPENS}])(?=[{_WIDE}])(?![{_CLOSES}])"
)


def wrap_words(text: str, columns: int) -> str:
    """Break each line that is wider than `columns` cells between words; a wider word gets a line of its own."""
    return wrap_text(Text(text), columns).plain


def wrap_text(text: Text, columns: int) -> Text:
    """Break a styled text as `wrap_words` does."""
    if all(cell_len(line) <= columns for line in text.plain.split("\n")):
        return text
    lines: list[Text] = []
    for line in text.split("\n", allow_blank=True):
        lines += _wrap_line(line, columns)
    wrapped = Text("\n", style=text.style, end=text.end).join(lines)
    wrapped.style = text.style
    return wrapped


def _wrap_line(line: Text, columns: int) -> list[Text]:
    plain = line.plain
    copied = [match.span() for match in _COPIED.finditer(plain)]
    gaps = [gap.span() for gap in _GAP.finditer(plain) if not any(start < gap.end() <= end for start, end in copied)]
    first = len(plain) - len(plain.lstrip(" "))
    indent = " " * min(first + HANGING_INDENT, columns // 2)
    pieces: list[Text] = []
    start = 0
    for (end, following), (next_end, _) in pairwise([*gaps, (len(plain), 0)]):
        used = len(indent) if pieces else 0
        if used + cell_len(plain[start:next_end]) > columns:
            pieces.append(line[start:end])
            start = following
    pieces.append(line[start:])
    return [pieces[0], *(Text(indent) + piece for piece in pieces[1:])]
