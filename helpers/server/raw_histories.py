"""The two histories of a raw chat: `internal` feeds the prompt, `visible` is what a web page shows.

New texts in `visible` are HTML-escaped; old exchanges pass through byte for byte.
"""

import html
import re
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from helpers.server.fields import Text
from helpers.server.raw_prompts import Exchange

USER_PLACEHOLDER = re.compile(r"<USER>|<user>|\{\{user\}\}")


class History(BaseModel):
    """Two lists of [user, reply]."""

    model_config = ConfigDict(extra="allow")

    internal: list[tuple[Text, Text]]
    visible: list[tuple[Text, Text]]


@dataclass(frozen=True)
class PendingExchange:
    """The exchange that a request writes, in both histories, and the exchanges before it."""

    past_internal: list[Exchange]
    past_visible: list[Exchange]
    said: str  # what the user says in it
    shown_said: str  # the same, as `visible` has it
    begun: str | None = None  # the reply to continue; None for a new one
    shown_begun: str = ""

    def write(self, reply: str, name1: str) -> dict[str, list[Exchange]]:
        """Both histories with the reply in them; where the reply is shown, <USER> becomes `name1`."""
        shown_reply = html.escape(USER_PLACEHOLDER.sub(lambda _: name1, reply))
        if self.begun is not None:
            internal = (self.said, self.begun + reply)
            visible = (self.shown_said, self.shown_begun + shown_reply)
        elif reply.strip():
            internal = (self.said, reply.lstrip(" "))
            visible = (self.shown_said, shown_reply.lstrip(" "))
        else:
            internal = visible = ("", "")  # as in 2023: an exchange without a reply loses what was said, too
        return {
            "internal": [*self.past_internal, internal],
            "visible": [*self.past_visible, visible],
        }


def plan_exchange(
    history: History, user_input: str, regenerate: bool, lengthen: bool
) -> PendingExchange | None:
    """The exchange to be written: a new one, or the last one again (`regenerate`) or longer (`lengthen`).

    None if there is no last one, or if in the only one the bot greets without being asked.
    """
    internal = history.internal
    visible = history.visible
    if not regenerate and not lengthen:
        return PendingExchange(internal, visible, user_input, html.escape(user_input))
    if not internal or (len(visible) == 1 and not visible[0][0]):
        return None
    said, begun = internal[-1]
    shown_said, shown_begun = visible[-1] if visible else (html.escape(said), "")
    if regenerate:
        return PendingExchange(internal[:-1], visible[:-1], said, shown_said)
    return PendingExchange(internal[:-1], visible[:-1], said, shown_said, begun, shown_begun)
