"""Errors in the form of each API, found by the address that was asked, and in the language of who asked."""

from typing import Any

from starlette.datastructures import Headers
from starlette.types import Scope

from thinktune.http.errors import ApiError
from thinktune.translation import Language, translate

MESSAGES_PATH, OLLAMA_PATH = "/v1/messages", "/api/"
ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
}


class AnthropicError(ApiError):
    """A refusal in Anthropic's form."""

    @property
    def body(self) -> dict[str, Any]:
        """The refusal as the JSON body that Anthropic's clients read."""
        usual = "api_error" if self.status >= 500 else "invalid_request_error"
        kind = ANTHROPIC_TYPES.get(self.status, usual)
        return {"type": "error", "error": {"type": kind, "message": str(self)}, "request_id": None}


class OllamaError(ApiError):
    """A refusal in Ollama's form."""

    @property
    def body(self) -> dict[str, Any]:
        """The refusal as the JSON body that Ollama's clients read."""
        return {"error": str(self)}


def in_form_of(error: ApiError, scope: Scope) -> ApiError:
    """Return an error in the form of the API whose address was asked; that below a proxy's path as well."""
    path, root = str(scope.get("path", "")), str(scope.get("root_path", ""))
    path = path.removeprefix(root) if path.startswith(f"{root}/") else path
    kind = AnthropicError if path == MESSAGES_PATH or path.startswith(f"{MESSAGES_PATH}/") else ApiError
    kind = OllamaError if path.startswith(OLLAMA_PATH) else kind
    sentence = translate(str(error), language_of(scope))
    return kind(error.status, sentence, code=error.code, param=error.param)


def language_of(scope: Scope) -> Language:
    """Return the language that a page of ours asks for; English where nobody does, as programs."""
    return "zh" if Headers(scope=scope).get("accept-language", "").lower().startswith("zh") else "en"
