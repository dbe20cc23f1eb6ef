"""How the upstream counts tokens: as vLLM does, llama.cpp, the WebUI, or not at all. No torch."""

from abc import ABC, abstractmethod
from typing import TypedDict

from helpers.common.errors import KitError
from helpers.generation.request import Dialogue
from helpers.generation.upstream_http import UpstreamServer

BYTES_PER_TOKEN = 3  # of an estimate; English has four, other languages fewer


class Listed(TypedDict):
    """A reply with token ids."""

    tokens: list[int]


class Counted(Listed):
    """vLLM's, which says besides how long its context is."""

    count: int
    max_model_len: int


class Written(TypedDict):
    """A reply with a prompt."""

    prompt: str


class Tokens(ABC):
    """The upstream's tokenizer, for its model `model`."""

    def __init__(self, server: UpstreamServer, model: str):
        self.server, self.model = server, model

    @abstractmethod
    def encode(self, text: str, add_special: bool) -> list[int]:
        """The text's ids."""

    def encode_dialogue(self, dialogue: Dialogue) -> list[int]:
        """The ids of the prompt that the upstream makes of messages; nearly, if it does not tell."""
        return self.encode(dialogue, True)


class VllmTokens(Tokens):
    """vLLM's /tokenize; the kit's own server has it too."""

    def encode(self, text: str, add_special: bool) -> list[int]:
        """The text's ids."""
        body = {"model": self.model, "prompt": str(text), "add_special_tokens": add_special}
        return self.server.ask("/tokenize", body, Counted)["tokens"]

    def encode_dialogue(self, dialogue: Dialogue) -> list[int]:
        """The ids of the prompt that the upstream makes of messages."""
        body = {"model": self.model, "messages": dialogue.messages}
        if dialogue.continue_last:
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        return self.server.ask("/tokenize", body, Counted)["tokens"]

    def measure_context(self) -> int:
        """Tokens that prompt and answer may have together."""
        return self.server.ask("/tokenize", {"model": self.model, "prompt": "a"}, Counted)["max_model_len"]


class LlamaTokens(Tokens):
    """llama.cpp's /tokenize and /apply-template."""

    def encode(self, text: str, add_special: bool) -> list[int]:
        """The text's ids."""
        body = {"content": str(text), "add_special": add_special, "parse_special": True}
        return self.server.ask("/tokenize", body, Listed)["tokens"]

    def encode_dialogue(self, dialogue: Dialogue) -> list[int]:
        """The ids of the prompt that the upstream makes of messages."""
        body = {"messages": dialogue.messages}
        return self.encode(self.server.ask("/apply-template", body, Written)["prompt"], True)


class WebuiTokens(Tokens):
    """The WebUI's /v1/internal/encode, which adds special tokens in any case."""

    def encode(self, text: str, add_special: bool) -> list[int]:
        """The text's ids."""
        return self.server.ask("/v1/internal/encode", {"text": str(text)}, Listed)["tokens"]


def find_tokens(server: UpstreamServer, model: str) -> Tokens | None:
    """The way in which the upstream counts tokens; None if it has none of them."""
    for kind in (VllmTokens, LlamaTokens, WebuiTokens):
        tokens = kind(server, model)
        try:
            if tokens.encode("a", False):
                return tokens
        except KitError:
            continue
    return None


def estimate(text: str) -> int:
    """About how many tokens a text has."""
    return 1 + len(text.encode()) // BYTES_PER_TOKEN
