"""How fast a LoRA is trained on random models: by the kit, by SFTTrainer in three forms, QLoRA, Unsloth."""

import dataclasses
import importlib.util
import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from trl.trainer.sft_trainer import SFTTrainer

from benchmarks.contestants import pick_lora_settings
from benchmarks.gpu.shapes import (
    count_weights,
    is_gptq,
    make_loaded,
    name_kernel,
    refuse_small,
)
from benchmarks.gpu.steps import StepTimer
from benchmarks.gpu.stock import (
    MOST_STEPS,
    Batch,
    StepPlan,
    has_flash,
    has_liger,
    make_stock_trainer,
    quantise_nf4,
)
from benchmarks.training import LESSONS, PEAK_FLOPS
from helpers.adapters.attaching import remove_lora_layers
from helpers.common.machine import free_memory, name_device, name_dtype
from helpers.common.paths import PROJECT
from helpers.common.training_settings import AUTO
from helpers.loading.model import LoadedModel
from helpers.tasks.chats import ChatForm
from helpers.tasks.data import TaskData
from helpers.tasks.rows import open_data, read_rows
from helpers.training.train import make_trainer

NAMES = {
    "kit": "the kit",
    "sft": "SFTTrainer as it comes",
    "knowing": "SFTTrainer as a knowing user sets it",
    "2023": "2023 recipe: float32, loss on every token",
    "qlora": "QLoRA, bitsandbytes NF4, SFTTrainer",
}
RANDOM_ROWS = 400


class Base:
    """The model that the contestants of a job train, one after the other.

    A GPTQ model is made once, because a large one takes long; any other is made again for each contestant.
    """

    def __init__(self, job: dict[str, Any]):
        self.job = job
        self.kept: LoadedModel | None = None

    def make(self, kind: str) -> LoadedModel:
        """The model without a LoRA, in the dtype that this kind trains in."""
        if self.kept:
            self.kept.model = remove_lora_layers(self.kept.model)
            self.kept.model.gradient_checkpointing_disable()  # SFTTrainer leaves it on
            return self.kept
        shape, dtype = self.job["shape"], "float32" if kind == "2023" else self.job.get("dtype")
        loaded = make_loaded(shape, self.job, purpose="training", dtype=dtype)
        self.kept = loaded if is_gptq(shape) else None
        return loaded


def list_contestants(job: dict[str, Any]) -> list[tuple[str, Callable[[float], dict[str, Any]]]]:
    """What is measured on one shape, in order."""
    refuse_small(job)
    base = Base(job)
    data = make_random_data() if job.get("data") == "random" else read_lessons()
    listed = []
    for kind, batch, warm, timed in job["contestants"]:
        size = batch if torch.cuda.is_available() or batch == AUTO else min(batch, 4)
        dtype = f", {job['dtype']}" if job.get("dtype") and torch.cuda.is_available() else ""
        name = f"{job['shape']}{dtype}, {NAMES[kind]}{name_known(kind)}, batch {size}"
        listed.append((name, partial(measure, base, kind, size, warm, timed, data)))
    return listed


def name_known(kind: str) -> str:
    """What a knowing user's contestant has here, for its name; "" for the others."""
    has = {", Liger": has_liger(), ", padding-free": has_flash()} if kind == "knowing" else {}
    return "".join(words for words, there in has.items() if there)


def read_lessons() -> TaskData:
    """The lessons' data."""
    table, template = open_data(*(PROJECT / path for path in LESSONS))
    return TaskData(template, read_rows(table, template))


def make_random_data() -> TaskData:
    """Chats of 100 to 300 random words, which share nothing but the chat template's own words."""
    draw, letters = random.Random(0), "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(draw.choices(letters, k=draw.randint(2, 4))) for _ in range(3000)]
    rows = []
    for _ in range(RANDOM_ROWS):
        text = " ".join(draw.choices(words, k=draw.randint(50, 150)))
        half = len(text) // 2
        roles = zip(("user", "assistant"), (text[:half], text[half:]), strict=True)
        rows.append({"messages": [{"role": role, "content": content} for role, content in roles]})
    return TaskData(ChatForm(), rows)


def measure(
    base: "Base", kind: str, batch: Batch, warm: int, timed: int, data: TaskData, seconds: float
) -> dict[str, Any]:
    """Trains some steps; rows a second by the median step, seconds by kind of step, MFU, mean loss.

    A knowing user computes layers again in the backward pass only if memory does not suffice without.
    """
    end = time.monotonic() + seconds
    if kind == "qlora" and not importlib.util.find_spec("bitsandbytes"):
        return {"error": "bitsandbytes is not installed"}
    steps = StepPlan(kind, batch, *((warm, timed) if torch.cuda.is_available() else (1, 1)), end)
    try:
        return train(base, steps, data)
    except torch.cuda.OutOfMemoryError:
        if kind != "knowing":
            raise
    forget_peak()
    return train(base, dataclasses.replace(steps, checkpointing=True), data)


def train(base: "Base", plan: StepPlan, data: TaskData) -> dict[str, Any]:
    """Trains one contestant; what `measure` returns."""
    job = base.job
    loaded = base.make(plan.kind)
    weights, kernel = count_weights(loaded.model), name_kernel(loaded.model)
    if plan.kind == "qlora":
        loaded.model = quantise_nf4(loaded.model)
    forget_peak()
    trainer = build_trainer(plan, loaded, take_rows(data, plan), Path(job["scratch"]) / "training")
    timer = StepTimer(plan.warm, plan.timed, plan.end - time.monotonic(), getattr(trainer, "graphs", None))
    trainer.add_callback(timer)
    trainer.train()
    found = describe_training(trainer, timer, weights)
    found |= {"dtype": name_dtype(loaded.dtype.value), "kernel": kernel}
    if job.get("rows"):
        found[f"minutes_for_{job['rows']}_rows_extrapolated"] = job["rows"] / found["rows_per_second"] / 60
    return found


def describe_training(trainer: SFTTrainer, timer: StepTimer, weights: int) -> dict[str, Any]:
    """The figures of a training of a model that has so many weights."""
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    tokens = statistics.mean(map(len, trainer.train_dataset["input_ids"]))
    batch = trainer.args.per_device_train_batch_size
    rows = batch / timer.median
    return {
        "rows_per_second": rows,
        "batch": batch,
        **timer.describe(),
        "mfu": estimate_mfu(weights, rows * tokens),
        "loss": statistics.mean(losses),
        "tokens_a_row": tokens,
        "checkpointing": bool(trainer.args.gradient_checkpointing),
    }


def take_rows(data: TaskData, plan: StepPlan) -> TaskData:
    """The first rows, as many as the steps may need; `auto` is given all, since it follows from them."""
    return data if plan.batch == AUTO else TaskData(data.template, data.train[: plan.batch * MOST_STEPS])


def build_trainer(plan: StepPlan, loaded: LoadedModel, data: TaskData, folder: Path) -> SFTTrainer:
    """The kit's trainer as the kit makes it, or SFTTrainer with the arguments of this kind.

    Every batch is full. The timer ends the training; MOST_STEPS only keep it from going on for ever.
    """
    settings = pick_lora_settings("large" if loaded.name.startswith("70b") else "tiny").replace(
        {
            "batch_size": plan.batch,
            "epochs": 1000,
            "max_rows": 0,
            "checkpoint_steps": 0,
            "learning_rate": 1e-4,
        }
    )
    if plan.kind == "kit":
        trainer = make_trainer(loaded, data, settings, folder, progress=False)
        trainer.args.max_steps = MOST_STEPS
        trainer.args.dataloader_drop_last = True
        return trainer
    return make_stock_trainer(plan, loaded, data, settings, folder)


def estimate_mfu(weights: int, tokens_per_second: float) -> float | None:
    """Model FLOPs utilisation, as benchmarks.training counts it: 4 FLOPs for each weight and token."""
    if not torch.cuda.is_available():
        return None
    peak = next((value for name, value in PEAK_FLOPS.items() if name in name_device()), None)
    return 4 * weights * tokens_per_second / peak if peak else None


def forget_peak() -> None:
    """Forgets the memory that making a model took."""
    free_memory()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
