"""Secrets are masked in whatever shape they come, and ordinary text is left as it is."""

import json
import time

import pytest

from thinktune.errors import redact, redact_all, shorten_error

LETTERS = "aB3dE5gH7jK9mN2pQ4sT6vW8xY1zA3cD5fG7"
SHAPES = [
    f"hf_{LETTERS}",
    f"sk-proj-{LETTERS}",
    f"sk-ant-api03-{LETTERS}",
    f"ghp_{LETTERS}",
    f"gho_{LETTERS}",
    f"github_pat_11ABCDEFG0_{LETTERS}",
    f"glpat-{LETTERS}",
    "AKIAIOSFODNN7EXAMPLE",
    "ASIAIOSFODNN7EXAMPLE",
    f"LTAI5t{LETTERS[:18]}",
    f"AIzaSy{LETTERS}",
    f"xoxb-1234567890-{LETTERS}",
    f"npm_{LETTERS}",
    "ms-0123abcd-0123-4567-89ab-0123456789ab",
    f"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.{LETTERS}",
    f"-----BEGIN OPENSSH PRIVATE KEY-----\n{LETTERS}\n{LETTERS}\n-----END OPENSSH PRIVATE KEY-----",
    f"-----BEGIN RSA PRIVATE KEY-----\n{LETTERS}",
]


@pytest.mark.parametrize("secret", SHAPES)
@pytest.mark.parametrize(
    "text", ["{}", "say {}, please", "https://hub/x?a={}&b=1", "name='{}'", '{{"key": "{}"}}', "心脏{}血液"]
)
def test_the_shapes_of_common_keys_are_masked_wherever_they_stand(secret, text):
    masked = redact(text.format(secret))
    assert "***" in masked
    assert LETTERS not in masked
    assert secret[:20] not in masked


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("https://user:hunter2@hub.example/x", "https://user:***@hub.example/x"),
        ("http://:hunter2@hub:80", "http://:***@hub:80"),
        ("socks5://me:p@ss@proxy:1080 fails", "socks5://me:***@proxy:1080 fails"),
        ("git+https://oauth2:tok@host/a.git", "git+https://oauth2:***@host/a.git"),
        ("https://atoken@host/a.git", "https://***@host/a.git"),
        ("proxy user:hunter2@hub.example refuses", "proxy user:***@hub.example refuses"),
        ("x --password hunter22 y", "x --password *** y"),
        ("x --api-key=hunter22 y", "x --api-key=*** y"),
        ("https://hub/x?access_token=hunter22&b=1", "https://hub/x?access_token=***&b=1"),
        ("Authorization: Bearer abc.def-123", "Authorization: Bearer ***"),
    ],
)
def test_passwords_and_tokens_are_masked_by_what_stands_before_them(text, masked):
    assert redact(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "rows.jsonl:12: answer: is blank; write one, or set data.faults: {blank: drop}",
        "train.batch_tokens=16384 data.columns.answer=reply name=sk-test",
        "the API key is missing or wrong; send Authorization: Bearer KEY",
        "it requires a token (401); set HF_TOKEN to one with read access, or correct the name",
        "page: http://127.0.0.1:8420/\nAPI:  http://[::1]:8420/v1 (OpenAI-compatible)",
        "git@github.com:owner/name.git, contact me@example.com at 12:30",
        "disk-management-for-large-models, task-oriented-dialogue-systems",
        "the end-of-turn token '<|im_end|>' is 151645; a private key, BEGIN and END",
    ],
)
def test_ordinary_text_is_left_as_it_is(text):
    assert redact(text) == text


@pytest.mark.parametrize(
    "name", ["DB_PASS", "GITLAB_PAT", "MY_TOKEN", "CLIENT_SECRET", "OPENAI_API_KEY", "PGPASSWORD", "MYSQL_PWD", "HF_TOKEN_2", "PAT"]
)  # fmt: skip
def test_values_of_variables_named_like_a_secret_are_masked_also_as_urls_and_json_write_them(monkeypatch, name):
    secret = 'über "p&ss/wörd"'
    monkeypatch.setenv(name, secret)
    for text in (secret, f"x{secret}y", "https://h/?q=%C3%BCber%20%22p%26ss%2Fw%C3%B6rd%22", json.dumps(secret)):
        masked = redact(text)
        assert "***" in masked
        assert "ss" not in masked


def test_variables_that_only_end_alike_are_not_secrets(monkeypatch):
    for name in ("COMPASS", "PWD", "OLDPWD", "PYTHONPATH", "XPAT"):
        monkeypatch.setenv(name, "/home/someone")
    assert redact("read /home/someone/rows.jsonl") == "read /home/someone/rows.jsonl"


def test_every_text_of_a_tree_is_masked_and_the_rest_kept():
    tree = {"a": [1, None, True, 0.5, f"x {SHAPES[0]}"], "b": {"c": (SHAPES[3],)}, SHAPES[3]: "d"}
    assert redact_all(tree) == {"a": [1, None, True, 0.5, "x ***"], "b": {"c": ["***"]}, "***": "d"}


def test_a_long_error_is_masked_before_it_is_cut():
    for cut in range(1, len(SHAPES[0])):
        assert "hf_aB3" not in shorten_error(ValueError("x" * (300 - cut) + " " + SHAPES[0]))


@pytest.mark.parametrize(
    "piece",
    ["eyJ-", "eyJaaaaaa.", "://", "://a:", "a:", "token=", "-----BEGIN PRIVATE KEY-----", "a_", "sk-", "@", "bearer "],
)
def test_masking_takes_time_in_proportion_to_the_text(piece):
    def seconds(size):
        started = time.process_time()
        redact(piece * (size // len(piece)))
        return time.process_time() - started

    seconds(1000)
    assert seconds(80_000) < 10 * max(seconds(20_000), 0.02)
