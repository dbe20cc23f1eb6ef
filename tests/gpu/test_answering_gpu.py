"""Answers with CUDA graphs are those without: random Llamas, full precision and GPTQ. Needs CUDA."""

import gc
import importlib.util
from concurrent.futures import wait
from dataclasses import replace

import pytest
import torch
from support.tiny import make_tiny_adapter, make_tiny_model

from helpers import weights
from helpers.adapters import attach_adapter, detach_adapter, set_strength
from helpers.generation import GenerationRequest, TransformersEngine
from helpers.generation.batching import Batch
from helpers.generation.graphs import GraphRecorder
from helpers.generation.slots import SlotBatch
from helpers.loading import load_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]
needs_gptqmodel = pytest.mark.skipif(
    not importlib.util.find_spec("gptqmodel"), reason="gptqmodel is not installed"
)
WAIT_S = 120
LENGTHS = [5, 40, 3, 25, 300, 12, 60]  # of the answers; one grows past 256 columns


class EngineOf(TransformersEngine):
    """An engine whose batches are of one kind."""

    def __init__(self, loaded, make_batch):
        self.make_batch = make_batch
        super().__init__(loaded)

    def _provide_batch(self, adapter):
        self._batches.setdefault(adapter, self.make_batch(self.loaded.model))


@pytest.fixture(params=["full", pytest.param("gptq", marks=needs_gptqmodel)])
def loaded(request, home):
    """A random Llama in float32, or in GPTQ (kernel gptq_torch), with the LoRAs "shift" and "twist"."""
    folder = make_tiny_model(home / "models" / "tiny", hidden=128)
    gptq = request.param == "gptq"
    name = weights.quantize("tiny", group_size=32).name if gptq else "tiny"
    loaded = load_model(name, dtype="float16" if gptq else "float32")
    for seed, lora in enumerate(("shift", "twist"), 1):
        make_tiny_adapter(home / "loras" / lora, folder, seed)
        attach_adapter(loaded, lora, any_model=True)
    return loaded


def list_requests(adapters):
    return [
        GenerationRequest(
            prompt="x" * (1 + 37 * number % 50),
            max_new_tokens=length,
            ban_eos=True,
            adapter=adapters[number % len(adapters)],
            temperature=number % 2,
            seed=number,
        )
        for number, length in enumerate(LENGTHS)
    ]


def answer_all(engine, requests):
    """The texts of requests that join one after the other, while those before them are computed."""
    texts = [[] for _ in requests]
    jobs = [
        engine.start(replace(request), lambda piece, text=text: text.append(piece.text))
        for request, text in zip(requests, texts, strict=True)
    ]
    assert wait(jobs, WAIT_S).not_done == set()
    assert [job.exception() for job in jobs] == [None] * len(jobs)
    return ["".join(text) for text in texts]


def compute_slots(model):
    return SlotBatch(model, 2048, make_recorder=None)


def test_engine_on_cuda_records_graphs(loaded):
    engine = TransformersEngine(loaded)
    answer_all(engine, list_requests([None])[:2])
    (batch,) = engine._batches.values()
    assert isinstance(batch.steps.recorder, GraphRecorder)
    assert batch.steps.make_recorder is not None  # no recording has failed
    engine.close()


def test_graphs_answer_as_the_same_steps_without_graphs(loaded):
    requests = list_requests([None, "shift", "twist"])
    answers = []
    for make_batch in (compute_slots, lambda model: SlotBatch(model, 2048)):
        engine = EngineOf(loaded, make_batch)
        # One at a time first: the same shapes give the same numbers. Then together, which takes more graphs.
        answers.append([answer_all(engine, [request])[0] for request in requests])
        together = answer_all(engine, requests)
        assert all(batch.steps.recorded for batch in engine._batches.values())
        if loaded.dtype.value == torch.float32:
            assert together == answers[-1]
        engine.close()
    assert answers[0] == answers[1]


def test_graphs_answer_as_the_plain_batch_in_float32(home):
    make_tiny_model(home / "models" / "tiny", hidden=128)
    loaded = load_model("tiny", dtype="float32")
    answers = []
    for make_batch in (Batch, lambda model: SlotBatch(model, 2048)):
        engine = EngineOf(loaded, make_batch)
        answers.append(answer_all(engine, list_requests([None]) * 3))
        engine.close()
    assert answers[0] == answers[1]


def test_graphs_follow_loras_that_are_turned_or_detached(loaded):
    engine = EngineOf(loaded, lambda model: SlotBatch(model, 2048))
    request = GenerationRequest(prompt="Hello", max_new_tokens=20, adapter="shift")
    full = engine.generate(replace(request)).text
    with set_strength(loaded, 0):
        off = engine.generate(replace(request)).text
    assert engine.generate(replace(request)).text == full
    assert off != full
    engine.close()
    detach_adapter(loaded)
    plain = TransformersEngine(loaded)
    assert plain.generate(replace(request, adapter=None)).text == off
    plain.close()


def test_step_that_waits_for_the_device_is_computed_without_graphs(home):
    make_tiny_model(home / "models" / "tiny")
    loaded = load_model("tiny", dtype="float32")
    requests = list_requests([None])
    wanted = EngineOf(loaded, compute_slots)
    texts = answer_all(wanted, requests)
    wanted.close()
    waiting = loaded.model.model.norm.register_forward_hook(wait_for_device)
    engine = EngineOf(loaded, lambda model: SlotBatch(model, 2048))
    with pytest.warns(UserWarning, match="CUDA graphs"):
        assert answer_all(engine, requests) == texts
    engine.close()
    waiting.remove()
    again = EngineOf(loaded, lambda model: SlotBatch(model, 2048))
    assert answer_all(again, requests) == texts
    assert next(iter(again._batches.values())).steps.make_recorder is not None  # recorded this time
    again.close()


def wait_for_device(module, inputs, output):
    """What no graph can hold."""
    output.sum().item()


def test_closed_engine_gives_its_memory_back(home):
    make_tiny_model(home / "models" / "tiny", hidden=256)  # 5 MB
    left = []
    for _ in range(3):
        engine = TransformersEngine(load_model("tiny", dtype="float32"))
        answer_all(engine, list_requests([None]))
        engine.close()
        engine.free()
        del engine
        gc.collect()
        left.append(torch.cuda.memory_allocated())
    assert left[2] < left[1] + 1e6  # after the first, workspaces of cuBLAS remain
