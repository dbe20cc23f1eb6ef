"""Types of the fields of raw requests, which are read as leniently as in 2023."""

from typing import Annotated

from pydantic import BeforeValidator, Field

from helpers.server.fields import Text

# Other names that clients of 2023 used, and the field that each means.
ALIASES = {
    "max_length": "max_new_tokens",
    "typical": "typical_p",
    "rep_pen": "repetition_penalty",
    "presence_pen": "presence_penalty",
    "frequency_pen": "frequency_penalty",
    "max_context_length": "truncation_length",
    "chat-instruct_command": "chat_instruct_command",
}

CUTOFF_UNIT = 1e-4  # of epsilon_cutoff and eta_cutoff


def write_number(value: object) -> object:
    """A number as text; anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return str(value)


Words = Annotated[Text, BeforeValidator(write_number)]
# Limited, since a prompt has them again and again.
Name = Annotated[Words, Field(max_length=256)]
TurnTemplate = Annotated[Words, Field(max_length=1024)]
Count = Annotated[int, Field(ge=0, lt=2**31)]
Amount = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, le=1)]
Penalty = Annotated[float, Field(ge=0.01, le=100)]
Cutoff = Annotated[float, Field(ge=0, lt=1 / CUTOFF_UNIT)]
