"""Asking a server, several rows at a time: it computes requests that come together in one batch."""

import threading
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TypeVar, cast

from tqdm.auto import tqdm

from helpers.common.values import check_kind, refuse, repair_text
from helpers.loading.chat_tokenizer import Message

Ask = Callable[[list[Message]], str]  # takes messages, returns the reply's text
Item = TypeVar("Item")
Result = TypeVar("Result")
REQUESTS_AT_ONCE = 8  # that a server gets


def ask_all(ask: Ask, prompts: list[list[Message]], progress: bool) -> list[str]:
    """What `ask` returns for the messages of each row, without halves of characters; raises what it does."""
    if not callable(ask):
        refuse("ask", ask, "a function that takes messages and returns the reply's text")
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        return map_prompts(pool, lambda messages: check_reply(ask(messages)), prompts, "asking", progress)


def check_reply(reply: object) -> str:
    """What `ask` returned, without halves of characters; a UsageError if that is not a text."""
    check_kind("What ask returned", reply, str, "a function that returns the reply's text")
    return repair_text(str(reply))


def map_prompts(
    pool: Executor,
    function: Callable[[Item], Result],
    prompts: list[Item],
    what: str,
    progress: bool,
) -> list[Result]:
    """What the function returns for each prompt, in their order, with a progress bar.

    Raises what it raises; no prompt is begun after that.
    """
    failed = threading.Event()

    def run(prompt: Item) -> Result | None:
        if failed.is_set():
            return None  # nobody sees it: the prompt that failed raises
        try:
            return function(prompt)
        except BaseException:
            failed.set()
            raise

    results = tqdm(pool.map(run, prompts), desc=what, total=len(prompts), unit="row", disable=not progress)
    return cast(list[Result], list(results))
