"""The server that a lesson asks: the one that OPENAI_BASE_URL names, or else one that the lesson starts.

In this way one server with a large model can serve a whole room. OPENAI_API_KEY is its key, and OPENAI_MODEL
the name of the model to ask; without it, that is the first model that the server lists.

KIT_UPSTREAM names such a server, too. The lesson then starts the kit's server in front of it (--upstream),
which has both APIs; OPEN_LLM_KIT_UPSTREAM_KEY is the key.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from helpers.clients.openai_chat import explain_openai_errors, make_openai_client
from helpers.clients.process import RunningServer, start_server
from helpers.common.errors import KitError, NotFoundError, ServerError
from helpers.generation.upstream_errors import KEY_VARIABLE
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
    """The server that OPENAI_BASE_URL names, or a new one in front of the one that KIT_UPSTREAM names.

    If neither is set, a new one for the folder `model`, which is fetched from `source` if it is missing.
    Raises a KitError if the named server does not answer, refuses the key or has no model.
    """
    url = os.environ.get("OPENAI_BASE_URL")
    if url:
        return find_shared(url, os.environ.get("OPENAI_API_KEY") or "none", os.environ.get("OPENAI_MODEL"))
    if upstream := os.environ.get("KIT_UPSTREAM"):
        return start_in_front(upstream, model, loras)
    fetch(source, revision)
    return start_server(model, loras)


def start_in_front(url: str, model: str, loras: Sequence[str]) -> RunningServer:
    """A new server in front of the one at `url`, with those of the model and the LoRAs that it lists.

    Without `model`, the first one that it lists is the base.
    """
    shared = find_shared(url, os.environ.get(KEY_VARIABLE) or "none", None, "KIT_UPSTREAM", KEY_VARIABLE)
    there = [name for name in loras if name in shared.models]
    return start_server(shared.choose_model(model), there, ["--upstream", url])


def find_shared(
    url: str,
    api_key: str,
    model: str | None,
    variable: str = "OPENAI_BASE_URL",
    key_variable: str = "OPENAI_API_KEY",
) -> SharedServer:
    """The server at `url`, which is asked for its models; the variables are where address and key are from.

    Raises ServerError if it does not answer or refuses the key, NotFoundError if it lists no model and none
    is named.
    """
    try:
        with explain_openai_errors(url), make_openai_client(url, api_key) as client:
            names = tuple(found.id for found in client.models.list())
    except KitError as error:
        raise ServerError(
            f"{variable} names {url}: {error.problem}",
            f"{error.remedy} The address ends with /v1, and the key is {key_variable}. "
            f"Without {variable}, a lesson starts its own server.",
        ) from None
    if not names and not model:
        raise NotFoundError(
            f"The server at {url} lists no model.", "Load one there, or give its name in OPENAI_MODEL."
        )
    return SharedServer(url.rstrip("/"), api_key, model or names[0], names)
