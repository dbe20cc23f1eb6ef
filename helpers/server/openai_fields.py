"""Types of the fields of the OpenAI-style API: what a client may write is turned into what the kit takes."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator

from helpers.generation.engine import MAX_REQUESTS
from helpers.server.errors import ApiError
from helpers.server.fields import StopTexts, Text, refuse_half_characters

# Fields that are known but not supported, each with the values that are accepted, since they change nothing.
# (None and [] change nothing anywhere.)
UNSUPPORTED: dict[str, tuple] = {
    "functions": (),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "verbosity": (),
    "web_search_options": (),
    "chat_template_kwargs": ({},),  # of vLLM
    "mode": ("instruct",),  # of the WebUI
}

# These go to an upstream as they are, and so do fields that are unknown here. The others change the form of
# the reply, so this server has to know them.
PASSED_ON = ("verbosity", "chat_template_kwargs", "mode")

# Accepted with any value: they say who asks, how the answer is billed or kept, how long a model thinks.
# No answer of these models depends on them.
WITHOUT_EFFECT = {
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "reasoning_effort",
}


def join_text_parts(content: object, kinds: Sequence[str] = ("text",)) -> object:
    """A list of text parts as one text. Raises a ValueError for other kinds of parts, such as images."""
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        if (
            not isinstance(part, dict)
            or part.get("type") not in kinds
            or not isinstance(part.get("text"), str)
        ):
            raise ValueError(f"send a text, or parts of type {' or '.join(kinds)}")
        texts.append(part["text"])
    return "".join(texts)


def wrap_text(value: object) -> object:
    """A single text as a list of it; anything else as it is."""
    return [value] if isinstance(value, str) else value


def wrap_prompt(value: object) -> object:
    """A single prompt, a text or a list of token ids, as a list of it; a list of prompts as it is."""
    single = isinstance(value, str) or (isinstance(value, list) and value and is_id(value[0]))
    return [value] if single else value


def is_id(value: object) -> bool:
    """Whether a value is a whole number. (For Python, true and false are numbers, too.)"""
    return isinstance(value, int) and not isinstance(value, bool)


def check_prompt(prompt: object) -> str | list[int]:
    """The prompt. Raises a ValueError unless it is a text or a list of whole numbers.

    It stops at the first mistake: pydantic would describe each of a million.
    """
    if isinstance(prompt, str):
        return refuse_half_characters(prompt)
    if isinstance(prompt, list) and all(map(is_id, prompt)):
        return prompt
    raise ValueError("send a text, or a list of token ids")


def drop_minus_one(value: object) -> object:
    """None for -1, which means "no limit" to llama.cpp and vLLM; any other value unchanged."""
    return None if value == -1 and value is not True else value


Content = Annotated[Text, BeforeValidator(join_text_parts, json_schema_input_type=str | list[dict[str, Any]])]
Stops = Annotated[StopTexts, BeforeValidator(wrap_text, json_schema_input_type=str | list[str])]
Ids = list[Annotated[int, Field(ge=0)]]
Prompt = Annotated[str | list[int], PlainValidator(check_prompt, json_schema_input_type=str | Ids)]
Prompts = Annotated[
    list[Prompt],
    Field(min_length=1, max_length=MAX_REQUESTS),
    BeforeValidator(wrap_prompt, json_schema_input_type=str | list[str] | Ids | list[Ids]),
]


def refuse_true(value: bool) -> bool:
    """The value, which has to be False."""
    if value:
        raise ValueError("Input should be false")
    return value


Count = Annotated[int, Field(ge=0)]
PositiveCount = Annotated[int, Field(ge=1)]
# Not Literal, which takes False for 0 and 0 for False.
Zero = Annotated[int, Field(ge=0, le=0)]
Off = Annotated[bool, AfterValidator(refuse_true), Field(json_schema_extra={"const": False})]
# -1 is "no limit".
LimitOrNothing = Annotated[
    Count | None, BeforeValidator(drop_minus_one, json_schema_input_type=Count | Literal[-1] | None)
]
Limit = Annotated[
    PositiveCount | None,
    BeforeValidator(drop_minus_one, json_schema_input_type=PositiveCount | Literal[-1] | None),
]
TokenId = Annotated[int, Field(ge=0, strict=False)]  # not strict: the keys of a JSON object are texts
Bias = Annotated[float, Field(ge=-100, le=100)]


def refuse_unknown_fields(sent: Mapping[str, object], prefix: str = "") -> None:
    """Raises an ApiError for the first field that is unknown, or known but unsupported with this value.

    What is known comes first, in the order of UNSUPPORTED: `tools` is the cause of what is sent beside it.
    `prefix` comes before the field's name in the refusal, such as "messages.0.".
    """
    for name in [*filter(sent.__contains__, UNSUPPORTED), *sent]:
        value = sent[name]
        if value is None or value == [] or name in WITHOUT_EFFECT or value in UNSUPPORTED.get(name, ()):
            continue
        code = "unsupported_parameter" if name in UNSUPPORTED else "unknown_parameter"
        field = prefix + name
        raise ApiError(400, f"This server does not support '{field}'.", field, code)
