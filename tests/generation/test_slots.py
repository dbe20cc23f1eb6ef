"""Answers in slots, and to prompts that are read in chunks, are those of the plain batch.

On a CPU, with a recorder that repeats the computation.
"""

import threading
from types import SimpleNamespace

import pytest
import torch
from support.tiny import make_tiny_adapter, make_tiny_model
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from helpers.adapters.attaching import attach_adapter, detach_adapter, set_strength, switch_adapter
from helpers.common.errors import UsageError
from helpers.generation.batching import Batch, PendingAnswer
from helpers.generation.chunks import choose_chunk
from helpers.generation.decoding import TextStream
from helpers.generation.request import GenerationRequest
from helpers.generation.sampling import Sampler
from helpers.generation.slot_cache import SlotCache
from helpers.generation.slots import SlotBatch, choose_slots, round_up_columns, round_up_rows
from helpers.loading.messages import list_end_ids
from helpers.loading.model import load_model
from helpers.weights.memory import estimate_running

CONTEXT = 600
SAMPLED = {"temperature": 1.3, "top_p": 0.9, "seed": 5}
PENALISED = {"repetition_penalty": 1.3, "frequency_penalty": 0.4, "no_repeat_ngram_size": 4, "ban_eos": True}


class Repeater:
    """Stands for GraphRecorder: computes several times and repeats into the same tensors, as a graph does."""

    def __init__(self, device):
        self.steps = []
        Repeater.made.append(self)

    def record(self, compute):
        outputs = [compute() for _ in range(3)][-1]
        self.steps.append(outputs[0].shape[0])

        def replay():
            for tensor, new in zip(outputs, compute(), strict=True):
                tensor.copy_(new)
            return outputs

        return replay


@pytest.fixture(autouse=True)
def recorders():
    """All recorders that the test makes, in their order."""
    Repeater.made = []
    return Repeater.made


def refuse(device):
    raise RuntimeError("operation not permitted\nwhen stream is capturing")


def make_answer(loaded, prompt, emit=None, **settings):
    """(an answer that a batch can take, its pieces)."""
    request = GenerationRequest(**{"max_new_tokens": 12, "ban_eos": True, **settings})
    ids = loaded.tokenizer(prompt)["input_ids"]
    eos = list_end_ids(loaded)
    pieces = []
    answer = PendingAnswer(
        request=request,
        prompt=ids,
        sampler=Sampler(request, ids, eos, loaded.tokenizer, loaded.model.device),
        text=TextStream(loaded.tokenizer, request.stop, emit or pieces.append),
        max_tokens=min(request.max_new_tokens, CONTEXT - len(ids)),
        eos_ids=eos,
        must_end=request.cancelled.is_set,
    )
    return answer, pieces


def answer_all(loaded, batch, plan):
    """The results of answers that join `batch` before the given passes: [(pass, prompt, settings)]."""
    made = [(joins, *make_answer(loaded, prompt, **settings)) for joins, prompt, settings in plan]
    for number in range(2000):
        batch.advance([answer for joins, answer, _ in made if joins == number])
        if all(answer.job.done() for _, answer, _ in made):
            break
    assert not batch.list_all()
    return [
        SimpleNamespace(
            ids=answer.tokens,
            text="".join(piece.text for piece in pieces),
            tokens=[token for piece in pieces for token in piece.tokens],
            reason=None if answer.job.exception() else answer.job.result().finish_reason,
        )
        for _, answer, pieces in made
    ]


def make_slots(loaded, **settings):
    return SlotBatch(loaded.model, CONTEXT, **{"make_recorder": Repeater, **settings})


def assert_same(loaded, plan, batch=None):
    """The answers in slots, which are those of the plain batch."""
    wanted = answer_all(loaded, Batch(loaded.model), plan)
    found = answer_all(loaded, batch or make_slots(loaded), plan)
    for one, other in zip(found, wanted, strict=True):
        assert (one.ids, one.text, one.reason) == (other.ids, other.text, other.reason)
        assert [token.data for token in one.tokens] == [token.data for token in other.tokens]
        ours, theirs = ([token.logprob for token in answer.tokens] for answer in (one, other))
        assert ours == pytest.approx(theirs, abs=1e-4)
    return found


def test_answers_that_join_and_leave_are_those_of_the_plain_batch(tiny, recorders):
    plan = [
        (0, "Hello", {"max_new_tokens": 9}),
        (0, "A much longer question, " * 3, {"max_new_tokens": 30}),
        (2, "x", {"max_new_tokens": 3, **SAMPLED}),
        (3, "Tell me", {"max_new_tokens": 25, **SAMPLED}),
        (4, "And you?", {"max_new_tokens": 14, **PENALISED}),
        (4, "No", {"max_new_tokens": 1}),
        (20, "Late", {"max_new_tokens": 20, "top_logprobs": 2}),
        (60, "Alone, when all have left", {"max_new_tokens": 7, "top_logprobs": 0, **SAMPLED}),
    ]
    found = assert_same(tiny, plan)
    assert all(found[number].tokens for number in (6, 7))
    assert len(recorders) > 1  # the slots have grown in between


def test_loras_answer_in_slots_as_in_the_plain_batch(tiny, home):
    make_tiny_adapter(home / "loras" / "shift", home / "models" / "tiny")
    loaded = attach_adapter(tiny, "shift")
    plan = [(number, "Hello" * number, SAMPLED) for number in range(1, 4)]
    with_lora = assert_same(loaded, plan)
    switch_adapter(loaded, None)
    without = assert_same(loaded, plan)
    assert [answer.ids for answer in with_lora] != [answer.ids for answer in without]


def test_more_than_sixteen_answers_come_one_after_the_other(tiny):
    plan = [(number // 3, "y" * (1 + number % 7), {"max_new_tokens": 4 + number % 5}) for number in range(40)]
    assert_same(tiny, plan)


def test_slots_grow_with_the_answers_and_are_recorded_anew(tiny, recorders):
    batch = make_slots(tiny)
    assert_same(tiny, [(0, "z" * 250, {"max_new_tokens": 12}), (0, "short", {"max_new_tokens": 4})], batch)
    assert (batch.steps.cache.rows, batch.steps.cache.columns) == (2, 512)
    assert [recorder.steps for recorder in recorders] == [[2, 1], [1]]


def test_slots_that_fit_are_recorded_once_for_several_conversations(tiny, recorders):
    batch = make_slots(tiny)
    for _ in range(3):
        assert_same(tiny, [(0, "Hello", {})], batch)
    assert [recorder.steps for recorder in recorders] == [[1]]


def test_prompt_at_the_end_of_the_context_has_its_answer(tiny):
    (answer,) = assert_same(tiny, [(0, "w" * (CONTEXT - 3), {"max_new_tokens": 50})])
    assert len(answer.ids) == 3


def test_cancelled_answer_leaves_the_others_alone(tiny):
    cancelled = threading.Event()
    batch = make_slots(tiny)
    (first, _), (beside, _) = (make_answer(tiny, text, max_new_tokens=40) for text in ("Hello", "Hi"))
    (alone,) = answer_all(tiny, Batch(tiny.model), [(0, "Hi", {"max_new_tokens": 40})])
    first.must_end = cancelled.is_set
    batch.advance([first, beside])
    cancelled.set()
    while batch.answers:
        batch.advance([])
    assert first.job.result().completion_tokens == 2
    assert beside.tokens == alone.ids


def test_answer_that_fails_leaves_the_others_alone(tiny):
    failing, _ = make_answer(tiny, "Hello", emit=lambda piece: 1 / 0)
    beside, _ = make_answer(tiny, "Hi")
    (alone,) = answer_all(tiny, Batch(tiny.model), [(0, "Hi", {})])
    batch = make_slots(tiny)
    batch.advance([failing, beside])
    while batch.answers:
        batch.advance([])
    assert isinstance(failing.job.exception(), ZeroDivisionError)
    assert beside.tokens == alone.ids


@pytest.mark.parametrize("kind", [Batch, lambda model: SlotBatch(model, CONTEXT, Repeater)])
def test_draw_from_what_is_not_a_number_is_refused_for_its_answer_alone(tiny, kind):
    hopeless, _ = make_answer(tiny, "Hello", temperature=1.0, logit_bias={65: float("nan")})
    beside, _ = make_answer(tiny, "Hi", **SAMPLED)
    batch = kind(tiny.model)
    batch.advance([hopeless, beside])
    while batch.answers:
        batch.advance([])
    assert isinstance(hopeless.job.exception(), UsageError)
    assert len(beside.tokens) == 12


def test_batch_answers_after_a_pass_that_failed(tiny):
    batch = make_slots(tiny)
    wanted = answer_all(tiny, batch, [(0, "Hello", {})])[0].ids
    impossible, _ = make_answer(tiny, "Hello")
    impossible.prompt = [10**6]  # no token of the model
    batch.advance([impossible])
    assert isinstance(impossible.job.exception(), IndexError)
    assert answer_all(tiny, batch, [(0, "Hello", {})])[0].ids == wanted


def test_step_that_cannot_be_recorded_is_computed_and_the_user_told_once(tiny):
    batch = make_slots(tiny, make_recorder=refuse)
    with pytest.warns(UserWarning, match="not permitted when stream") as told:
        assert_same(tiny, [(0, "Hello", {}), (1, "Hello again", {}), (9, "x" * 300, {})], batch)
    assert len([one for one in told if "CUDA graphs" in str(one.message)]) == 1


def test_large_slots_are_given_back_when_the_last_answer_has_left(tiny):
    batch = make_slots(tiny, kept_bytes=10_000)
    assert_same(tiny, [(0, "Hello", {})], batch)
    assert batch.steps.cache.bytes == 0
    assert not batch.steps.recorded


def test_lora_that_is_attached_turned_or_detached_is_recorded_anew(tiny, home, recorders):
    make_tiny_adapter(home / "loras" / "shift", home / "models" / "tiny")
    plan = [(0, "Hello", {"max_new_tokens": 5})]
    batch = make_slots(tiny)
    assert_same(tiny, plan, batch)
    attach_adapter(tiny, "shift")
    assert_same(tiny, plan, batch)
    with set_strength(tiny, 3):
        assert_same(tiny, plan, batch)
    assert len(recorders) == 3
    detach_adapter(tiny)
    assert_same(tiny, plan, batch)
    assert len(recorders) == 4


def test_slot_holds_nothing_of_the_answer_before():
    """An answer whose numbers overflowed must not reach the next one, masked or not."""
    slots = SlotCache()
    broken = make_states(torch.full((1, 1, 6, 2), float("nan")))
    slots.reserve(2, 8, broken)
    slots.write(0, broken, 0, 6)
    slots.write(1, make_states(torch.ones(1, 1, 3, 2)), 0, 3)
    slots.move(1, 0)
    slots.write(1, make_states(torch.ones(1, 1, 2, 2)), 0, 2)
    assert [row.isfinite().all() for row in slots.layers[0][0]] == [True, True]
    assert slots.layers[0][0][:, 0, :, 0].tolist() == [[1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0]]


def make_states(keys):
    cache = DynamicCache()
    cache.update(keys, -keys, 0)
    return cache


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
def test_architecture_answers_in_slots_as_in_the_plain_batch(home, kind):
    make_tiny_model(home / "models" / "tiny")
    shape = AutoConfig.from_pretrained(home / "models" / "tiny").to_dict()
    kept = {
        key: shape[key]
        for key in shape
        if key.startswith(("num_", "hidden_", "vocab", "inter", "init", "max_"))
    }
    config = AutoConfig.for_model(kind, **kept, eos_token_id=257, head_dim=8)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(home / "models" / "tiny")
    loaded = load_model("tiny", dtype="float32")
    assert loaded.model.config.model_type == kind
    plan = [(0, "Hello", {}), (2, "Where to, and when?", SAMPLED)]
    assert_same(loaded, plan)
    assert_same(loaded, plan, Batch(loaded.model, chunk=4))


KINDS = [Batch, lambda model, chunk: SlotBatch(model, CONTEXT, Repeater, chunk=chunk)]
READ_IN_CHUNKS = [
    (0, "Hello, " * 9, {"max_new_tokens": 9}),
    (0, "x" * 7, {"max_new_tokens": 30}),  # a chunk
    (1, "y" * 8, SAMPLED),
    (1, "z" * 14, {"top_logprobs": 2}),
    (2, "A much longer question, " * 8, {"max_new_tokens": 25, "top_logprobs": 0, **SAMPLED}),
    (2, "x", {"max_new_tokens": 3}),
    (3, "And you? " * 2, PENALISED),
    (90, "Alone, when all have left", {}),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunk", [7, 50])
def test_prompts_that_are_read_in_chunks_have_the_answers_of_one_pass(tiny, home, kind, chunk):
    make_tiny_adapter(home / "loras" / "shift", home / "models" / "tiny")
    loaded = attach_adapter(tiny, "shift")
    assert_same(loaded, READ_IN_CHUNKS, kind(loaded.model, chunk))


@pytest.mark.parametrize("kind", KINDS)
def test_others_get_a_token_after_each_chunk_of_a_long_prompt(tiny, kind):
    batch = kind(tiny.model, 8)
    (running, _), (short, _) = (make_answer(tiny, text, max_new_tokens=40) for text in ("Hi", "Hello"))
    (first, _), (second, _) = (make_answer(tiny, text * 10, max_new_tokens=1) for text in ("one ", "two "))
    batch.advance([running])
    batch.advance([first, second, short])
    counts = []
    while batch.unread:
        counts.append((len(running.tokens), len(short.tokens), first.job.done(), second.job.done()))
        batch.advance([])
    assert counts == [(2 + step, 1 + step, step >= 4, False) for step in range(9)]
    assert second.job.result().completion_tokens == 1


def test_answer_that_is_cancelled_while_its_prompt_is_read_ends_at_the_next_chunk(tiny):
    batch = Batch(tiny.model, 8)
    (cancelled, _), (next_one, _) = (make_answer(tiny, text * 100, max_new_tokens=3) for text in "xy")
    batch.advance([cancelled, next_one])
    cancelled.request.cancelled.set()
    batch.advance([])
    assert cancelled.job.result().completion_tokens == 0
    assert batch.list_all() == [next_one]
    (alone,) = answer_all(tiny, Batch(tiny.model), [(0, "y" * 100, {"max_new_tokens": 3})])
    while batch.list_all():
        batch.advance([])
    assert next_one.tokens == alone.ids


def test_chunk_that_fails_fails_its_batch_which_goes_on_with_others(tiny):
    batch = Batch(tiny.model, 8)
    impossible, _ = make_answer(tiny, "x" * 20)
    impossible.prompt[12] = 10**6  # no token of the model
    waiting, _ = make_answer(tiny, "y" * 20)
    batch.advance([impossible, waiting])
    batch.advance([])
    for answer in (impossible, waiting):
        assert isinstance(answer.job.exception(), IndexError)
    assert_same(tiny, [(0, "Hello, hello", {})], batch)


def test_answer_that_finds_no_room_after_its_last_chunk_fails(tiny):
    batch = SlotBatch(tiny.model, 16, Repeater, chunk=8)
    larger, _ = make_answer(tiny, "x" * 40)
    batch.advance([larger])
    for _ in range(4):
        batch.advance([])
    assert isinstance(larger.job.exception(timeout=0), RuntimeError)
    assert not batch.list_all()


class FakeModel(SimpleNamespace):
    """What the choice looks at."""

    def __init__(self, device="cuda", hf_device_map=None, **config):
        config = SimpleNamespace(**{"model_type": "llama", **config})
        super().__init__(device=torch.device(device), hf_device_map=hf_device_map, config=config)


@pytest.mark.parametrize(
    ("model", "chosen", "named"),
    [
        (FakeModel(), True, "CUDA"),
        (FakeModel(hf_device_map={"": 0}), True, "CUDA"),
        (FakeModel(device="cpu"), False, "CPU"),
        (FakeModel(hf_device_map={"model.layers.0": 0, "model.layers.1": "cpu"}), False, "0, cpu"),
        (FakeModel(model_type="gemma2"), False, "gemma2"),
        (FakeModel(model_type="mistral", sliding_window=100), False, "100"),
        (FakeModel(model_type="mistral", sliding_window=4096), True, "CUDA"),
        (FakeModel(model_type="qwen2", sliding_window=100, layer_types=["full_attention"]), True, "CUDA"),
        (FakeModel(rope_parameters={"rope_type": "dynamic"}), False, "dynamic"),
        (FakeModel(rope_parameters={"rope_type": "llama3"}), True, "CUDA"),
    ],
)
def test_slots_are_chosen_with_a_reason(model, chosen, named):
    choice = choose_slots(model, CONTEXT)
    assert choice.value is chosen
    assert named in choice.reason


@pytest.mark.parametrize(
    ("model", "chunk"),
    [
        (FakeModel(device="cpu"), 256),
        (FakeModel(), 1024),
        (FakeModel(device="cpu", model_type="jamba"), None),
        (FakeModel(device="cpu", model_type="mistral", sliding_window=100), None),
        (FakeModel(device="cpu", rope_parameters={"rope_type": "longrope"}), None),
    ],
)
def test_prompts_are_read_in_chunks_where_a_cache_is_known_to_be_continued(model, chunk):
    assert choose_chunk(model, CONTEXT) == chunk


@pytest.mark.parametrize(("answers", "length"), [(1, 5), (3, 300)])
def test_slots_take_what_the_estimate_of_memory_says(tiny, answers, length):
    prompts = ["x" * (length - 4)] * answers
    batch = make_slots(tiny, kept_bytes=10**9)
    answer_all(tiny, batch, [(0, prompt, {"max_new_tokens": 4}) for prompt in prompts])
    config = tiny.model.config.to_dict() | {"max_position_embeddings": CONTEXT, "torch_dtype": "float32"}
    given = {"context": length, "batch": answers}
    terms = {term.name: term.bytes for term in estimate_running(config, 1, "float32", "cuda", **given)}
    assert terms["slots"] == batch.steps.cache.bytes > 0
    assert "slots" not in [term.name for term in estimate_running(config, 1, "float32", "cpu", **given)]


def test_buckets_hold_what_they_are_for():
    assert [round_up_rows(rows) for rows in (1, 2, 3, 5, 9, 16)] == [1, 2, 4, 8, 16, 16]
    lengths = (1, 256, 257, 4096, 4097, 9000, 19_999)
    assert [round_up_columns(length, 20_000) for length in lengths] == [
        256, 256, 512, 4096, 8192, 12_288, 20_000,
    ]  # fmt: skip
    assert round_up_columns(40, 50) == 64
