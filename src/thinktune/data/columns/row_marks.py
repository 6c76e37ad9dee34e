"""What a row says about itself beside its texts: a mark that its reply is bad, and media that its texts need."""

import re
from collections.abc import Iterator
from typing import Any

from thinktune.data.columns.content import is_word, media_kind
from thinktune.data.columns.fields import short_repr
from thinktune.data.columns.mapping import ColumnMapping, names_of, unused_values
from thinktune.data.columns.message_names import MESSAGE_KEYS, ROLE_ALIASES, is_blank, normalize_key
from thinktune.data.columns.paths import value_at
from thinktune.data.types import Finding, RawRow

_TRUE = frozenset(("true", "yes", "1", "good", "chosen", "desirable", "correct", "是", "对", "正确"))


_FALSE = frozenset(("false", "no", "0", "bad", "rejected", "undesirable", "incorrect", "wrong", "否", "错", "错误"))


MEDIA_NAMES = {
    **dict.fromkeys(("image", "images", "img", "imgs", "picture", "pictures", "photo", "photos"), "image"),
    **dict.fromkeys(("image_path", "image_paths", "image_url", "image_urls", "image_file", "pixel_values"), "image"),
    **dict.fromkeys(("图片", "图像", "照片", "影像"), "image"),
    **dict.fromkeys(("audio", "audios", "audio_path", "speech", "wav", "音频", "语音"), "audio"),
    **dict.fromkeys(("video", "videos", "video_path", "clip", "视频"), "video"),
}


# Where a medium stands in a text, as LLaMA-Factory, ms-swift, LLaVA and Qwen-VL write it. At an end of the text or on a
# line of its own; elsewhere the text may speak about HTML or SVG.
_MARK = (
    r"<(?:\|?(?:vision_start|image_pad|video_pad|audio_bos|audio_pad|image_1)\|?"
    r"|\|?(?:image|video|audio)[ _-]?\d{0,3}\|?|ImageHere|img)>"
)


_MARK_AT_EDGE = re.compile(rf"(?:\A|\n)\s{{0,9}}{_MARK}|{_MARK}\s{{0,9}}(?:\Z|\n)", re.IGNORECASE)


def truth_of(value: Any) -> bool | None:
    """Return what a mark of a row says, true or false; None where it is neither."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float) and value in (0, 1):
        return value == 1
    word = value.strip().casefold() if isinstance(value, str) else ""
    return True if word in _TRUE else False if word in _FALSE else None


def find_row_marks(row: RawRow, mapping: ColumnMapping) -> Iterator[Finding]:
    """Yield a finding where the row's label calls its reply bad, and where the row has or needs media."""
    columns = row.columns or {}
    if mapping.label is not None and not is_blank(value := columns.get(mapping.label)):
        truth = truth_of(value)
        if truth is None:
            what = f"{mapping.label}: is {short_repr(value)}; write true or false, or leave it empty"
            yield Finding("unreadable", f"{row.source}: {what}")
        elif not truth:
            yield Finding(
                "marked_bad", f"{row.source}: {mapping.label}: is {short_repr(value)}, so the reply is a bad one"
            )
    if found := next(_media(columns, mapping), None):
        yield Finding("media", f"{row.source}: {found}")


def _medium(name: str, value: Any) -> str | None:
    """Return the kind of medium that a value is, by its bytes or by its column's name.

    A path to an image under another name may as well say where a text was scanned.
    """
    content = media_kind(value)
    if content is not None and not isinstance(value[0] if isinstance(value, list) else value, str):
        return content
    kind = MEDIA_NAMES.get(normalize_key(name))
    if kind is None or isinstance(value, bool | int | float):
        return None
    return kind if content or not isinstance(value, str) or is_word(value.strip()) else None  # else words about it


def _media(columns: dict[str, Any], mapping: ColumnMapping) -> Iterator[str]:
    """Yield `field: what is there` for a row's media: columns that are not ignored, and marks in its prompt."""
    for name, value in unused_values(columns, mapping):
        if name in mapping.ignored or is_blank(value):
            continue
        if (kind := _medium(name, value)) is not None:
            what = {"image": "an image", "audio": "audio", "video": "a video"}[kind]
            yield f"{name}: holds {what} ({short_repr(value)}), which is not trained"
    for name in (*names_of(mapping.question), *names_of(mapping.input), *names_of(mapping.messages)):
        for field, text in _prompt_texts(value_at(columns, name), name):
            if "<" in text and (found := _MARK_AT_EDGE.search(text)) and not _is_html(text, found[0]):
                yield f"{field}: needs the image, audio or video at {found[0].strip()}, which is not trained"


def _is_html(text: str, mark: str) -> bool:
    return mark.strip().replace("<", "</").lower() in text.lower()


def _prompt_texts(value: Any, field: str) -> Iterator[tuple[str, str]]:
    """Yield the texts of a prompt, of all messages but the assistant's, with their fields."""
    if isinstance(value, str):
        yield field, value
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from _prompt_texts(part, f"{field}[{index}]")
    elif isinstance(value, dict):
        roles = [part for key, part in value.items() if MESSAGE_KEYS.get(normalize_key(key)) == "role"]
        if roles and isinstance(roles[0], str) and ROLE_ALIASES.get(roles[0].strip().lower()) == "assistant":
            return
        for key, part in value.items():
            if isinstance(part, str | list) and normalize_key(key) != "assistant":
                yield from _prompt_texts(part, f"{field}.{key}")
