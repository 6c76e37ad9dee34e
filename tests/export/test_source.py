"""What is exported: a run's final model, or any model folder, and the name that engines know it by."""

import pytest

from thinktune.errors import UserError
from thinktune.export import find_source


def test_a_plain_model_folder_has_no_run_and_a_name_that_every_engine_takes(start, tmp_path):
    link = tmp_path / "My Model (v2)"
    link.symlink_to(start)
    source = find_source(link)
    assert (source.folder, source.run) == (link, None)
    assert source.defaults.system is None
    assert source.name == "my-model-v2"


def test_what_is_no_model_and_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not a folder"):
        find_source(tmp_path / "missing")
