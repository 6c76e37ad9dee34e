"""Thoughts of former replies, in every form in which clients send them back: never text that the model is shown."""

import html
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinktune.serve.chat_messages import Message
from thinktune.serve.conversations import to_turns
from thinktune.serve.former_thoughts import FormerReply, split_reply
from thinktune.tokenization import Turn
from thinktune.tokenization.tags import KNOWN_TAGS, Tags

THOUGHTS, ANSWER = "It is <b>so</b>.\n\n> Quite & so.", "Because **so**.\n\n- one"


def details(thoughts, *, closed=True):
    """Write thoughts as Open WebUI keeps them: quoted, escaped, folded."""
    quoted = html.escape("\n".join(line if line.startswith(">") else f"> {line}" for line in thoughts.splitlines()))
    end = "\n</details>\n" if closed else ""
    return (
        f'<details type="reasoning" done="true" duration="3">\n<summary>Thought for 3 seconds</summary>\n{quoted}{end}'
    )


def turn_of(**message):
    [_, turn, _], open_turn = to_turns(
        [Message(role="user", content="q"), Message(role="assistant", **message), Message(role="user", content="r")],
        Tags(),
    )
    assert open_turn is None
    return turn


FORMS = {
    "reasoning_content": {"content": ANSWER, "reasoning_content": THOUGHTS},
    "reasoning": {"content": ANSWER, "reasoning": THOUGHTS},
    "ollama": {"content": ANSWER, "thinking": THOUGHTS},
    "tags": {"content": f"<think>\n{THOUGHTS}\n</think>\n\n{ANSWER}"},
    "opening tag missing": {"content": f"{THOUGHTS}\n</think>\n\n{ANSWER}"},
    "another family's tags": {"content": f"[THINK]{THOUGHTS}[/THINK]{ANSWER}"},
    "anthropic": {
        "content": [{"type": "thinking", "thinking": THOUGHTS, "signature": "s"}, {"type": "text", "text": ANSWER}]
    },
    "mistral": {
        "content": [
            {"type": "thinking", "thinking": [{"type": "text", "text": THOUGHTS}]},
            {"type": "text", "text": ANSWER},
        ]
    },
    "litellm": {"content": ANSWER, "thinking_blocks": [{"type": "thinking", "thinking": THOUGHTS, "signature": "s"}]},
    "openrouter": {"content": ANSWER, "reasoning_details": [{"type": "reasoning.text", "text": THOUGHTS}]},
    "twice the same": {"content": f"<think>\n{THOUGHTS}\n</think>\n\n{ANSWER}", "reasoning_content": THOUGHTS},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_turn(form):
    assert turn_of(**FORMS[form]) == Turn("assistant", ANSWER, THOUGHTS)


def test_a_folded_block_gives_its_thoughts_without_the_marks_of_the_page():
    plain = "One < two.\n\nThree."
    assert turn_of(content=details(plain) + ANSWER) == Turn("assistant", ANSWER, plain)
    twice = details("first") + "So far.\n" + details("second") + ANSWER
    assert turn_of(content=twice) == Turn("assistant", f"So far.\n\n{ANSWER}", "first\n\nsecond")
    assert turn_of(content=details("cut off", closed=False)) == Turn("assistant", "", "cut off")
    unescaped = (
        '\n<details type="reasoning" done="false">\n<summary>Thinking…</summary>\n> a\n> b\n</details>\n' + ANSWER
    )
    assert turn_of(content=unescaped) == Turn("assistant", ANSWER, "a\nb")


def test_what_an_answer_says_about_such_forms_stays():
    for answer in (
        f"Write this:\n\n```html\n{details('shown')}```\n\nThat is all.",
        "<details><summary>More</summary>\nfolded answer\n</details>",
        "Use <think> and </think>.",
        "  indented\n",
    ):
        assert turn_of(content=answer, reasoning_content="r") == Turn("assistant", answer, "r")
    assert turn_of(content="<think> opens it", reasoning="r") == Turn("assistant", "<think> opens it", "r")
    assert turn_of(content="<reasoning>mine</reasoning>x") == Turn("assistant", "<reasoning>mine</reasoning>x", "")
    user = [Message(role="user", content="<think>\na\n</think>\nb")]
    assert to_turns(user, Tags()) == ([Turn("user", "<think>\na\n</think>\nb")], None)


def test_redacted_and_faulty_thoughts_are_none():
    parts = [{"type": "redacted_thinking", "data": "x"}, {"type": "text", "text": "a"}]
    assert turn_of(content=parts) == Turn("assistant", "a", "")
    assert turn_of(content="a", thinking_blocks=[3, {"thinking": 4}], reasoning_details={"x": 1}).reasoning == ""


@given(
    st.sampled_from([*KNOWN_TAGS, Tags("<reason>", "</reason>")]),
    st.text("ab \n<>&", min_size=1).filter(lambda text: text.strip("\n") == text and text.strip()),
    st.text("ab \n<>&`", min_size=1).filter(lambda text: text.strip("\n") == text and text.strip()),
)
def test_what_was_put_between_the_models_tags_comes_out_again(tags, thoughts, answer):
    text = f"{tags.opening}\n{thoughts}\n{tags.closing}\n\n{answer}"
    assert split_reply(text, "", tags) == FormerReply(thoughts, answer)
    assert split_reply(answer, thoughts, tags) == FormerReply(thoughts, answer)
    broken_off = split_reply(f"{tags.opening}\n{thoughts} ", "", tags)
    assert broken_off == FormerReply(thoughts + " ", "", is_open=True)


@pytest.mark.parametrize(
    "unit",
    [
        "<details\n",
        "\n",
        " ",
        '<details type="reasoning">a',
        "<think></think>",
        "```\n",
        "<details ",
        ' type="reasoning"',
        "\t\n<details>",
        "`",
    ],
)
def test_the_time_is_linear_in_the_text(unit):
    def seconds(length):
        text = '<details type="reasoning"' + unit * (length // len(unit))
        started = time.thread_time()
        split_reply(text, "", Tags())
        return time.thread_time() - started

    assert min(seconds(200_000) for _ in range(3)) < 16 * min(seconds(50_000) for _ in range(3)) + 0.02
