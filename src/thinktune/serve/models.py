"""Models that can be talked to, by the names that clients say; each is opened when it is first asked."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from thinktune.checkpoint import store as checkpoint
from thinktune.config import loading as recipe
from thinktune.config.schema import Recipe, WantedEngine
from thinktune.data.chat_template import CLOSING, render_prompt
from thinktune.data.tokenizer import read_tokenizer
from thinktune.errors import UserError, brief
from thinktune.hub import repository as download
from thinktune.hub import repository as hub
from thinktune.inference import vllm_server as vllm
from thinktune.inference.chat_defaults import Manners, read_manners
from thinktune.inference.openai_client import Endpoint
from thinktune.inference.requests import Request
from thinktune.inference.session import load_engine
from thinktune.inference.streaming import Stream
from thinktune.model.device import pick_device
from thinktune.progress import Say

VLLM_SHARE = 0.45


class Door(Protocol):
    """What writes replies: the engine in this process, or one behind an endpoint."""

    def stream(self, request: Request) -> Stream:
        """The pieces of a reply as they come, and last its Completion. Closing the iterator cancels it."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...


class NoRoomError(UserError):
    """A conversation that leaves the model no room to answer."""


@dataclass(slots=True)
class Voice:
    """A model by its name; `tokenizer` and `context_tokens` are known of models at hand, not behind an endpoint."""

    name: str
    source: str
    manners: Manners
    make: Callable[[], Door]
    tokenizer: Any = None
    context_tokens: int | None = None
    _door: Door | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def open(self) -> Door:
        """What writes its replies, made once, whichever thread asks first."""
        with self._lock:
            if self._door is None:
                self._door = self.make()
            return self._door

    def close(self) -> None:
        """Give back what was opened."""
        with self._lock:
            if self._door is not None:
                self._door.close()
                self._door = None

    @property
    def reasons(self) -> bool:
        """Whether its replies may hold reasoning: its chat template knows the tags, or nobody knows."""
        return self.tokenizer is None or CLOSING in self.tokenizer.chat_template

    def stream(self, request: Request) -> Stream:
        """The pieces of a reply, which is no longer than the model's context allows.

        Raises UserError where the chat template refuses the conversation, NoRoomError where it is too long.
        """
        if self.tokenizer is not None and self.context_tokens is not None:
            prompt = len(render_prompt(request.turns, self.tokenizer, thinking=request.thinking))
            room = self.context_tokens - prompt
            if room < 1:
                raise NoRoomError(
                    f"messages: they take {prompt} tokens, and {self.name} reads at most {self.context_tokens} with "
                    "its reply; shorten them"
                )
            most = min(room, request.sampling.max_new_tokens)
            request = replace(request, sampling=replace(request.sampling, max_new_tokens=most))
        return self.open().stream(request)


def find_voices(
    run: Path | None, endpoint: str | None, model: str | None, wanted: WantedEngine, say: Say
) -> list[Voice]:
    """The voices that a command line asks for; says of each where it is and what writes its replies."""
    if (run is None) == (endpoint is None):
        raise UserError("name a run's or a model's folder, or --endpoint URL; exactly one of the two")
    if run is None:
        assert endpoint is not None
        voices = voices_behind(endpoint, model)
        for voice in voices:
            say(f"{voice.name}: {voice.source}")
        return voices
    device = pick_device()
    engine, why = vllm.choose(wanted, installed=vllm.is_installed(), gpu=device.type == "cuda")
    if engine == "vllm":
        # Two models may have to share the card, and each process takes its share at its start.
        voices = voices_at_hand(run, lambda folder, name: vllm.start(folder, name, VLLM_SHARE), say)
    else:
        voices = voices_at_hand(run, lambda folder, _: load_engine(folder), say)
    place = "by vLLM" if engine == "vllm" else f"in this process on {device}"
    for voice in voices:
        when = "" if voice is voices[0] else "; loaded when it is first asked"
        say(f"{voice.name}: {voice.source}, {place} ({why}){when}")
    return voices


def voices_behind(url: str, model: str | None) -> list[Voice]:
    """The models of an endpoint, or the one that is named. Raises UserError where it does not say which it has."""
    door = Endpoint(url, model or "")
    try:
        names = [model] if model else door.models()
    finally:
        door.close()
    if not names:
        raise UserError(f"{url}: does not say which models it has; name one by --model")
    return [Voice(name, f"behind {door.url}", Manners(), partial(Endpoint, url, name)) for name in names]


def voices_at_hand(folder: Path, make: Callable[[Path, str], Door], say: Say) -> list[Voice]:
    """`tuned` and `base` of a run, or a model folder by its own name; `make` opens a folder under a name.

    Where a run's base is not on this machine, one line says so.
    """
    source = checkpoint.model_folder(folder)
    manners = read_manners(folder, source)
    if not (folder / "recipe.yaml").is_file():
        return [_at_hand(source, folder.resolve().name, manners, make)]
    voices = [_at_hand(source, "tuned", manners, make)]
    trained = recipe.load(folder / "recipe.yaml")
    try:
        base = _base_folder(trained)
    except Exception as error:
        # The hubs' clients raise many kinds; whichever it is, the tuned model can be talked to without its base.
        say(f"base: {trained.model.name} is not on this machine, so there is nothing to compare with ({brief(error)})")
        return voices
    return [*voices, _at_hand(base, "base", replace(manners, sampling=read_manners(folder, base).sampling), make)]


def _base_folder(trained: Recipe) -> Path:
    """The folder of the model that a run began with, without the network."""
    start = trained.model
    if start.hub is None:
        return hub.locate_model(trained)
    return download.recall(start.name, start.hub, start.revision, "model")


def _at_hand(source: Path, name: str, manners: Manners, make: Callable[[Path, str], Door]) -> Voice:
    from transformers import AutoConfig

    tokenizer = read_tokenizer(source)
    if not tokenizer.chat_template:
        raise UserError(f"{source}: its tokenizer has no chat template, so it cannot be talked to; take another model")
    context = AutoConfig.from_pretrained(source, local_files_only=True).max_position_embeddings
    return Voice(name, str(source), manners, lambda: make(source, name), tokenizer, context)
