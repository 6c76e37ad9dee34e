"""A model's repository on Hugging Face: large files first, by plain HTTP, then one commit."""

from typing import Any

from thinktune.hub.huggingface import limit_timeouts, to_listing
from thinktune.hub.transfer import CountedFile, ModelUpload, Transfer
from thinktune.hub.verification import UPLOAD_ANSWER_SECONDS, Listing, access_token, http_status


class HuggingFaceRepository:
    """A model's repository on Hugging Face, by `huggingface_hub`.

    Files go by plain HTTP: Xet tells nobody how far it is, and takes no file that counts what is read of it.
    """

    def __init__(self, name: str) -> None:
        from huggingface_hub import HfApi, constants  # imported late: who pushes nothing needs no client

        limit_timeouts(UPLOAD_ANSWER_SECONDS)
        constants.HF_HUB_DISABLE_XET = True
        self._client = HfApi(token=access_token("huggingface"))
        self._name = name
        self._commit: str | None = None
        self._sent: dict[str, Any] = {}

    @property
    def address(self) -> str:
        """The page of the repository."""
        return f"{self._client.endpoint}/{self._name}"

    def visibility(self) -> str | None:
        """Return `public` or `private`; None where there is no such repository."""
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            found = self._client.repo_info(self._name)
        except RepositoryNotFoundError as error:
            if http_status(error) != 404:  # the client says so of a token that is refused, too
                raise
            return None
        return "private" if found.private else "public"

    def create(self, upload: ModelUpload) -> None:
        """Create the repository, private unless the upload is public."""
        self._client.create_repo(self._name, private=not upload.public)

    def listing(self) -> Listing:
        """Return the files that are there, and keep the commit that has them."""
        self._commit = self._client.repo_info(self._name).sha
        return to_listing(self._client.list_repo_tree(self._name, revision=self._commit, recursive=True))

    def send(self, upload: ModelUpload, name: str, transfer: Transfer) -> None:
        """Send a large file to the hub's storage; a small one travels with the commit."""
        from huggingface_hub import CommitOperationAdd

        path, (size, sha256) = upload.folder / name, upload.files[name]
        operation = CommitOperationAdd(name, str(path))
        operation.upload_info.sha256 = bytes.fromhex(sha256)  # known, so that the client need not read the file for it
        with CountedFile(path, name, transfer) as file:
            operation.path_or_fileobj = file
            self._client.preupload_lfs_files(self._name, [operation], num_threads=1)
        operation.path_or_fileobj = str(path)
        transfer.move(name, size)
        self._sent[name] = operation

    def commit(self, upload: ModelUpload, added: list[str], removed: list[str]) -> None:
        """Change the repository in one commit; one that changed since it was listed is refused (412)."""
        from huggingface_hub import CommitOperationDelete

        operations = [self._sent[name] for name in added] + [CommitOperationDelete(name) for name in removed]
        message = f"Upload {len(added)} files by thinktune"
        self._client.create_commit(self._name, operations, commit_message=message, parent_commit=self._commit)
