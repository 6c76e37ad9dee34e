"""Push a model to a hub: what is there is not sent again, and the repository changes once, when all files are there."""

import re
import time
from concurrent.futures import ThreadPoolExecutor, as_completed

from thinktune.config.schema import Hub
from thinktune.errors import UserError, shorten_error
from thinktune.hub.huggingface_upload import HuggingFaceRepository
from thinktune.hub.modelscope_upload import ModelScopeRepository
from thinktune.hub.transfer import HubRepository, ModelUpload, Transfer
from thinktune.hub.verification import (
    MAX_ATTEMPTS,
    SHA256_PATTERN,
    TOKEN_VARIABLES,
    Listing,
    access_token,
    exception_chain,
    http_status,
    matches_digest,
    redact_tokens,
)
from thinktune.progress import ProgressReporter, Say, format_duration

UPLOAD_WORKERS = 4
"""Files that are sent at the same time."""


# What transformers reads by its name. Left by an earlier model it would be read as this one's: a single file of weights
# comes before shards, a template before the tokenizer's.
_READ_BY_NAME = re.compile(
    r"[^/]+\.safetensors|(pytorch_model|adapter_model)[^/]*\.bin|[^/]+\.(safetensors|bin)\.index\.json"
    r"|(generation|adapter|tokenizer)_config\.json|chat_template\.(jinja|json)|additional_chat_templates/[^/]+"
    r"|tokenizer\.(json|model)|vocab\.(json|txt)|merges\.txt|added_tokens\.json|special_tokens_map\.json|spiece\.model"
)

_NO_ROOM = re.compile(
    r"quota|配额|(storage|space|存储|空间|容量)[^.。]{0,60}(exceed|limit|full|insufficient|reached|exhausted|不足|已满|超)"
    r"|insufficient (storage|space)|no (space|storage|room) left",
    re.IGNORECASE,
)

_QUERY = re.compile(r"(https?://[^\s?'\"]+)\?[^\s'\"]+")  # of an address that a hub signed: it lets its holder write


def push(upload: ModelUpload, hub: Hub, say: Say) -> str:
    """Push a model to a hub and return its address there.

    The content of files is sent first, to storage that no reader of the repository sees; then one commit adds them all
    and removes the files of an earlier model. A push that was cut leaves the repository as it was. Raises UserError, in
    one sentence, where the hub refuses or fails.
    """
    place = f"--hub {hub}: {upload.name!r}"
    if not access_token(hub):
        token = TOKEN_VARIABLES[hub]
        raise UserError(f"{place} needs a token with write access; make one on the hub's page, and set {token} to it")
    try:
        repository = HuggingFaceRepository(upload.name) if hub == "huggingface" else ModelScopeRepository(upload.name)
        _require_repository(repository, upload, place)
        address = _synchronize(repository, upload, say)
        wrong = _wrong_files(repository, upload)
    except UserError:
        raise
    except Exception as error:
        # The clients raise many kinds (requests', httpx', their own, OSError): each means that the push failed.
        raise UserError(
            redact_tokens(f"{place} could not be pushed: {_describe_failure(error, hub, upload)}")
        ) from error
    if wrong:
        raise UserError(
            f"{place} differs on {hub} from what is here: {', '.join(wrong[:3])}; a .gitignore there may leave "
            "files out: correct it, then run the same command"
        )
    return address


def _require_repository(repository: HubRepository, upload: ModelUpload, place: str) -> None:
    """Create the repository where there is none; raise UserError where it is seen by others than asked for."""
    wanted = "public" if upload.public else "private"
    found = repository.visibility()
    if found is None:
        repository.create(upload)
    elif found != wanted:
        remedy = "leave out --public" if upload.public else "give --public"
        raise UserError(
            f"{place} already exists and {found}, not {wanted}; {remedy}, change that on its page, or name another"
        )


def _synchronize(repository: HubRepository, upload: ModelUpload, say: Say) -> str:
    """Make the repository hold the upload's files; what else it holds stays, but for files of an earlier model."""
    there = repository.listing()
    changed = [name for name in upload.files if not _is_there(upload, name, there)]
    left = there.keys() - upload.files.keys() if "config.json" in upload.files else ()
    removed = sorted(name for name in left if _READ_BY_NAME.fullmatch(name))
    whole = _describe_files(upload, list(upload.files))
    if not changed and not removed:
        say(f"{whole} are already there, and nothing is sent")
        return repository.address
    kept = f"; {len(upload.files) - len(changed)} more are already there" * (len(changed) < len(upload.files))
    say(f"sending {_describe_files(upload, changed)} to {repository.address}{kept}")
    if replaced := [name for name in changed if name in there]:
        say(f"replaced there (the history keeps the old ones): {', '.join(replaced)}")
    if removed:
        say(f"removed there, because they belong to an earlier model (the history keeps them): {', '.join(removed)}")
    began = time.monotonic()
    _send_files(repository, upload, changed, say)
    repository.commit(upload, changed, removed)
    say(f"sent {_describe_files(upload, changed)} in {format_duration(time.monotonic() - began)}")
    return repository.address


def _describe_files(upload: ModelUpload, names: list[str]) -> str:
    megabytes = sum(upload.files[name][0] for name in names) / 1e6
    return f"{len(names)} file{'s' * (len(names) != 1)} ({megabytes:,.1f} MB)"


def _is_there(upload: ModelUpload, name: str, there: Listing) -> bool:
    """Return True if the repository has a file as it is here: by sha256, or by git's digest of a small file."""
    if name not in there or there[name][0] != upload.files[name][0]:
        return False
    digest = there[name][1]
    if SHA256_PATTERN.fullmatch(digest):
        return digest == upload.files[name][1]
    return bool(digest) and matches_digest(upload.folder / name, upload.files[name][0], digest)


def _wrong_files(repository: HubRepository, upload: ModelUpload) -> list[str]:
    """Name the files that the repository does not have as they are here, after a commit; a listing may lag behind."""
    wrong: list[str] = []
    for attempt in range(MAX_ATTEMPTS):
        time.sleep(attempt)
        there = repository.listing()
        wrong = [name for name in upload.files if not _is_there(upload, name, there)]
        if not wrong:
            break
    return wrong


def _send_files(repository: HubRepository, upload: ModelUpload, names: list[str], say: Say) -> None:
    """Send files, several at once, the largest first; the first error stops them all."""
    total = sum(upload.files[name][0] for name in names)
    reporter = ProgressReporter(say, "MB", total, what="bytes sent", size=10**6)
    transfer = Transfer(reporter.update)
    largest_first = sorted(names, key=lambda name: -upload.files[name][0])
    with ThreadPoolExecutor(UPLOAD_WORKERS) as pool:
        started = [pool.submit(repository.send, upload, name, transfer) for name in largest_first]
        try:
            for sent in as_completed(started):
                sent.result()
        except BaseException:
            transfer.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _describe_failure(error: BaseException, hub: Hub, upload: ModelUpload) -> str:
    """Describe in one sentence what went wrong with a push, and what to do about it."""
    token, owner = TOKEN_VARIABLES[hub], upload.name.partition("/")[0]
    again = "then run the same command: finished uploads are kept"
    status = http_status(error)
    texts = " ".join(f"{type(link).__name__} {link}" for link in exception_chain(error))
    may_be_full = status is None or (status < 500 and status != 429)
    if status in (402, 507) or (may_be_full and _NO_ROOM.search(texts)):
        return f"it has no space left for {owner!r} (the quota is full); delete what you do not need there, {again}"
    match status:
        case 401:
            return f"it refuses the token (401); set {token} to one with write access, {again}"
        case 403:
            return f"it does not let this token write there (403); set {token} to one with write access to {owner!r}"
        case 404:
            return f"it has no such owner or repository, or hides it from this token (404); correct {upload.name!r}"
        case 409 | 412:
            return f"the repository has changed meanwhile, or the name is taken ({status}); look at its page, {again}"
        case 413:
            return "a file is larger than it takes (413); export smaller shards, or choose the other hub"
        case 429:
            return f"it received too many requests (429); wait a few minutes, {again}"
        case int() if status >= 500:
            return f"it failed ({status}); wait, {again}"
        case _:
            pass
    if re.search("Timeout|Connect|Protocol|ReadError|WriteError|NetworkError|BrokenPipe", texts):
        return f"the connection fails or is not answered; check the network, {again}"
    text = redact_tokens(_QUERY.sub(r"\1?***", shorten_error(error, 10_000)))[:300]  # no half of a token either
    return f"{text}; correct that, {again}"
