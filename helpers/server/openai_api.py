"""The OpenAI-style API: /v1/models, /v1/chat/completions and /v1/completions, streamed or whole."""

import time
from typing import Any

from fastapi import FastAPI, Request
from pydantic import BaseModel

from helpers.common.errors import KitError
from helpers.generation.engine import Engine
from helpers.server.answers import Answers, generate_all
from helpers.server.apps import make_app
from helpers.server.errors import ApiError, as_api_error
from helpers.server.openai_bodies import ChatCompletionBody, CompletionBody
from helpers.server.openai_dialects import ChatDialect, TextDialect
from helpers.server.openai_replies import ChatCompletion, Completion, ModelCard, ModelList, count_usage
from helpers.server.openai_stream import Call, EventStream, write_events
from helpers.server.service import Service

# For /openapi.json, beside the whole reply: events whose data is a chunk of the reply as JSON, or [DONE].
EVENT = {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}
STREAMED: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"itemSchema": EVENT}}},
}


async def answer(call: Call, http: Request) -> BaseModel | EventStream:
    """The reply, whole or streamed. A request that is refused is refused before the first event."""
    try:
        if call.stream:
            answers = Answers(call.engine, call.requests)
            await answers.start()
            return EventStream(answers, write_events(call, answers))
        generations = await generate_all(call.engine, call.requests, http)
    except KitError as error:
        raise as_api_error(error, call.dialect.prompt_field) from None
    choices = [call.dialect.describe_choice(index, whole) for index, whole in enumerate(generations)]
    return call.dialect.reply(
        **call.describe(),
        object=call.dialect.whole_object,
        choices=choices,
        usage=count_usage(generations, call.dialect.choices_per_prompt),
    )


def make_openai_app(service: Service, api_key: str | None = None, strict_model: bool = False) -> FastAPI:
    """The application. `model` picks an adapter or the base by name.

    With any other name the default adapter answers, or with `strict_model` the request gets a 404.
    """
    app = make_app("Open LLM Kit: OpenAI-style API", api_key)
    started = int(time.time())

    @app.get("/v1/models")
    async def list_models() -> ModelList:
        return ModelList(data=list_cards(service, started))

    @app.get("/v1/models/{name:path}")
    async def show_model(name: str) -> ModelCard:
        for card in list_cards(service, started):
            if card.id == name:
                return card
        raise make_unknown_model_error(name)

    @app.post("/v1/chat/completions", response_model=ChatCompletion, responses=STREAMED)
    async def complete_chat(body: ChatCompletionBody, http: Request):
        engine = service.get_engine()
        requests = body.build_requests(engine, pick_adapter(engine, body.model, strict_model))
        dialect = ChatDialect(bool(body.logprobs), body.answers_per_prompt)
        return await answer(Call(engine, requests, dialect, bool(body.stream), body.wants_usage), http)

    @app.post("/v1/completions", response_model=Completion, responses=STREAMED)
    async def complete_text(body: CompletionBody, http: Request):
        engine = service.get_engine()
        requests = body.build_requests(engine, pick_adapter(engine, body.model, strict_model))
        echoed = body.prompt if body.echo else None
        dialect = TextDialect(body.logprobs is not None, body.answers_per_prompt, echoed)
        return await answer(Call(engine, requests, dialect, bool(body.stream), body.wants_usage), http)

    return app


def list_cards(service: Service, created: int) -> list[ModelCard]:
    """The base model and its adapters; nothing if no model is loaded."""
    engine = service.engine
    if engine is None:
        return []
    return [ModelCard(id=name, created=created) for name in (engine.name, *engine.adapters)]


def pick_adapter(engine: Engine, name: str | None, strict: bool) -> str | None:
    """The adapter that a request's `model` names; None is the base. With `strict`, other names are a 404."""
    if name in engine.adapters:
        return name
    if name == engine.name:
        return None
    if strict:
        raise make_unknown_model_error(name)
    return engine.default_adapter


def make_unknown_model_error(name: str | None) -> ApiError:
    """OpenAI's refusal of a model's name."""
    message = f"The model '{name or ''}' does not exist or you do not have access to it."
    return ApiError(404, message, "model", "model_not_found")
