"""What the terminal and the page share: a model opened to talk to, how it samples, and a conversation's turns."""

from dataclasses import dataclass, field
from pathlib import Path

from thinktune import checkpoint, recipe
from thinktune.data import Turn
from thinktune.engine import Completion, Engine, Sampling
from thinktune.model import load_model, pick_device, pick_precision
from thinktune.request import Request
from thinktune.tokens import read_tokenizer


@dataclass(slots=True)
class Session:
    """A conversation: its turns so far, and whether the model shall reason."""

    system: str | None
    thinking: bool = True
    turns: list[Turn] = field(default_factory=list[Turn])

    def asked(self, question: str, sampling: Sampling) -> Request:
        """The conversation with a new question at its end."""
        system = [Turn("system", self.system)] if self.system else []
        return Request((*system, *self.turns, Turn("user", question)), sampling, self.thinking)

    def answered(self, question: str, reply: Completion) -> None:
        """Remember a question and its reply; the template decides what later turns see of the reasoning."""
        self.turns += [Turn("user", question), Turn("assistant", reply.answer, reply.reasoning)]


def open_engine(folder: Path) -> tuple[Engine, Session, Sampling]:
    """The model of a run or of a model folder, ready to talk, with the run's own system prompt and budget.

    It samples as the model's generation settings say; a run's `generate.max_new_tokens` is the budget, else 2,048.
    """
    source = checkpoint.model_folder(folder)
    device = pick_device()
    engine = Engine(load_model(source, device), read_tokenizer(source), pick_precision("auto", device))
    trained = recipe.load(folder / "recipe.yaml") if (folder / "recipe.yaml").is_file() else None
    chosen = engine.model.generation_config
    sampling = Sampling(
        trained.generate.max_new_tokens if trained else 2048,
        temperature=(chosen.temperature or 0.0) if chosen.do_sample else 0.0,
        top_p=chosen.top_p or 1.0,
        top_k=chosen.top_k or 0,
    )
    return engine, Session(trained.data.system if trained else None), sampling
