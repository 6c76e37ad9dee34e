"""Sentences that verbs and their files say in English, translated for a page that is read in Chinese."""

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from thinktune.http import ApiError
from thinktune.http.security import read_body
from thinktune.studio.studio import Studio
from thinktune.translation import translate

MAX_SENTENCES = 500  # of one request


class Sentences(BaseModel):
    """Texts that a page shows."""

    model_config = ConfigDict(extra="forbid")

    texts: list[str] = Field(max_length=MAX_SENTENCES)


def add_sentence_routes(app: FastAPI, studio: Studio) -> None:
    """Add the route by which a page asks for Chinese sentences."""

    async def translate_sentences(request: Request) -> Response:
        try:
            asked = Sentences.model_validate_json(await read_body(request, studio.limits))
        except ValidationError:
            raise ApiError(400, f"texts: is not a list of at most {MAX_SENTENCES} texts; send one") from None
        return JSONResponse({"texts": [translate(text, "zh") for text in asked.texts]})

    app.add_api_route(
        "/studio/sentences", translate_sentences, methods=["POST"], summary="Translate sentences of ours into Chinese."
    )
