"""Free answers: by a loaded model, which generates them as the server would, or by a server, which is asked.

Answers are greedy (temperature 0) and end where the model ends its turn. One that does not end is cut at a
limit of tokens and counts as it is.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from helpers.adapters.attaching import find_active
from helpers.common.values import check_kind
from helpers.evaluation.asking import Ask, ask_all, map_prompts
from helpers.evaluation.free_answers import JudgedAnswers, judge_texts
from helpers.evaluation.scoring import ScoredRow, fill_scores
from helpers.generation.request import Generation, GenerationRequest
from helpers.generation.transformers_engine import MAX_BATCH, TransformersEngine
from helpers.loading.chat_tokenizer import ChatTokenizer, Message
from helpers.loading.model import LoadedModel
from helpers.loading.tokenizer import make_chat_tokenizer
from helpers.tasks.given import check_rows, check_template, list_columns
from helpers.tasks.rows import AnyTemplate
from helpers.tasks.template import Row

RIGHT = "right"  # the label of the only answer that is scored
LEAST_TOKENS = 32  # the limit of an answer is at least this
TIMES_LONGEST = 3  # and this many times the longest right answer
TOKENS_AT_ONCE = 8000  # of prompts and answers that are generated together: 4 GB of memory for Llama 2 7B


def judge_answers(
    loaded: LoadedModel,
    rows: list[Row],
    template: AnyTemplate,
    max_new_tokens: int | None = None,
    progress: bool = True,
) -> JudgedAnswers:
    """Answers every row with the model, and with the LoRA that is active on it; several rows at a time.

    `max_new_tokens` is the limit of an answer; by default three times the longest right answer, at least 32.
    Raises UnsupportedError for a row that does not fit into the model's context, and DamagedError if the
    model computes no numbers.
    """
    check_kind("loaded", loaded, LoadedModel, "what load_model(name) returns")
    check_template(template)
    check_rows(rows, list_columns(template))
    chat = make_chat_tokenizer(loaded.tokenizer)
    scored = [tokenize_right(chat, row, template) for row in rows]
    perplexity = measure_perplexity(loaded, scored, progress)
    limit = max_new_tokens or max(LEAST_TOKENS, TIMES_LONGEST * max(map(count_right, scored)))
    longest = min(max(len(row.prompt) for row in scored) + limit, loaded.context)
    together = min(max(TOKENS_AT_ONCE // longest, 1), MAX_BATCH)
    prompts = [template.build_messages(row) for row in rows]
    generations = generate_answers(loaded, prompts, limit, together, progress)
    said = [one.text for one in generations]
    cut = sum(one.finish_reason == "length" for one in generations)
    return JudgedAnswers(judge_texts(rows, template, said), perplexity, cut)


def tokenize_right(chat: ChatTokenizer, row: Row, template: AnyTemplate) -> ScoredRow:
    """A row's prompt and its right answer as token ids."""
    prompt, (answer,) = chat.tokenize_answers(template.build_messages(row), [template.build_answer(row)])
    return ScoredRow(prompt, {RIGHT: answer})


def count_right(row: ScoredRow) -> int:
    """Tokens of the right answer, its end included."""
    return len(row.answers[RIGHT])


def measure_perplexity(loaded: LoadedModel, scored: list[ScoredRow], progress: bool = True) -> float:
    """exp of the mean negative log-likelihood of a token of the right answers, their ends included.

    `scored` comes from tokenize_right; the scores are filled in. Errors as fill_scores.
    """
    fill_scores(loaded, scored, progress=progress)
    total = sum(row.scores[RIGHT] for row in scored)  # nats
    mean = -total / sum(map(count_right, scored))
    return math.exp(min(mean, 700))  # the mean of a model that diverged may be too large for exp


def generate_answers(
    loaded: LoadedModel,
    prompts: list[list[Message]],
    max_new_tokens: int,
    together: int = MAX_BATCH,
    progress: bool = True,
) -> list[Generation]:
    """What the server answers to each prompt at temperature 0; up to `together` are computed at a time."""
    loaded.model.eval()
    adapter = find_active(loaded)

    def answer(messages: list[Message]) -> Generation:
        request = GenerationRequest(messages=messages, max_new_tokens=max_new_tokens, adapter=adapter)
        return engine.generate(request)

    # If one fails, the engine is closed first, so that the pool need not wait for the others.
    with ThreadPoolExecutor(together) as pool, closing(TransformersEngine(loaded)) as engine:
        return map_prompts(pool, answer, prompts, "answering", progress)


def ask_answers(ask: Ask, rows: list[Row], template: AnyTemplate, progress: bool = True) -> JudgedAnswers:
    """What a server replies to each row through `ask`, such as clients.ask_openai; several rows at a time.

    Raises what `ask` raises.
    """
    check_template(template)
    check_rows(rows, list_columns(template), empty=True)
    said = ask_all(ask, [template.build_messages(row) for row in rows], progress)
    return JudgedAnswers(judge_texts(rows, template, said))


def limit_reply(rows: list[Row], template: AnyTemplate) -> int:
    """The limit of an answer for a server, whose tokens cannot be counted: a token has about three bytes."""
    longest = max(len(template.build_answer(row).encode()) for row in rows)
    return max(LEAST_TOKENS, TIMES_LONGEST * longest // 3)
