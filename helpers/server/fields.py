"""What both dialects share: applications whose every error has OpenAI's shape, and answers whose client may leave."""

from typing import Annotated

from pydantic import AfterValidator, Field


def refuse_half_characters(text: str) -> str:
    """The text; a ValueError for one that no UTF-8 can hold, such as half a surrogate pair out of JSON's \\u escapes."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("this is no text, it holds half a surrogate pair") from None
    return text


Text = Annotated[str, AfterValidator(refuse_half_characters)]


StopTexts = Annotated[
    list[Annotated[Text, Field(max_length=256)]], Field(max_length=32)
]  # each is compared with the text after every token


SEED_LIMIT = 2**63  # torch's seeds have 64 bits, signed
