"""The server that a lesson asks: the one that OPENAI_BASE_URL names, or else one that the lesson starts.

In this way one server with a large model can serve a whole room. OPENAI_API_KEY is its key, and OPENAI_MODEL
the name of the model to ask; without it, that is the first model that the server lists.
"""

import os
from dataclasses import dataclass

from helpers.clients.openai_chat import explain_openai_errors, make_openai_client
from helpers.clients.process import RunningServer, start_server
from helpers.common.errors import KitError, NotFoundError, ServerError
from helpers.weights.fetching import fetch


@dataclass(frozen=True)
class SharedServer:
    """A server that somebody else runs, with the attributes of a RunningServer that a lesson uses."""

    openai_url: str  # address of its OpenAI API, ends with /v1
    api_key: str
    model: str  # the model to ask if no other is named
    models: tuple[str, ...]  # every model that it lists
    raw_url: str | None = None  # it has no raw API
    streaming_url: str | None = None
    note: str = ""

    @property
    def command(self) -> str:
        """What a lesson prints instead of the command that starts its own server."""
        return (
            "# Nothing is started: OPENAI_BASE_URL names a server. "
            f"It has no raw API; its OpenAI API is asked for {self.model}."
        )

    def choose_model(self, name: str) -> str:
        """`name` if the server lists it, or else the model to ask."""
        return name if name in self.models else self.model

    def runs_here(self) -> bool:
        """False: it is not a process of this lesson."""
        return False

    def stop(self) -> None:
        """Does nothing: it is not this lesson's server to stop."""


def reach_server(
    model: str, source: str, revision: str = "main", loras: list[str] | tuple[str, ...] = ()
) -> RunningServer | SharedServer:
    """The server that OPENAI_BASE_URL names; if it is not set, a new one for the folder `model`.

    A model that is missing is fetched from `source` first. Raises a KitError if the named server does not
    answer, refuses the key or has no model.
    """
    url = os.environ.get("OPENAI_BASE_URL")
    if url:
        return find_shared(url, os.environ.get("OPENAI_API_KEY") or "none", os.environ.get("OPENAI_MODEL"))
    fetch(source, revision)
    return start_server(model, loras)


def find_shared(url: str, api_key: str, model: str | None) -> SharedServer:
    """The server at `url`, which is asked for its models.

    Raises ServerError if it does not answer or refuses the key, NotFoundError if it lists no model and none
    is named.
    """
    try:
        with explain_openai_errors(url), make_openai_client(url, api_key) as client:
            names = tuple(found.id for found in client.models.list())
    except KitError as error:
        raise ServerError(
            f"OPENAI_BASE_URL names {url}: {error.problem}",
            f"{error.remedy} The address ends with /v1, and the key is OPENAI_API_KEY. "
            "Without OPENAI_BASE_URL, a lesson starts its own server.",
        ) from None
    if not names and not model:
        raise NotFoundError(
            f"The server at {url} lists no model.", "Load one there, or give its name in OPENAI_MODEL."
        )
    return SharedServer(url.rstrip("/"), api_key, model or names[0], names)
