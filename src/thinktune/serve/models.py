"""Models that can be talked to, by the names that clients say; each is opened when it is first asked."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from thinktune.checkpoint import store as checkpoint
from thinktune.config import Recipe
from thinktune.config import loading as recipe
from thinktune.config.schema import EngineChoice
from thinktune.data import read_tokenizer
from thinktune.data.chat_template import THINK_CLOSE, render_prompt
from thinktune.errors import UserError, shorten_error
from thinktune.hub import repository as download
from thinktune.hub import repository as hub
from thinktune.inference import ChatDefaults, Endpoint, Request, Stream, read_chat_defaults
from thinktune.inference import vllm_server as vllm
from thinktune.inference.session import load_engine
from thinktune.model import pick_device
from thinktune.progress import Say
from thinktune.run import RunFolder

VLLM_GPU_MEMORY_UTILIZATION = 0.45


class Backend(Protocol):
    """What writes replies: the engine in this process, or one behind an endpoint."""

    def stream(self, request: Request) -> Stream:
        """The pieces of a reply as they come, and last its Completion. Closing the iterator cancels it."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...


class ContextLengthError(UserError):
    """A conversation that leaves the model no room to answer."""


@dataclass(slots=True)
class ServedModel:
    """A model by its name; `tokenizer` and `context_tokens` are known of models at hand, not behind an endpoint."""

    name: str
    source: str
    defaults: ChatDefaults
    make_backend: Callable[[], Backend]
    tokenizer: Any = None
    context_tokens: int | None = None
    _backend: Backend | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def open(self) -> Backend:
        """What writes its replies, made once, whichever thread asks first."""
        with self._lock:
            if self._backend is None:
                self._backend = self.make_backend()
            return self._backend

    def close(self) -> None:
        """Give back what was opened."""
        with self._lock:
            if self._backend is not None:
                self._backend.close()
                self._backend = None

    @property
    def may_reason(self) -> bool:
        """Whether its replies may hold reasoning: its chat template knows the tags, or nobody knows."""
        return self.tokenizer is None or THINK_CLOSE in self.tokenizer.chat_template

    def stream(self, request: Request) -> Stream:
        """The pieces of a reply, which is no longer than the model's context allows.

        Raises UserError where the chat template refuses the conversation, NoRoomError where it is too long.
        """
        if self.tokenizer is not None and self.context_tokens is not None:
            prompt = len(render_prompt(request.turns, self.tokenizer, thinking=request.thinking))
            room = self.context_tokens - prompt
            if room < 1:
                raise ContextLengthError(
                    f"messages: they take {prompt} tokens, and {self.name} reads at most {self.context_tokens} with "
                    "its reply; shorten them"
                )
            most = min(room, request.sampling.max_new_tokens)
            request = replace(request, sampling=replace(request.sampling, max_new_tokens=most))
        return self.open().stream(request)


def find_models(
    run: Path | None, endpoint: str | None, model: str | None, wanted_engine: EngineChoice, say: Say
) -> list[ServedModel]:
    """The voices that a command line asks for; says of each where it is and what writes its replies."""
    if (run is None) == (endpoint is None):
        raise UserError("name a run's or a model's folder, or --endpoint URL; exactly one of the two")
    if run is None:
        assert endpoint is not None
        voices = find_endpoint_models(endpoint, model)
        for voice in voices:
            say(f"{voice.name}: {voice.source}")
        return voices
    device = pick_device()
    engine, why = vllm.choose_engine(wanted_engine, installed=vllm.is_installed(), gpu=device.type == "cuda")
    if engine == "vllm":
        # Two models may have to share the card, and each process takes its share at its start.
        voices = find_local_models(
            run, lambda folder, name: vllm.start_server(folder, name, VLLM_GPU_MEMORY_UTILIZATION), say
        )
    else:
        voices = find_local_models(run, lambda folder, _: load_engine(folder), say)
    place = "by vLLM" if engine == "vllm" else f"in this process on {device}"
    for voice in voices:
        when = "" if voice is voices[0] else "; loaded when it is first asked"
        say(f"{voice.name}: {voice.source}, {place} ({why}){when}")
    return voices


def find_endpoint_models(url: str, model: str | None) -> list[ServedModel]:
    """The models of an endpoint, or the one that is named. Raises UserError where it does not say which it has."""
    door = Endpoint(url, model or "")
    try:
        names = [model] if model else door.models()
    finally:
        door.close()
    if not names:
        raise UserError(f"{url}: does not say which models it has; name one by --model")
    return [ServedModel(name, f"behind {door.url}", ChatDefaults(), partial(Endpoint, url, name)) for name in names]


def find_local_models(folder: Path, make_backend: Callable[[Path, str], Backend], say: Say) -> list[ServedModel]:
    """`tuned` and `base` of a run, or a model folder by its own name; `make_backend` opens a folder under a name.

    Where a run's base is not on this machine, one line says so.
    """
    source = checkpoint.resolve_model_folder(folder)
    manners = read_chat_defaults(folder, source)
    if not RunFolder(folder).is_run:
        return [_local_model(source, folder.resolve().name, manners, make_backend)]
    voices = [_local_model(source, "tuned", manners, make_backend)]
    trained = recipe.load_recipe(RunFolder(folder).recipe)
    try:
        base = _base_folder(trained)
    except Exception as error:
        # The hubs' clients raise many kinds; whichever it is, the tuned model can be talked to without its base.
        say(
            f"base: {trained.model.name} is not on this machine, so there is nothing to compare with ({shorten_error(error)})"
        )
        return voices
    return [
        *voices,
        _local_model(base, "base", replace(manners, sampling=read_chat_defaults(folder, base).sampling), make_backend),
    ]


def _base_folder(trained: Recipe) -> Path:
    """The folder of the model that a run began with, without the network."""
    start = trained.model
    if start.hub is None:
        return hub.locate_model(trained)
    return download.find_in_cache(start.name, start.hub, start.revision, "model")


def _local_model(
    source: Path, name: str, defaults: ChatDefaults, make_backend: Callable[[Path, str], Backend]
) -> ServedModel:
    from transformers import AutoConfig

    tokenizer = read_tokenizer(source)
    if not tokenizer.chat_template:
        raise UserError(f"{source}: its tokenizer has no chat template, so it cannot be talked to; take another model")
    context = AutoConfig.from_pretrained(source, local_files_only=True).max_position_embeddings
    return ServedModel(name, str(source), defaults, lambda: make_backend(source, name), tokenizer, context)
