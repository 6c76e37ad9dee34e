"""Options of a choice: read from columns or out of the question, matched with the right answer, and asked."""

import ast
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from typing import Any

from thinktune.eval.answer_extraction import OPTION_LETTERS, extract_letters, extract_stated_letters
from thinktune.eval.normalization import fold_compatibility

MIN_OPTIONS, MAX_OPTIONS = 2, len(OPTION_LETTERS)
SHORT_ANSWER_CHARACTERS = 80  # a longer one is searched only for a statement, not for any letter in it
TEXT_KEYS = ("value", "text", "content", "option", "choice", "label_text", "内容")
LABEL_KEYS = ("key", "label", "letter", "id", "index", "选项")


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a question: their texts, and the label by which the row itself names each, such as A or 1.

    They are asked by letters in this order. `listed`: the question shows them already, by these letters.
    `by_text_only`: a label or an index may mean another option than the one it stands by.
    """

    texts: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    listed: bool = False
    by_text_only: bool = False

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def letters(self) -> str:
        """The letters by which they are asked."""
        return OPTION_LETTERS[: len(self.texts)]


NO_OPTIONS = Options()


def read_options(value: Any) -> Options | None:
    """Read options from a list, a mapping by label, lists of texts and labels, or one of these as text.

    Blank ones are left out; the others keep their labels. Returns None where the value has none of these forms.
    """
    if value is None or value == "":
        return NO_OPTIONS
    if isinstance(value, str):
        return _options_of_text(value)
    if isinstance(value, Mapping):
        return _options_of_mapping({str(key): each for key, each in value.items()})
    if not isinstance(value, Iterable):
        return None
    elements: list[Any] = list(value)
    if elements and all(isinstance(each, Mapping) for each in elements):
        return _options_of_objects(elements)
    return _options_of_list(elements)


def _options_of_text(text: str) -> Options | None:
    if text.lstrip()[:1] in ("[", "{"):
        for parse in (json.loads, ast.literal_eval):
            try:
                value = parse(text.strip())
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
            return None if isinstance(value, str) else read_options(value)
    found = find_listed_options(text)
    if found is not None:
        return Options(found.texts, found.labels)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return _options_of_list(lines) if len(lines) >= MIN_OPTIONS else None


def _options_of_mapping(value: Mapping[str, Any]) -> Options | None:
    folded = {key.casefold(): each for key, each in value.items()}
    texts = next((folded[key] for key in ("text", "texts", "choices") if isinstance(folded.get(key), list)), None)
    labels = next((folded[key] for key in ("label", "labels") if isinstance(folded.get(key), list)), None)
    if texts is not None:
        named = labels is not None and len(labels) == len(texts) == len({*map(str, labels)})
        return _keep_filled(zip(texts, labels if named and labels else [""] * len(texts), strict=True))
    ordered = sorted(value.items(), key=lambda each: (len(each[0].strip()), each[0].strip().casefold()))
    short = all(len(key.strip()) <= 2 for key in value)
    return _keep_filled((text, key) for key, text in (ordered if short else value.items()))


def _options_of_objects(elements: Sequence[Mapping[str, Any]]) -> Options | None:
    pairs: list[tuple[Any, Any]] = []
    for element in elements:
        if len(element) == 1:  # {"A": "…"}
            pairs += [(text, key) for key, text in element.items()]
            continue
        key = next((key for key in TEXT_KEYS if key in element), None)
        if key is None:
            return None
        pairs.append((element[key], next((element[name] for name in LABEL_KEYS if name in element), "")))
    return _keep_filled(pairs)


_LABELLED = re.compile(r"\s*[(\[（【]?\s*([A-Za-z]|\d{1,2})\s*[)\]）】.．、:：]\s*(?=\S)")


def _options_of_list(elements: Sequence[Any]) -> Options | None:
    """Read a list of texts; labels that all of them begin with (`A. six`) are taken off."""
    marks = [_LABELLED.match(each) if isinstance(each, str) else None for each in elements]
    labels = [mark[1].upper() if mark else "" for mark in marks]
    if len(labels) >= MIN_OPTIONS and labels in (
        [*OPTION_LETTERS[: len(labels)]],
        [str(number) for number in range(1, len(labels) + 1)],
    ):
        return _keep_filled((each[mark.end() :], mark[1]) for each, mark in zip(elements, marks, strict=True) if mark)
    return _keep_filled((each, "") for each in elements)


def _keep_filled(pairs: Iterable[tuple[Any, Any]]) -> Options | None:
    """Return the options whose text is not blank; None where one is no text or number."""
    kept: list[tuple[str, str]] = []
    for text, label in pairs:
        if text is None or text != text:
            continue
        if not isinstance(text, str | int | float):
            return None
        if str(text).strip():
            kept.append((str(text).strip() if isinstance(text, str) else str(text), str(label).strip()))
    return Options(tuple(text for text, _ in kept), tuple(label for _, label in kept))


_AT_LINE_START = re.compile(
    r"^[ \t>*•-]*(?:[(\[（【]\s?([A-Z])\s?[)\]）】][.．、:：]?|([A-Z])\s?[.．、:：)）])\**[ \t]*", re.MULTILINE
)
_BRACKETED = re.compile(r"[(\[（【]\s?([A-Z])\s?[)\]）】][.．、:：]?[ \t]*")
_INLINE = re.compile(r"(?<![A-Za-z0-9'.(（])([A-Z])\s?[.．、:：)）][ \t]*(?![.．])")
_LOWER_AT_LINE_START = re.compile(r"^[ \t>*•-]*(?:[(（]([a-z])[)）]|([a-z])[.)）])[ \t]*", re.MULTILINE)


def find_listed_options(text: str) -> Options | None:
    """Find the options that a question lists, by letters from A in order; None where it lists none.

    Of several lists the last one counts. Options stand on lines of their own, or one after the other in a line.
    """
    for pattern in (_AT_LINE_START, _BRACKETED, _INLINE, _LOWER_AT_LINE_START):
        marks = _last_list(list(pattern.finditer(text)))
        if len(marks) < MIN_OPTIONS:
            continue
        ends = [*(mark.start() for mark in marks[1:]), _end_of_last(text, marks)]
        texts = tuple(
            text[mark.end() : end].strip().strip(";；,，。*.").strip() for mark, end in zip(marks, ends, strict=True)
        )
        if all(texts) and len({*texts}) == len(texts):
            return Options(texts, tuple(OPTION_LETTERS[: len(texts)]), listed=True)
    return None


def _letter(mark: re.Match[str]) -> str:
    return next(group for group in mark.groups() if group).upper()


def _last_list(marks: Sequence[re.Match[str]]) -> list[re.Match[str]]:
    """Return the last run of marks that are lettered from A in order."""
    last: list[re.Match[str]] = []
    run: list[re.Match[str]] = []
    for mark in marks:
        letter = _letter(mark)
        if letter == "A":
            run = [mark]
        elif run and len(run) < MAX_OPTIONS and letter == OPTION_LETTERS[len(run)]:
            run.append(mark)
        if len(run) >= MIN_OPTIONS:
            last = run
    return last


def _end_of_last(text: str, marks: Sequence[re.Match[str]]) -> int:
    """Return where the last option ends: at an empty line if an option has several lines, else at its line's end."""
    longer = any("\n" in text[one.end() : other.start()].strip() for one, other in pairwise(marks))
    end = text.find("\n\n" if longer else "\n", marks[-1].end())
    return len(text) if end < 0 else end


def plain(text: str) -> str:
    """Return a text as options are compared: without case, width, white space and a full stop at its end."""
    return " ".join(fold_compatibility(text).casefold().split()).rstrip(" .。")


def merge_listed(question: str, options: Options) -> Options:
    """Return a question's options as it lists them itself, where it shows those of its own columns already.

    Other options than the question's are returned unchanged. If the two orders differ, a letter or an index may mean
    either, and the right option is found by its text alone.
    """
    listed = find_listed_options(question)
    if listed is None or len(listed) != len(options):
        return options
    places = {plain(text): place for place, text in enumerate(options.texts)}
    if len(places) != len(options) or any(plain(text) not in places for text in listed.texts):
        return options
    order = [places[plain(text)] for text in listed.texts]
    texts = tuple(options.texts[place] for place in order)
    if order != sorted(order):
        return Options(texts, listed.labels, listed=True, by_text_only=True)
    return Options(texts, options.labels, listed=True)


def shuffle_by_hash(question: str, options: Options) -> Options:
    """Return options in an order that depends on the texts alone, so that the right one has no place of its own."""

    def key(text: str) -> bytes:
        return blake2b(f"{question}\0{text}".encode("utf-8", "surrogatepass"), digest_size=8).digest()

    return Options(tuple(sorted(options.texts, key=key)), ("",) * len(options))


def find_right_letters(value: Any, options: Options, index_from: int = 0) -> str:
    """Find the letters of the right options, as the row's answer names them; "" where it names none for sure.

    An answer is an option's text, its own label, letters, an index from `index_from`, a list of these, or a short
    sentence that states a letter.
    """
    if len(options) > MAX_OPTIONS:
        return ""
    if isinstance(value, list | tuple):
        found = [find_right_letters(each, options, index_from) for each in value]
        return "".join(sorted({*"".join(found)})) if found and all(found) else ""
    if isinstance(value, int) and not isinstance(value, bool):
        labelled, place = _by_label(str(value), options), value - index_from
        if options.by_text_only:
            return ""
        return labelled or (options.letters[place] if 0 <= place < len(options) else "")
    text = str("" if value is None else value).strip()
    if text in options.texts:
        return options.letters[options.texts.index(text)]
    if not options.by_text_only and (labelled := _by_label(text, options)):
        return labelled
    same = [
        letter for letter, option in zip(options.letters, options.texts, strict=True) if plain(option) == plain(text)
    ]
    if len(same) == 1 and plain(text):
        return same[0]
    return "" if options.by_text_only else _letters_of_text(text, options, index_from)


def _by_label(text: str, options: Options) -> str:
    """Return the letter of the option whose own label a text is."""
    matching = [
        letter
        for letter, label in zip(options.letters, options.labels, strict=True)
        if label and label.casefold() == text.casefold().strip("()[]（）.")
    ]
    return matching[0] if len(matching) == 1 else ""


def _letters_of_text(text: str, options: Options, index_from: int) -> str:
    own = [label.upper() for label in options.labels if label]
    known = own if len(own) == len(options) and all(label in OPTION_LETTERS for label in own) else [*options.letters]
    letters = sorted({*re.sub(r"[,，、;；/|\s]", "", text.upper())})
    if letters and {*letters} <= {*known}:
        return "".join(sorted(options.letters[known.index(letter)] for letter in letters))
    if text.isdigit() and len(text) <= 2 and 0 <= int(text) - index_from < len(options):
        return options.letters[int(text) - index_from]
    if known != [*options.letters]:
        return ""  # a letter in a sentence would be another option's
    extract = extract_letters if len(text) <= SHORT_ANSWER_CHARACTERS else extract_stated_letters
    return extract(text, options.texts)
