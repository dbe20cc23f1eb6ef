"""Types of request fields that both dialects share: texts, stop strings and the range of seeds.

Pydantic checks them while it parses a body; a wrong value becomes a 400 that names the field.
"""

from typing import Annotated

from pydantic import AfterValidator, Field

SEED_LIMIT = 2**63  # seeds are 64 bits, signed, as in torch: -SEED_LIMIT <= seed < SEED_LIMIT


def refuse_half_characters(text: str) -> str:
    """The text. Raises a ValueError if UTF-8 cannot hold it: JSON's \\u can write half a surrogate pair."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("this is not valid text: it holds half a surrogate pair") from None
    return text


Text = Annotated[str, AfterValidator(refuse_half_characters)]

# Limited, since every stop string is compared with the text after each token.
StopTexts = Annotated[list[Annotated[Text, Field(max_length=256)]], Field(max_length=32)]
