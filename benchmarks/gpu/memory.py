"""What the kit's estimates of memory say beside what torch counts."""

import dataclasses
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.contestants import pick_lora_settings
from benchmarks.gpu.answering import answer, run_engine
from benchmarks.gpu.shapes import make_loaded
from benchmarks.gpu.steps import StepTimer
from benchmarks.gpu.training import read_lessons
from helpers.common.machine import name_dtype
from helpers.loading.model import LoadedModel
from helpers.training.configs import make_sft_config
from helpers.training.dataset import build_dataset
from helpers.training.prefix_trainer import SharedPrefixTrainer
from helpers.training.targets import make_lora_config
from helpers.weights.memory import estimate_running, estimate_training
from helpers.weights.terms import Term

STEPS = 2
MOST_STEPS = 8  # until a step is replayed, where steps are recorded


def list_contestants(job: dict[str, Any]) -> list[tuple[str, Callable[[float], dict[str, Any]]]]:
    """Training with and without gradient checkpointing, and answering."""
    return [
        ("1b, training, checkpointing", partial(measure_training, job, "1b", True)),
        ("1b, training, no checkpointing", partial(measure_training, job, "1b", False)),
        ("7b-gptq, training, checkpointing", partial(measure_training, job, "7b-gptq", True)),
        ("7b-gptq, 16 answers", partial(measure_answering, job, "7b-gptq", 16)),
    ]


def measure_training(job: dict[str, Any], shape: str, checkpointing: bool, seconds: float) -> dict[str, Any]:
    """The kit's trainer on rows of nearly one length, which is what the estimate is given."""
    batch = 32 if torch.cuda.is_available() else 4
    loaded = make_loaded(shape, job, purpose="training")
    settings = pick_lora_settings().replace({"batch_size": batch, "max_rows": 0, "checkpoint_steps": 0})
    data = read_lessons()
    examples = build_dataset(data.train[:400], data.template, settings, loaded.tokenizer)
    lengths = [len(ids) for ids in examples["input_ids"]]
    order = sorted(range(len(examples)), key=lambda number: lengths[number])
    middle = order[len(order) // 2 :][: batch * STEPS]
    config = make_sft_config(loaded.model, settings, Path(job["scratch"]) / "memory", progress=False)
    trainer = SharedPrefixTrainer(
        model=loaded.model,
        args=dataclasses.replace(config, gradient_checkpointing=checkpointing, max_steps=MOST_STEPS),
        train_dataset=examples.select(middle),
        processing_class=loaded.tokenizer,
        peft_config=make_lora_config(loaded.model, settings),
    )
    trainer.add_callback(StepTimer(1, STEPS, seconds, trainer.graphs))
    trainer.train()
    ids = [list(row) for row in trainer.train_dataset["input_ids"]]
    step = {"batch": batch, "length": max(map(len, ids)), "shared": len(os.path.commonprefix(ids))}
    learned = {"r": settings.lora_r, "targets": settings.targets, "optimizer": settings.optimizer}
    # torch counts the pools of recorded steps as reserved, not as allocated.
    step |= {"checkpointing": checkpointing, "recorded": False}
    return compare(loaded, estimate_training(*describe(loaded), **step, **learned))


def measure_answering(job: dict[str, Any], shape: str, clients: int, seconds: float) -> dict[str, Any]:
    """Short answers at once."""
    loaded = make_loaded(shape, job)
    with run_engine(loaded) as engine:
        found = answer(engine, clients, 16, seconds)
    tokens = max(one.prompt_tokens + one.completion_tokens for one in found)
    return compare(loaded, estimate_running(*describe(loaded), context=tokens, batch=clients))


def describe(loaded: LoadedModel) -> tuple[dict[str, Any], int, str, str]:
    """What every estimate is given first: config, bytes of the weights, dtype, device."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return loaded.folder.config, loaded.bytes, name_dtype(loaded.dtype.value), device


def compare(loaded: LoadedModel, terms: list[Term]) -> dict[str, Any]:
    """The estimate without the CUDA context, which torch does not count; the peak; how far they are apart."""
    estimated = sum(term.bytes for term in terms if term.name != "overhead") / 1e9
    if not torch.cuda.is_available():  # the peak of a process says nothing of one model
        return {"estimated_gb": estimated}
    counted = torch.cuda.max_memory_allocated() / 1e9
    off = 100 * (estimated / counted - 1)
    return {"estimated_gb": estimated, "counted_gb": counted, "percent_off": off}
