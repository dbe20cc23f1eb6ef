"""The OpenAI-style API: chats, completions and responses, whole or streamed; models; /tokenize.

At / is a chat page for a browser.
"""

from typing import Any

from fastapi import FastAPI, Request
from pydantic import BaseModel

from helpers.common.errors import KitError
from helpers.server.answers import Answers, close_after_leaving, generate_all
from helpers.server.apps import make_app
from helpers.server.chat_page import PAGE_FILES, add_chat_page
from helpers.server.errors import as_api_error
from helpers.server.openai_bodies import ChatCompletionBody, CompletionBody
from helpers.server.openai_dialects import ChatDialect, TextDialect
from helpers.server.openai_models import add_model_routes, pick_adapter
from helpers.server.openai_replies import ChatCompletion, Completion, count_usage
from helpers.server.openai_stream import STREAMED, Call, EventStream, write_events
from helpers.server.responses_api import add_responses_route
from helpers.server.service import Service
from helpers.server.threads import run_for_client
from helpers.server.tokenizing import add_tokenize_route


async def answer(call: Call, http: Request) -> BaseModel | EventStream:
    """The reply, whole or streamed. A request that is refused is refused before the first event."""
    try:
        if call.stream:
            answers = Answers(call.engine, call.requests)
            await answers.start(http)
            if call.engine.refuses_late:
                async with close_after_leaving(answers, http):
                    await answers.begin()
            return EventStream(answers, write_events(call, answers))
        generations = await generate_all(call.engine, call.requests, http)
    except KitError as error:
        raise as_api_error(error, call.dialect.prompt_field) from None
    choices = [call.dialect.describe_choice(index, whole) for index, whole in enumerate(generations)]
    return call.dialect.reply(
        **call.describe(),
        **call.dialect.describe_prompts(generations),
        system_fingerprint=None,
        object=call.dialect.whole_object,
        choices=choices,
        usage=count_usage(generations, call.dialect.choices_per_prompt),
    )


def make_openai_app(service: Service, api_key: str | None = None, strict_model: bool = False) -> FastAPI:
    """The application. `model` picks an adapter or the base by name.

    With any other name the default adapter answers, or with `strict_model` the request gets a 404.
    """
    app = make_app("Open LLM Kit: OpenAI-style API", api_key, PAGE_FILES)
    add_chat_page(app)
    add_model_routes(app, service)

    # What was not asked for is not there: `exclude_unset`.
    described: dict[str, Any] = {"responses": STREAMED, "response_model_exclude_unset": True}

    @app.post("/v1/chat/completions", response_model=ChatCompletion, **described)
    async def complete_chat(body: ChatCompletionBody, http: Request):
        engine = service.get_engine()
        adapter = pick_adapter(engine, body.model, strict_model)
        requests = await run_for_client(http, body.build_requests, engine, adapter)
        dialect = ChatDialect(
            body.answers_per_prompt, bool(body.logprobs), body.prompt_logprobs, body.make_call_reader(engine)
        )
        return await answer(Call(engine, requests, dialect, bool(body.stream), body.wants_usage), http)

    @app.post("/v1/completions", response_model=Completion, **described)
    async def complete_text(body: CompletionBody, http: Request):
        engine = service.get_engine()
        adapter = pick_adapter(engine, body.model, strict_model)
        requests = await run_for_client(http, body.build_requests, engine, adapter)
        dialect = TextDialect(body.answers_per_prompt, body.logprobs, body.prompt_logprobs, bool(body.echo))
        return await answer(Call(engine, requests, dialect, bool(body.stream), body.wants_usage), http)

    add_responses_route(app, service, strict_model)
    add_tokenize_route(app, service)
    return app
