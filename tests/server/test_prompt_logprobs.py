"""Prompts as token ids, and the log-probabilities of prompts: OpenAI's `echo`, vLLM's `prompt_logprobs`."""

import json

import openai
import pytest
import requests
import torch
from openai.types import Completion
from openai.types.chat import ChatCompletion
from openai.types.completion_choice import Logprobs
from support.scripted_engine import ScriptedEngine
from support.server import make_tiny_service, serve_app
from tokenizers.processors import TemplateProcessing

from helpers.generation import reading
from helpers.server.openai_api import make_openai_app
from helpers.server.service import Service

EOS = 257


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    return make_tiny_service(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def url(service):
    with serve_app(make_openai_app(service)) as address:
        yield address + "/v1"


@pytest.fixture(scope="module")
def client(url):
    return openai.OpenAI(base_url=url, api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def loaded(service):
    return service.engine.loaded


def complete(client, prompt, vllm=None, **settings):
    body = {"model": "tiny", "temperature": 0, "max_tokens": 1, "prompt": prompt, "extra_body": vllm}
    return client.completions.create(**{**body, **settings})


def encode(loaded, text):
    return loaded.tokenizer(text)["input_ids"]


def compute(loaded, ids):
    """The log-probabilities after each of these ids, (ids, vocabulary), by one pass of the base model."""
    with torch.inference_mode(), loaded.model.disable_adapter():
        return loaded.model(torch.tensor([ids])).logits[0].float().log_softmax(-1)


def list_wanted(loaded, ids):
    """The log-probability of each id but the first."""
    rows = compute(loaded, ids)
    return [rows[place, number].item() for place, number in enumerate(ids[1:])]


# Token ids


def test_prompt_of_ids_is_the_prompt_of_its_text(client, loaded):
    ids = [encode(loaded, text) for text in ("Once upon", "a time")]
    by_text = complete(client, ["Once upon", "a time"], max_tokens=8)
    by_ids = complete(client, ids, max_tokens=8)
    assert [choice.text for choice in by_ids.choices] == [choice.text for choice in by_text.choices]
    assert by_ids.usage == by_text.usage
    assert complete(client, ids[0], max_tokens=8).choices[0].text == by_text.choices[0].text


def test_echo_writes_ids_as_text_with_their_special_tokens(client, loaded):
    reply = complete(client, [*encode(loaded, "Hé"), EOS], echo=True, max_tokens=0)
    assert reply.choices[0].text == "Hé<|im_end|>"


@pytest.mark.parametrize("stream", [False, True])
def test_no_tokens_can_be_asked_for(client, stream):
    reply = complete(client, "Once", max_tokens=0, stream=stream)
    choices = [choice for part in (reply if stream else [reply]) for choice in part.choices]
    assert "".join(choice.text for choice in choices) == ""
    assert choices[-1].finish_reason == "length"
    if not stream:
        assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (4, 0)


# Echo with log-probabilities


@pytest.mark.parametrize("length", [2, 40, 300])
def test_echo_lists_the_log_probabilities_of_a_plain_pass(client, loaded, length):
    ids = encode(loaded, "The quick brown fox. " * 15)[:length]
    logprobs = complete(client, ids, echo=True, logprobs=2, max_tokens=0).choices[0].logprobs
    assert logprobs.token_logprobs[0] is logprobs.top_logprobs[0] is None
    assert logprobs.token_logprobs[1:] == pytest.approx(list_wanted(loaded, ids), abs=1e-4)
    for top, row in zip(logprobs.top_logprobs[1:], compute(loaded, ids), strict=False):
        assert sorted(top.values())[-2:] == pytest.approx(sorted(row.tolist())[-2:], abs=1e-4)
    assert "".join(logprobs.tokens) == loaded.tokenizer.decode(ids)
    assert logprobs.text_offset == list(range(length))


def test_long_prompt_is_read_in_passes(client, loaded, monkeypatch):
    monkeypatch.setattr(reading, "PASS_TOKENS", 7)
    ids = encode(loaded, "Neither rain nor snow")
    choice = complete(client, ids, echo=True, logprobs=0, max_tokens=4).choices[0]
    assert choice.logprobs.token_logprobs[1:21] == pytest.approx(list_wanted(loaded, ids), abs=1e-4)
    assert choice.text == complete(client, ids, echo=True, max_tokens=4).choices[0].text


def test_prompts_of_different_lengths_are_read_side_by_side(client, loaded):
    prompts = [encode(loaded, "x" * length + "y") for length in (1, 9, 3, 30, 200)]
    reply = complete(client, prompts, echo=True, logprobs=1, n=2, max_tokens=3)
    assert len(reply.choices) == 10
    for choice in reply.choices:
        ids = prompts[choice.index // 2]
        listed = choice.logprobs.token_logprobs
        assert listed[1 : len(ids)] == pytest.approx(list_wanted(loaded, ids), abs=1e-4)
    assert reply.usage.prompt_tokens == sum(map(len, prompts))


def test_prompt_is_read_with_the_adapter_that_answers(client, loaded):
    settings = {"echo": True, "logprobs": 0, "max_tokens": 0}
    base, shift = (complete(client, "Once", model=name, **settings) for name in ("tiny", "shift"))
    assert base.choices[0].logprobs.token_logprobs[1:] != pytest.approx(
        shift.choices[0].logprobs.token_logprobs[1:], abs=1e-3
    )


def test_tokens_of_the_answer_follow_those_of_the_prompt(client):
    answer = complete(client, "Once", max_tokens=5, logprobs=1).choices[0]
    whole = complete(client, "Once", max_tokens=5, logprobs=1, echo=True).choices[0]
    assert whole.text == "Once" + answer.text
    assert whole.logprobs.tokens[4:] == answer.logprobs.tokens
    assert whole.logprobs.token_logprobs[4:] == pytest.approx(answer.logprobs.token_logprobs, abs=1e-4)
    assert whole.logprobs.text_offset[4:] == [4 + offset for offset in answer.logprobs.text_offset]


def test_token_that_ends_the_answer_is_listed_so_that_a_client_can_count(client):
    ends = {"logit_bias": {str(EOS): 100}, "echo": True, "logprobs": 1}
    choice = complete(client, "Once", **ends).choices[0]
    assert (choice.text, choice.finish_reason) == ("Once", "stop")
    assert choice.logprobs.tokens == ["O", "n", "c", "e", "<|im_end|>"]
    assert len(choice.logprobs.token_logprobs) == 5


def test_offsets_are_places_in_the_text_though_bos_is_not_in_it(client, loaded):
    core = loaded.tokenizer.backend_tokenizer
    core.post_processor = TemplateProcessing(single="<|im_start|> $A", special_tokens=[("<|im_start|>", 256)])
    try:
        choice = complete(client, "ab", echo=True, logprobs=0, max_tokens=1).choices[0]
    finally:
        core.post_processor = TemplateProcessing(single="$A", special_tokens=[])
    assert choice.logprobs.tokens[:3] == ["<|im_start|>", "a", "b"]
    assert choice.logprobs.text_offset == [0, 0, 1, 2]


def test_stream_lists_what_the_whole_reply_lists(client):
    settings = {"echo": True, "logprobs": 1, "n": 2, "max_tokens": 4}
    whole = complete(client, ["Once", "upon a"], **settings)
    texts, lists = {}, {}
    for chunk in complete(client, ["Once", "upon a"], stream=True, **settings):
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
            for name, values in (choice.logprobs or Logprobs()).to_dict().items():
                lists.setdefault((choice.index, name), []).extend(values)
    for choice in whole.choices:
        assert texts[choice.index] == choice.text
        found = Logprobs.construct(**{name: lists[choice.index, name] for name in choice.logprobs.to_dict()})
        assert (found.tokens, found.text_offset) == (choice.logprobs.tokens, choice.logprobs.text_offset)
        assert found.token_logprobs[1:] == pytest.approx(choice.logprobs.token_logprobs[1:], abs=1e-4)
        assert list(map(bool, found.top_logprobs)) == list(map(bool, choice.logprobs.top_logprobs))


# prompt_logprobs


def test_prompt_logprobs_of_a_completion_have_vllms_form(client, loaded):
    ids = encode(loaded, "Once")
    choice = complete(client, ids, {"prompt_logprobs": 2}).choices[0]
    first, *others = choice.prompt_logprobs
    assert first is None
    for number, entries, row in zip(ids[1:], others, compute(loaded, ids), strict=False):
        own = entries[str(number)]
        assert own["logprob"] == pytest.approx(row[number].item(), abs=1e-4)
        assert own["rank"] == 1 + (row > row[number]).sum().item()
        assert own["decoded_token"] == loaded.tokenizer.decode([number])
        likeliest = {str(best): rank for rank, best in enumerate(row.topk(2).indices.tolist(), start=1)}
        assert {key: entry["rank"] for key, entry in entries.items()} == {
            str(number): own["rank"],
            **likeliest,
        }
    assert choice.logprobs is None


def test_prompt_logprobs_of_a_chat_are_those_of_the_rendered_prompt(client, loaded):
    messages = [{"role": "user", "content": "Hi"}]
    ids = loaded.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    reply = client.chat.completions.create(
        model="tiny", messages=messages, n=2, max_tokens=1, extra_body={"prompt_logprobs": 0}
    )
    pairs = zip(ids[1:], reply.prompt_logprobs[1:], strict=True)
    listed = [entries[str(number)]["logprob"] for number, entries in pairs]
    assert listed == pytest.approx(list_wanted(loaded, ids), abs=1e-4)


def test_echo_and_prompt_logprobs_list_as_many_rivals_as_each_asks_for(client):
    choice = complete(client, "Once", {"prompt_logprobs": 3}, echo=True, logprobs=1).choices[0]
    assert all(1 <= len(top) <= 2 for top in choice.logprobs.top_logprobs[1:])
    assert all(3 <= len(entries) <= 4 for entries in choice.prompt_logprobs[1:])


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("completions", {"prompt": [1, 2], "echo": True, "logprobs": 1, "max_tokens": 0}, Completion),
        ("completions", {"prompt": [[1, 2], [3]], "echo": True, "logprobs": 1, "n": 2}, Completion),
        ("completions", {"prompt": "ab", "prompt_logprobs": 1}, Completion),
        (
            "chat/completions",
            {"messages": [{"role": "user", "content": "a"}], "prompt_logprobs": 1},
            ChatCompletion,
        ),
    ],
)
def test_replies_have_openais_shape_and_no_more_than_was_asked_for(url, path, body, kind):
    reply = requests.post(f"{url}/{path}", json={"max_tokens": 2, **body}, timeout=30).json()
    extra = {"prompt_logprobs"} & set(body)
    json.dumps(reply, allow_nan=False)
    for choice in reply["choices"]:
        if body.get("echo"):  # OpenAI's type leaves out the null that OpenAI sends here
            assert (choice["logprobs"]["token_logprobs"][0], choice["logprobs"]["top_logprobs"][0]) == (
                None,
                None,
            )
            choice["logprobs"] |= {"token_logprobs": [0.0], "top_logprobs": [{}]}
    found = kind.model_validate(reply)
    assert set(found.model_extra) | {name for choice in found.choices for name in choice.model_extra} == extra


# Limits


@pytest.mark.parametrize("prompt", [[1] + [0.5] * 500_000, [[1]] + [[True] * 500_000], [0.5] * 500_000])
def test_refusal_of_wrong_ids_names_one_mistake(url, prompt):
    reply = requests.post(f"{url}/completions", json={"prompt": prompt}, timeout=30)
    assert (reply.status_code, reply.json()["error"]["param"].partition(".")[0]) == (400, "prompt")
    assert len(reply.content) < 1500


def test_engine_without_log_probabilities_of_prompts_says_who_has_them():
    engine = ScriptedEngine(honoured=[])
    with serve_app(make_openai_app(Service(engine=engine))) as address:
        client = openai.OpenAI(base_url=address + "/v1", api_key="none", max_retries=0)
        asked = [
            ({"echo": True, "logprobs": 1}, "echo"),
            ({"extra_body": {"prompt_logprobs": 0}}, "prompt_logprobs"),
        ]
        for settings, field in asked:
            with pytest.raises(openai.BadRequestError) as refused:
                client.completions.create(model="x", prompt="a", **settings)
            assert (refused.value.param, refused.value.code) == (field, "unsupported_parameter")
            assert "safetensors" in str(refused.value)
    assert not engine.requests
