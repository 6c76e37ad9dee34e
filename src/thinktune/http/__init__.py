"""What every HTTP server of ours shares: who may use it, limits, refusals, its page's files, and how it listens."""

from thinktune.http.application import empty_app
from thinktune.http.errors import ApiError
from thinktune.http.listening import listen
from thinktune.http.pages import add_page_files, read_page_files
from thinktune.http.security import Access, Limits, SecurityMiddleware

__all__ = [
    "Access",
    "ApiError",
    "Limits",
    "SecurityMiddleware",
    "add_page_files",
    "empty_app",
    "listen",
    "read_page_files",
]
