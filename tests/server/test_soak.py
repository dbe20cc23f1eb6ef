"""Many clients at the same time, over the base and two LoRAs, in both dialects, whole and streamed: every answer is the one that it is alone."""

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

CLIENTS = 16
# In no answer of the real model's to them have two tokens logits within 0.001 of each other: rounding, which depends on what is computed beside a
# row, decides between such two.
QUESTIONS = [
    "Hi",
    "What color is the sky?",
    "Where is the library?",
    "1 < 2 & 'so'",
    "Once upon a time, in a house by the sea",
    "naïve 東京 🙂",
]


def chat(client, model, question, streamed):
    reply = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        temperature=0,
        max_tokens=24,
        stream=streamed,
    )
    return (
        "".join(chunk.choices[0].delta.content or "" for chunk in reply)
        if streamed
        else reply.choices[0].message.content
    )


def complete(client, model, question, streamed):
    reply = client.completions.create(
        model=model, prompt=question, temperature=0, max_tokens=16, stream=streamed
    )
    return "".join(chunk.choices[0].text for chunk in reply) if streamed else reply.choices[0].text


def ask_raw(url, path, question):
    key = "user_input" if path == "chat" else "prompt"
    reply = requests.post(
        f"{url}/api/v1/{path}", json={key: question, "do_sample": False, "max_new_tokens": 20}, timeout=300
    )
    assert reply.status_code == 200, reply.text
    return reply.json()["results"]


def stream_raw(url, path, question):
    ask = clients.stream_chat_raw if path == "chat" else clients.stream_raw
    pieces = list(ask(question, url=url, do_sample=False, max_new_tokens=20))
    return pieces[-1:] if path == "chat" else "".join(pieces)


def list_calls(server, names):
    """Every kind of request, once with each question."""
    client = openai.OpenAI(base_url=server.openai_url, api_key="none", max_retries=0, timeout=300)
    raw = [(ask_raw, server.raw_url), (stream_raw, server.streaming_url)]
    calls = [
        partial(ask, url, path, question)
        for ask, url in raw
        for path in ("chat", "generate")
        for question in QUESTIONS
    ]
    kinds = [
        (ask, model, streamed) for ask in (chat, complete) for model in names for streamed in (False, True)
    ]
    return calls + [
        partial(ask, client, model, question, streamed)
        for ask, model, streamed in kinds
        for question in QUESTIONS
    ]


def soak(server, names, count):
    """Memory growth, as a share, while `count` calls come from CLIENTS clients; each must be answered as it was alone."""
    calls = list_calls(server, names)
    alone = [call() for call in calls]
    assert len({str(answer) for answer in alone}) > len(QUESTIONS) * len(names)  # the models do differ
    process, drawn = psutil.Process(server.process.pid), random.Random(0)
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(
            pool.map(lambda call: call(), drawn.sample(calls, min(3 * CLIENTS, len(calls))))
        )  # the allocator has seen full batches then
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
def test_the_real_model_answers_500_mixed_requests_as_if_alone_and_memory_stays(real_model_name, tmp_path):
    from helpers.weights.folders import find_model

    for seed, name in enumerate(("shift", "twist"), 1):
        make_tiny_adapter(tmp_path / name, find_model(real_model_name), seed=seed)
    extra = ["--dtype", "float32", "--lora-dir", str(tmp_path)]
    with clients.start_server(real_model_name, loras=["shift", "twist"], extra=extra) as server:
        assert soak(server, [real_model_name, "shift", "twist"], 500) < 0.05
