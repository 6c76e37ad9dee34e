"""Feedback of people on replies: thumbs and corrections become rows of the run, and blind votes are kept for `eval`."""

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request

from thinktune.data.columns.provenance import MAKER_KEY, PROVENANCE_COLUMN
from thinktune.errors import UserError
from thinktune.run import RunFolder
from thinktune.run.feedback import Preference, put_record
from thinktune.serve.chat_messages import MAX_MESSAGES
from thinktune.serve.models import ServedModel
from thinktune.serve.neutral_fields import Json
from thinktune.serve.openai_schema import MAX_NAME_CHARACTERS, ApiError, ResponseModel, describe_body
from thinktune.serve.security import Limits, read_body

SIDES = ("base", "tuned")  # of a comparison; an even seed puts them on left and right in this order

Identity = Annotated[str, Field(pattern=r"^[0-9A-Za-z_-]{8,64}$")]
Body = TypeVar("Body", bound="FeedbackBody")


class FeedbackBody(BaseModel):
    """Base of what the page sends; an unknown field is a fault."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    id: Identity
    """The page's own; the same id again replaces what was said before."""


class SaidMessage(BaseModel):
    """A message before the reply; only the assistant's may have reasoning."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    role: Literal["system", "user", "assistant"]
    content: str
    reasoning_content: str = ""


class RatedReply(FeedbackBody):
    """A thumb or a correction: the conversation up to a reply, and the reply or what it should have been."""

    rating: Literal["good", "bad", "corrected"] | None
    """None takes the former rating back, and needs nothing else."""
    model: str = ""
    messages: Annotated[list[SaidMessage], Field(max_length=MAX_MESSAGES)] = []
    reasoning: str = ""
    answer: str = ""
    thinking: bool = True
    """Whether the reply was asked for with reasoning."""
    finish: Literal["stop", "length", "stopped", "failed"] = "stop"


class ShownReply(BaseModel):
    """A reply of a comparison, and the model that wrote it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    model: str
    reasoning: str = ""
    answer: str = ""


class Vote(FeedbackBody):
    """A vote between two replies whose names were hidden; the seed decided which one stood left."""

    vote: Literal["left", "right", "tie", "neither"] | None
    """None takes the former vote back, and needs nothing else."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    question: str = ""
    left: ShownReply | None = None
    right: ShownReply | None = None


class Offer(ResponseModel):
    """The body of GET /v1/feedback: whether feedback is kept, and held-out questions to ask."""

    run: str | None
    """The name of the run that keeps it; None where no run is served."""
    questions: list[str]


class KeptRow(ResponseModel):
    """The row that was made of a reply, and the file in the run's folder that holds it."""

    row: Json | None
    file: str | None
    """None where no run is served: the row is made, and not kept."""


class KeptVote(ResponseModel):
    """The file in the run's folder that holds the vote."""

    file: str


FEEDBACK_BODIES = (RatedReply, Vote)


def add_feedback_routes(app: FastAPI, served_models: Sequence[ServedModel], limits: Limits) -> None:
    """Add the routes of feedback: what is offered, rows of rated replies, and votes."""
    run = next((served_model.run for served_model in served_models if served_model.run), None)
    questions = next((served_model.questions for served_model in served_models if served_model.questions), ())
    offer = Offer(run=run.path.resolve().name if run else None, questions=list(questions))
    writing = CapacityLimiter(1)

    async def put(run: RunFolder, file: Path, identity: str, record: Json | None) -> None:
        await to_thread.run_sync(_put, run, file, identity, record, limiter=writing)

    async def offer_feedback() -> Offer:
        return offer

    async def rate_reply(request: Request) -> KeptRow:
        rated = _parse(await read_body(request, limits), RatedReply)
        row = None if rated.rating is None else training_row(rated, served_models)
        if run is None:
            return KeptRow(row=row, file=None)
        await put(run, run.chat_rows, rated.id, row)
        return KeptRow(row=row, file=run.chat_rows.name)

    async def keep_vote(request: Request) -> KeptVote:
        vote = _parse(await read_body(request, limits), Vote)
        if run is None:
            raise ApiError(400, "no run is served here, so votes cannot be saved; serve the run's folder")
        await put(run, run.votes, vote.id, None if vote.vote is None else vote_record(vote, served_models))
        return KeptVote(file=run.votes.name)

    app.add_api_route("/v1/feedback", offer_feedback, summary="Say where feedback is saved, and what could be asked.")
    for path, keep, kept, body, summary in (
        (
            "rows",
            rate_reply,
            KeptRow,
            RatedReply,
            "Make a row from a reply with a thumb or a correction; null undoes it.",
        ),
        ("votes", keep_vote, KeptVote, Vote, "Save a vote between two replies with hidden names; null undoes it."),
    ):
        app.add_api_route(
            f"/v1/feedback/{path}",
            keep,
            methods=["POST"],
            summary=summary,
            response_model=kept,
            openapi_extra=describe_body(body),
        )


def training_row(rated: RatedReply, served_models: Sequence[ServedModel]) -> Json:
    """Make the row that a rated reply is: its conversation, of which only the last reply is trained.

    A bad reply's row is labelled so, and no run trains it. The system prompt is the one that the model saw, and the row
    names its mode where it was asked for none, or reasons. Raises ApiError (400) where no row can come of it.
    """
    served_model = next((one for one in served_models if one.name == rated.model), served_models[0])
    _refuse_order([message.role for message in rated.messages])
    if rated.rating != "bad" and not rated.answer.strip():
        raise ApiError(400, "answer: is empty, so it would teach nothing; write the correct answer", param="answer")
    if rated.rating == "good" and rated.finish != "stop":
        raise ApiError(400, "rating: the reply was cut off, so it cannot be a good row; correct it", param="rating")
    messages = [_row_message(message) for message in rated.messages if message.role != "system" or message.content]
    if rated.messages[0].role != "system" and served_model.defaults.system:
        messages = [{"role": "system", "content": served_model.defaults.system}, *messages]
    reply = {"role": "assistant", "content": rated.answer}
    if rated.reasoning.strip():
        reply["reasoning_content"] = rated.reasoning
    row: Json = {"messages": [*messages, reply], "label": rated.rating != "bad"}
    if not rated.thinking or "reasoning_content" in reply:
        row["enable_thinking"] = rated.thinking
    made_by = {"id": rated.id, "from": "chat", "rating": rated.rating, "model": rated.model, "step": served_model.step}
    return row | {PROVENANCE_COLUMN: {MAKER_KEY: version("thinktune"), **made_by, "made": _now()}}


def vote_record(vote: Vote, served_models: Sequence[ServedModel]) -> Json:
    """Make the line that a vote is; raises ApiError (400) unless base and tuned stood where the seed puts them."""
    if vote.left is None or vote.right is None:
        raise ApiError(400, "left, right: both replies are needed", param="left")
    expected = SIDES[:: -1 if vote.seed % 2 else 1]
    if (vote.left.model, vote.right.model) != expected:
        raise ApiError(400, f"left, right: with seed {vote.seed} they are {' and '.join(expected)}", param="left")
    if not (vote.question.strip() and (vote.left.answer + vote.right.answer).strip()):
        raise ApiError(400, "question, left, right: a question and an answer are needed", param="question")
    step = next((one.step for one in served_models if one.name == "tuned"), None)
    preferred: dict[str | None, Preference] = {
        "left": "tuned" if vote.left.model == "tuned" else "base",
        "right": "tuned" if vote.right.model == "tuned" else "base",
        "tie": "tie",
        "neither": "neither",
    }
    return {
        "id": vote.id,
        "preferred": preferred[vote.vote],
        "vote": vote.vote,
        "seed": vote.seed,
        "question": vote.question,
        "left": vote.left.model_dump(),
        "right": vote.right.model_dump(),
        "step": step,
        "made": _now(),
    }


def _refuse_order(roles: Sequence[str]) -> None:
    """Raise ApiError unless user and assistant take turns after an optional system prompt, the user last."""
    said = roles[1:] if roles[:1] == ["system"] else roles
    for number, role in enumerate(said):
        expected = "assistant" if number % 2 else "user"
        if role != expected:
            place = f"messages.{number + len(roles) - len(said)}"
            raise ApiError(400, f"{place}: is the {role}'s, where the {expected}'s is expected", param=place)
    if len(said) % 2 == 0:
        raise ApiError(400, "messages: the last message must be from the user", param="messages")


def _row_message(message: SaidMessage) -> Json:
    row: Json = {"role": message.role, "content": message.content}
    if message.role == "assistant":
        row |= {"reasoning_content": message.reasoning_content} if message.reasoning_content.strip() else {}
        row["loss_weight"] = 0  # nobody said that this one is good
    return row


def _parse(body: bytes, kind: type[Body]) -> Body:
    try:
        return kind.model_validate_json(body, strict=True)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False, include_context=False)
        places = [".".join(str(part)[:MAX_NAME_CHARACTERS] for part in fault["loc"]) for fault in faults]
        sentences = [f"{place or 'the body'}: {fault['msg']}" for place, fault in zip(places, faults, strict=True)]
        raise ApiError(400, "; ".join(sentences[:20]), param=places[0] or None) from None


def _put(run: RunFolder, file: Path, identity: str, record: Json | None) -> None:
    try:
        put_record(run, file, identity, record)
    except UserError as error:
        raise ApiError(500, str(error)) from None
    except OSError as error:  # its path is nothing for clients
        raise ApiError(500, f"{file.name}: could not be written ({error.strerror or 'the disk failed'})") from None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
