"""The OpenAI-style API: /v1/models, /v1/chat/completions and /v1/completions, streaming or whole."""

import json
import logging
import time
import uuid
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from helpers.common.errors import KitError
from helpers.generation.engine import Engine
from helpers.generation.request import Generation, GenerationRequest, Piece
from helpers.server.answers import Answers, generate_all
from helpers.server.apps import make_app
from helpers.server.errors import ApiError, as_api_error, describe_error
from helpers.server.openai_bodies import ChatCompletionBody, CompletionBody, SamplingBody
from helpers.server.openai_dialects import ChatDialect, Dialect, TextDialect
from helpers.server.openai_replies import ChatCompletion, Completion, ModelCard, ModelList, count_usage
from helpers.server.service import Service

# For /openapi.json, beside the whole reply: events whose data is a chunk of the reply as JSON, or [DONE].
EVENT = {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}


STREAMED = {200: {"content": {"text/event-stream": {"itemSchema": EVENT}}}}


class EventStream(StreamingResponse):
    """Server-sent events of answers that have begun; these end with the reply, however it ends."""

    def __init__(self, answers: Answers, events: AsyncIterator[str]):
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self.answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the events. The iterator's own end would not do: it never comes when the client leaves before the first event."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.answers.close()


async def write_events(
    dialect: Dialect, answers: Answers, base: dict, include_usage: bool
) -> AsyncIterator[str]:
    """Server-sent events: the beginnings, the pieces, the reason of each answer's end, the usage when asked for, [DONE]."""
    base = {**base, "object": dialect.event_object, **({"usage": None} if include_usage else {})}
    whole: dict[int, Generation] = {}

    def write(choice: dict) -> str:
        return f"data: {json.dumps({**base, 'choices': [choice]})}\n\n"

    try:
        for index in range(len(answers.requests)):
            if start := dialect.describe_start(index):
                yield write(start)
        async for index, piece in answers:
            if isinstance(piece, Piece):
                yield write(dialect.describe_piece(index, piece))
            else:
                whole[index] = piece
                yield write(dialect.describe_end(index, piece.finish_reason))
        if include_usage:
            usage = count_usage([whole[index] for index in sorted(whole)], dialect.choices_per_prompt)
            yield f"data: {json.dumps({**base, 'choices': [], 'usage': usage.model_dump()})}\n\n"
    except Exception as error:  # the status 200 is out already, so the stream itself must tell
        if not isinstance(error, KitError):
            logging.getLogger("uvicorn.error").exception("A streamed answer failed")
        yield f"data: {json.dumps({'error': describe_error(error)})}\n\n"
    yield "data: [DONE]\n\n"


async def answer(
    engine: Engine, requests: list[GenerationRequest], dialect: Dialect, body: SamplingBody, http: Request
) -> BaseModel | EventStream:
    """The reply, whole or streamed. What is refused is refused before the first event."""
    base = {
        "id": dialect.prefix + uuid.uuid4().hex,
        "created": int(time.time()),
        "model": requests[0].adapter or engine.name,
    }
    try:
        if body.stream:
            answers = Answers(engine, requests)
            await answers.start()
            return EventStream(answers, write_events(dialect, answers, base, body.wants_usage()))
        generations = await generate_all(engine, requests, http)
    except KitError as error:
        raise as_api_error(error, "prompt" if requests[0].messages is None else "messages") from None
    choices = [dialect.describe_choice(index, generation) for index, generation in enumerate(generations)]
    return dialect.reply(
        **base,
        object=dialect.whole_object,
        choices=choices,
        usage=count_usage(generations, dialect.choices_per_prompt),
    )


def make_openai_app(service: Service, api_key: str | None = None, strict_model: bool = False) -> FastAPI:
    """The application. `model` picks an adapter or the base by name; any other name gets the default, or a 404 with strict_model."""
    app = make_app("Open LLM Kit: OpenAI-style API", api_key)
    started = int(time.time())

    def pick_adapter(engine: Engine, name: str | None) -> str | None:
        if name in engine.adapters:
            return name
        if name != engine.name and strict_model:
            raise unknown_model(name)
        return None if name == engine.name or not engine.adapters else engine.adapters[0]

    def list_cards() -> list[ModelCard]:
        names = [service.engine.name, *service.engine.adapters] if service.engine else []
        return [ModelCard(id=name, created=started) for name in names]

    @app.get("/v1/models")
    async def list_models() -> ModelList:
        return ModelList(data=list_cards())

    @app.get("/v1/models/{name:path}")
    async def show_model(name: str) -> ModelCard:
        for card in list_cards():
            if card.id == name:
                return card
        raise unknown_model(name)

    @app.post("/v1/chat/completions", response_model=ChatCompletion, responses=STREAMED)
    async def complete_chat(body: ChatCompletionBody, http: Request):
        engine = service.get_engine()
        requests = body.build_requests(engine, pick_adapter(engine, body.model))
        return await answer(engine, requests, ChatDialect(bool(body.logprobs), body.n or 1), body, http)

    @app.post("/v1/completions", response_model=Completion, responses=STREAMED)
    async def complete_text(body: CompletionBody, http: Request):
        engine = service.get_engine()
        requests = body.build_requests(engine, pick_adapter(engine, body.model))
        dialect = TextDialect(body.logprobs is not None, body.n or 1, body.prompt if body.echo else None)
        return await answer(engine, requests, dialect, body, http)

    return app


def unknown_model(name: str | None) -> ApiError:
    """OpenAI's refusal of a model's name."""
    return ApiError(
        404,
        f"The model '{name or ''}' does not exist or you do not have access to it.",
        "model",
        "model_not_found",
    )
