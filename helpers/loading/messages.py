"""The loaded model and tokenizer, and chat with the model's own template. Which loader a folder needs is said in helpers.loading.loaders."""

import torch
from transformers import (
    BatchEncoding,
    PreTrainedTokenizerBase,
)

from helpers.common.errors import KitError
from helpers.loading.model import LoadedModel


def render_chat(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], continue_last: bool = False
) -> str:
    """Messages ([{"role", "content"}, ...]) as the text the model was trained on, ready for the assistant's turn (or inside its last one)."""
    if tokenizer.chat_template is None:
        raise KitError("This model's tokenizer has no chat template.", "Take a chat (instruct) model.")
    return tokenizer.apply_chat_template(
        messages,
        tokenize=False,
        add_generation_prompt=not continue_last,
        continue_final_message=continue_last,
    )


def tokenize_chat(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> BatchEncoding:
    """The rendered messages as ids and mask, each (1, tokens). The template writes BOS itself where the model has one, so none is added."""
    return tokenizer(render_chat(tokenizer, messages), return_tensors="pt", add_special_tokens=False)


def chat(loaded: LoadedModel, messages: list[dict[str, str]], max_new_tokens: int = 64, **sampling) -> str:
    """The model's reply to the messages. Greedy unless `sampling` (do_sample, temperature, top_p ...) says otherwise."""
    inputs = tokenize_chat(loaded.tokenizer, messages).to(loaded.model.device)
    settings = {"do_sample": False, "temperature": None, "top_p": None, **sampling}
    with torch.inference_mode():
        output = loaded.model.generate(**inputs, max_new_tokens=max_new_tokens, **settings)
    return loaded.tokenizer.decode(
        output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    ).strip()
