"""Fingerprints: the logits that a model gives for a few prompts, saved to be compared later.

And the tokens of those prompts, which the chat template of another day may make differently.
"""

import dataclasses
import math
import re
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from helpers.adapters.chat_template import FILE, set_day
from helpers.adapters.folders import WITHOUT_RECORD, AdapterFolder
from helpers.common.errors import DamagedError
from helpers.common.files import hash_text, read_text
from helpers.loading.chat_tokenizer import PROBE, ChatTokenizer, Message
from helpers.loading.model import LoadedModel
from helpers.loading.tokenizer import make_chat_tokenizer
from helpers.tasks.chats import ChatForm
from helpers.tasks.rows import AnyTemplate

Messages = list[Message]
LONGEST = 20  # characters that a token has at most, taken over a long text
TOKEN = re.compile(r"[0-9]{1,9}")  # a token's id
SHOWN = 6  # tokens that are shown where two sequences part
TOLERANCE = 0.02  # of the largest logit: bfloat16 keeps about three digits
ANY_PROMPT: Messages = [{"role": "user", "content": "Who are you?"}]  # for LoRAs that recorded none
QUESTIONS = ("Who are you?", "What is the capital of France?", "Write a sentence about the sea.")


def make_prompts(template: AnyTemplate) -> list[Messages]:
    """Three prompts for fingerprints: the template with stand-ins for a row's texts; for chats, questions.

    No row is in them, nor an example of the template, which may have been one: the rows may be private, and
    fingerprints travel with the LoRA.
    """
    if isinstance(template, ChatForm):
        return [[{"role": "user", "content": question}] for question in QUESTIONS]
    plain = dataclasses.replace(template, examples=())
    rows = [{name: f"the {name} of example {number}" for name in template.columns} for number in (1, 2, 3)]
    return [plain.build_messages(row) for row in rows]


def list_prompts(loaded: LoadedModel, folder: AdapterFolder) -> list[Messages]:
    """The prompts whose logits the training saved; a general one for other LoRAs.

    Raises a DamagedError for one that the loaded model cannot read.
    """
    prompts = [entry["messages"] for entry in folder.run.get("fingerprint", [])]
    chat = make_chat_tokenizer(loaded.tokenizer)
    for messages in prompts:
        size = sum(len(message["content"]) for message in messages)
        if size > LONGEST * loaded.context or len(chat.tokenize(messages)) > loaded.context:
            problem = f"{folder.path / 'run.json'} has a prompt of more than {loaded.context} tokens."
            raise DamagedError(problem, WITHOUT_RECORD)
    return prompts or [ANY_PROMPT]


def check_prints(loaded: LoadedModel, folder: AdapterFolder) -> None:
    """A DamagedError if the fingerprints in run.json do not name tokens of the loaded model with numbers."""
    vocabulary = loaded.model.config.get_text_config().vocab_size
    for entry in folder.run.get("fingerprint", []):
        tokens = entry["top"]
        known = [token for token in tokens if TOKEN.fullmatch(token) and int(token) < vocabulary]
        if not tokens or len(known) < len(tokens) or not all(map(math.isfinite, tokens.values())):
            problem = f"{folder.path / 'run.json'} has a fingerprint that is not one of {loaded.name}."
            raise DamagedError(problem, WITHOUT_RECORD)


def compute_logits(loaded: LoadedModel, messages: Messages) -> torch.Tensor:
    """Logits of the reply's first token after the messages: float32, (vocabulary,)."""
    return compute_next(loaded, make_chat_tokenizer(loaded.tokenizer).tokenize(messages))


def compute_next(loaded: LoadedModel, ids: list[int]) -> torch.Tensor:
    """Logits of the token that follows these ids: float32, (vocabulary,)."""
    input_ids = torch.tensor([ids], device=loaded.model.device)
    with torch.inference_mode():
        return loaded.model(input_ids, logits_to_keep=1).logits[0, -1].float()


def take_fingerprint(loaded: LoadedModel, messages: Messages, count: int = 5) -> dict[str, Any]:
    """{"messages", "tokens", "top": {token id: logit}}: the likeliest first tokens of the reply.

    They are compared later. `tokens` is the number of tokens of the messages.
    """
    ids = make_chat_tokenizer(loaded.tokenizer).tokenize(messages)
    top = compute_next(loaded, ids).topk(count)
    found = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    logits = {str(token): round(logit, 4) for token, logit in found}
    return {"messages": messages, "tokens": len(ids), "top": logits}


def compare_fingerprint(loaded: LoadedModel, fingerprint: dict[str, Any], day: str = "") -> float:
    """Largest difference, in logits, between a saved fingerprint and what the loaded model gives now.

    `day` (2026-12-31) is that of the fingerprint: some chat templates, as Llama 3.2's, write the day's date.
    One of version 0.1.0, which recorded no `tokens`, is compared at the prompt of that version.
    """
    if "tokens" in fingerprint:
        source = set_day(str(loaded.tokenizer.get_chat_template()), day)
        chat = make_chat_tokenizer(loaded.tokenizer, source)
        logits = compute_next(loaded, chat.tokenize(fingerprint["messages"]))
    else:
        ids = tokenize_as_first_version(loaded.tokenizer, fingerprint["messages"], ask=True)
        logits = compute_next(loaded, ids)
    return max(abs(float(logits[int(token)]) - value) for token, value in fingerprint["top"].items())


def describe_difference(loaded: LoadedModel, folder: AdapterFolder, messages: list[Message]) -> str:
    """Where the tokens that the LoRA was trained on part from those that it is asked with; "" if nowhere.

    What 0.1.0 trained on after the end of an answer, a newline, is not compared: no answer has it.
    """
    tokenizer = loaded.tokenizer
    now = join(make_chat_tokenizer(tokenizer), messages)
    recorded = folder.run.get("chat_template")
    if not recorded:
        then = tokenize_as_first_version(tokenizer, [*messages, {"role": "assistant", "content": PROBE}])
    elif recorded.get("sha256") == hash_text(str(tokenizer.get_chat_template())):
        return ""
    elif (folder.path / FILE).is_file():
        source = read_text(folder.path / FILE, WITHOUT_RECORD)
        then = join(make_chat_tokenizer(tokenizer, source), messages)
    else:
        return f"trained with the chat template {recorded.get('name')}, which is not in its folder"
    place = next((i for i, pair in enumerate(zip(then, now, strict=False)) if pair[0] != pair[1]), len(now))
    if place == len(now):
        return ""
    parts = [tokenizer.decode(ids[place : place + SHOWN]) for ids in (then, now)]
    return f"from token {place} on it was trained on {parts[0]!r} and is asked with {parts[1]!r}"


def join(chat: ChatTokenizer, messages: list[Message]) -> list[int]:
    """The tokens of the messages and of an answer."""
    prompt, (answer,) = chat.tokenize_answers(messages, [PROBE])
    return prompt + answer


def tokenize_as_first_version(
    tokenizer: PreTrainedTokenizerBase, messages: list[Message], ask: bool = False
) -> list[int]:
    """The token ids of messages as version 0.1.0 made them; `ask` adds the template's generation prompt."""
    ids: Any = tokenizer.apply_chat_template(messages, add_generation_prompt=ask, return_dict=False)
    return ids
