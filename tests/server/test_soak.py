"""Many clients at the same time: every answer is the one that a client alone gets.

They ask the base and two LoRAs, in both dialects, whole and streamed.
"""

import random
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import openai
import psutil
import pytest
import requests
from support.server import make_tiny_service
from support.tiny import make_tiny_adapter

from helpers import clients
from helpers.weights.folders import find_model

CLIENTS = 16
# In none of the real model's answers to them do two tokens have logits within 0.001 of each other. Between
# such tokens rounding decides, which depends on what is computed beside an answer.
QUESTIONS = [
    "Hi",
    "What color is the sky?",
    "Where is the library?",
    "1 < 2 & 'so'",
    "Once upon a time, in a house by the sea",
    "naïve 東京 🙂",
]


def chat(client, model, streamed, question):
    messages = [{"role": "user", "content": question}]
    settings = {"model": model, "temperature": 0, "max_tokens": 24}
    reply = client.chat.completions.create(messages=messages, stream=streamed, **settings)
    if streamed:
        return "".join(chunk.choices[0].delta.content or "" for chunk in reply)
    return reply.choices[0].message.content


def complete(client, model, streamed, question):
    settings = {"model": model, "temperature": 0, "max_tokens": 16}
    reply = client.completions.create(prompt=question, stream=streamed, **settings)
    if streamed:
        return "".join(chunk.choices[0].text for chunk in reply)
    return reply.choices[0].text


def ask_raw(url, path, question):
    field = "user_input" if path == "chat" else "prompt"
    body = {field: question, "do_sample": False, "max_new_tokens": 20}
    reply = requests.post(f"{url}/api/v1/{path}", json=body, timeout=300)
    assert reply.status_code == 200, reply.text
    return reply.json()["results"]


def stream_raw_text(url, question):
    return "".join(clients.stream_raw(question, url=url, do_sample=False, max_new_tokens=20))


def stream_raw_chat(url, question):
    *_, history = clients.stream_chat_raw(question, url=url, do_sample=False, max_new_tokens=20)
    return history


def list_calls(server, names):
    """Every kind of request, once with each question."""
    client = openai.OpenAI(base_url=server.openai_url, api_key="none", max_retries=0, timeout=300)
    kinds = [
        partial(ask_raw, server.raw_url, "chat"),
        partial(ask_raw, server.raw_url, "generate"),
        partial(stream_raw_text, server.streaming_url),
        partial(stream_raw_chat, server.streaming_url),
    ]
    for ask in (chat, complete):
        for name in names:
            kinds.append(partial(ask, client, name, False))
            kinds.append(partial(ask, client, name, True))
    return [partial(kind, question) for kind in kinds for question in QUESTIONS]


def soak(server, names, count):
    """The growth of memory, as a share, while CLIENTS clients make `count` calls, answered as if alone."""
    calls = list_calls(server, names)
    alone = [call() for call in calls]
    assert len({str(answer) for answer in alone}) > len(QUESTIONS) * len(names)  # the models do differ
    process = psutil.Process(server.process.pid)
    drawn = random.Random(0)
    with ThreadPoolExecutor(CLIENTS) as pool:
        # After these the allocator has seen full batches.
        warming = drawn.sample(calls, min(3 * CLIENTS, len(calls)))
        list(pool.map(lambda call: call(), warming))
        before = process.memory_info().rss
        chosen = [drawn.randrange(len(calls)) for _ in range(count)]
        answers = list(pool.map(lambda number: calls[number](), chosen))
    assert answers == [alone[number] for number in chosen]
    return process.memory_info().rss / before - 1


@pytest.mark.parametrize(
    "count", [pytest.param(60, marks=pytest.mark.long), pytest.param(500, marks=pytest.mark.slow)]
)
def test_mixed_requests_of_16_clients_are_answered_as_if_alone_and_memory_stays(home, count):
    make_tiny_service(home).unload()
    with clients.start_server("tiny", loras=["shift", "twist"], extra=["--dtype", "float32"]) as server:
        assert soak(server, ["tiny", "shift", "twist"], count) < 0.05


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_real_model_answers_500_mixed_requests_as_if_alone_and_memory_stays(real_model_name, tmp_path):
    model = find_model(real_model_name).path
    for seed, name in enumerate(("shift", "twist"), 1):
        make_tiny_adapter(tmp_path / name, model, seed=seed)
    extra = ["--dtype", "float32", "--lora-dir", str(tmp_path)]
    with clients.start_server(real_model_name, loras=["shift", "twist"], extra=extra) as server:
        assert soak(server, [real_model_name, "shift", "twist"], 500) < 0.05
