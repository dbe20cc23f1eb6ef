"""The chat template of a GGUF file together with its tokenizer, which llama.cpp runs. No torch."""

from gguf import TokenType

from helpers.loading.chat_templates import PickedTemplate, admit_system, pick_template
from helpers.loading.chat_tokenizer import ChatTokenizer, Encode, is_control
from helpers.weights.folders import ModelFolder
from helpers.weights.gguf_header import read_header

TOKENS, TYPES = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"


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
        return ChatTokenizer(source, texts, control, encode, eos)

    own = header.get("tokenizer.chat_template")
    picked = pick_template(chat_template, own, folder.name, special, len(tokens), adds_bos)
    if picked is None:
        return None, None, bos
    picked = admit_system(picked, build, folder.name)
    return build(picked.source), picked, bos
