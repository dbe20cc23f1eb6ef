"""Free answers by a loaded model, which generates them, and by a server, which is asked."""

import math
import threading

import pytest
import torch
from support.tiny import make_tiny_adapter
from support.zoo import make_zoo_model

from helpers import loading
from helpers.adapters.attaching import attach_adapter, switch_adapter
from helpers.common.errors import DamagedError, ServerError, UnsupportedError
from helpers.evaluation.answering import ask_answers, generate_answers, judge_answers, limit_reply
from helpers.evaluation.asking import REQUESTS_AT_ONCE
from helpers.generation import GenerationRequest, TransformersEngine
from helpers.loading.tokenizer import make_chat_tokenizer
from helpers.tasks.template import Template

TEMPLATE = Template("questions", "Answer in one word.", "Question: {question}", answer="{answer}")
ROWS = [
    {"question": f"How much is {number} times {'seven ' * number}?", "answer": "7" * (number + 1)}
    for number in range(20)
]
PROMPTS = [TEMPLATE.build_messages(row) for row in ROWS]


def ask_engine(loaded, prompts, limit, adapter=None):
    """What the engine of the server answers to one prompt after the other."""
    engine = TransformersEngine(loaded)
    try:
        requests = [
            GenerationRequest(messages=prompt, max_new_tokens=limit, adapter=adapter) for prompt in prompts
        ]
        return [engine.generate(request).text for request in requests]
    finally:
        engine.close()


def list_said(judged):
    """The answers as texts."""
    return [answer.said for answer in judged.answers]


def test_answers_are_those_of_the_server_in_the_order_of_the_rows(tiny):
    found = generate_answers(tiny, PROMPTS, 8, progress=False)
    assert [one.text for one in found] == ask_engine(tiny, PROMPTS, 8)
    assert len({one.text for one in found}) > 10


@pytest.mark.parametrize("active", ["shift", None])
def test_the_active_lora_answers_and_stays_active(tiny, home, active):
    make_tiny_adapter(home / "loras" / "shift", home / "models" / "tiny")
    plain = ask_engine(tiny, PROMPTS[:3], 8)
    attach_adapter(tiny, "shift")
    switch_adapter(tiny, active)
    for _ in range(2):
        judged = judge_answers(tiny, ROWS[:3], TEMPLATE, max_new_tokens=8, progress=False)
        assert list_said(judged) == [text.strip() for text in ask_engine(tiny, PROMPTS[:3], 8, active)]
        assert (list_said(judged) == [text.strip() for text in plain]) == (active is None)


def test_an_answer_that_does_not_end_is_cut_and_counts_as_it_is(tiny):
    judged = judge_answers(tiny, ROWS[:4], TEMPLATE, max_new_tokens=5, progress=False)
    assert judged.cut == 4
    assert all(len(said.encode()) <= 15 for said in list_said(judged))


def test_an_answer_ends_with_the_turn(tiny):
    set_bias(tiny, end=100.0)
    judged = judge_answers(tiny, ROWS[:4], TEMPLATE, progress=False)
    assert (judged.cut, list_said(judged)) == (0, [""] * 4)


@pytest.mark.parametrize(("answer", "limit"), [("yes", 32), ("x" * 50, 3 * 51)])
def test_limit_is_three_times_the_longest_right_answer_and_at_least_32(tiny, answer, limit):
    set_bias(tiny, end=-100.0, letter=100.0)  # it says "a" without an end
    rows = [ROWS[0], {**ROWS[1], "answer": answer}]
    judged = judge_answers(tiny, rows, TEMPLATE, progress=False)
    assert list_said(judged) == ["a" * limit] * 2


def test_limit_for_a_server_is_about_the_same_in_all_scripts():
    assert limit_reply([{"question": "", "answer": "yes"}], TEMPLATE) == 32
    assert limit_reply([{"question": "", "answer": "yes" * 100}], TEMPLATE) == 300
    assert limit_reply([{"question": "", "answer": "東京都" * 100}], TEMPLATE) == 900


@pytest.mark.parametrize("architecture", ["llama", "unknown"])
def test_perplexity_is_that_of_the_right_answers_and_their_ends(tiny, architecture):
    chat = make_chat_tokenizer(tiny.tokenizer)
    scores = []
    for row in ROWS:
        messages = [*TEMPLATE.build_messages(row), {"role": "assistant", "content": row["answer"]}]
        prompt, whole = chat.tokenize(messages[:-1]), chat.tokenize(messages)
        answer = [*whole[len(prompt) :][: len(row["answer"])], tiny.tokenizer.eos_token_id]
        with torch.inference_mode():
            logits = tiny.model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
        scores += logits.log_softmax(-1)[range(len(answer)), answer].tolist()
    expected = math.exp(-sum(scores) / len(scores))
    tiny.model.config.model_type = architecture  # an unknown one cannot be packed
    judged = judge_answers(tiny, ROWS, TEMPLATE, max_new_tokens=1, progress=False)
    assert judged.perplexity == pytest.approx(expected, rel=1e-4)


def test_perplexity_of_a_model_that_diverged_is_a_number(tiny):
    set_bias(tiny, end=-1e5)
    perplexity = judge_answers(tiny, ROWS[:1], TEMPLATE, max_new_tokens=1, progress=False).perplexity
    assert perplexity > 1e300 and math.isfinite(perplexity)


def test_a_model_that_computes_no_numbers_is_refused(tiny):
    set_bias(tiny, end=float("nan"))
    with pytest.raises(DamagedError, match="not numbers"):
        judge_answers(tiny, ROWS[:1], TEMPLATE, progress=False)


def test_rows_longer_than_the_context_of_the_model_are_refused(home):
    make_zoo_model("chatml", home / "models" / "narrow", max_position_embeddings=200)
    loaded = loading.load_model("narrow", dtype="float32")
    with pytest.raises(UnsupportedError, match="longer than the 200 tokens"):
        judge_answers(loaded, ROWS, TEMPLATE, progress=False)


def set_bias(loaded, end=0.0, letter=0.0):
    """Adds these numbers to the logits of the token that ends an answer and of the letter a."""
    bias = torch.zeros(loaded.model.config.vocab_size)
    bias[loaded.tokenizer.eos_token_id] = end
    bias[loaded.tokenizer.convert_tokens_to_ids("a")] = letter
    loaded.model.lm_head.bias = torch.nn.Parameter(bias)


# A server


def test_server_is_asked_what_the_template_says_and_answers_stay_in_order():
    judged = ask_answers(lambda messages: messages[-1]["content"] + "\n", ROWS, TEMPLATE, progress=False)
    assert list_said(judged) == [prompt[-1]["content"] for prompt in PROMPTS]
    assert (judged.perplexity, judged.cut) == (None, None)


def test_server_gets_several_requests_at_a_time():
    together = threading.Barrier(4, timeout=20)  # nobody passes it alone

    def ask(_):
        together.wait()
        return ""

    assert len(list_said(ask_answers(ask, ROWS[:8], TEMPLATE, progress=False))) == 8


def test_error_of_a_request_is_raised_as_it_is_and_the_rest_is_not_asked():
    asked = []

    def ask(messages):
        asked.append(messages)
        raise ServerError("No.", "Wait.")

    rows = ROWS * 50
    with pytest.raises(ServerError, match="No. Wait."):
        ask_answers(ask, rows, TEMPLATE, progress=False)
    assert len(asked) <= REQUESTS_AT_ONCE
