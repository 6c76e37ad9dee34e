"""Exit codes as the command line leaves them to a program that cannot wait for it."""

import json
import os

import pytest

from thinktune.exit_codes import EXIT_FILE_VARIABLE, exit_written


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (None, 0),
        (SystemExit(75), 75),
        (SystemExit("a message"), 1),
        (SystemExit(), 0),
        (KeyboardInterrupt(), 130),
        (ValueError("a mistake of ours"), 1),
    ],
    ids=repr,
)
def test_the_exit_code_is_written_to_the_file_that_is_named_whatever_ends_the_verb(error, code, tmp_path, monkeypatch):
    monkeypatch.setenv(EXIT_FILE_VARIABLE, str(tmp_path / "exit.json"))
    raised = None
    try:
        with exit_written():
            assert EXIT_FILE_VARIABLE not in os.environ, "a process that a verb starts would write its own code there"
            if error is not None:
                raise error
    except BaseException as caught:
        raised = caught
    assert raised is error
    assert json.loads((tmp_path / "exit.json").read_text())["code"] == code


def test_a_file_that_cannot_be_written_changes_no_exit_code(tmp_path, monkeypatch):
    monkeypatch.setenv(EXIT_FILE_VARIABLE, str(tmp_path / "none" / "exit.json"))
    with exit_written():
        pass
