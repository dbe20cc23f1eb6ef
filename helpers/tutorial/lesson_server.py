"""The server that a lesson asks: the one that OPENAI_BASE_URL names, else one of its own.

So one server with a large model can serve a whole room. OPENAI_API_KEY is its key, OPENAI_MODEL the model's name there (by default its first).
"""

import os
from dataclasses import dataclass

from helpers.clients.openai_chat import explain_openai_errors, make_openai_client
from helpers.clients.process import RunningServer, start_server
from helpers.common.errors import KitError
from helpers.weights.fetching import fetch


@dataclass(frozen=True)
class SharedServer:
    """A server that runs elsewhere, with what a lesson asks of a RunningServer. It has no raw API, and is nobody's to stop."""

    openai_url: str
    api_key: str
    model: str  # the one to ask when no other is named
    models: tuple[str, ...]  # all that it lists
    raw_url: None = None
    streaming_url: None = None

    @property
    def command(self) -> str:
        """What stands in place of the line to type."""
        return f"# Nothing is started: OPENAI_BASE_URL names a server. It has no raw API; over the other, {self.model} is asked."

    def choose_model(self, name: str) -> str:
        """`name` where the server lists it, else the model that it is asked for."""
        return name if name in self.models else self.model

    def runs_here(self) -> bool:
        """Never."""
        return False

    def stop(self) -> None:
        """Leaves it alone."""


def reach_server(
    model: str, source: str, revision: str = "main", loras: list[str] | tuple[str, ...] = ()
) -> RunningServer | SharedServer:
    """The server that OPENAI_BASE_URL names; without it one is started for the folder `model`, which is fetched from `source` when it is missing.

    KitError when the named server does not answer, refuses the key or has no model.
    """
    if url := os.environ.get("OPENAI_BASE_URL"):
        return find_shared(url, os.environ.get("OPENAI_API_KEY") or "none", os.environ.get("OPENAI_MODEL"))
    fetch(source, revision)
    return start_server(model, loras)


def find_shared(url: str, api_key: str, model: str | None) -> SharedServer:
    """The server at `url`, asked which models it has."""
    try:
        with explain_openai_errors(url), make_openai_client(url, api_key) as client:
            names = tuple(found.id for found in client.models.list())
    except KitError as error:
        remedy = f"{error.remedy} The address ends with /v1, the key is OPENAI_API_KEY. Without OPENAI_BASE_URL a lesson starts its own server."
        raise KitError(f"OPENAI_BASE_URL names {url}: {error.problem}", remedy) from None
    if not (names or model):
        raise KitError(
            f"The server at {url} lists no model.", "Load one there, or give its name in OPENAI_MODEL."
        )
    return SharedServer(url.rstrip("/"), api_key, model or names[0], names)
