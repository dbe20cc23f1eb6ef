"""Kinds of servers with an OpenAI-style API, the fields that each takes, and a request for one of them.

A kind is known by `owned_by` in /v1/models. No torch.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from helpers.generation.engine import GREEDY_BELOW
from helpers.generation.request import Dialogue, GenerationRequest
from helpers.generation.structure import Structure

NOT_SENT = math.nan  # a temperature or top_p that the upstream chooses by its own advice
LARGEST_BIAS = 100  # that OpenAI's API takes
MAX_STOPS = 4  # that OpenAI's API takes; StopGate knows all of them
# They have another default on many servers, so they are sent also when they change nothing.
DEFAULTED = ("top_k", "min_p", "typical_p", "repetition_penalty")
STANDARD = ("presence_penalty", "frequency_penalty", "logit_bias")  # OpenAI's own


def name_fields(*same: str, **others: str) -> Mapping[str, str]:
    """{field of GenerationRequest: the upstream's name for it}."""
    return MappingProxyType({**{name: name for name in same}, **others})


@dataclass(frozen=True)
class Kind:
    """What a server takes."""

    title: str
    fields: Mapping[str, str]  # beside OpenAI's: {field of GenerationRequest: its name there}
    is_known: bool = True
    forms: frozenset[str] = frozenset({"json_schema"})  # kinds of Structure
    without_bos: Mapping[str, bool] | None = None  # what leaves BOS out before a prompt; None: nothing does
    continuing: Mapping[str, bool] = field(default_factory=dict)  # what makes it continue a last message

    @property
    def honoured(self) -> frozenset[str]:
        """Fields of GenerationRequest that have an effect."""
        bos = ("add_special_tokens",) if self.without_bos is not None else ()
        return frozenset({*STANDARD, *self.fields, *bos, "structure", "passed_on"})


CONTINUE = {"continue_final_message": True, "add_generation_prompt": False}
WITHOUT_BOS = {"add_special_tokens": False}
ALL_FORMS = frozenset({"json_schema", "regex", "choice", "grammar"})
SAMPLING = ("top_k", "min_p", "repetition_penalty")
MIROSTAT = ("mirostat_tau", "mirostat_eta")

KIT = Kind(
    "Open LLM Kit", name_fields(*SAMPLING, "skip_special_tokens"),
    forms=ALL_FORMS, without_bos=WITHOUT_BOS, continuing=CONTINUE,
)  # fmt: skip
VLLM = Kind(
    "vLLM", name_fields(*SAMPLING, "skip_special_tokens", ban_eos="ignore_eos"),
    forms=ALL_FORMS, without_bos=WITHOUT_BOS, continuing=CONTINUE,
)  # fmt: skip
LLAMA = Kind(
    "llama.cpp",
    name_fields(
        "top_k", "min_p", "typical_p", *MIROSTAT, mirostat_mode="mirostat", ban_eos="ignore_eos",
        repetition_penalty="repeat_penalty", repetition_penalty_range="repeat_last_n",
    ),
    forms=frozenset({"json_schema", "grammar"}),
)  # fmt: skip
WEBUI = Kind(
    "text-generation-webui",
    name_fields(
        *SAMPLING, "typical_p", "repetition_penalty_range", "encoder_repetition_penalty",
        "no_repeat_ngram_size", "tfs", "top_a", "mirostat_mode", *MIROSTAT, "skip_special_tokens",
        ban_eos="ban_eos_token",
    ),
    forms=frozenset({"grammar"}), without_bos={"add_bos_token": False}, continuing={"continue_": True},
)  # fmt: skip
UNKNOWN = Kind("OpenAI-style API", name_fields(*SAMPLING), is_known=False)
KINDS = {"open-llm-kit": KIT, "vllm": VLLM, "llamacpp": LLAMA, "user": WEBUI}  # by owned_by


def build_call(
    request: GenerationRequest, model: str, kind: Kind, context: int
) -> tuple[str, dict[str, Any]]:
    """(the upstream's path, its request's body): a chat for messages, a completion for a text.

    Nothing is sent that the client did not ask for and that OpenAI's API does not have, except to servers
    that are known to take it.
    """
    body: dict[str, Any] = {"model": model, "stream": True, "stream_options": {"include_usage": True}}
    dialogue = find_dialogue(request)
    if dialogue is None:
        path = "/v1/completions"
        body["prompt"] = request.prompt_ids if request.prompt is None else request.prompt
        if not request.add_special_tokens:
            body |= kind.without_bos or {}
    else:
        path = "/v1/chat/completions"
        body["messages"] = dialogue.messages
        if request.tools:
            body["tools"] = request.tools
        if dialogue.continue_last:
            body |= kind.continuing
    if request.max_new_tokens < context:
        body["max_tokens"] = request.max_new_tokens
    body |= write_sampling(request, kind, context)
    body |= write_logprobs(request.top_logprobs, is_chat=dialogue is not None)
    if request.stop:
        body["stop"] = [text for text in request.stop if text][:MAX_STOPS]
    if request.structure:
        body |= write_structure(request.structure, kind, is_chat=dialogue is not None)
    return path, {**request.passed_on, **body}


def find_dialogue(request: GenerationRequest) -> Dialogue | None:
    """The messages of a request; None if it has a prompt."""
    if isinstance(request.prompt, Dialogue):
        return request.prompt
    return None if request.messages is None else Dialogue(request.messages, request.continue_last)


def write_sampling(request: GenerationRequest, kind: Kind, context: int) -> dict[str, Any]:
    """The fields that choose tokens."""
    sent: dict[str, Any] = {}
    advised = math.isnan(request.temperature)  # the upstream's own advice is asked for
    if not advised:
        sent["temperature"] = 0 if request.temperature < GREEDY_BELOW else request.temperature
    if not math.isnan(request.top_p):
        sent["top_p"] = request.top_p
    if request.seed is not None:
        sent["seed"] = request.seed
    neutral = GenerationRequest()
    for name, theirs in {**name_fields(*STANDARD), **kind.fields}.items():
        value = getattr(request, name)
        always = kind.is_known and not advised and name in DEFAULTED
        if always or value != getattr(neutral, name):
            sent[theirs] = value
    if kind is LLAMA:  # whose own default looks at 64 tokens only
        sent["repeat_last_n"] = min(request.repetition_penalty_range or context, context)
    if request.logit_bias:
        sent["logit_bias"] = {
            str(token): max(-LARGEST_BIAS, min(LARGEST_BIAS, bias))
            for token, bias in request.logit_bias.items()
        }
    return sent


def write_logprobs(top: int | None, is_chat: bool) -> dict[str, Any]:
    """The fields that ask for log-probabilities. One rival at least: some take 0 for none at all."""
    if top is None:
        return {}
    return {"logprobs": True, "top_logprobs": max(1, top)} if is_chat else {"logprobs": max(1, top)}


def write_structure(structure: Structure, kind: Kind, is_chat: bool) -> dict[str, Any]:
    """The field that asks for a form, as OpenAI, vLLM, llama.cpp and the WebUI have it.

    A chat's schema goes into OpenAI's own field, which may be sent together with tools.
    """
    if kind in (KIT, VLLM) and not (is_chat and structure.kind == "json_schema"):
        name = {"json_schema": "json"}.get(structure.kind, structure.kind)
        is_json = structure.kind in ("json_schema", "choice")
        return {"structured_outputs": {name: json.loads(structure.source) if is_json else structure.source}}
    if structure.kind == "json_schema":
        schema = {"name": "answer", "schema": json.loads(structure.source), "strict": True}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    return {"grammar_string" if kind is WEBUI else "grammar": structure.source}
