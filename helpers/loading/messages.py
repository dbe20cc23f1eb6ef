"""Messages in, text and tokens out: the model's own chat template, and a reply to messages."""

from typing import Any

import torch
from transformers import BatchEncoding, PreTrainedTokenizerBase

from helpers.common.errors import UnsupportedError
from helpers.loading.model import LoadedModel

Message = dict[str, str]  # {"role": ..., "content": ...}


def render_chat(
    tokenizer: PreTrainedTokenizerBase, messages: list[Message], continue_last: bool = False
) -> str:
    """Messages as the text that the model was trained on, ending where the assistant's turn begins.

    With `continue_last` the text ends inside the last message instead. Raises UnsupportedError without a
    chat template.
    """
    if tokenizer.chat_template is None:
        problem = "This model's tokenizer has no chat template."
        raise UnsupportedError(problem, "Take a chat (instruct) model.")
    text = tokenizer.apply_chat_template(
        messages,
        tokenize=False,
        add_generation_prompt=not continue_last,
        continue_final_message=continue_last,
    )
    assert isinstance(text, str)  # it is a list only for a list of conversations
    return text


def tokenize_chat(tokenizer: PreTrainedTokenizerBase, messages: list[Message]) -> BatchEncoding:
    """The rendered messages as ids and attention mask, each a tensor of shape (1, tokens).

    The template writes BOS itself if the model has one, so none is added.
    """
    return tokenizer(render_chat(tokenizer, messages), return_tensors="pt", add_special_tokens=False)


def chat(loaded: LoadedModel, messages: list[Message], max_new_tokens: int = 64, **sampling: Any) -> str:
    """The model's reply to the messages.

    Greedy unless `sampling` (do_sample, temperature, top_p ...) says otherwise.
    """
    inputs = tokenize_chat(loaded.tokenizer, messages).to(loaded.model.device)
    settings = {"do_sample": False, "temperature": None, "top_p": None, **sampling}
    with torch.inference_mode():
        output = loaded.model.generate(**inputs, max_new_tokens=max_new_tokens, **settings)
    answer = output[0, inputs["input_ids"].shape[1] :]
    text = loaded.tokenizer.decode(answer, skip_special_tokens=True)
    assert isinstance(text, str)  # it is a list only for a list of answers
    return text.strip()
