"""What the terminal and the page share: a model opened to talk to, how it samples, and a conversation's turns."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from thinktune.checkpoint import store as checkpoint
from thinktune.data import Turn, read_tokenizer
from thinktune.inference.chat_defaults import read_chat_defaults, with_system_prompt
from thinktune.inference.engine import Engine
from thinktune.inference.requests import Completion, Request, SamplingParams
from thinktune.model import load_model, pick_device, pick_precision
from thinktune.model.attention import set_attention


@dataclass(slots=True)
class Session:
    """A conversation: its turns so far, and whether the model shall reason."""

    system: str | None
    thinking: bool = True
    turns: list[Turn] = field(default_factory=list[Turn])

    def make_request(self, question: str, sampling: SamplingParams) -> Request:
        """The conversation with a new question at its end."""
        turns = with_system_prompt(self.system, [*self.turns, Turn("user", question)])
        return Request(turns, sampling, self.thinking)

    def add_reply(self, question: str, reply: Completion) -> None:
        """Remember a question and its reply; the template decides what later turns see of the reasoning."""
        self.turns += [Turn("user", question), Turn("assistant", reply.answer, reply.reasoning)]


def open_engine(folder: Path) -> tuple[Engine, Session, SamplingParams]:
    """The model of a run or of a model folder, ready to talk, with the run's own system prompt and sampling."""
    source = checkpoint.resolve_model_folder(folder)
    manners = read_chat_defaults(folder, source)
    return load_engine(source), Session(manners.system), manners.sampling


def load_engine(source: Path, precision: torch.dtype | None = None, *, trust_remote_code: bool = False) -> Engine:
    """The model of a folder in this process, its weights in what it computes in (none: what suits the device)."""
    device = pick_device()
    precision = precision or pick_precision("auto", device)
    model = load_model(source, device, precision, trust_remote_code=trust_remote_code)
    set_attention(model, precision)
    return Engine(model, read_tokenizer(source, trust_remote_code=trust_remote_code), precision)


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
    return Chat(*open_engine(folder))
