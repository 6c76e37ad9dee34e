"""Requests and responses of Ollama's `/api` addresses, and such a request as a chat request."""

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from thinktune.serve.openai_schema import ApiError, Json, NonNegativeInt, ParsedRequest, ResponseModel
from thinktune.serve.surfaces.chat_shims import ShimRequest, as_chat, parse_shim

API_VERSION = "0.12.0"  # of Ollama's API that is followed here: clients ask for a minimum

# The chat request's names (patterns), and what the same is called here.
NAMES = {"response_format": "format", "max_tokens": "options.num_predict", "stop": "options.stop"}
GENERATE_NAMES = NAMES | {r"messages\.0\.images": "images"}

# How Ollama is to load a model and to lay out its memory; it has no effect on one that is served here.
WITHOUT_EFFECT = ("keep_alive", "shift", "truncate")
RUNTIME_OPTIONS = (
    *("numa", "num_ctx", "num_batch", "num_gpu", "main_gpu", "low_vram", "f16_kv", "logits_all", "vocab_only"),
    *("use_mmap", "use_mlock", "embedding_only", "num_thread", "num_keep", "penalize_newline", "draft_num_predict"),
)


class OllamaMessage(BaseModel):
    """A message of the conversation; an assistant's `thinking` is a former reply's."""

    model_config = ConfigDict(extra="allow")
    role: str
    content: str | None = None


class OllamaRequest(ShimRequest):
    """What both ways to ask for a reply share; null is the same as leaving an option out."""

    model: str | None = None
    stream: bool | None = None
    """A stream of lines, unless false."""
    options: Json | None = None
    format: str | Json | None = None


class OllamaChatRequest(OllamaRequest):
    """The body of POST /api/chat."""

    messages: list[OllamaMessage] | None = None


class OllamaGenerateRequest(OllamaRequest):
    """The body of POST /api/generate: one question, or none to load the model."""

    prompt: str | None = None
    system: str | None = None


class OllamaShowRequest(ShimRequest):
    """The body of POST /api/show."""

    model: str | None = None
    name: str | None = None
    """The former name of `model`."""


class OllamaDetails(ResponseModel):
    """What a model is made of, as far as it is known here."""

    parent_model: Literal[""] = ""
    format: str
    family: str
    families: list[str]
    parameter_size: Literal[""] = ""
    quantization_level: Literal[""] = ""


class OllamaModel(ResponseModel):
    """One model of /api/tags."""

    name: str
    model: str
    modified_at: str
    size: NonNegativeInt
    digest: str
    details: OllamaDetails


class OllamaTags(ResponseModel):
    """The body of GET /api/tags."""

    models: list[OllamaModel]


class OllamaShow(ResponseModel):
    """The response to POST /api/show."""

    modelfile: Literal[""] = ""
    parameters: str
    template: Literal[""] = ""
    system: str
    details: OllamaDetails
    model_info: Json
    capabilities: list[str]
    modified_at: str


class OllamaVersion(ResponseModel):
    """The body of GET /api/version."""

    version: str
    thinktune: str
    """Ours: the version of this server."""


class OllamaReply(ResponseModel):
    """The response to POST /api/chat and /api/generate without a stream."""

    model_config = ConfigDict(extra="allow")
    model: str
    created_at: str
    done: Literal[True]
    done_reason: Literal["stop", "length", "load"]


class OllamaErrorResponse(ResponseModel):
    """The body of a refusal."""

    error: str


@dataclass(frozen=True, slots=True)
class ParsedOllama:
    """A request for a reply; without `chat` the model is only loaded."""

    model: str | None
    stream: bool
    is_chat: bool
    chat: ParsedRequest | None


def parse_ollama_chat(body: bytes) -> ParsedOllama:
    """Parse the body of /api/chat; raises ApiError (400) that names its faults."""
    request = parse_shim(OllamaChatRequest, body)
    fields, messages = _fields(request), request.messages
    chat = as_chat(fields, NAMES) if messages else None
    return ParsedOllama(model_name(request.model), request.stream is not False, True, chat)


def parse_ollama_generate(body: bytes) -> ParsedOllama:
    """Parse the body of /api/generate; raises ApiError (400) that names its faults."""
    request = parse_shim(OllamaGenerateRequest, body)
    fields, prompt = _fields(request), request.prompt
    if fields.pop("raw", None):
        raise ApiError(
            400, "raw: is not supported here; /v1/completions continues a text without a template", param="raw"
        )
    for name in ("system", "prompt"):
        fields.pop(name, None)
    message = {"role": "user", "content": prompt, "images": fields.pop("images", None)}
    chat = as_chat({**fields, "messages": [message]}, GENERATE_NAMES, request.system) if prompt else None
    return ParsedOllama(model_name(request.model), request.stream is not False, False, chat)


def model_name(name: str | None) -> str | None:
    """Return a model's name without the tag that Ollama's clients add where none is given."""
    return name and name.removesuffix(":latest")


def _fields(request: OllamaRequest) -> Json:
    """Return the fields of a chat request, those of `options` beside the others."""
    fields: Json = request.model_dump(exclude_unset=True)
    for name in ("model", "stream", *WITHOUT_EFFECT):
        fields.pop(name, None)
    options: Json = fields.pop("options", None) or {}
    for name in RUNTIME_OPTIONS:
        options.pop(name, None)
    limit: Any = options.pop("num_predict", None)
    if limit is not None:
        fields["max_tokens"] = -1 if limit == -2 else limit  # as many as the context holds
    form = fields.pop("format", None)
    if form == "json":
        fields["response_format"] = {"type": "json_object"}
    elif isinstance(form, dict) and form:
        fields["response_format"] = {"type": "json_schema", "json_schema": {"name": "format", "schema": form}}
    elif form:
        fields["response_format"] = form
    return options | fields
