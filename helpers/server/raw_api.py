"""The raw API of text-generation-webui as it was in October 2023, on its blocking port.

/api/v1/generate, /chat, /model, /token-count and /stop-stream are faithful where a client can tell: field
names, defaults, prompts, history, HTML escapes. Errors are not copied: a request that cannot be answered gets
a 4xx that names the field, and fields that were sent and not honoured are listed in the reply's `ignored`.
"""

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import Body, FastAPI, Request
from pydantic import BaseModel, Field

from helpers.generation.engine import Engine, EngineStopping
from helpers.server.answers import generate
from helpers.server.apps import make_app
from helpers.server.fields import MAX_COUNTED
from helpers.server.raw_answers import PreparedRequest, RunningRequests, prepare_chat, prepare_generate
from helpers.server.raw_bodies import ChatBody, GenerateBody, RawBody
from helpers.server.raw_fields import Words
from helpers.server.raw_model import ModelBody, ModelControl
from helpers.server.service import Service
from helpers.server.threads import run_for_client

POLL_S = 0.5  # between looks whether the server stops while a model is loaded

SomeBody = TypeVar("SomeBody", bound=RawBody)


class TokenCountBody(BaseModel):
    """POST /api/v1/token-count."""

    prompt: Annotated[Words, Field(max_length=MAX_COUNTED)]


def make_raw_app(
    service: Service, api_key: str | None = None, running: RunningRequests | None = None
) -> FastAPI:
    """The application; `running` is what /stop-stream ends, shared with the streaming port."""
    app = make_app("Open LLM Kit: raw API", api_key)
    add_answer_routes(app, service, running or RunningRequests())
    add_model_routes(app, service)
    return app


def add_answer_routes(app: FastAPI, service: Service, running: RunningRequests) -> None:
    """/generate, /chat and /stop-stream."""

    async def answer(
        body: SomeBody, prepare: Callable[[SomeBody, Engine], PreparedRequest], http: Request
    ) -> dict[str, Any]:
        engine = service.get_engine()
        # In a thread, since a long history is tokenized more than once.
        prepared = await run_for_client(http, prepare, body, engine)
        text = ""
        if prepared.request:
            with running.track(prepared.request):
                generation = await generate(engine, prepared.request, http)
            text = generation.text
        return {"results": [prepared.write_result(text)], **prepared.extra}

    @app.post("/api/v1/generate")
    async def generate_text(body: GenerateBody, http: Request) -> dict:
        return await answer(body, prepare_generate, http)

    @app.post("/api/v1/chat")
    async def chat(body: ChatBody, http: Request) -> dict:
        return await answer(body, prepare_chat, http)

    @app.post("/api/v1/stop-stream")
    async def stop_stream(body: Annotated[Any, Body()]) -> dict:
        running.stop()
        return {"results": "success"}


def add_model_routes(app: FastAPI, service: Service) -> None:
    """/model and /token-count."""
    control = ModelControl(service)

    @app.post("/api/v1/token-count")
    async def count_tokens(body: TokenCountBody, http: Request) -> dict:
        engine = service.get_engine()
        tokens = await run_for_client(http, engine.count_tokens, body.prompt)
        return {"results": [{"tokens": tokens, **({} if engine.counts_exactly else {"estimated": True})}]}

    @app.get("/api/v1/model")
    async def show_model() -> dict:
        return {"result": control.find_name()}

    @app.post("/api/v1/model")
    async def change_model(body: ModelBody) -> dict:
        acting = asyncio.create_task(asyncio.to_thread(control.act, body))
        while not (await asyncio.wait([acting], timeout=POLL_S))[0]:
            if service.stopped.is_set():  # the process ends, whatever is being loaded
                raise EngineStopping
        return acting.result()
