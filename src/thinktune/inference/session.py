"""Opening a model for inference, and a conversation's state."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from thinktune.checkpoint import resolve_model_folder
from thinktune.inference.chat_defaults import read_chat_defaults, with_system_prompt
from thinktune.inference.engine import Engine
from thinktune.inference.generation_proof import require_generation
from thinktune.inference.requests import Completion, Request, SamplingParams
from thinktune.model import pick_device, pick_precision
from thinktune.model.attention import set_attention
from thinktune.model.loading import load_model
from thinktune.progress import Say, say_nothing
from thinktune.tokenization import Turn, read_tokenizer
from thinktune.tokenization.model_template import OWN


@dataclass(slots=True)
class Session:
    """A conversation: its system prompt, its turns so far, and whether the model reasons."""

    system: str | None
    thinking: bool = True
    turns: list[Turn] = field(default_factory=list[Turn])

    def make_request(self, question: str, sampling: SamplingParams) -> Request:
        """Make the request for a reply to a new question."""
        turns = with_system_prompt(self.system, [*self.turns, Turn("user", question)])
        return Request(turns, sampling, self.thinking)

    def add_reply(self, question: str, reply: Completion) -> None:
        """Append a question and its reply; the chat template decides what later turns see of the reasoning."""
        self.turns += [Turn("user", question), Turn("assistant", reply.answer, reply.reasoning)]


def open_engine(folder: Path, say: Say) -> tuple[Engine, Session, SamplingParams]:
    """Open the model of a run or of a model folder, with the run's own system prompt and sampling parameters."""
    source = resolve_model_folder(folder)
    engine = load_engine(source, say=say)  # first: what it refuses is the cause of what would fail after it
    defaults = read_chat_defaults(folder, source)
    return engine, Session(defaults.system), defaults.sampling


def load_engine(
    source: Path,
    precision: torch.dtype | None = None,
    *,
    trust_remote_code: bool = False,
    template: str = OWN,
    say: Say = say_nothing,
    device: torch.device | None = None,
) -> Engine:
    """Load a model folder into an engine, weights and arithmetic in `precision` (None: what suits the device).

    The device is this process's accelerator, where there is one, unless another is given.

    `template` is the recipe's `model.template` where the folder is a base; `say` is told what of it is not used. Raises
    GenerationError for a class whose replies are not proved right.
    """
    device = device or pick_device()
    precision = precision or pick_precision("auto", device)
    model = load_model(source, device, precision, trust_remote_code=trust_remote_code, say=say)
    tokenizer = read_tokenizer(source, trust_remote_code=trust_remote_code, template=template)
    set_attention(model, precision)
    require_generation(model)
    return Engine(model, tokenizer, precision)


class Chat:
    """A model and one conversation with it."""

    def __init__(self, engine: Engine, session: Session, sampling: SamplingParams) -> None:
        self.engine, self.session, self.sampling = engine, session, sampling

    def ask(self, question: str) -> Completion:
        """Ask the next question of the conversation and return the completion; raises UserError if it is too long."""
        [(_, reply)] = self.engine.complete([self.session.make_request(question, self.sampling)])
        self.session.add_reply(question, reply)
        return reply

    def close(self) -> None:
        """Release the engine's thread and its KV cache."""
        self.engine.close()


def open_chat(folder: Path) -> Chat:
    """Load the model of a run or of a model folder for a new conversation."""
    return Chat(*open_engine(folder, print))
