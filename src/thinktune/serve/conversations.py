"""Messages to turns: former thoughts taken apart from the answers, and the last reply left open if it is to go on."""

from collections.abc import Sequence

from thinktune.inference.requests import OpenTurn
from thinktune.serve.chat_messages import Message
from thinktune.serve.former_thoughts import FormerReply, split_reply, thoughts_of_parts
from thinktune.tokenization import Turn
from thinktune.tokenization.tags import Tags


def to_turns(messages: Sequence[Message], tags: Tags) -> tuple[list[Turn], OpenTurn | None]:
    """Convert messages for the engine; `tags` are the model's own.

    If the last one is the assistant's, the reply goes on from it: from its answer; from its reasoning, where that was
    not closed, or where nothing of an answer is there. One without any text says nothing, and is left out.
    """
    *former, last = messages
    turns = [_turn(message, tags) for message in former]
    if last.role != "assistant":
        return [*turns, _turn(last, tags)], None
    reply = _reply(last, tags)
    turn = Turn("assistant", reply.answer, reply.reasoning)
    if reply.is_open or (reply.reasoning and not last.text.strip()):
        return [*turns, turn], OpenTurn("reasoning", bool(reply.reasoning))
    if reply.answer or reply.reasoning:
        return [*turns, turn], OpenTurn("answer", bool(reply.answer))
    return turns, None


def _turn(message: Message, tags: Tags) -> Turn:
    if message.role != "assistant":
        return Turn("system" if message.role == "developer" else message.role, message.text)
    reply = _reply(message, tags)
    return Turn("assistant", reply.answer, reply.reasoning)


def _reply(message: Message, tags: Tags) -> FormerReply:
    parts = message.content if isinstance(message.content, list) else []
    apart = message.reasoning_content or message.reasoning or message.thinking
    apart = apart or next(
        filter(
            None,
            (
                thoughts_of_parts([part.model_dump() for part in parts if part.type != "text"]),
                thoughts_of_parts(message.thinking_blocks),
                thoughts_of_parts(message.reasoning_details),
            ),
        ),
        "",
    )
    return split_reply(message.text, apart, tags)
