"""Types of request fields that both dialects share: texts, stop strings and the range of seeds.

Pydantic checks them while it parses a body; a wrong value becomes a 400 that names the field.
"""

from typing import Annotated

from pydantic import AfterValidator, Field

from helpers.common.arguments import NAME_BYTES

# Characters of a text whose tokens are only counted or listed, which takes about a second. As many fit into a
# body also when they are written as escapes.
MAX_COUNTED = 2**18
SEED_LIMIT = 2**63  # seeds are 64 bits, signed, as in torch: -SEED_LIMIT <= seed < SEED_LIMIT


def refuse_half_characters(text: str) -> str:
    """The text. Raises a ValueError if UTF-8 cannot hold it: JSON's \\u can write half a surrogate pair."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("this is not valid text: it holds half a surrogate pair") from None
    return text


def refuse_odd_names(name: str) -> str:
    """The name. Raises a ValueError if no folder can have it."""
    if not name.isprintable():
        raise ValueError("a folder's name has no control characters")
    if any(len(part.encode()) > NAME_BYTES for part in name.split("/")):
        raise ValueError(f"a folder's name has {NAME_BYTES} bytes at most")
    return name


Text = Annotated[str, AfterValidator(refuse_half_characters)]

# A folder's name, or FOLDER/FILE.
FolderName = Annotated[Text, Field(max_length=2 * NAME_BYTES + 1), AfterValidator(refuse_odd_names)]

# Limited, since every stop string is compared with the text after each token.
StopTexts = Annotated[list[Annotated[Text, Field(max_length=256)]], Field(max_length=32)]
