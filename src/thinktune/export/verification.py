"""The check of an export: an engine that has loaded it answers the same questions, and is held to our own answers.

Prompts must have the same tokens in every form. What our model says next and what the export says next may differ by no
more than a few times what rounding to that form changes in our own model (mean KL divergence). In forms that are not
quantized, a reply may part from ours only where our own best tokens are closer together than the export's rounding.
And a reply must end where ours does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from thinktune.errors import UserError, shorten_error
from thinktune.export.questions import Question
from thinktune.export.reference import Answer, Logits, Reference, mean_kl
from thinktune.export.rounding import quantized_bits
from thinktune.progress import ProgressReporter, Say
from thinktune.tokenization import ChatTokenizer, Turn

# An engine also rounds where our measurement does not: in its cache, in tables of functions, in its order of sums.
KL_MARGIN = 4.0
MAX_KL = 0.3  # nats a token: beyond it an export is another model, whatever its rounding explains
MIN_KL = 1e-5  # nats a token: below what any reader notices, and above what fp32 in another order makes
SHOWN_CHARACTERS = 60
# Kinds of text that tokenizers cut differently: numbers, contractions, spaces, line ends, scripts, emoji, code.
PROBE_TEXTS = (
    "In 1998, 12345678 of 3.1415926 units: 7 + 42 = 49",
    "I'm sure they'll say it's what we'd've done; DON'T they've",
    "a  b   c    d\te\t\tf",
    "one\ntwo\n\nthree\r\nfour\n\n\n  five \n",
    " leading and trailing  ",
    "心脏把血液泵到全身，每分钟约70次。“为什么？”",
    "これはテストです。カタカナ、漢字、ひらがな。",
    "안녕하세요 세계",
    "Привет, мир! Ёлка и съезд",
    "naïve façade Straße œuvre İstanbul",
    "🎂👩‍👩‍👧‍👦 🇨🇳 ✅→≤≠∞",
    "for (int i=0; i<10; ++i) { x[i] += 0x1F; } // done",
    "https://example.org/a_b?c=d&e=%20#f  user@example.org",
    "ABCdef GHIjkl_mnoPQR snake_case camelCase",
    "$\\frac{1}{2}$ … — ‘quoted’ «guillemets»",
    "ภาษาไทย हिन्दी العربية עברית",
)


class Asked(Protocol):
    """An engine that has loaded an export: its own chat template, tokenizer, forward pass and end tokens."""

    def render(self, turns: Sequence[Turn], *, thinking: bool) -> str:
        """Return the text of a conversation up to the reply, by the export's own chat template."""
        ...

    def tokenize(self, text: str) -> list[int]:
        """Return the tokens of such a text, by the engine's own tokenizer; control tokens in it take effect."""
        ...

    def logits(self, ids: Sequence[int]) -> Logits:
        """Return the logits (len(ids), vocabulary) fp32 after each token."""
        ...

    def reply(self, ids: Sequence[int], max_new_tokens: int) -> list[int]:
        """Return the greedy reply to a prompt, up to one of the export's own end tokens, which is included."""
        ...

    def close(self) -> None:
        """Free the model."""
        ...


@dataclass(frozen=True, slots=True)
class Difference:
    """Where an export's reply parts from ours: the question, the token's number from 0, and both texts from there.

    `gap` is how far apart our own logits of the two tokens are.
    """

    question: str
    position: int
    ours: str
    theirs: str
    gap: float


@dataclass(frozen=True, slots=True)
class Verification:
    """What the check of an export found; `faults` say what is wrong, and are empty where nothing is.

    `kl` is the mean KL divergence from ours in nats a token, infinite where the export does not end a reply at our end
    token, `kl_limit` the most that rounding explains. `rounding` is the largest change of a logit, relative to the best
    one's, among our best tokens, at tokens that no reply parts at.
    """

    questions: int
    held_out: int
    equal: int
    other_mode: int
    ends: int
    first: Difference | None
    kl: float
    kl_limit: float
    rounding: float
    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Heard:
    """One answer by the export: its own prompt, its reply, and its logits (n, vocabulary) at our reply's tokens."""

    prompt: list[int]
    reply: list[int]
    logits: Logits


def verify_export(name: str, form: str, asked: Asked, reference: Reference, say: Say) -> Verification:
    """Ask an export the questions of a reference, and compare.

    Args:
        name: of the target, for sentences.
        form: how the target's weights are stored: f32 (or as the model has them), f16, bf16, fp8, or a kind of ggml's.
        asked: the engine that has loaded it.
        reference: our own answers, with the rounding of this form.
        say: told the progress.
    """
    limit = min(MAX_KL, max(MIN_KL, KL_MARGIN * reference.rounding_kl[form]))
    faults = _tokenization_faults(name, asked, reference)
    progress = ProgressReporter(say, f"questions answered by {name}", len(reference.answers))
    heard: list[_Heard] = []
    for done, answer in enumerate(reference.answers, 1):
        heard.append(_ask(answer, asked, reference.tokenizer))
        progress.update(done)
    widths = {each.logits.shape[1] for each in heard} | {reference.answers[0].logits.shape[1]}
    if len(widths) > 1:
        ours = reference.answers[0].logits.shape[1]
        faults.append(f"it scores {max(widths - {ours}):,} tokens, and the model has {ours:,}")
        return _result(reference, heard, (inf, limit, inf), None, faults)
    if not all(np.isfinite(each.logits).all() for each in heard):
        faults.append("its logits are not finite (NaN or infinity)")
        return _result(reference, heard, (inf, limit, inf), None, faults)
    end_faults = _end_faults(asked, reference, heard)
    kl = _mean_kl(reference, heard) if not end_faults else inf
    faults += end_faults
    if limit < kl < inf:
        faults.append(
            f"its next tokens differ from the model's: its mean KL divergence is {kl:.2g} nats a token, and the "
            f"rounding of {form} explains at most {limit:.2g}"
        )
    apart = [_parting(answer, each.reply) for answer, each in zip(reference.answers, heard, strict=True)]
    rounding = _rounding(reference, heard, apart)
    parted = [
        _difference(answer, each.reply, position, reference.tokenizer)
        for answer, each, position in zip(reference.answers, heard, apart, strict=True)
        if position is not None
    ]
    if quantized_bits(form) is None:
        faults += [
            f"its reply to {_shown(each.question)} differs from the model's at token {each.position} (the model: "
            f"{_shown(each.ours)}, it: {_shown(each.theirs)}), where the model's two tokens are {each.gap:.2g} apart "
            f"and its rounding is {rounding:.2g}"
            for each in parted
            if not each.gap <= rounding
        ][:1]
    return _result(reference, heard, (kl, limit, rounding), parted[0] if parted else None, faults)


def own_prompt(question: Question, asked: Asked, tokenizer: ChatTokenizer) -> list[int]:
    """Return a question's prompt by the export's own template and tokenizer.

    Where our tokenizer normalizes text first (NFC) and the engine's does not, it is given the normalized text.
    """
    text = asked.render(question.turns, thinking=question.thinking)
    ids = asked.tokenize(text)
    normalizer = tokenizer.backend_tokenizer.normalizer
    if tuple(ids) != question.prompt and normalizer and (normal := normalizer.normalize_str(text)) != text:
        changed = asked.tokenize(normal)
        return changed if tuple(changed) == question.prompt else ids
    return ids


def _ask(answer: Answer, asked: Asked, tokenizer: ChatTokenizer) -> _Heard:
    prompt = own_prompt(answer.question, asked, tokenizer)
    reply = asked.reply(prompt, len(answer.reply) + (1 if answer.ended else 0))
    logits = asked.logits([*prompt, *answer.reply[:-1]])[len(prompt) - 1 :]
    return _Heard(prompt, reply, logits)


def _tokenization_faults(name: str, asked: Asked, reference: Reference) -> list[str]:
    """Describe the first prompt, in either mode, and the first probe text whose tokens are not ours."""
    faults: list[str] = []
    tokenizer = reference.tokenizer
    for question in (*(answer.question for answer in reference.answers), *reference.other_mode):
        try:
            prompt = own_prompt(question, asked, tokenizer)
        except Exception as error:  # engines raise their own, and Jinja's
            raise UserError(
                f"{name}: its chat template refuses {_shown(question.text)} ({shorten_error(error)})"
            ) from error
        if tuple(prompt) != question.prompt:
            mode = "with" if question.thinking else "without"
            faults.append(
                f"its prompt for {_shown(question.text)} {mode} thinking has other tokens than the model's: "
                f"{_parted_tokens(question.prompt, prompt, tokenizer)}"
            )
            break
    backend = tokenizer.backend_tokenizer
    for text in PROBE_TEXTS:
        ours = backend.encode(text, add_special_tokens=False).ids
        if backend.normalizer and backend.normalizer.normalize_str(text) != text:
            text = backend.normalizer.normalize_str(text)
        theirs = asked.tokenize(text)
        if theirs != ours:
            faults.append(f"its tokenizer splits {_shown(text)} differently: {_parted_tokens(ours, theirs, tokenizer)}")
            break
    return faults


def _end_faults(asked: Asked, reference: Reference, heard: Sequence[_Heard]) -> list[str]:
    """Describe the first reply that ends where the other's goes on with the same tokens so far."""
    for answer, each in zip(reference.answers, heard, strict=True):
        length = len(each.reply)
        if length < len(answer.reply) and tuple(each.reply) == answer.reply[:length]:
            last = reference.tokenizer.decode(each.reply[-1:])
            return [
                f"its reply to {_shown(answer.question.text)} ends after {_shown(last)}, where the model's reply "
                "continues"
            ]
    for prompt, end in reference.ends:
        reply = asked.reply(prompt, 2)
        if len(reply) > 1 and reply[0] == end:
            return [f"its replies do not end at {reference.tokenizer.decode([end])}, where the model's do"]
    return []


def _mean_kl(reference: Reference, heard: Sequence[_Heard]) -> float:
    found = [
        mean_kl(answer.logits, each.logits[answer.measured])
        for answer, each in zip(reference.answers, heard, strict=True)
    ]
    return float(np.concatenate(found).mean())


def _parting(answer: Answer, reply: Sequence[int]) -> int | None:
    """Return the first token at which a reply is not ours, None for an equal one."""
    if tuple(reply) == answer.reply:
        return None
    pairs = enumerate(zip(answer.reply, reply, strict=False))
    return next((place for place, (mine, other) in pairs if mine != other), min(len(answer.reply), len(reply)))


def _difference(answer: Answer, reply: Sequence[int], position: int, tokenizer: ChatTokenizer) -> Difference:
    ours, theirs = (
        tokenizer.backend_tokenizer.decode(list(ids[position : position + 12]), skip_special_tokens=False)
        for ids in (answer.reply, reply)
    )
    return Difference(
        answer.question.text, position, ours or "its end", theirs or "its end", _gap(answer, reply, position)
    )


def _gap(answer: Answer, reply: Sequence[int], position: int) -> float:
    """Return how far our logit of the export's token is below our best; infinite where one reply has ended."""
    if position >= len(answer.reply) or position >= len(reply):
        return inf
    logits, tokens = answer.best_logits[position], answer.best[position]
    [places] = np.nonzero(tokens == reply[position])
    # A token beyond our best ones is at least as far away as the last of them.
    return float(logits[0] - logits[places[0] if len(places) else -1])


def _rounding(reference: Reference, heard: Sequence[_Heard], apart: Sequence[int | None]) -> float:
    """Return the largest change of a logit of our best tokens, relative to the best one's, where no reply parts."""
    largest = 0.0
    for answer, each, position in zip(reference.answers, heard, apart, strict=True):
        theirs = np.take_along_axis(each.logits, answer.best, 1)
        changes = _to_best(theirs) - _to_best(answer.best_logits)
        if position is not None and position < len(changes):
            changes[position] = 0
        largest = max(largest, float(np.abs(changes).max(initial=0)))
    return largest


def _to_best(logits: Logits) -> NDArray[np.float32]:
    return logits - logits[:, :1]


def _parted_tokens(ours: Sequence[int], theirs: Sequence[int], tokenizer: ChatTokenizer) -> str:
    """Describe where two sequences of tokens part, by the tokens' texts."""
    pairs = enumerate(zip(ours, theirs, strict=False))
    first = next((place for place, (mine, other) in pairs if mine != other), min(len(ours), len(theirs)))
    backend = tokenizer.backend_tokenizer
    mine, other = (
        "|".join(backend.decode([token], skip_special_tokens=False) for token in ids[first : first + 4])
        for ids in (ours, theirs)
    )
    return f"at token {first} {_shown(other)} for {_shown(mine)}"


def _shown(text: str) -> str:
    return repr(text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…")


def _result(
    reference: Reference,
    heard: Sequence[_Heard],
    measured: tuple[float, float, float],
    first: Difference | None,
    faults: Sequence[str],
) -> Verification:
    pairs = zip(reference.answers, heard, strict=True)
    equal = sum(_parting(answer, each.reply) is None for answer, each in pairs)
    kl, limit, rounding = measured
    return Verification(
        len(reference.answers),
        sum(answer.question.held_out for answer in reference.answers),
        equal,
        len(reference.other_mode),
        len(reference.ends),
        first,
        kl,
        limit,
        rounding,
        tuple(faults),
    )
