"""Messages for a transformers tokenizer: rendered, tokenised, and answered by a loaded model."""

from typing import Any

import torch
from transformers import BatchEncoding, PreTrainedTokenizerBase

from helpers.loading.chat_tokenizer import Message
from helpers.loading.model import LoadedModel
from helpers.loading.tokenizer import make_chat_tokenizer


def render_chat(
    tokenizer: PreTrainedTokenizerBase, messages: list[Message], continue_last: bool = False
) -> str:
    """Messages as the text that the model was trained on, up to where the answer begins.

    With `continue_last` the text ends inside the last message instead. Raises UnsupportedError without a
    chat template, UsageError for messages that the template rejects.
    """
    return make_chat_tokenizer(tokenizer).render(messages, continue_last)


def tokenize_chat(tokenizer: PreTrainedTokenizerBase, messages: list[Message]) -> BatchEncoding:
    """The same text as ids and attention mask, each a tensor of shape (1, tokens)."""
    return as_inputs(make_chat_tokenizer(tokenizer).tokenize(messages))


def as_inputs(ids: list[int]) -> BatchEncoding:
    """Token ids as a model takes them: ids and attention mask, each a tensor of shape (1, tokens)."""
    return BatchEncoding({"input_ids": [ids], "attention_mask": [[1] * len(ids)]}, tensor_type="pt")


def list_end_ids(loaded: LoadedModel) -> list[int]:
    """The tokens that end an answer: the chat template's, and those of the model's generation_config."""
    advised = loaded.model.generation_config.eos_token_id
    ids = advised if isinstance(advised, list) else [] if advised is None else [advised]
    ends = make_chat_tokenizer(loaded.tokenizer).end_ids if loaded.tokenizer.chat_template else []
    return list(dict.fromkeys([*ids, *ends]))


def chat(loaded: LoadedModel, messages: list[Message], max_new_tokens: int = 64, **sampling: Any) -> str:
    """The model's reply to the messages.

    Greedy unless `sampling` (do_sample, temperature, top_p ...) says otherwise.
    """
    inputs = tokenize_chat(loaded.tokenizer, messages).to(loaded.model.device)
    settings = {"do_sample": False, "temperature": None, "top_p": None, "eos_token_id": list_end_ids(loaded)}
    with torch.inference_mode():
        output = loaded.model.generate(**inputs, max_new_tokens=max_new_tokens, **{**settings, **sampling})
    answer = output[0, inputs["input_ids"].shape[1] :]
    text = loaded.tokenizer.decode(answer, skip_special_tokens=True)
    assert isinstance(text, str)  # it is a list only for a list of answers
    return text.strip()
