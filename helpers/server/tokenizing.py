"""POST /tokenize, as vLLM has it: the token ids of a text, or of messages as the model gets them."""

from typing import Annotated

from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field

from helpers.common.errors import KitError
from helpers.generation.engine import Engine
from helpers.generation.request import GenerationRequest
from helpers.server.errors import ApiError, as_api_error
from helpers.server.fields import MAX_COUNTED, Text
from helpers.server.openai_messages import Conversation
from helpers.server.service import Service
from helpers.server.threads import run_for_client


class TokenizeBody(Conversation):
    """Either `prompt` or `messages`; the LoRAs of a server have the tokenizer of its model."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: Text | None = None
    prompt: Annotated[Text, Field(max_length=MAX_COUNTED)] | None = None
    add_special_tokens: bool = True  # of a prompt; the chat template writes those of messages

    def tokenize(self, engine: Engine) -> list[int]:
        """The token ids. Raises what Engine.read_prompt raises, such as PromptTooLong."""
        messages, tools = self.list_messages(), self.list_tools()
        if self.prompt is not None:
            return engine.tokenize(self.prompt, self.add_special_tokens)
        continued = bool(self.continue_final_message)
        return engine.read_prompt(GenerationRequest(messages=messages, tools=tools, continue_last=continued))


class Tokenized(BaseModel):
    """The reply."""

    count: int
    max_model_len: int  # tokens that prompt and answer may have together
    tokens: list[int]


def add_tokenize_route(app: FastAPI, service: Service) -> None:
    """/tokenize."""

    @app.post("/tokenize")
    async def tokenize(body: TokenizeBody, http: Request) -> Tokenized:
        if (body.prompt is None) == (body.messages is None):
            raise ApiError(400, "Send prompt or messages, one of the two.", "prompt", "invalid_value")
        engine = service.get_engine()
        try:
            tokens = await run_for_client(http, body.tokenize, engine)
        except KitError as error:
            raise as_api_error(error, "messages") from None
        return Tokenized(count=len(tokens), max_model_len=engine.context, tokens=tokens)
