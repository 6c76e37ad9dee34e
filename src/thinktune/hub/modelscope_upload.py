"""A model's repository on ModelScope: large files first, then one commit."""

import base64
import time
from typing import Any

from thinktune.files import refuse_unsafe_paths
from thinktune.hub.modelscope import modelscope_client
from thinktune.hub.transfer import CountedFile, ModelUpload, Transfer
from thinktune.hub.verification import MAX_ATTEMPTS, Listing, is_connection_loss

REVISION = "master"  # the branch that the hub makes with a repository


class ModelScopeRepository:
    """A model's repository on ModelScope, by `modelscope_hub`.

    The client's own `upload_folder` commits what arrived even where other files did not, creates what is missing as
    public, and shows a file's progress only once it is there. So its parts are called here, and it commits once.
    """

    def __init__(self, name: str) -> None:
        self._client = modelscope_client()
        self._name = name

    @property
    def address(self) -> str:
        """The page of the repository."""
        return f"{self._client.legacy.endpoint}/models/{self._name}"

    def visibility(self) -> str | None:
        """Return `public`, `private`, `internal` or `unknown`; None where there is no such repository."""
        from modelscope_hub.constants import Visibility
        from modelscope_hub.errors import NotExistError

        legacy = self._client.legacy
        # By itself this request waits as long as the hub asks, be it an hour, before it is sent again.
        impatient = type(legacy)(legacy.token, legacy.endpoint, max_retries=0)
        try:
            found = impatient.get_repo_info(self._name, "model")
        except NotExistError:
            return None
        known = {int(each): each.name.lower() for each in Visibility}
        return known.get(found.get("Visibility"), "unknown")

    def create(self, upload: ModelUpload) -> None:
        """Create the repository, private unless the upload is public; its licence is the card's, or `Other`."""
        from modelscope_hub.constants import License

        known = {each.value.lower(): each.value for each in License}
        # By itself the client says Apache 2.0 of every model.
        license = known.get((upload.license or "").lower(), License.OTHER.value)
        visibility = "public" if upload.public else "private"
        self._client.create_repo(self._name, "model", visibility=visibility, license=license)

    def listing(self) -> Listing:
        """Return the files that are there."""
        found = self._client.list_repo_files(self._name, "model", revision=REVISION)
        files = [file for file in found if not file.is_dir]
        refuse_unsafe_paths(file.path for file in files)
        return {file.path: (file.size, file.sha256 or "") for file in files}

    def send(self, upload: ModelUpload, name: str, transfer: Transfer) -> None:
        """Send a large file to the hub's storage, where it is not yet; a small one travels with the commit."""
        size, sha256 = upload.files[name]
        if _is_large(name, size):
            for attempt in range(MAX_ATTEMPTS):
                try:
                    self._send_large(upload, name, sha256, transfer)
                    break
                except Exception as error:
                    if not is_connection_loss(error) or attempt == MAX_ATTEMPTS - 1:
                        raise
                    time.sleep(2**attempt)
        transfer.move(name, size)

    def _send_large(self, upload: ModelUpload, name: str, sha256: str, transfer: Transfer) -> None:
        legacy, size = self._client.legacy, upload.files[name][0]
        wanted = [{"oid": sha256, "size": size}]
        # An address is good for some time only, so each try asks for its own.
        if address := legacy.validate_blobs(self._name, "model", wanted).get(sha256):
            with CountedFile(upload.folder / name, name, transfer) as file:
                legacy.upload_blob(address, file, size)

    def commit(self, upload: ModelUpload, added: list[str], removed: list[str]) -> None:
        """Change the repository in one commit."""
        from modelscope_hub.constants import COMMIT_MAX_ACTIONS_PER_REQUEST

        actions = [_addition(upload, name) for name in added] + [_action("delete", name) for name in removed]
        if len(actions) > COMMIT_MAX_ACTIONS_PER_REQUEST:
            raise ValueError(f"{len(actions)} files are more than it takes at once ({COMMIT_MAX_ACTIONS_PER_REQUEST})")
        message = f"Upload {len(added)} files by thinktune"
        self._client.legacy.create_commit(self._name, "model", actions, message, REVISION)


def _is_large(name: str, size: int) -> bool:
    """Return True if a file goes to the hub's large storage, by the rule of the client."""
    from modelscope_hub.constants import (
        MODEL_LFS_SUFFIX,
        UPLOAD_INLINE_METADATA_PATHS,
        UPLOAD_LFS_FORCE_THRESHOLD_BYTES,
    )

    base = name.rpartition("/")[2]
    if base.upper() in UPLOAD_INLINE_METADATA_PATHS or not size:
        return False
    return size > UPLOAD_LFS_FORCE_THRESHOLD_BYTES or base.lower().endswith(tuple(MODEL_LFS_SUFFIX))


def _addition(upload: ModelUpload, name: str) -> dict[str, Any]:
    size, sha256 = upload.files[name]
    if _is_large(name, size):
        return _action("create", name, type="lfs", size=size, sha256=sha256)
    content = base64.b64encode((upload.folder / name).read_bytes()).decode()
    return _action("create", name, size=size, content=content, encoding="base64")


def _action(action: str, name: str, **more: Any) -> dict[str, Any]:
    empty = {"type": "normal", "size": 0, "sha256": "", "content": "", "encoding": ""}
    return {"action": action, "path": name, **empty, **more}
