"""The chat template of a GGUF file together with its tokenizer, which llama.cpp runs. No torch."""

import re

from gguf import TokenType

from helpers.loading.chat_templates import PickedTemplate, admit_system, pick_template
from helpers.loading.chat_tokenizer import ChatTokenizer, Encode, is_control
from helpers.weights.folders import ModelFolder
from helpers.weights.gguf_header import TOKENS, read_header

STRETCH = 32  # control tokens in one piece of a text

TYPES = "tokenizer.ggml.token_type"


def make_llama_chat(
    folder: ModelFolder, encode: Encode, chat_template: str | None = None
) -> tuple[ChatTokenizer | None, PickedTemplate | None, int | None]:
    """(the chat template with the tokenizer, where it is from, the id of BOS); None for what is not there.

    `encode` is llama.cpp's tokenizer. Raises DamagedError for a template that cannot be used, NotFoundError
    for a `chat_template` that is not there.
    """
    assert folder.gguf is not None
    header, _ = read_header(folder.gguf, (TOKENS, TYPES))
    tokens: list[str] = header.get(TOKENS, [])
    kinds = dict(zip(tokens, header.get(TYPES, []), strict=False))
    added = {  # text: id of the tokens that are more than a piece of text
        text: number
        for number, text in enumerate(tokens)
        if kinds.get(text) in (TokenType.CONTROL, TokenType.USER_DEFINED)
    }
    special = {text for text in added if kinds[text] == TokenType.CONTROL}
    bos, eos = (header.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos"))
    names = {"bos_token": bos, "eos_token": eos}
    adds_bos = bool(header.get("tokenizer.ggml.add_bos_token", header.get("tokenizer.ggml.model") == "llama"))

    def build(source: str) -> ChatTokenizer:
        control = {
            text: number for text, number in added.items() if is_control(text, text in special, source)
        }
        texts = {name: tokens[number] for name, number in names.items() if number is not None}
        return ChatTokenizer(source, texts, control, encode, eos, frozenset(special))

    own = header.get("tokenizer.chat_template")
    picked = pick_template(chat_template, own, folder.name, special, len(tokens), adds_bos)
    if picked is None:
        return None, None, bos
    picked = admit_system(picked, build, folder.name)
    return build(picked.source), picked, bos


def cut_behind_controls(text: str, control: re.Pattern[str]) -> list[str]:
    """The text in pieces with about STRETCH control tokens each, whose ids together are those of the text.

    llama.cpp takes time in proportion to the square of their number. A piece ends with a control token, and
    if possible with one that no white space follows: some tokens take that in.
    """
    pieces, start, seen = [], 0, 0
    for found in control.finditer(text):
        seen += 1
        end = found.end()
        if seen >= STRETCH and (seen >= 4 * STRETCH or not text[end : end + 1].isspace()):
            pieces.append(text[start:end])
            start, seen = end, 0
    return [*pieces, text[start:]]
