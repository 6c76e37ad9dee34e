"""Change single settings in a recipe's text, so that everything else of it stays: comments, order, other spellings."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from thinktune.config.loading import dump_values
from thinktune.config.strict_yaml import YamlSyntaxError, parse_yaml
from thinktune.errors import UserError

Keys = Sequence[str]


def edit_recipe(text: str, changes: Mapping[str, Any]) -> str:
    """Set settings of a YAML text by their keys, as in `data.faults.duplicate`; None takes a setting out.

    What the settings' own lines do not hold stays as it is. Raises UserError where the text is not YAML, is written so
    that it cannot be changed in place (an alias, a tag), or where a comment inside of a section would be lost.
    """
    for key, value in changes.items():
        before = _values(text)
        wanted = _changed(before, key.split("."), value)
        if wanted == before:
            continue
        edited = _set(text, key.split("."), value) if value is not None else _remove(text, key.split("."))
        if edited is None or _values(edited, edited=True) != wanted:
            raise UserError(f"{key}: is written in a form that cannot be changed here; change it in the recipe's text")
        text = edited
    return text


def _values(text: str, *, edited: bool = False) -> Any:
    """Return a text's values; raises UserError where it is not YAML, None of a text that an edit broke."""
    try:
        held = parse_yaml(text).value
    except YamlSyntaxError as error:
        if edited:
            return None
        raise UserError(f"{f'line {error.line}: ' if error.line else ''}is not YAML ({error}); correct it") from None
    return {} if held is None else held


def _changed(tree: Any, keys: Keys, value: Any) -> Any:
    """Return a tree with a setting set, or taken out along with sections that are empty then."""
    name, *below = keys
    if isinstance(tree, list) and name.isdecimal() and int(name) < len(tree):
        return [_changed(item, below, value) if place == int(name) else item for place, item in enumerate(tree)]
    held = dict(tree) if isinstance(tree, dict) else {}
    inner = _changed(held.get(name), below, value) if below else value
    if inner is None or (below and value is None and inner == {}):
        held.pop(name, None)
    else:
        held[name] = inner
    return held


def _compose(text: str) -> Any:
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:  # what the strict reader takes, PyYAML's composer may not: an unknown alias
        return None


def _entry(node: Any, name: str) -> tuple[Any, Any] | None:
    """Return the nodes of a setting's key and value; of a list, its item twice."""
    if isinstance(node, yaml.SequenceNode) and name.isdecimal() and int(name) < len(node.value):
        return node.value[int(name)], node.value[int(name)]
    if isinstance(node, yaml.MappingNode):
        return next(((key, value) for key, value in node.value if key.value == name), None)
    return None


def _set(text: str, keys: Keys, value: Any) -> str | None:
    node = _compose(text)
    if node is None:
        return _append(text, keys, value)
    for depth, name in enumerate(keys):
        found = _entry(node, name)
        if found is None:
            return _add(text, node, keys[depth:], value, is_root=depth == 0)
        key, node = found
        if depth == len(keys) - 1 or _is_nothing(node):
            return _replace(text, (keys[: depth + 1], key, node), _nested(keys[depth + 1 :], value))
    return None


def _is_nothing(node: Any) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.start_mark.index == node.end_mark.index


def _nested(keys: Keys, value: Any) -> Any:
    for name in reversed(keys):
        value = {name: value}
    return value


def _replace(text: str, setting: tuple[Keys, Any, Any], value: Any) -> str:
    """Put a value, in one line, into the place of a setting's node; of a block below its key, beside the key.

    A setting is its keys from the outside in, and the nodes of its own key and its value.
    """
    keys, key, node = setting
    start, end = node.start_mark.index, _end(node, text)
    if _is_nothing(node):  # its mark may stand lines below
        start = end = text.index(":", key.end_mark.index) + 1
    elif not getattr(node, "flow_style", True) or getattr(node, "style", None) in ("|", ">"):
        start = text.index(":", key.end_mark.index) + 1
    _keep_comments(text, start, end, keys)
    spaced = "" if text[start - 1] == " " else " "
    return f"{text[:start]}{spaced}{_spell(value)}{text[end:]}"


def _keep_comments(text: str, start: int, end: int, keys: Keys) -> None:
    """Raise UserError where a comment stands between two places of a text that are about to be overwritten."""
    if "#" not in text[start:end]:
        return
    scalars = [
        (token.start_mark.index, token.end_mark.index)
        for token in yaml.scan(text, Loader=yaml.SafeLoader)
        if isinstance(token, yaml.ScalarToken)
    ]
    marks = (place for place in range(start, end) if text[place] == "#")
    if any(not any(first <= place < last for first, last in scalars) for place in marks):
        key = ".".join(keys)
        raise UserError(f"{key}: holds a comment, which would be lost here; change it in the recipe's text")


def _spell(value: Any) -> str:
    return dump_values({"x": value}).strip().partition(":")[2].strip()


def _add(text: str, node: Any, keys: Keys, value: Any, *, is_root: bool) -> str | None:
    """Add a setting to a section: below its last line, or inside of its braces."""
    if not isinstance(node, yaml.MappingNode):
        return None
    if node.flow_style:
        end = node.end_mark.index - 1
        inside = text[node.start_mark.index + 1 : end]
        comma = ", " if inside.strip() and not inside.rstrip().endswith(",") else ""
        entry = dump_values({keys[0]: _nested(keys[1:], value)}).strip()
        kept = text[:end].rstrip() if "\n" not in inside else text[:end]
        return f"{kept}{comma}{entry}{text[end:]}"
    if is_root and len(keys) > 1:
        return _append(text, keys, value)
    end = _end_of_line(text, _end(node, text))
    entry = dump_values({keys[0]: _nested(keys[1:], value)}).strip()
    return f"{text[:end]}{_newline(text)}{' ' * node.start_mark.column}{entry}{text[end:]}"


def _append(text: str, keys: Keys, value: Any) -> str:
    """Add a new section below everything."""
    newline = _newline(text)
    ended = text if not text or text.endswith("\n") else f"{text}{newline}"
    gap = newline if ended.strip() else ""
    if len(keys) == 1:
        return f"{ended}{gap}{dump_values({keys[0]: value}).strip()}{newline}"
    entry = dump_values({keys[1]: _nested(keys[2:], value)}).strip()
    return f"{ended}{gap}{keys[0]}:{newline}  {entry}{newline}"


def _remove(text: str, keys: Keys) -> str | None:
    """Take a setting's lines out, and its section's if nothing else is in it."""
    path: list[tuple[Any, Any, Any]] = []  # of mappings from the outside in, each with the key and value inside
    node = _compose(text)
    for name in keys:
        found = _entry(node, name)
        if found is None:
            return text
        path.append((node, *found))
        node = found[1]
    holder, key, node = path.pop()
    while path and len(holder.value) == 1 and not isinstance(path[-1][0], yaml.SequenceNode):
        holder, key, node = path.pop()
    if not isinstance(holder, yaml.MappingNode):
        return None
    keys = keys[: len(path) + 1]  # of what is taken out, a setting or a section
    if holder.flow_style:
        _keep_comments(text, holder.start_mark.index, holder.end_mark.index, keys)
        others = [(one, other) for one, other in holder.value if one is not key]
        entries = (text[one.start_mark.index : _end(other, text)] for one, other in others)
        return f"{text[: holder.start_mark.index]}{{{', '.join(entries)}}}{text[holder.end_mark.index :]}"
    start = text.rfind("\n", 0, key.start_mark.index) + 1
    if text[start : key.start_mark.index].strip():  # the first key of a list's item
        return None
    end = text.index(":", key.end_mark.index) + 1 if _is_nothing(node) else _end(node, text)
    _keep_comments(text, start, end, keys)  # one beside the setting, in its last line, goes with it
    end = _end_of_line(text, end)
    return text[:start] + text[end + 1 if text[end : end + 1] == "\n" else end + 2 :]


def _end(node: Any, text: str) -> int:
    """Return where a node's text ends: PyYAML's mark of a block is where the next one begins."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        if isinstance(last, tuple):
            key, value = last
            return text.index(":", key.end_mark.index) + 1 if _is_nothing(value) else _end(value, text)
        return _end(last, text)
    end = node.end_mark.index
    if isinstance(node, yaml.ScalarNode) and node.style in ("|", ">"):
        return len(text[:end].rstrip())
    return end


def _end_of_line(text: str, place: int) -> int:
    """Return where a line ends, before its line break."""
    end = text.find("\n", place)
    end = len(text) if end < 0 else end
    return end - 1 if text[end - 1 : end] == "\r" else end


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"
