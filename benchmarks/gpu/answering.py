"""How fast a random GPTQ model answers through the kit's engine with each kernel; how near its logits are."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model

from benchmarks.contestants import pick_lora_settings
from benchmarks.gpu.plan import Skipped
from benchmarks.gpu.shapes import make_loaded, name_kernel, pick_kit_kernel, refuse_small, synchronise
from helpers.adapters.attaching import attach_adapter
from helpers.common.machine import free_memory, name_dtype
from helpers.generation.request import Generation, GenerationRequest
from helpers.generation.slots import SlotBatch
from helpers.generation.transformers_engine import TransformersEngine
from helpers.loading.model import LoadedModel
from helpers.training.targets import make_lora_config

TOKENS = 64  # of each client, after an eighth of them to warm up; fewer if the time is over
TORCH_WITH_TRITON = "GPTQ_TORCH_TRITON_DEQUANT"  # gptqmodel's: whether gptq_torch unpacks with Triton
COMPARED_LAYERS = 4  # of the models whose logits are compared
SUBJECTS = "the sea, a river, an old tree, a lost dog, winter, a train, the moon, a garden".split(", ")


class Answering:
    """One model and its engine, which the contestants of a job share."""

    def __init__(self, job: dict[str, Any]):
        self.job = job
        kernel = job["kernel"]
        self.kernel = (pick_kit_kernel(job["shape"]) or "auto") if kernel == "kit" else kernel
        self.loaded: LoadedModel | None = None

    def load(self, seconds: float) -> dict[str, Any]:
        """Makes the model and lets it give its first answer: what a user waits for, without reading files."""
        start = time.monotonic()
        job = self.job
        self.loaded = make_loaded(job["shape"], job, job["kernel"], dtype=job.get("dtype"))
        made = time.monotonic() - start
        with run_engine(self.loaded) as engine:
            answer(engine, 1, 1, seconds)
        first = time.monotonic() - start
        dtype = name_dtype(self.loaded.dtype.value)
        return {"kernel": name_kernel(self.loaded.model), "dtype": dtype, "made_s": made, "ready_s": first}

    def ask(self, clients: int, seconds: float, **asked: Any) -> dict[str, Any]:
        """Tokens a second of so many clients, who ask at the same moment; `asked` as in `answer`."""
        if not self.loaded:
            raise Skipped
        tokens = self.job.get("tokens", TOKENS)
        with run_engine(self.loaded) as engine:
            start = time.monotonic()
            answer(engine, clients, tokens // 8, seconds / 2, **asked)
            warm = time.monotonic() - start
            left = seconds - warm
            synchronise()
            start = time.perf_counter()
            found = answer(engine, clients, tokens, left, **asked)
            taken = time.perf_counter() - start
            graphs = describe_graphs(engine)
        made = [one.completion_tokens for one in found]
        return {
            "kernel": self.kernel,
            "clients": clients,
            "tokens_per_second": sum(made) / taken,
            "ms_a_token": 1000 * taken / max(made),
            "tokens_each": max(made),
            "warm_up_s": warm,
            "graphs": graphs,
        }

    def ask_with_lora(self, seconds: float) -> dict[str, Any]:
        """One client, whose answer a random LoRA computes; it is attached as a user's is, from a folder."""
        if not self.loaded:
            raise Skipped
        loras = Path(self.job["scratch"]) / "loras"
        write_lora(self.loaded, loras / "random")
        attach_adapter(self.loaded, "random", loras, any_model=True)
        return self.ask(1, seconds, adapter="random")

    def compare(self, seconds: float) -> dict[str, Any]:
        """The distance of the logits from those of gptq_torch: the norm of the difference over their norm.

        For these gptq_torch unpacks its weights without Triton, so that it shares nothing with other kernels.
        """
        if not self.loaded:
            raise Skipped
        self.loaded = None  # gives its memory back
        free_memory()
        job = {**self.job, "layers": COMPARED_LAYERS}
        own = compute_logits(job, self.job["kernel"])
        os.environ[TORCH_WITH_TRITON] = "0"  # read where layers are made; none follows in this process
        reference = compute_logits(job, "gptq_torch")
        distance = (own - reference).norm() / reference.norm()
        return {
            "kernel": self.kernel,
            "relative_error": float(distance),
            "finite": bool(torch.isfinite(own).all()),
            "layers_compared": COMPARED_LAYERS,
        }


def list_contestants(job: dict[str, Any]) -> list[tuple[str, Callable[[float], dict[str, Any]]]]:
    """What is measured with one kernel, in order."""
    refuse_small(job)
    one = Answering(job)
    label = f"{job['shape']}, {job['kernel']}"
    if job["kernel"] == pick_kit_kernel(job["shape"]) and not job.get("dtype"):
        return [(label, lambda seconds: {"kernel": job["kernel"], "note": "it is the kit's: see there"})]
    listed: list[tuple[str, Callable[[float], dict[str, Any]]]] = [(f"{label}: first answer", one.load)]
    for clients in job["clients"]:
        listed.append((f"{label}: {clients} client{'s' * (clients > 1)}", partial(one.ask, clients)))
    if job.get("details"):
        listed.append((f"{label}: 1 client, LoRA attached", one.ask_with_lora))
        bias = {"logit_bias": {0: -1.0}}
        listed.append((f"{label}: 16 clients, a logit changed", partial(one.ask, 16, **bias)))
    if one.kernel != "gptq_torch" and job["shape"].startswith("7b"):
        listed.append((f"{label}: logits", one.compare))
    return listed


class EndlessEngine(TransformersEngine):
    """The kit's engine, in which no token ends an answer: a random model would draw one at any time."""

    def __init__(self, loaded: LoadedModel):
        super().__init__(loaded)
        self._eos_ids = []


@contextmanager
def run_engine(loaded: LoadedModel) -> Iterator[TransformersEngine]:
    """The engine, whose thread is ended after the block."""
    engine = EndlessEngine(loaded)
    try:
        yield engine
    finally:
        engine.close()


def describe_graphs(engine: TransformersEngine) -> str:
    """Whether the engine's steps are recorded as CUDA graphs, or why not."""
    if not engine.slots.value:
        return f"no: {engine.slots.reason}"
    batches = [batch for batch in engine._batches.values() if isinstance(batch, SlotBatch)]
    failed = any(batch.steps.make_recorder is None for batch in batches)
    return "a recording failed: see the log" if failed else f"{sum(len(b.steps.recorded) for b in batches)}"


def answer(
    engine: TransformersEngine, clients: int, tokens: int, seconds: float, **asked: Any
) -> list[Generation]:
    """Greedy answers to all clients, begun together; they end where they are when the seconds are over.

    `asked`: more fields of GenerationRequest.
    """
    requests = [
        GenerationRequest(
            messages=[{"role": "user", "content": f"Write about {SUBJECTS[number % len(SUBJECTS)]}."}],
            max_new_tokens=tokens,
            **asked,
        )
        for number in range(clients)
    ]
    jobs = [engine.start(request, lambda piece: None) for request in requests]
    timer = threading.Timer(max(seconds, 1), lambda: [request.cancelled.set() for request in requests])
    timer.daemon = True
    timer.start()
    wait(jobs)
    timer.cancel()
    return [job.result() for job in jobs]


def write_lora(loaded: LoadedModel, folder: Path) -> None:
    """Saves a random LoRA of rank 16 on all linear layers; the model is then as it was."""
    config = make_lora_config(loaded.model, pick_lora_settings())
    config.init_lora_weights = False
    config.base_model_name_or_path = str(loaded.folder.path)
    adapted = get_peft_model(loaded.model, config)
    adapted.save_pretrained(folder, save_embedding_layers=False)
    loaded.model = adapted.unload()


@torch.inference_mode()
def compute_logits(job: dict[str, Any], kernel: str) -> torch.Tensor:
    """The logits of one prompt by a model of few layers, (tokens, vocabulary), float32 on the CPU."""
    loaded = make_loaded(job["shape"], job, kernel, dtype=job.get("dtype"))
    ids = loaded.tokenizer("How far is it from here to the sea, and who lives there?")["input_ids"]
    logits = loaded.model(torch.tensor([ids], device=loaded.model.device)).logits[0].float().cpu()
    del loaded.model
    free_memory()
    return logits
