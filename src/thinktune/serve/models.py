"""Models that the server offers under names; each is loaded at its first request."""

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from thinktune.checkpoint import model_warning, resolve_model_folder
from thinktune.checkpoint.store import model_step
from thinktune.config import load_recipe
from thinktune.config.schema import EngineChoice
from thinktune.errors import UserError, shorten_error
from thinktune.hub import find_in_cache, locate_model
from thinktune.inference import ChatDefaults, Endpoint, Request, Stream, read_chat_defaults, vllm_server
from thinktune.inference.requests import render_request
from thinktune.inference.session import load_engine
from thinktune.model import pick_device, read_config
from thinktune.model.admission import admit_model
from thinktune.progress import Say
from thinktune.run import RunFolder
from thinktune.run.sample_questions import held_out_questions
from thinktune.serve.thinking_controls import EffortUse
from thinktune.tokenization import ChatTokenizer, read_tokenizer
from thinktune.tokenization.chat_template import has_effort_levels
from thinktune.tokenization.model_template import OWN
from thinktune.tokenization.tags import Tags, read_form, read_tags, template_text

VLLM_GPU_MEMORY_UTILIZATION = 0.45
HELD_OUT_QUESTIONS = 4  # on an empty page


class Backend(Protocol):
    """Generator of replies: the engine in this process, or a server behind an endpoint."""

    def stream(self, request: Request) -> Stream:
        """Yield the pieces of a reply as they come, and last its Completion; closing the iterator cancels it."""
        ...

    def close(self) -> None:
        """Free everything."""
        ...


@dataclass(frozen=True, slots=True)
class Identity:
    """What is served, so that the page can keep the chats of one run apart from those of another.

    `id` stays the same over restarts, ports and resumed training, and tells nothing but whether two are the same.
    """

    id: str
    name: str

    @classmethod
    def of_folder(cls, folder: Path) -> "Identity":
        """Return the identity of a run's or a model's folder: one folder is one run."""
        whole = folder.resolve()
        return cls(_digest(str(whole)), whole.name)

    @classmethod
    def of_endpoint(cls, url: str, models: Sequence[str]) -> "Identity":
        """Return the identity of what another server offers: its address, and the names of its models."""
        parts = urlsplit(url)
        return cls(_digest("\n".join([url, *sorted(models)])), parts.netloc.rpartition("@")[2])


@dataclass(slots=True)
class ServedModel:
    """A model under a name; `tokenizer` and `context_tokens` are None for a model behind an endpoint."""

    name: str
    source: str
    defaults: ChatDefaults
    make_backend: Callable[[], Backend]
    tokenizer: ChatTokenizer | None = None
    context_tokens: int | None = None
    aliases: tuple[str, ...] = ()
    is_here: bool = False  # the engine of this process writes its replies
    identity: Identity | None = None
    run: RunFolder | None = None  # the run that it belongs to, where people's feedback is kept
    step: int | None = None  # of that run, after which the model was saved
    questions: tuple[str, ...] = ()  # of that run's held-out rows, to ask
    _backend: Backend | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def open(self) -> Backend:
        """Return the backend; it is made once, by whichever thread asks first."""
        with self._lock:
            if self._backend is None:
                self._backend = self.make_backend()
            return self._backend

    def close(self) -> None:
        """Close the backend, if it was opened."""
        with self._lock:
            if self._backend is not None:
                self._backend.close()
                self._backend = None

    @property
    def may_reason(self) -> bool:
        """True if replies may hold reasoning: the chat template writes it, or is unknown."""
        return self.tokenizer is None or _may_reason(self.tokenizer)

    @property
    def tags(self) -> Tags:
        """The think tags of the model, or the usual ones where its tokenizer is not known."""
        return Tags() if self.tokenizer is None else read_tags(self.tokenizer)

    @property
    def effort_use(self) -> EffortUse:
        """What a level of effort becomes: the template's own, our engine's budget, or what another server is sent."""
        if self.tokenizer is not None and has_effort_levels(self.tokenizer):
            return "level"
        return "budget" if self.is_here else "pass on"

    def stream(self, request: Request) -> Stream:
        """Yield the pieces of a reply, cut to what the model's context allows; raises what `render` raises."""
        return self.open().stream(self.render(request))

    def render(self, request: Request) -> Request:
        """Render and tokenize a request where the tokenizer is known; a long one takes seconds.

        Raises UserError if the chat template refuses the conversation, ContextLengthError if it is too long.
        """
        if self.tokenizer is None or self.context_tokens is None:
            return request
        return render_request(request, self.tokenizer, self.context_tokens)


def find_models(
    run: Path | None, endpoint: str | None, model: str | None, wanted_engine: EngineChoice, say: Say
) -> list[ServedModel]:
    """Find the models that a command line asks for, and print where each is and what writes its replies."""
    if (run is None) == (endpoint is None):
        raise UserError("give either the folder of a run or a model, or --endpoint URL")
    if run is None:
        assert endpoint is not None
        served_models = find_endpoint_models(endpoint, model)
        for served_model in served_models:
            say(f"{served_model.name}: {served_model.source}")
        return served_models
    device = pick_device()
    engine, why = vllm_server.choose_engine(
        wanted_engine, installed=vllm_server.is_installed(), gpu=device.type == "cuda"
    )
    if engine == "vllm":
        # Two models may have to share the card, and each process takes its share at its start.
        served_models = find_local_models(run, _start_vllm, say)
    else:
        served_models = find_local_models(run, lambda folder, _: load_engine(folder), say, here=True)
    where = "by vLLM" if engine == "vllm" else f"in this process on {device}"
    for served_model in served_models:
        served_model.identity = Identity.of_folder(run)
        when = "" if served_model is served_models[0] else "; loaded at its first request"
        say(f"{served_model.name}: {served_model.source}, {where}{f' ({why})' if why else ''}{when}")
    return served_models


def _start_vllm(folder: Path, name: str) -> Backend:
    tags = read_tags(read_tokenizer(folder))
    return vllm_server.start_server(folder, name, VLLM_GPU_MEMORY_UTILIZATION, tags)


def find_endpoint_models(url: str, model: str | None) -> list[ServedModel]:
    """Find the models of an endpoint, or the named one; raises UserError if the endpoint does not list its models."""
    endpoint = Endpoint(url, model or "")
    try:
        names = [model] if model else endpoint.models()
    finally:
        endpoint.close()
    if not names:
        raise UserError(f"{url}: does not list its models; name one with --model")
    source, identity = f"behind {endpoint.url}", Identity.of_endpoint(endpoint.url, names)
    return [
        ServedModel(name, source, ChatDefaults(), partial(Endpoint, url, name), identity=identity) for name in names
    ]


def find_local_models(
    folder: Path, make_backend: Callable[[Path, str], Backend], say: Say, *, here: bool = False
) -> list[ServedModel]:
    """Find `tuned` and `base` of a run, or a model folder under its own name, without the network.

    `make_backend` opens a model folder under a name; with `here` that is the engine of this process, so what it would
    refuse at the first request is refused now. If a run's base is not on this machine, or refused, one line says so.
    """
    source = resolve_model_folder(folder)
    _admit(source, say, here=here)
    defaults = read_chat_defaults(folder, source)
    if warning := model_warning(folder):
        say(warning)
    if not RunFolder(folder).is_run:
        return [replace(_local_model(source, folder.resolve().name, defaults, make_backend), is_here=here)]
    tuned = replace(_local_model(source, "tuned", defaults, make_backend), is_here=here)
    recipe = load_recipe(RunFolder(folder).recipe)
    tuned.run, tuned.step = RunFolder(folder), model_step(source)
    tuned.questions = held_out_questions(tuned.run, HELD_OUT_QUESTIONS)
    names = dict.fromkeys(name for name in (folder.resolve().name, recipe.name) if name)
    tuned.aliases = tuple(name for name in names if name not in ("tuned", "base"))
    start = recipe.model
    try:
        if start.hub is None:
            base = locate_model(recipe)
        else:
            base = find_in_cache(start.name, start.hub, start.revision, "model")
    except Exception as error:
        # The hubs' clients raise many kinds; whichever it is, one can chat with the tuned model without its base.
        say(f"base: {start.name} is not on this machine, so only the tuned model is served ({shorten_error(error)})")
        return [tuned]
    try:
        _admit(base, say, here=here)
        base_defaults = replace(defaults, sampling=read_chat_defaults(folder, base).sampling)
        own = _local_model(base, "base", base_defaults, make_backend, start.template)
        return [tuned, replace(own, is_here=here, run=tuned.run)]
    except UserError as error:
        say(f"base: {start.name} cannot be used, so only the tuned model is served ({shorten_error(error)})")
        return [tuned]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _may_reason(tokenizer: ChatTokenizer) -> bool:
    form = read_form(tokenizer)
    return form.written or form.tags.closing in template_text(tokenizer)


def _admit(source: Path, say: Say, *, here: bool) -> None:
    for note in admit_model(source).notes if here else ():
        say(note)


def _local_model(
    source: Path,
    name: str,
    defaults: ChatDefaults,
    make_backend: Callable[[Path, str], Backend],
    template: str = OWN,
) -> ServedModel:
    config = read_config(source)  # first: a tokenizer reads it too, and would be blamed for it
    tokenizer = read_tokenizer(source, template=template)
    if not tokenizer.chat_template:
        raise UserError(f"{source}: its tokenizer has no chat template, so it cannot chat; choose another model")
    context_tokens = getattr(config, "max_position_embeddings", None)
    return ServedModel(name, str(source), defaults, lambda: make_backend(source, name), tokenizer, context_tokens)
