"""The recorded environment names versions, machine and command, and holds no secret."""

import pytest

from thinktune.run import describe_environment

SECRET = 'it\'s a "pass" wörd & $more'


@pytest.mark.parametrize(
    "words",
    [
        [f"data.name={SECRET}"],
        ["model.name=https://me:hunter22@hub.example/m"],
        ["--password", "hunter22"],
        ["track.host=https://hub/?token=hunter22"],
        ["name=ghp_" + "hunter22" * 5],
    ],
)
def test_the_recorded_command_holds_no_secret_however_a_shell_would_quote_it(monkeypatch, words):
    monkeypatch.setenv("DB_PASS", SECRET)
    command = describe_environment(["/bin/thinktune", "train", "mine.yaml", *words])["command"]
    assert command.startswith("thinktune train mine.yaml ")
    assert "***" in command
    for part in ("hunter22", "wörd", "more"):
        assert part not in command
