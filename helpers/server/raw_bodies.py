"""The fields of raw requests, with the defaults of the WebUI of October 2023, and what an engine makes of them.

Values are read as then where that harms nothing ("0.7" is a number, 5 is a text); null is as if a field were not sent. A field that cannot be
honoured, and was sent with a value that asks for something, is named by `list_ignored`.
"""

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    field_validator,
    model_validator,
)

from helpers.generation.engine import Engine
from helpers.generation.request import GenerationRequest
from helpers.server.errors import ApiError
from helpers.server.fields import SEED_LIMIT, StopTexts, Text
from helpers.server.raw_histories import History

ALIASES = {  # other name: the name here
    "max_length": "max_new_tokens", "typical": "typical_p", "rep_pen": "repetition_penalty", "presence_pen": "presence_penalty",
    "frequency_pen": "frequency_penalty", "max_context_length": "truncation_length", "chat-instruct_command": "chat_instruct_command",
}  # fmt: skip


SAME = (  # fields that engines know under the same name; each engine says which of them it honours
    "presence_penalty", "frequency_penalty", "repetition_penalty_range", "encoder_repetition_penalty", "no_repeat_ngram_size", "min_length",
    "tfs", "top_a", "mirostat_mode", "mirostat_tau", "mirostat_eta", "skip_special_tokens",
)  # fmt: skip


OTHERWISE = {
    "grammar": "grammar_string",
    "ban_eos": "ban_eos_token",
    "logit_bias": "custom_token_bans",
}  # engines' name: the name here


NEVER = (  # fields that no engine honours
    "max_tokens_second", "num_beams", "penalty_alpha", "length_penalty", "early_stopping", "guidance_scale", "negative_prompt",
    "stop_at_newline", "chat_generation_attempts", "chat_prompt_size",
)  # fmt: skip


BAN = -1e9  # added to a logit; minus infinity is no JSON, which llama.cpp is asked in


CUTOFF_UNIT = 1e-4  # of epsilon_cutoff and eta_cutoff


def write_number(value: object) -> object:
    """A number as text; anything else as it is."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Words = Annotated[Text, BeforeValidator(write_number)]


Count = Annotated[int, Field(ge=0, lt=2**31)]


Amount = Annotated[float, Field(ge=0)]


Part = Annotated[float, Field(gt=0, le=1)]


Penalty = Annotated[float, Field(ge=0.01, le=100)]


Cutoff = Annotated[float, Field(ge=0, lt=1 / CUTOFF_UNIT)]


class RawBody(BaseModel):
    """Fields that /generate and /chat share."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)
    _sent: dict[str, Any] = PrivateAttr({})

    max_new_tokens: Count = 200
    auto_max_new_tokens: bool = False
    do_sample: bool = True
    temperature: Amount = 0.5
    top_p: Part = 1.0
    top_k: Count = 0
    typical_p: Part = 1.0
    epsilon_cutoff: Cutoff = 0.0
    eta_cutoff: Cutoff = 0.0
    tfs: Part = 1.0
    top_a: Amount = 0.0
    repetition_penalty: Penalty = 1.1
    repetition_penalty_range: Count = 0
    encoder_repetition_penalty: Penalty = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    no_repeat_ngram_size: Count = 0
    min_length: Count = 0
    mirostat_mode: Count = 0
    mirostat_tau: Amount = 5.0
    mirostat_eta: Amount = 0.1
    grammar_string: Words = ""
    custom_token_bans: Words = ""
    ban_eos_token: bool = False
    skip_special_tokens: bool = True
    add_bos_token: bool = True
    truncation_length: Annotated[Count, Field(ge=1)] = 2048
    seed: int = Field(-1, ge=-SEED_LIMIT, lt=SEED_LIMIT)
    stopping_strings: StopTexts = []
    preset: str = "None"
    debug_prompt: bool = False  # the kit's own: the reply then has prompt_as_built

    max_tokens_second: int = 0
    num_beams: int = 1
    penalty_alpha: float = 0.0
    length_penalty: float = 1.0
    early_stopping: bool = False
    guidance_scale: float = 1.0
    negative_prompt: Words = ""
    stop_at_newline: bool = False  # this and the next two: of early 2023
    chat_generation_attempts: int = 1
    chat_prompt_size: int = 2048

    @model_validator(mode="wrap")
    @classmethod
    def take_other_names(cls, data: Any, handler):
        """Gives fields their names of here and drops what asks for nothing."""
        if not isinstance(data, dict):
            return handler(data)
        sent = {name: value for name, value in data.items() if value is not None}
        named = {ALIASES[name]: value for name, value in sent.items() if name in ALIASES} | {
            n: v for n, v in sent.items() if n not in ALIASES
        }
        if not isinstance(named.get("stopping_strings", []), list):  # such as one string: it was ignored, too
            del named["stopping_strings"]
        body = handler(named)
        body._sent = sent
        return body

    @field_validator("custom_token_bans")
    @classmethod
    def know_tokens(cls, text: str) -> str:
        """Token ids with commas between them."""
        if text.strip() and not all(part.strip().isdecimal() for part in text.split(",")):
            raise ValueError("write token ids with commas between them")
        return text

    @field_validator("preset")
    @classmethod
    def know_preset(cls, name: str) -> str:
        """None of them is here."""
        if name not in ("None", ""):
            raise ValueError(f"there is no preset '{name}', nor any other; send the settings themselves")
        return name

    def build_request(
        self, engine: Engine, prompt: str, add_special_tokens: bool, stop: list[str]
    ) -> GenerationRequest:
        """The engine's request; the first attached adapter answers when there is one, as after the WebUI's --lora."""
        room, length = self.measure_room(engine), max(1, self.max_new_tokens)  # 0 gave one token
        if self.auto_max_new_tokens:
            tokens = engine.count_tokens(prompt) - (0 if add_special_tokens else engine.count_tokens(""))
            length = min(self.truncation_length, engine.context) - min(tokens, room)
        bans = {int(part): BAN for part in self.custom_token_bans.split(",") if part.strip()}
        return GenerationRequest(
            prompt=prompt,
            add_special_tokens=add_special_tokens,
            keep_last=room,
            max_new_tokens=length,
            temperature=self.temperature if self.do_sample else 0.0,
            top_p=self.top_p,
            top_k=self.top_k,
            typical_p=self.typical_p,
            repetition_penalty=self.repetition_penalty,
            seed=None if self.seed == -1 else self.seed,
            stop=[*stop, *self.stopping_strings],
            adapter=(engine.adapters or [None])[0],
            logit_bias=bans,
            epsilon_cutoff=self.epsilon_cutoff * CUTOFF_UNIT,
            eta_cutoff=self.eta_cutoff * CUTOFF_UNIT,
            grammar=self.grammar_string,
            ban_eos=self.ban_eos_token,
            **{name: getattr(self, name) for name in SAME},
        )

    def measure_room(self, engine: Engine) -> int:
        """Tokens that a prompt may have. ApiError when the answer leaves none."""
        both = min(self.truncation_length, engine.context)
        room = both - max(1, self.max_new_tokens)
        if room < 1:
            raise ApiError(
                400,
                f"max_new_tokens: prompt and answer have {both} tokens together, so take fewer than that.",
                "max_new_tokens",
            )
        return room

    def list_ignored(
        self, engine: Engine, request: GenerationRequest, unused: Iterable[str] = ()
    ) -> list[str]:
        """Names, as they were sent, of fields that asked for something and got nothing; `unused` are more of them."""
        names = {*unused, *self.model_extra} | {
            name for name in NEVER if getattr(self, name) != type(self).model_fields[name].default
        }
        names |= {OTHERWISE.get(name, name) for name in engine.list_unsupported(request)}
        if self._sent.get("stopping_strings") and not isinstance(self._sent["stopping_strings"], list):
            names.add("stopping_strings")
        aliases = {ALIASES[name]: name for name in self._sent if name in ALIASES}
        doubles = {
            alias
            for name, alias in aliases.items()
            if name in self._sent and self._sent[name] != self._sent[alias]
        }
        return sorted({name if name in self._sent else aliases.get(name, name) for name in names} | doubles)


class GenerateBody(RawBody):
    """POST /api/v1/generate."""

    prompt: Words


class ChatBody(RawBody):
    """POST /api/v1/chat."""

    user_input: Text
    history: History = History(internal=[], visible=[])
    regenerate: bool = False
    continue_: bool = Field(False, alias="_continue")
    mode: str = "chat"
    character: Words = "Assistant"
    your_name: Words = "You"
    name1: Words | None = None
    name2: Words | None = None
    context: Words | None = None
    greeting: Words = ""  # only the WebUI's page made something of it
    instruction_template: Words | None = None
    name1_instruct: Words | None = None
    name2_instruct: Words | None = None
    context_instruct: Words | None = None
    turn_template: Words | None = None
    chat_instruct_command: Words = (
        'Write the next message of "<|character|>" in this chat, and nothing else.\n\n<|prompt|>'
    )
