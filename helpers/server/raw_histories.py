"""The two histories of a raw chat: `internal` feeds the prompt, `visible` is what a web page shows, its new texts HTML-escaped.

Old rows pass through byte for byte.
"""

import html
import re
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from helpers.server.fields import Text
from helpers.server.raw_prompts import Row

USER_PLACEHOLDER = re.compile(r"<USER>|<user>|\{\{user\}\}")


class History(BaseModel):
    """Two lists of [user, reply]."""

    model_config = ConfigDict(extra="allow")

    internal: list[tuple[Text, Text]]
    visible: list[tuple[Text, Text]]


@dataclass(frozen=True)
class Turn:
    """The row that a request writes, in both histories, and the rows before it."""

    internal: list[Row]  # before it
    visible: list[Row]
    said: str  # what the user says in it
    shown: str  # the same, as it is shown
    begun: str | None = None  # the reply that is lengthened; None for a new one
    shown_begun: str = ""

    def write(self, reply: str, name1: str) -> dict[str, list[Row]]:
        """Both histories with the reply in them; `name1` takes the place of <USER> where the reply is shown."""
        escaped = html.escape(USER_PLACEHOLDER.sub(lambda _: name1, reply))
        if self.begun is not None:
            row, shown = (self.said, self.begun + reply), (self.shown, self.shown_begun + escaped)
        elif reply.strip():
            row, shown = (self.said, reply.lstrip(" ")), (self.shown, escaped.lstrip(" "))
        else:
            row = shown = ("", "")  # as then: a row without a reply has no question either
        return {"internal": [*self.internal, row], "visible": [*self.visible, shown]}


def take_turn(history: History, user_input: str, regenerate: bool, lengthen: bool) -> Turn | None:
    """The row to be written: a new one, or the last one anew or longer. None where there is no last row that answers somebody."""
    internal, visible = history.internal, history.visible
    if not regenerate and not lengthen:
        return Turn(internal, visible, user_input, html.escape(user_input))
    if not internal or (len(visible) == 1 and not visible[0][0]):
        return None
    said, begun = internal[-1]
    shown, shown_begun = visible[-1] if visible else (html.escape(said), "")
    if regenerate:
        return Turn(internal[:-1], visible[:-1], said, shown)
    return Turn(internal[:-1], visible[:-1], said, shown, begun, shown_begun)
