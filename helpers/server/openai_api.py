"""The OpenAI-style API: /v1/models and /v1/chat/completions, streaming or whole."""

import json
import logging
import time
import uuid
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, field_validator

from helpers import KitError
from helpers.engines import Engine
from helpers.generation import Generation, GenerationRequest, Piece
from helpers.server.common import SEED_LIMIT, ApiError, Text, describe_error, generate, make_app, stream
from helpers.server.service import Service

# What cannot be done here, with the value that changes nothing; any other value is refused, never dropped in silence.
NEUTRAL = {
    "n": 1, "tools": None, "tool_choice": None, "functions": None, "function_call": None, "logprobs": False, "top_logprobs": None,
    "logit_bias": None, "presence_penalty": 0, "frequency_penalty": 0, "response_format": None, "audio": None, "modalities": None,
}  # fmt: skip


class Message(BaseModel):
    """One message of a conversation."""

    role: str
    content: Text

    @field_validator("role")
    @classmethod
    def know_role(cls, role: str) -> str:
        """developer is OpenAI's newer word for system."""
        if role not in ("system", "developer", "user", "assistant"):
            raise ValueError("use system, user or assistant")
        return "system" if role == "developer" else role

    @field_validator("content", mode="before")
    @classmethod
    def join_parts(cls, content: object) -> object:
        """A list of text parts as one text; other kinds of parts cannot be read here."""
        if not isinstance(content, list):
            return content
        if not all(isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str) for part in content):
            raise ValueError("send a text, or parts of type text")
        return "".join(part["text"] for part in content)


class StreamOptions(BaseModel):
    """Options of a streamed reply."""

    include_usage: bool = False


class ChatCompletionBody(BaseModel):
    """POST /v1/chat/completions."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    messages: list[Message] = Field(min_length=1)
    model: Text = ""
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)  # none sent: the model's own advice, since a small model rambles at OpenAI's 1.0
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=-SEED_LIMIT, lt=SEED_LIMIT)
    stop: Text | list[Text] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None

    def build_request(self, engine: Engine, adapter: str | None) -> GenerationRequest:
        """The engine's request; without max_tokens the answer may fill the context."""
        for name, value in (self.model_extra or {}).items():
            if name in NEUTRAL and value not in (NEUTRAL[name], None) and value != [] and value != {"type": "text"}:
                raise ApiError(400, f"{name} is not supported here.", name, "unsupported_parameter")
        return GenerationRequest(
            messages=[message.model_dump() for message in self.messages],
            max_new_tokens=self.max_completion_tokens or self.max_tokens or engine.context,
            temperature=engine.read_advice("temperature", 1.0) if self.temperature is None else self.temperature,
            top_p=engine.read_advice("top_p", 1.0) if self.top_p is None and self.temperature is None else self.top_p or 1.0,
            seed=self.seed,
            stop=[self.stop] if isinstance(self.stop, str) else self.stop or [],
            adapter=adapter,
        )


def describe_usage(generation: Generation) -> dict[str, int]:
    """OpenAI's usage object."""
    prompt, completion = generation.prompt_tokens, generation.completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


async def write_events(pieces: AsyncIterator[Piece | Generation], base: dict, include_usage: bool) -> AsyncIterator[str]:
    """Server-sent events: the role, the pieces, the reason of the end, the usage when asked for, [DONE]."""

    def event(delta: dict, reason: str | None = None) -> str:
        chunk = ChunkModel(**base, choices=[{"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}])
        return f"data: {chunk.model_dump_json()}\n\n"

    yield event({"role": "assistant", "content": ""})
    try:
        async for piece in pieces:
            if isinstance(piece, Piece):
                yield event({"content": piece.text})
            else:
                yield event({}, piece.finish_reason)
                if include_usage:
                    yield f"data: {ChunkModel(**base, choices=[], usage=describe_usage(piece)).model_dump_json()}\n\n"
    except Exception as error:  # the status 200 is out already, so the stream itself must tell
        if not isinstance(error, KitError):
            logging.getLogger("uvicorn.error").exception("A streamed answer failed")
        yield f"data: {json.dumps({'error': describe_error(500, str(error))})}\n\n"
    finally:
        await pieces.aclose()
    yield "data: [DONE]\n\n"


class ChunkModel(BaseModel):
    """One event of a streamed reply."""

    id: str
    object: str
    created: int
    model: str
    choices: list[dict]
    usage: dict | None = None


def describe_model(name: str, created: int) -> dict:
    """OpenAI's model object; `created` in seconds since 1970."""
    return {"id": name, "object": "model", "created": created, "owned_by": "open-llm-kit"}


def make_openai_app(service: Service, api_key: str | None = None, strict_model: bool = False) -> FastAPI:
    """The application. `model` picks an adapter or the base by name; any other name gets the default, or a 404 with strict_model."""
    app = make_app("Open LLM Kit: OpenAI-style API", api_key)
    started = int(time.time())

    def pick_adapter(name: str) -> str | None:
        engine = service.need()
        if name in engine.adapters:
            return name
        if name != engine.name and strict_model:
            raise ApiError(404, f"The model '{name}' does not exist.", "model", "model_not_found")
        return None if name == engine.name or not engine.adapters else engine.adapters[0]

    def list_names() -> list[str]:
        return [service.engine.name, *service.engine.adapters] if service.engine else []

    @app.get("/v1/models")
    async def list_models() -> dict:
        return {"object": "list", "data": [describe_model(name, started) for name in list_names()]}

    @app.get("/v1/models/{name:path}")
    async def show_model(name: str) -> dict:
        if name not in list_names():
            raise ApiError(404, f"The model '{name}' does not exist.", "model", "model_not_found")
        return describe_model(name, started)

    @app.post("/v1/chat/completions", response_model=None)
    async def complete_chat(body: ChatCompletionBody, http: Request) -> JSONResponse | StreamingResponse:
        adapter = pick_adapter(body.model)
        engine = service.need()
        request = body.build_request(engine, adapter)
        base = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": adapter or engine.name}
        if body.stream:
            engine.check(request)
            include_usage = bool(body.stream_options and body.stream_options.include_usage)
            events = write_events(stream(engine, request), {**base, "object": "chat.completion.chunk"}, include_usage)
            return StreamingResponse(events, media_type="text/event-stream")
        result = await generate(engine, request, http)
        message = {"role": "assistant", "content": result.text, "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": result.finish_reason, "logprobs": None}
        return JSONResponse({**base, "object": "chat.completion", "choices": [choice], "usage": describe_usage(result)})

    return app
