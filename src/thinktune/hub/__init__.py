"""A model's or data set's name to a verified local folder, and a model's folder to a hub."""

from thinktune.hub.repository import fetch_files, find_in_cache, locate, locate_model
from thinktune.hub.transfer import ModelUpload
from thinktune.hub.upload import push
from thinktune.hub.verification import RepoType

__all__ = ["ModelUpload", "RepoType", "fetch_files", "find_in_cache", "locate", "locate_model", "push"]
