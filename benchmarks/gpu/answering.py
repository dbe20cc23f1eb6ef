"""How fast a random GPTQ model answers through the kit's engine with each kernel; how near its logits are."""

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

from benchmarks.gpu.shapes import Skipped, make_loaded, pick_kit_kernel, synchronise
from helpers.adapters.attaching import attach_adapter
from helpers.common.machine import free_memory
from helpers.common.presets import pick_settings
from helpers.generation.request import Generation, GenerationRequest
from helpers.generation.transformers_engine import TransformersEngine
from helpers.loading.model import LoadedModel
from helpers.training.targets import make_lora_config

TOKENS = 64  # of each client, after an eighth of them to warm up; fewer if the time is over
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
        self.loaded = make_loaded(self.job["shape"], self.job, self.job["kernel"])
        made = time.monotonic() - start
        with run_engine(self.loaded) as engine:
            answer(engine, 1, 1, seconds)
        first = time.monotonic() - start
        return {"kernel": name_kernel(self.loaded.model), "made_s": made, "ready_s": first}

    def ask(self, clients: int, adapter: str | None, seconds: float) -> dict[str, Any]:
        """Tokens a second of so many clients, who ask at the same moment."""
        if not self.loaded:
            raise Skipped
        tokens = self.job.get("tokens", TOKENS)
        with run_engine(self.loaded) as engine:
            start = time.monotonic()
            answer(engine, clients, tokens // 8, seconds / 2, adapter)
            warm = time.monotonic() - start
            left = seconds - warm
            synchronise()
            start = time.perf_counter()
            found = answer(engine, clients, tokens, left, adapter)
            taken = time.perf_counter() - start
        made = [one.completion_tokens for one in found]
        return {
            "kernel": self.kernel,
            "clients": clients,
            "tokens_per_second": sum(made) / taken,
            "ms_a_token": 1000 * taken / max(made),
            "tokens_each": max(made),
            "warm_up_s": warm,
        }

    def ask_with_lora(self, seconds: float) -> dict[str, Any]:
        """One client, whose answer a random LoRA computes; it is attached as a user's is, from a folder."""
        if not self.loaded:
            raise Skipped
        loras = Path(self.job["scratch"]) / "loras"
        write_lora(self.loaded, loras / "random")
        attach_adapter(self.loaded, "random", loras, any_model=True)
        return self.ask(1, "random", seconds)

    def compare(self, seconds: float) -> dict[str, Any]:
        """The distance of the logits from those of gptq_torch: the norm of the difference over their norm."""
        if not self.loaded:
            raise Skipped
        self.loaded = None  # gives its memory back
        free_memory()
        job = {**self.job, "layers": COMPARED_LAYERS}
        own, reference = (compute_logits(job, kernel) for kernel in (self.job["kernel"], "gptq_torch"))
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
    listed: list[tuple[str, Callable[[float], dict[str, Any]]]] = [(f"{label}: first answer", one.load)]
    for clients in job["clients"]:
        listed.append((f"{label}: {clients} client{'s' * (clients > 1)}", partial(one.ask, clients, None)))
    if job.get("lora"):
        listed.append((f"{label}: 1 client, LoRA attached", one.ask_with_lora))
    if one.kernel != "gptq_torch" and job["shape"].startswith("7b"):
        listed.append((f"{label}: logits", one.compare))
    return listed


def refuse_small(job: dict[str, Any]) -> None:
    """A MemoryError if the GPU has no room for the 70B shape."""
    if torch.cuda.is_available() and job["shape"].startswith("70b"):
        free = torch.cuda.mem_get_info()[0] / 1e9
        if free < 45:
            raise MemoryError(f"skipped: it needs 45 GB, and the card has {free:.0f} GB free")


def name_kernel(model: torch.nn.Module) -> str:
    """The class of a GPTQ model's linear layers; "" for another model."""
    return next((type(one).__name__ for one in model.modules() if hasattr(one, "qweight")), "")


@contextmanager
def run_engine(loaded: LoadedModel) -> Iterator[TransformersEngine]:
    """The kit's engine, whose thread is ended after the block."""
    engine = TransformersEngine(loaded)
    try:
        yield engine
    finally:
        engine.close()


def answer(
    engine: TransformersEngine, clients: int, tokens: int, seconds: float, adapter: str | None = None
) -> list[Generation]:
    """Greedy answers to all clients, begun together; they end where they are when the seconds are over."""
    requests = [
        GenerationRequest(
            messages=[{"role": "user", "content": f"Write about {SUBJECTS[number % len(SUBJECTS)]}."}],
            max_new_tokens=tokens,
            ban_eos=True,
            adapter=adapter,
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
    settings = pick_settings("tiny").replace({"lora_r": 16})
    config = make_lora_config(loaded.model, settings)
    config.init_lora_weights = False
    config.base_model_name_or_path = str(loaded.folder.path)
    adapted = get_peft_model(loaded.model, config)
    adapted.save_pretrained(folder, save_embedding_layers=False)
    loaded.model = adapted.unload()


@torch.inference_mode()
def compute_logits(job: dict[str, Any], kernel: str) -> torch.Tensor:
    """The logits of one prompt by a model of few layers, (tokens, vocabulary), float32 on the CPU."""
    loaded = make_loaded(job["shape"], job, kernel)
    ids = loaded.tokenizer("How far is it from here to the sea, and who lives there?")["input_ids"]
    logits = loaded.model(torch.tensor([ids], device=loaded.model.device)).logits[0].float().cpu()
    del loaded.model
    free_memory()
    return logits
