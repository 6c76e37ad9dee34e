"""Remedies that sentences propose, read as a person would follow them, and followed."""

import re
from itertools import zip_longest

import yaml

from support.runs import settings
from thinktune.data.pipeline import prepare_with_faults
from thinktune.errors import UserError

KEY = re.compile(r"data\.(columns\.\w+(?=: \w)|columns(?=: \{)|ignore(?=: \[)|faults(?=: \{)|max_tokens(?=: \d)): ")
CLOSING = {"{": "}", "[": "]"}


def options_in(sentence):
    """Return the changes of data's settings that a sentence offers, as dicts; what only describes is none."""
    options, end = [], None
    for found in KEY.finditer(sentence):
        if sentence[: found.start()].endswith("read as ") or (end is not None and found.start() < end):
            continue
        text = _value(sentence, found.end())
        before = sentence[end : found.start()] if end is not None else ""
        end = found.end() + len(text)
        if "…" in text:
            continue
        key, value = found[1], yaml.safe_load(text)
        if key.startswith("columns."):
            key, value = "columns", {key.removeprefix("columns."): value}
        if before == " and " and options:
            options[-1][key] = value
        else:
            options.append({key: value})
    return options


def _value(sentence, start):
    """Return a flow value's text: up to its closing bracket, or one word."""
    if sentence[start] not in CLOSING:
        return re.match(r"[\w.-]+", sentence[start:])[0]
    depth, quote = 0, ""
    for place in range(start, len(sentence)):
        letter = sentence[place]
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "[{":
            depth += 1
        elif letter in "]}":
            depth -= 1
            if not depth:
                return sentence[start : place + 1]
    raise AssertionError(f"no closing bracket in {sentence[start:]!r}")


def outcome(tree, tokenizer, **data):
    """Return the rows left and the sentences that stop a run."""
    tree = {**tree, "data": {**tree["data"], "columns": {}, "ignore": [], "validation": 0.0, "max_tokens": 2048}}
    try:
        prepared = prepare_with_faults(settings(tree, data=data), tokenizer)
    except UserError as error:
        return 0, error.faults
    return prepared.summary["train_rows"], list(prepared.stop_reasons)


def follow_advice(tree, tokenizer, **data):
    """Follow every option of a stopped run's sentences, each with the first ones of the others.

    Return a list of (option, rows left, sentences), empty where the run is not stopped or nothing is offered.
    """
    _, sentences = outcome(tree, tokenizer, **data)
    if not sentences:
        return []
    offers = [found for sentence in sentences if (found := options_in(sentence))]
    followed = []
    for choice in zip_longest(*offers):
        changed = dict(data)
        for place, option in enumerate(choice):
            for key, value in (option or offers[place][0]).items():
                merged = isinstance(value, dict) and key == "faults"
                changed[key] = {**changed.get(key, {}), **value} if merged else value
        followed.append((changed, *outcome(tree, tokenizer, **changed)))
    return followed
