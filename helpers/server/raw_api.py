"""The raw API of text-generation-webui as it was in 2023: /api/v1/chat, /generate, /model and /token-count.

Faithful where a client can tell (field names, defaults, history, HTML escapes); its silent failures are not copied.
"""

import html
from typing import Any

from fastapi import FastAPI, Request
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from helpers.generation import GenerationRequest
from helpers.server.common import SEED_LIMIT, ApiError, Text, generate, make_app
from helpers.server.service import Service

# Fields that this engine does not honour, with the value that changes nothing; another value is reported in the reply's `ignored`.
NEUTRAL = {
    "mode": "instruct", "character": None, "your_name": None, "name1": None, "name2": None, "context": None, "greeting": None,
    "instruction_template": None, "name1_instruct": None, "name2_instruct": None, "turn_template": None, "chat_instruct_command": None,
    "auto_max_new_tokens": False, "max_tokens_second": 0, "preset": "None", "epsilon_cutoff": 0, "eta_cutoff": 0, "tfs": 1, "top_a": 0,
    "presence_penalty": 0, "frequency_penalty": 0, "repetition_penalty_range": 0, "encoder_repetition_penalty": 1, "min_length": 0,
    "no_repeat_ngram_size": 0, "num_beams": 1, "penalty_alpha": 0, "length_penalty": 1, "early_stopping": False, "mirostat_mode": 0,
    "mirostat_tau": 5, "mirostat_eta": 0.1, "grammar_string": "", "guidance_scale": 1, "negative_prompt": "", "add_bos_token": True,
    "truncation_length": 2048, "custom_token_bans": "", "ban_eos_token": False, "skip_special_tokens": True,
    "presence_pen": 0, "frequency_pen": 0, "max_context_length": 2048,  # older names of three of them
}  # fmt: skip


GREETING_ROW = "<|BEGIN-VISIBLE-CHAT|>"  # stands where the WebUI's page has a greeting that answers no one


class RawSampling(BaseModel):
    """Fields that /generate and /chat share, with the WebUI's defaults of October 2023."""

    model_config = ConfigDict(extra="allow", populate_by_name=True, allow_inf_nan=False)

    max_new_tokens: int = Field(200, ge=1, validation_alias=AliasChoices("max_new_tokens", "max_length"))
    do_sample: bool = True
    temperature: float = Field(0.5, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    typical_p: float = Field(1.0, gt=0, le=1, validation_alias=AliasChoices("typical_p", "typical"))
    repetition_penalty: float = Field(1.1, ge=0.01, le=100, validation_alias=AliasChoices("repetition_penalty", "rep_pen"))
    seed: int = Field(-1, ge=-SEED_LIMIT, lt=SEED_LIMIT)
    stopping_strings: list[Text] = []

    def build_request(self, adapter: str | None, **what: Any) -> GenerationRequest:
        """The engine's request for these values."""
        return GenerationRequest(
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature if self.do_sample else 0.0,
            top_p=self.top_p,
            top_k=self.top_k,
            typical_p=self.typical_p,
            repetition_penalty=self.repetition_penalty,
            seed=None if self.seed == -1 else self.seed,
            stop=self.stopping_strings,
            adapter=adapter,
            **what,
        )

    def list_ignored(self) -> list[str]:
        """Names of fields that were sent with a value that is not honoured; null asks for nothing."""
        extra = (self.model_extra or {}).items()
        return sorted(name for name, value in extra if value is not None and (name not in NEUTRAL or value != NEUTRAL[name]))


class GenerateBody(RawSampling):
    """POST /api/v1/generate."""

    prompt: Text


class History(BaseModel):
    """Two lists of [user, reply]: `internal` goes into the prompt, `visible` is what a web page shows."""

    internal: list[tuple[Text, Text]] = []
    visible: list[tuple[Text, Text]] = []


class ChatBody(RawSampling):
    """POST /api/v1/chat."""

    user_input: Text
    history: History = History()
    context_instruct: Text | None = None
    regenerate: bool = False
    continue_: bool = Field(False, validation_alias=AliasChoices("_continue", "continue_"))


class TokenCountBody(BaseModel):
    """POST /api/v1/token-count."""

    prompt: Text


def build_messages(body: ChatBody) -> tuple[list[dict[str, str]], list[tuple[str, str]], list[tuple[str, str]]]:
    """(messages, internal, visible): the prompt as messages, and the rows before the one that will be written."""
    internal, visible, user = list(body.history.internal), list(body.history.visible), body.user_input
    rows = internal
    if (body.regenerate or body.continue_) and internal:
        rows, internal, visible, user = internal[:-1], internal[:-1], visible[:-1], internal[-1][0]
    messages = [{"role": "system", "content": body.context_instruct}] if body.context_instruct else []
    for said, replied in rows:
        messages += [{"role": "user", "content": said.strip()}] if said.strip() not in ("", GREETING_ROW) else []
        messages += [{"role": "assistant", "content": replied.strip()}]
    return [*messages, {"role": "user", "content": user.strip()}], internal, visible


def make_raw_app(service: Service, api_key: str | None = None) -> FastAPI:
    """The application; the first attached adapter answers when there is one, as after the WebUI's --lora."""
    app = make_app("Open LLM Kit: raw API", api_key)

    def build_request(body: RawSampling, **what: Any) -> GenerationRequest:
        return body.build_request((service.need().adapters or [None])[0], **what)

    @app.get("/api/v1/model")
    async def show_model() -> dict:
        return {"result": service.engine and service.engine.name}

    @app.post("/api/v1/token-count")
    async def count_tokens(body: TokenCountBody) -> dict:
        return {"results": [{"tokens": service.need().count_tokens(body.prompt)}]}

    @app.post("/api/v1/generate")
    async def generate_text(body: GenerateBody, http: Request) -> dict:
        result = await generate(service.need(), build_request(body, prompt=body.prompt), http)
        return with_ignored({"results": [{"text": result.text}]}, body)

    @app.post("/api/v1/chat")
    async def chat(body: ChatBody, http: Request) -> dict:
        old = body.history
        only_greeting = len(old.visible) == 1 and not old.visible[0][0]
        if (body.regenerate or body.continue_) and (not old.internal or only_greeting):
            return with_ignored({"results": [{"history": old.model_dump()}]}, body)
        messages, internal, visible = build_messages(body)
        if not messages[-1]["content"]:
            raise ApiError(400, "user_input is empty.", "user_input")
        said, begun, shown = (old.internal[-1][0] if body.regenerate or body.continue_ else body.user_input), "", ""
        if body.continue_:
            begun, shown = old.internal[-1][1], old.visible[-1][1] if old.visible else ""
            messages.append({"role": "assistant", "content": begun.strip()})
        result = await generate(service.need(), build_request(body, messages=messages, continue_last=body.continue_), http)
        text = result.text if body.continue_ else result.text.lstrip()
        asked = old.visible[-1][0] if (body.regenerate or body.continue_) and old.visible else html.escape(said)
        row, seen = (said, begun + text), (asked, shown + html.escape(text))
        return with_ignored({"results": [{"history": {"internal": [*internal, row], "visible": [*visible, seen]}}]}, body)

    return app


def with_ignored(reply: dict, body: RawSampling) -> dict:
    """The reply, with the names of what was sent and not honoured."""
    ignored = body.list_ignored()
    return {**reply, "ignored": ignored} if ignored else reply
