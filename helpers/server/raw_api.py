"""The raw API of text-generation-webui as it was in October 2023, on its blocking port: /api/v1/generate, /chat, /model, /token-count, /stop-stream.

Faithful where a client can tell (field names, defaults, prompts, history, HTML escapes). Its ways to fail are not copied: a request that cannot
be answered gets a 4xx that names the field, and what was sent and not honoured stands in the reply's `ignored`.
"""

import asyncio
from typing import Annotated, Any

from fastapi import Body, FastAPI, Request
from pydantic import BaseModel

from helpers.server.answers import generate
from helpers.server.apps import make_app
from helpers.server.raw_answers import Asked, Running, ask_chat, ask_generate
from helpers.server.raw_bodies import ChatBody, GenerateBody, Words
from helpers.server.raw_model import ModelBody, ModelControl
from helpers.server.service import Service


class TokenCountBody(BaseModel):
    """POST /api/v1/token-count."""

    prompt: Words


def make_raw_app(service: Service, api_key: str | None = None, running: Running | None = None) -> FastAPI:
    """The application; `running` is what /stop-stream ends, shared with the streaming port."""
    app = make_app("Open LLM Kit: raw API", api_key)
    running, control = running or Running(), ModelControl(service)

    async def answer(body: GenerateBody | ChatBody, ask, http: Request) -> dict:
        engine = service.get_engine()
        asked: Asked = await asyncio.to_thread(
            ask, body, engine
        )  # a long history is tokenized more than once
        text = ""
        if asked.request:
            with running.track(asked.request):
                text = (await generate(engine, asked.request, http)).text
        return {"results": [asked.write(text)], **asked.extra}

    @app.post("/api/v1/generate")
    async def generate_text(body: GenerateBody, http: Request) -> dict:
        return await answer(body, ask_generate, http)

    @app.post("/api/v1/chat")
    async def chat(body: ChatBody, http: Request) -> dict:
        return await answer(body, ask_chat, http)

    @app.post("/api/v1/token-count")
    async def count_tokens(body: TokenCountBody) -> dict:
        return {
            "results": [{"tokens": await asyncio.to_thread(service.get_engine().count_tokens, body.prompt)}]
        }

    @app.post("/api/v1/stop-stream")
    async def stop_stream(body: Annotated[Any, Body()]) -> dict:
        running.stop()
        return {"results": "success"}

    @app.get("/api/v1/model")
    async def show_model() -> dict:
        return {"result": control.name()}

    @app.post("/api/v1/model")
    async def change_model(body: ModelBody) -> dict:
        return await asyncio.to_thread(control.act, body)

    return app
