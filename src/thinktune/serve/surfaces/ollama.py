"""The surface `/api/chat` and `/api/generate`: Ollama's replies, whole and as a stream of lines; and what is served."""

import hashlib
import json
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from datetime import UTC, datetime

from thinktune.http import ApiError
from thinktune.http.error_forms import OllamaError
from thinktune.inference import Completion, Request
from thinktune.inference.requests import FinishReason
from thinktune.serve.models import ServedModel
from thinktune.serve.openai_conversion import DeltaStream, may_be_reasoning, to_engine_request
from thinktune.serve.openai_schema import Json, ParsedRequest
from thinktune.serve.reply_response import Framing, Replies
from thinktune.serve.surfaces.chat_shims import rename_fields, write_reply
from thinktune.serve.surfaces.ollama_schema import NAMES, OllamaDetails, OllamaModel, OllamaShow
from thinktune.tokenization.open_turn import OpenPart

LINES = Framing("application/x-ndjson", lambda body: json.dumps(body, ensure_ascii=False) + "\n")
DONE_REASONS: dict[FinishReason, str] = {"end": "stop", "stop": "stop", "length": "length"}


class OllamaSurface:
    """One request for a reply, and the body or the lines that answer it; `is_chat` if that is a message."""

    framing = LINES

    def __init__(self, served_model: ServedModel, parsed: ParsedRequest, *, stream: bool, is_chat: bool) -> None:
        self._served_model, self._parsed, self._is_chat = served_model, parsed, is_chat
        self.stream, self.warnings = stream, parsed.warnings

    def requests(self) -> list[Request]:
        """Return the one request."""
        return [to_engine_request(self._parsed, self._served_model)]

    async def bodies(self, requests: Sequence[Request], replies: Replies) -> AsyncGenerator[Json]:
        """Yield the lines of a stream, or the one body."""
        [request], hide = requests, self._parsed.controls.is_hidden
        writer = OllamaWriter(self._served_model.name, self.warnings, is_chat=self._is_chat, hide=hide)
        deltas = DeltaStream(hold_answer=may_be_reasoning(request, self._served_model))
        async for body in write_reply(writer, deltas, replies, stream=self.stream, hide=hide):
            yield body

    def refusal(self, error: ApiError) -> ApiError:
        """Say an error in this API's form and names."""
        error = rename_fields(error, NAMES)
        return OllamaError(error.status, str(error), code=error.code, param=error.param)

    def failure(self, error: ApiError) -> list[Json]:
        """Return the error as a line."""
        return [error.body]


class OllamaWriter:
    """The bodies that a reply becomes; the last one counts its tokens, and its times in nanoseconds."""

    def __init__(self, model: str, warnings: Sequence[str], *, is_chat: bool, hide: bool) -> None:
        self._model, self._warnings, self._is_chat, self._hide = model, list(warnings), is_chat, hide
        self._started, self._first = time.monotonic_ns(), 0

    def whole(self, reply: Completion) -> Json:
        """Return the one body of a whole reply."""
        return self._last(reply, self._texts(reply.answer, "" if self._hide else reply.reasoning))

    def start(self) -> Iterable[Json]:
        """Return nothing: a stream begins with its first text."""
        self._first = time.monotonic_ns()
        return []

    def part(self, part: OpenPart, text: str) -> Iterable[Json]:
        """Return the line for some text."""
        texts = self._texts("", text) if part == "reasoning" else self._texts(text, "")
        return [self._head() | texts | {"done": False}]

    def moved(self) -> Iterable[Json]:
        """Return no line: Ollama's form has nothing that would take text back."""
        return ()

    def end(self, reply: Completion) -> Iterable[Json]:
        """Return the last line."""
        return [self._last(reply, self._texts("", ""))]

    def loaded(self) -> Json:
        """Return the body that says that a model is there."""
        return self._head() | self._texts("", "") | {"done": True, "done_reason": "load"}

    def _head(self) -> Json:
        return {"model": self._model, "created_at": _now()}

    def _texts(self, answer: str, reasoning: str) -> Json:
        thoughts = {"thinking": reasoning} if reasoning else {}
        if self._is_chat:
            return {"message": {"role": "assistant", "content": answer, **thoughts}}
        return {"response": answer, **thoughts}

    def _last(self, reply: Completion, texts: Json) -> Json:
        now = time.monotonic_ns()
        first = self._first or now
        return {
            **self._head(),
            **texts,
            "done": True,
            "done_reason": DONE_REASONS[reply.finish],
            "total_duration": now - self._started,
            "load_duration": 0,
            "prompt_eval_count": reply.prompt_tokens,
            "prompt_eval_duration": first - self._started,
            "eval_count": reply.tokens,
            "eval_duration": now - first,
            **({"warnings": self._warnings} if self._warnings else {}),
        }


def describe_models(served_models: Sequence[ServedModel], created: int) -> list[OllamaModel]:
    """Return the models as Ollama lists them; `created` is when the server started, in seconds."""
    return [
        OllamaModel(
            name=served.name,
            model=served.name,
            modified_at=_time(created),
            size=0,  # of a download, and there is none
            digest=hashlib.sha256(f"{served.name}\n{served.source}".encode()).hexdigest(),
            details=_details(served),
        )
        for served in served_models
    ]


def show_model(served: ServedModel, created: int) -> OllamaShow:
    """Return what Ollama says of one model: its settings, its context, and whether it thinks."""
    sampling = served.defaults.sampling
    settings = {
        "temperature": f"{sampling.temperature:g}",
        "top_p": f"{sampling.top_p:g}",
        "top_k": str(sampling.top_k),
        "num_predict": str(sampling.max_new_tokens),
    }
    details = _details(served)
    info: Json = {"general.architecture": details.family}
    if served.context_tokens is not None:
        info[f"{details.family}.context_length"] = served.context_tokens
    return OllamaShow(
        parameters="\n".join(f"{name:<30} {value}" for name, value in settings.items()),
        system=served.defaults.system or "",
        details=details,
        model_info=info,
        capabilities=["completion", "thinking"] if served.may_reason else ["completion"],
        modified_at=_time(created),
    )


def _details(served: ServedModel) -> OllamaDetails:
    known = "safetensors" if served.tokenizer is not None else ""
    return OllamaDetails(format=known, family="thinktune", families=["thinktune"])


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
