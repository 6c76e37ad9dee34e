"""Our own engine's answers, which an export is held to: replies, and logits at each of their tokens."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from thinktune.config import load_recipe
from thinktune.export.questions import MAX_REPLY_TOKENS, Question, choose_questions, in_other_mode
from thinktune.export.rounding import coarseness, round_head_input, rounded
from thinktune.export.source import ModelSource
from thinktune.inference import Request, SamplingParams
from thinktune.inference.engine import Engine
from thinktune.inference.session import load_engine
from thinktune.model import CausalLM, pick_device
from thinktune.model.batch import collate
from thinktune.model.folder import stored_tensors
from thinktune.model.forward import hidden_states, inference_context, lm_head_weight
from thinktune.model.proof import model_traits
from thinktune.progress import ProgressReporter, Say
from thinktune.tokenization import ChatTokenizer, Rendered, TokenKind

MAX_LOGITS_BYTES = 512 * 2**20  # of the reference, kept while the targets are asked
REPLIES_AT_ONCE = 5
BEST = 8  # of our logits at a token, by which a reply that parts is judged
ENDS_ASKED = 5  # prompts after which our model ends its reply at once
FREE_SHARE = 0.7  # of a card's memory that weights in fp32 may take

Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Answer:
    """A question and our greedy reply to it, n tokens, the end token included.

    `best` (n, 8) are our best tokens at each of the reply's tokens and `best_logits` (n, 8) their logits, falling.
    `measured` (m,) are the tokens at which all `logits` (m, vocabulary) are kept, fp32.
    """

    question: Question
    reply: tuple[int, ...]
    ended: bool
    best: NDArray[np.int64]
    best_logits: Logits
    measured: NDArray[np.int64]
    logits: Logits


@dataclass(frozen=True, slots=True)
class Reference:
    """Our answers, and what the rounding of each form alone makes of them.

    `rounding_kl` is the mean KL divergence in nats a token of our own model rounded to a form, by form. `other_mode`
    holds questions in the mode that the answers are not in. `ends` are prompts after which our reply ends at once,
    with that end token. `end_tokens` end our replies.
    """

    answers: tuple[Answer, ...]
    other_mode: tuple[Question, ...]
    ends: tuple[tuple[tuple[int, ...], int], ...]
    end_tokens: frozenset[int]
    rounding_kl: Mapping[str, float]
    tokenizer: ChatTokenizer


def make_reference(source: ModelSource, forms: Sequence[str], say: Say) -> Reference:
    """Ask our own engine, in fp32, and measure what the rounding of each of the forms changes.

    Raises UserError where the model cannot be loaded, or no question can be asked.
    """
    recipe = load_recipe(source.run.recipe) if source.run else None
    trusted = recipe is not None and recipe.model.trust_remote_code
    device = _reference_device(source.folder)
    engine = load_engine(source.folder, torch.float32, trust_remote_code=trusted, say=say, device=device)
    with closing(engine):
        context = int(engine.model.config.max_position_embeddings)
        questions = choose_questions(source, engine.tokenizer, context, say)
        tokens = min(source.defaults.sampling.max_new_tokens, MAX_REPLY_TOKENS, context // 2)
        replies = _greedy_replies(engine, [question.prompt for question in questions], tokens, say)
        end_tokens = engine.end_tokens
        ends = _ends(engine, questions, replies)
        answers = tuple(_answers(engine.model, questions, replies, end_tokens))
        kl = {form: _rounding_kl(engine.model, answers, form, say) for form in sorted(set(forms), key=coarseness)}
    other = in_other_mode(questions, engine.tokenizer)
    return Reference(answers, other, ends, end_tokens, kl, engine.tokenizer)


def mean_kl(ours: Logits, theirs: Logits) -> NDArray[np.float64]:
    """Return the KL divergence (m,) in nats of another model's next token from ours, from logits (m, vocabulary)."""
    found = np.empty(len(ours))
    for row, (mine, other) in enumerate(zip(ours, theirs, strict=True)):  # one at a time, in fp64
        expected, given = (_log_softmax(logits.astype(np.float64)) for logits in (mine, other))
        with np.errstate(invalid="ignore"):
            found[row] = max(0.0, float(np.sum(np.exp(expected) * (expected - given))))
    return found


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def _reference_device(folder: Path) -> torch.device:
    """Return this machine's accelerator, if its free memory holds the weights in fp32; else the CPU."""
    device = pick_device()
    if device.type == "cpu":
        return device
    parameters = sum(math.prod(tensor.shape) for tensor in stored_tensors(folder).values())
    try:
        free, _ = torch.get_device_module(device).mem_get_info()
    except (AttributeError, RuntimeError):
        return torch.device("cpu")
    return device if parameters * torch.float32.itemsize < FREE_SHARE * free else torch.device("cpu")


def _greedy_replies(engine: Engine, prompts: Sequence[Sequence[int]], tokens: int, say: Say) -> list[list[int]]:
    progress = ProgressReporter(say, "replies of thinktune's own engine", len(prompts))
    replies: list[list[int]] = []
    for start in range(0, len(prompts), REPLIES_AT_ONCE):
        some = prompts[start : start + REPLIES_AT_ONCE]
        replies += engine.complete_ids([Request((), SamplingParams(tokens), prompt_ids=tuple(ids)) for ids in some])
        progress.update(len(replies))
    return replies


def _ends(
    engine: Engine, questions: Sequence[Question], replies: Sequence[Sequence[int]]
) -> tuple[tuple[tuple[int, ...], int], ...]:
    """Return prompts after which our model ends the reply at once: ours up to their end, and the rows' own replies."""
    found = [
        ((*question.prompt, *reply[:-1]), reply[-1])
        for question, reply in zip(questions, replies, strict=True)
        if reply[-1] in engine.end_tokens
    ]
    answered = [question.answered for question in questions if question.answered][:ENDS_ASKED]
    if len(found) < ENDS_ASKED and answered:
        for prompt, reply in zip(answered, _next_tokens(engine, answered), strict=True):
            if reply in engine.end_tokens:
                found.append((prompt, reply))
    return tuple(found[:ENDS_ASKED])


def _next_tokens(engine: Engine, prompts: Sequence[Sequence[int]]) -> list[int]:
    requests = [Request((), SamplingParams(1), prompt_ids=tuple(ids)) for ids in prompts]
    return [reply[0] for reply in engine.complete_ids(requests)]


def _answers(
    model: CausalLM, questions: Sequence[Question], replies: Sequence[Sequence[int]], end_tokens: frozenset[int]
) -> Iterator[Answer]:
    """Yield the answers; where all logits would take too much memory, those at evenly spaced tokens are kept."""
    tokens = sum(map(len, replies))
    affordable = max(len(replies), MAX_LOGITS_BYTES // (4 * len(lm_head_weight(model))))
    for question, reply in zip(questions, replies, strict=True):
        logits = reply_logits(model, question.prompt, reply)
        best_logits, best = torch.from_numpy(logits).topk(min(BEST, logits.shape[1]), dim=-1)
        kept = max(1, min(len(reply), len(reply) * affordable // tokens))
        measured = np.unique(np.linspace(0, len(reply) - 1, kept).round().astype(np.int64))
        yield Answer(
            question,
            tuple(reply),
            reply[-1] in end_tokens,
            best.numpy(),
            best_logits.numpy(),
            measured,
            logits[measured],
        )


def reply_logits(model: CausalLM, prompt: Sequence[int], reply: Sequence[int], form: str | None = None) -> Logits:
    """Return our logits (n, vocabulary) at each token of a reply of n tokens, read in one pass.

    With a `form` the head's inputs are rounded to it, as `rounded` does for the other layers.
    """
    ids = np.asarray([*prompt, *reply[:-1]], np.int32)
    kinds = np.zeros(len(ids), np.uint8)
    if len(ids) > 1:
        kinds[-1] = TokenKind.ANSWER  # a batch has a label
    batch = collate([Rendered(ids, kinds, "")], len(ids)).to(model.device)
    with inference_context(model):
        states = hidden_states(model, batch)[len(prompt) - 1 :]
        if form:
            states = round_head_input(states, form)
        head = lm_head_weight(model)
        logits = model_traits(model).logits(states.to(head.dtype) @ head.T)
    return logits.float().cpu().numpy()


def _rounding_kl(model: CausalLM, answers: Sequence[Answer], form: str, say: Say) -> float:
    """Return the mean KL of our own model from itself, once it is rounded to a form; its weights stay rounded."""
    say(f"measuring what the rounding of {form} changes")
    found: list[float] = []
    with rounded(model, form):
        for answer in answers:
            logits = reply_logits(model, answer.question.prompt, answer.reply, form)[answer.measured]
            found += mean_kl(answer.logits, logits).tolist()
    return float(np.mean(found))
