"""POST /v1/responses, the API of newer clients of OpenAI, in the form where the server keeps nothing."""

from fastapi import FastAPI, Request

from helpers.common.errors import KitError
from helpers.server.answers import Answers, generate
from helpers.server.errors import ApiError, as_api_error
from helpers.server.openai_models import pick_adapter
from helpers.server.openai_stream import STREAMED, EventStream
from helpers.server.responses_body import ResponsesBody
from helpers.server.responses_replies import Responder, ResponseReply
from helpers.server.service import Service
from helpers.server.threads import run_for_client

# The fields of a chat completion that have another name here.
NAMES = {
    "messages": "input", "max_tokens": "max_output_tokens", "response_format": "text.format"
}  # fmt: skip


def add_responses_route(app: FastAPI, service: Service, strict_model: bool) -> None:
    """/v1/responses."""

    @app.post("/v1/responses", response_model=ResponseReply, responses=STREAMED)
    async def respond(body: ResponsesBody, http: Request):
        engine = service.get_engine()
        try:
            chat, adapter = body.as_chat(), pick_adapter(engine, body.model, strict_model)
            [request] = await run_for_client(http, chat.build_requests, engine, adapter)
            read_calls = chat.make_call_reader(engine)
            responder = Responder(body, adapter or engine.name, read_calls() if read_calls else None)
            if body.stream:
                answers = Answers(engine, [request])
                await answers.start(http)
                return EventStream(answers, responder.write_events(answers))
            return responder.describe_whole(await generate(engine, request, http))
        except ApiError as error:
            raise name_field(error) from None
        except KitError as error:
            raise as_api_error(error, "input") from None


def name_field(error: ApiError) -> ApiError:
    """The refusal of a chat completion with the name that its field has here."""
    first, _, rest = (error.param or "").partition(".")
    if first in NAMES:
        error.param = NAMES[first] if first == "messages" or not rest else f"{NAMES[first]}.{rest}"
    return error
