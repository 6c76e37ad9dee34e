"""Where a teacher's replies come from: a server, a run of ours, a model folder, or the recipe's base."""

from dataclasses import dataclass
from pathlib import Path

from thinktune.config import Recipe
from thinktune.errors import UserError, redact
from thinktune.files import expand_home
from thinktune.hub import locate_model
from thinktune.inference import Endpoint
from thinktune.progress import Say
from thinktune.synthesis.teacher import Engine


@dataclass(frozen=True, slots=True)
class OpenedEngine:
    """An engine, its model's name for people, and what its replies depend on besides the request."""

    engine: Engine
    name: str
    identity: str


def is_address(text: str) -> bool:
    """Return True for an address of a server."""
    return text.startswith(("http://", "https://"))


def open_server(address: str, timeout_seconds: float) -> OpenedEngine:
    """Open a server by its URL or URL#MODEL; its key comes from the environment.

    Raises UserError where no model is named and the server has several.
    """
    url, _, model = address.partition("#")
    # One attempt: whoever counts the cost tries again.
    endpoint = Endpoint(url, model, timeout_seconds=timeout_seconds, max_attempts=1)
    if not model:
        names = endpoint.models()
        if len(names) != 1:
            endpoint.close()
            found = f"it has {', '.join(names)}" if names else "it does not list its models"
            raise UserError(f"--teacher: name the model of {redact(url)} as in {redact(url)}#MODEL; {found}")
        endpoint.model = model = names[0]
    return OpenedEngine(endpoint, model, f"{redact(endpoint.url)}#{model}")


def open_model(folder: str | None, recipe: Recipe, say: Say) -> OpenedEngine:
    """Load the model of a run or a model folder, or the recipe's base (None), into this process."""
    from thinktune.checkpoint import resolve_model_folder  # imported late: a server needs no torch
    from thinktune.eval.completion_store import model_fingerprint
    from thinktune.inference.session import load_engine
    from thinktune.tokenization.model_template import OWN

    if folder is None:
        source, name, template = locate_model(recipe), recipe.model.name, recipe.model.template
    else:
        path = expand_home(Path(folder))
        if not path.is_dir():
            raise UserError(f"--teacher: {folder!r} is neither an address (http://…) nor a folder of a run or a model")
        source, name, template = resolve_model_folder(path), path.name, OWN
    engine = load_engine(source, trust_remote_code=recipe.model.trust_remote_code, template=template, say=say)
    return OpenedEngine(engine, name, f"{name} {model_fingerprint(source)}")
