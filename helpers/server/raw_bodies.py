"""The fields of raw requests, with the WebUI's defaults of October 2023, and how they become an engine's.

Values are read as in 2023 if that does no harm ("0.7" is a number, 5 is a text); null counts as not sent. A
field that asks for something and cannot be honoured is named by `RawBody.list_ignored`.
"""

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    field_validator,
    model_validator,
)

from helpers.generation.engine import Engine
from helpers.generation.request import GenerationRequest
from helpers.generation.structure import Structure
from helpers.server.answer_forms import check_structure
from helpers.server.errors import ApiError
from helpers.server.fields import SEED_LIMIT, StopTexts, Text
from helpers.server.raw_fields import (
    ALIASES,
    CUTOFF_UNIT,
    Amount,
    Count,
    Cutoff,
    Name,
    Penalty,
    Share,
    TurnTemplate,
    Words,
)  # fmt: skip
from helpers.server.raw_histories import History
from helpers.server.raw_prompts import CHARACTER, PROMPT

NEVER = ""  # in HANDLING: no engine honours the field

# What becomes of each field that is not always honoured: NEVER, or the name of the engine's field. An engine
# says which of these it honours.
HANDLING = {
    "typical_p": "typical_p",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "repetition_penalty_range": "repetition_penalty_range",
    "encoder_repetition_penalty": "encoder_repetition_penalty",
    "no_repeat_ngram_size": "no_repeat_ngram_size",
    "min_length": "min_length",
    "epsilon_cutoff": "epsilon_cutoff",
    "eta_cutoff": "eta_cutoff",
    "tfs": "tfs",
    "top_a": "top_a",
    "mirostat_mode": "mirostat_mode",
    "mirostat_tau": "mirostat_tau",
    "mirostat_eta": "mirostat_eta",
    "skip_special_tokens": "skip_special_tokens",
    "grammar_string": "structure",
    "ban_eos_token": "ban_eos",
    "custom_token_bans": "logit_bias",
    "add_bos_token": "add_special_tokens",
    "max_tokens_second": NEVER,
    "num_beams": NEVER,
    "penalty_alpha": NEVER,
    "length_penalty": NEVER,
    "early_stopping": NEVER,
    "guidance_scale": NEVER,
    "negative_prompt": NEVER,
    "stop_at_newline": NEVER,
    "chat_generation_attempts": NEVER,
    "chat_prompt_size": NEVER,
}

MAX_BANS = 1024  # as in logit_bias
ID_DIGITS = 10  # of a token's id; the largest vocabularies have six
BAN = -1e9  # added to a banned token's logit; minus infinity is not valid JSON, and llama.cpp gets JSON
DEFAULT_CHARACTER = "Assistant"
CHAT_INSTRUCT_COMMAND = f'Write the next message of "{CHARACTER}" in this chat, and nothing else.\n\n{PROMPT}'


class RawBody(BaseModel):
    """Fields that /generate and /chat share."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)
    _sent: dict[str, Any] = PrivateAttr({})  # the fields as the client named them, without nulls

    max_new_tokens: Count = 200
    auto_max_new_tokens: bool = False
    do_sample: bool = True
    temperature: Amount = 0.5
    top_p: Share = 1.0
    top_k: Count = 0
    typical_p: Share = 1.0
    epsilon_cutoff: Cutoff = 0.0
    eta_cutoff: Cutoff = 0.0
    tfs: Share = 1.0
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
    seed: int = Field(-1, ge=-SEED_LIMIT, lt=SEED_LIMIT)  # -1 draws a new one
    stopping_strings: StopTexts = []
    preset: str = "None"
    debug_prompt: bool = False  # the kit's own field: the reply then has prompt_as_built

    # Never honoured.
    max_tokens_second: int = 0
    num_beams: int = 1
    penalty_alpha: float = 0.0
    length_penalty: float = 1.0
    early_stopping: bool = False
    guidance_scale: float = 1.0
    negative_prompt: Words = ""
    stop_at_newline: bool = False  # this and the next two are of early 2023
    chat_generation_attempts: int = 1
    chat_prompt_size: int = 2048

    @model_validator(mode="wrap")
    @classmethod
    def resolve_aliases(cls, data: Any, handler):
        """Drops nulls and renames fields; a field's own name wins over its alias."""
        if not isinstance(data, dict):
            return handler(data)
        sent = {name: value for name, value in data.items() if value is not None}
        named = {ALIASES[name]: value for name, value in sent.items() if name in ALIASES}
        named.update({name: value for name, value in sent.items() if name not in ALIASES})
        if not isinstance(named.get("stopping_strings", []), list):
            del named["stopping_strings"]  # in 2023 a single string was ignored, too
        body = handler(named)
        body._sent = sent
        return body

    @field_validator("custom_token_bans")
    @classmethod
    def check_token_bans(cls, text: str) -> str:
        """Raises a ValueError unless these are token ids, MAX_BANS at most, with commas between them."""
        parts = [part.strip() for part in text.split(",")] if text.strip() else []
        if not all(part.isdecimal() and len(part) <= ID_DIGITS for part in parts):
            raise ValueError("write token ids with commas between them")
        if len(parts) > MAX_BANS:
            raise ValueError(f"write {MAX_BANS} token ids at most")
        return text

    @field_validator("preset")
    @classmethod
    def refuse_preset(cls, name: str) -> str:
        """Raises a ValueError for any preset: the WebUI's files are not here."""
        if name not in ("None", ""):
            raise ValueError("the WebUI's presets are not here; send the settings themselves")
        return name

    def build_request(
        self, engine: Engine, prompt: str, add_special_tokens: bool, stop: list[str]
    ) -> GenerationRequest:
        """The engine's request; `stop` are strings that end the answer, beside those that the client sent."""
        settings = {field: getattr(self, name) for name, field in HANDLING.items() if field != NEVER}
        settings["logit_bias"] = self.read_token_bans()
        settings["structure"] = self.read_grammar()
        settings["epsilon_cutoff"] *= CUTOFF_UNIT
        settings["eta_cutoff"] *= CUTOFF_UNIT
        settings["add_special_tokens"] = add_special_tokens
        return GenerationRequest(
            prompt=prompt,
            keep_last=self.measure_room(engine),
            max_new_tokens=self.measure_answer(engine, prompt, add_special_tokens),
            temperature=self.temperature if self.do_sample else 0.0,
            top_p=self.top_p,
            top_k=self.top_k,
            repetition_penalty=self.repetition_penalty,
            seed=None if self.seed == -1 else self.seed,
            stop=[*stop, *self.stopping_strings],
            adapter=engine.default_adapter,
            **settings,
        )

    def read_token_bans(self) -> dict[int, float]:
        """The bias of each banned token, by its id: {5: BAN, 6: BAN} for "5, 6"."""
        return {int(part): BAN for part in self.custom_token_bans.split(",") if part.strip()}

    def read_grammar(self) -> Structure | None:
        """The form of the answer; an ApiError for a grammar that cannot be followed."""
        grammar = self.grammar_string
        return check_structure(Structure("grammar", grammar), "grammar_string") if grammar.strip() else None

    @property
    def answer_limit(self) -> int:
        """max_new_tokens, but at least 1: in 2023 a 0 gave one token, too."""
        return max(1, self.max_new_tokens)

    def measure_window(self, engine: Engine) -> int:
        """Tokens that prompt and answer may have together."""
        return min(self.truncation_length, engine.context)

    def measure_room(self, engine: Engine) -> int:
        """Tokens that the prompt may have. Raises an ApiError if the answer leaves none."""
        window = self.measure_window(engine)
        room = window - self.answer_limit
        if room < 1:
            problem = f"prompt and answer may have {window} tokens together, so ask for fewer than that."
            raise ApiError(400, f"max_new_tokens: {problem}", "max_new_tokens")
        return room

    def measure_answer(self, engine: Engine, prompt: str, add_special_tokens: bool) -> int:
        """Tokens that the answer may have: max_new_tokens, or what the prompt leaves if that is asked for."""
        if not self.auto_max_new_tokens:
            return self.answer_limit
        tokens = engine.count_tokens(engine.cut_text(prompt, self.measure_room(engine)))
        if not add_special_tokens:
            tokens -= engine.count_tokens("")  # count_tokens adds special tokens in any case
        kept = min(tokens, self.measure_room(engine))
        return self.measure_window(engine) - kept

    def list_ignored(
        self, engine: Engine, request: GenerationRequest, unused: Iterable[str] = ()
    ) -> list[str]:
        """Fields that asked for something and got nothing, by the names they were sent with, sorted.

        `unused` are the names of fields that mean nothing in this request.
        """
        names = {*unused, *(self.model_extra or {})}  # model_extra: fields that are unknown here
        unsupported = engine.list_unsupported(request)
        for name, engine_field in HANDLING.items():
            if engine_field == NEVER and self._asks_for(name):
                names.add(name)
            if engine_field in unsupported:
                names.add(name)
        stops = self._sent.get("stopping_strings")
        if stops and not isinstance(stops, list):
            names.add("stopping_strings")
        return sorted({self._find_sent_name(name) for name in names} | self._find_overruled_aliases())

    def _asks_for(self, name: str) -> bool:
        """Whether a field has another value than its default."""
        return getattr(self, name) != type(self).model_fields[name].default

    def _find_sent_name(self, name: str) -> str:
        """The name that a field was sent with."""
        if name in self._sent:
            return name
        for alias, meant in ALIASES.items():
            if meant == name and alias in self._sent:
                return alias
        return name

    def _find_overruled_aliases(self) -> set[str]:
        """Aliases that were sent with another value than the field's own name."""
        overruled = set()
        for alias, name in ALIASES.items():
            if alias in self._sent and name in self._sent and self._sent[alias] != self._sent[name]:
                overruled.add(alias)
        return overruled


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
    character: Words = DEFAULT_CHARACTER
    your_name: Name = "You"
    name1: Name | None = None
    name2: Name | None = None
    context: Words | None = None
    greeting: Words = ""  # used by the WebUI's page only
    instruction_template: Words | None = None
    name1_instruct: Name | None = None
    name2_instruct: Name | None = None
    context_instruct: Words | None = None
    turn_template: TurnTemplate | None = None
    chat_instruct_command: Words = CHAT_INSTRUCT_COMMAND
