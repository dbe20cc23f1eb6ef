"""How fast answers come over HTTP, with 1, 4 and 16 clients.

Compares the kit's two engines and `transformers serve --continuous-batching`.

    python -m benchmarks.serving [--rounds 3] [--clients 1 4 16] [--tokens 32]

The three take turns, each in a server process of its own, in the machine's best dtype (llama.cpp: the GGUF
file as it is). Every client streams greedy answers of --tokens tokens, one after another. Tokens are
counted by the tokenizer, in the text that arrived.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import psutil

from benchmarks.records import keep_record, name_record
from helpers.clients.process import wait_until_ready
from helpers.common import arguments as types
from helpers.common.command import CommandParser, run_command
from helpers.common.http import open_session
from helpers.common.machine import name_device, pick_dtype
from helpers.loading.tokenizer import load_tokenizer
from helpers.server.ports import find_port
from helpers.weights.fetching import fetch
from helpers.weights.folders import find_model

NAME = "SmolLM2-135M-Instruct"
SUBJECTS = (
    "the sea, a river, an old tree, a lost dog, winter, a train, the moon, a garden, "
    "a bridge, two friends, rain, a map, a bell, fire, a song, bread"
)
PER_CLIENT = {1: 4, 4: 3, 16: 4}  # answers a client asks for, one after another
KIT = "python -m helpers.server"
STOCK = "transformers serve --continuous-batching"


def kit_command(model: str) -> Callable[[int], list[str]]:
    """The kit's server on a model folder."""
    return lambda port: [
        sys.executable,
        "-m",
        "helpers.server",
        "--model",
        model,
        "--extensions",
        "openai",
        "--openai-port",
        str(port),
    ]


def stock_command(port: int) -> list[str]:
    """transformers' server on the same folder; it names the model by its path."""
    dtype = str(pick_dtype().value).removeprefix("torch.")
    program = Path(sys.executable).with_name("transformers")
    return [
        str(program),
        "serve",
        "--continuous-batching",
        "--dtype",
        dtype,
        "--port",
        str(port),
        str(find_model(NAME).path),
    ]


CONTESTANTS = {  # name: (command of a port, what it calls the model)
    STOCK: (stock_command, lambda: str(find_model(NAME).path)),
    f"{KIT}, transformers": (kit_command(NAME), lambda: NAME),
    f"{KIT}, llama.cpp": (kit_command(f"{NAME}-GGUF"), lambda: f"{NAME}-GGUF"),
}


@contextmanager
def run_server(command: Callable[[int], list[str]]) -> Iterator[tuple[str, psutil.Process]]:
    """(address, process) of a server that answers; it is ended after the block."""
    port = find_port(0)
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command(port), stdout=log, stderr=log, env={**os.environ, "HF_HUB_OFFLINE": "1"}
        )
        try:
            wait_until_ready(f"http://127.0.0.1:{port}/v1/models", process, log=log)
            yield f"http://127.0.0.1:{port}/v1/chat/completions", psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(30)


def ask(url: str, model: str, subject: str, tokens: int) -> tuple[str, float]:
    """(the answer, seconds to its first piece)."""
    messages = [{"role": "user", "content": f"Write a long story about {subject}."}]
    body = {"model": model, "messages": messages, "max_tokens": tokens, "temperature": 0, "stream": True}
    start, first, text = time.perf_counter(), 0.0, ""
    with open_session() as session, session.post(url, json=body, stream=True, timeout=600) as reply:
        reply.raise_for_status()
        for line in reply.iter_lines(chunk_size=None):
            if line.startswith(b"data: {"):
                choices = json.loads(line[6:])["choices"]
                text += (choices[0]["delta"].get("content") or "") if choices else ""
                first = first or (time.perf_counter() - start if text else 0.0)
    return text, first


def measure(url: str, model: str, clients: int, tokens: int, count: Callable[[str], int]) -> dict[str, float]:
    """Tokens a second of all clients together, and the median of the first tokens' times in milliseconds."""
    subjects = SUBJECTS.split(", ")

    def be_client(number: int) -> list[tuple[str, float]]:
        return [
            ask(url, model, subjects[(number + turn) % len(subjects)], tokens)
            for turn in range(PER_CLIENT.get(clients, 2))
        ]

    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        answers = [answer for client in pool.map(be_client, range(clients)) for answer in client]
    seconds = time.perf_counter() - start
    return {
        "tokens_per_second": sum(count(text) for text, _ in answers) / seconds,
        "first_token_ms": 1000 * statistics.median(first for _, first in answers),
    }


def run_rounds(options: argparse.Namespace) -> pd.DataFrame:
    """One line a server, client count and round."""
    tokenizer = load_tokenizer(find_model(NAME))
    lines = []
    for turn in range(options.rounds):
        for name, (command, model) in CONTESTANTS.items():
            start = time.perf_counter()
            with run_server(command) as (url, process):
                ask(url, model(), "warmth", 4)
                started = time.perf_counter() - start
                for clients in options.clients:
                    found = measure(
                        url, model(), clients, options.tokens, lambda text: len(tokenizer(text)["input_ids"])
                    )
                    memory = process.memory_info().rss / 1e6
                    lines.append(
                        {
                            "round": turn,
                            "server": name,
                            "clients": clients,
                            **found,
                            "rss_mb": memory,
                            "first_answer_s": started,
                        }
                    )
                    print(json.dumps(lines[-1]), flush=True)
    return pd.DataFrame(lines)


def summarise(lines: pd.DataFrame) -> pd.DataFrame:
    """Medians of the rounds, and the ratio of the tokens a second to the stock server's in the same round."""
    stock = lines[lines.server == STOCK].set_index(["round", "clients"]).tokens_per_second
    lines["ratio"] = [
        line.tokens_per_second / stock[line["round"], line.clients] for _, line in lines.iterrows()
    ]
    return lines.drop(columns="round").groupby(["server", "clients"], sort=False).median().reset_index()


def main(arguments: list[str]) -> None:
    """Prints the figures and writes them as JSON to runs/."""
    parser = CommandParser(prog="python -m benchmarks.serving", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=types.count, default=3)
    parser.add_argument("--clients", type=types.count, nargs="+", default=[1, 4, 16])
    parser.add_argument("--tokens", type=types.count, default=32)
    options = parser.parse_args(arguments)
    path = name_record("serving")
    fetch("smollm2-135m-instruct")
    table = summarise(run_rounds(options))
    print(f"\n{name_device()}\n{table.round(2).to_string(index=False)}")
    keep_record(path, options, table=table.to_dict("records"))


if __name__ == "__main__":
    raise SystemExit(run_command(main))
