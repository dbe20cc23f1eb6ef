"""How fast a LoRA is trained on random models: by the kit, by SFTTrainer in three forms, QLoRA, Unsloth."""

import dataclasses
import importlib.util
import json
import random
import statistics
import subprocess
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from benchmarks.contestants import pick_lora_settings
from benchmarks.gpu.shapes import (
    SHAPES,
    count_weights,
    find_tokenizer,
    is_gptq,
    make_loaded,
    name_kernel,
    refuse_small,
)
from benchmarks.gpu.steps import StepTimer
from benchmarks.training import LESSONS, PEAK_FLOPS
from helpers.adapters.attaching import remove_lora_layers
from helpers.common.machine import free_memory, name_device, name_dtype, pick_dtype
from helpers.common.paths import PROJECT
from helpers.common.training_settings import AUTO, TrainingSettings
from helpers.loading.model import LoadedModel
from helpers.tasks.chats import ChatForm
from helpers.tasks.data import TaskData
from helpers.tasks.rows import open_data, read_rows
from helpers.training.dataset import build_dataset
from helpers.training.targets import make_lora_config
from helpers.training.train import make_trainer

NAMES = {
    "kit": "the kit",
    "sft": "SFTTrainer as it comes",
    "knowing": "SFTTrainer as a knowing user sets it",
    "2023": "2023 recipe: float32, loss on every token",
    "qlora": "QLoRA, bitsandbytes NF4, SFTTrainer",
}
RANDOM_ROWS = 400
MOST_STEPS = 60  # of a contestant
Batch = int | str  # rows of a batch, or AUTO


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


def has_flash() -> bool:
    """Whether FlashAttention is installed, which TRL wants for batches without padding."""
    return torch.cuda.is_available() and importlib.util.find_spec("flash_attn") is not None


def has_liger() -> bool:
    """Whether Liger's kernels can be used."""
    return torch.cuda.is_available() and importlib.util.find_spec("liger_kernel") is not None


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


@dataclass(frozen=True)
class StepPlan:
    """How a contestant trains."""

    kind: str  # a key of NAMES
    batch: Batch
    warm: int  # steps before those that are timed
    timed: int
    end: float  # on the clock of time.monotonic
    checkpointing: bool = False  # what a knowing user sets


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


def make_stock_trainer(
    plan: StepPlan, loaded: LoadedModel, data: TaskData, settings: TrainingSettings, folder: Path
) -> SFTTrainer:
    """SFTTrainer with the arguments of the plan's kind."""
    torch.manual_seed(settings.seed)
    if plan.kind == "knowing" and has_flash():
        loaded.model.set_attn_implementation("flash_attention_2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Liger's argument is deprecated in TRL
        return SFTTrainer(
            model=loaded.model,
            args=make_stock_config(plan, loaded.model.dtype, settings, folder),
            train_dataset=build_dataset(data.train, data.template, settings, loaded.tokenizer),
            processing_class=loaded.tokenizer,
            peft_config=make_lora_config(loaded.model, settings),
        )


def make_stock_config(
    plan: StepPlan, dtype: torch.dtype, settings: TrainingSettings, folder: Path
) -> SFTConfig:
    """SFTConfig with TRL's own values, but for what the LoRA learns; a knowing user sets some more."""
    on_gpu, kind = torch.cuda.is_available(), plan.kind
    return SFTConfig(
        output_dir=str(folder),
        max_steps=MOST_STEPS,
        per_device_train_batch_size=settings.batch_size,
        max_length=settings.max_length,
        learning_rate=settings.learning_rate,
        completion_only_loss=kind != "2023",
        bf16=(kind == "qlora" or dtype == torch.bfloat16) and on_gpu,
        fp16=kind != "qlora" and dtype == torch.float16,
        use_cpu=not on_gpu,
        dataloader_pin_memory=on_gpu,
        dataloader_drop_last=True,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **(list_known(plan) if kind == "knowing" else {}),
    )


def list_known(plan: StepPlan) -> dict[str, Any]:
    """The arguments that a knowing user adds; without padding only where FlashAttention is installed."""
    return {
        "gradient_checkpointing": plan.checkpointing,
        "use_liger_kernel": has_liger(),
        "padding_free": has_flash(),
        "train_sampling_strategy": "group_by_length",
    }


def estimate_mfu(weights: int, tokens_per_second: float) -> float | None:
    """Model FLOPs utilisation, as benchmarks.training counts it: 4 FLOPs for each weight and token."""
    if not torch.cuda.is_available():
        return None
    peak = next((value for name, value in PEAK_FLOPS.items() if name in name_device()), None)
    return 4 * weights * tokens_per_second / peak if peak else None


def quantise_nf4(model: torch.nn.Module) -> torch.nn.Module:
    """The model with bitsandbytes' layers of 4 bits in its blocks, as load_in_4bit would make them."""
    import bitsandbytes

    for path, layer in list(model.named_modules()):
        if isinstance(layer, torch.nn.Linear) and ".layers." in path:
            small = bitsandbytes.nn.Linear4bit(
                layer.in_features,
                layer.out_features,
                bias=False,
                compute_dtype=pick_dtype().value,
                quant_type="nf4",
                device="meta",
            )
            small.weight = bitsandbytes.nn.Params4bit(
                layer.weight.data, requires_grad=False, quant_type="nf4", module=small
            )
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, small.to(layer.weight.device))
    model.is_loaded_in_4bit = True
    return model


def forget_peak() -> None:
    """Forgets the memory that making a model took."""
    free_memory()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def list_unsloth(job: dict[str, Any]) -> list[tuple[str, Callable[[float], dict[str, Any]]]]:
    """Unsloth, which patches the libraries that it finds and so has an environment of its own."""
    rows = "random rows of 133 tokens, loss on every token"
    return [(f"{job['shape']}, Unsloth in 4 bits, batch {job['batch']}, {rows}", partial(run_unsloth, job))]


def run_unsloth(job: dict[str, Any], seconds: float) -> dict[str, Any]:
    """What benchmarks/gpu/unsloth_script.py measures with the Python of that environment."""
    script, folder = Path(__file__).with_name("unsloth_script.py"), Path(job["scratch"]) / "unsloth"
    find_tokenizer(job).save_pretrained(folder)
    layers, hidden, intermediate, heads, kv_heads, vocabulary, *_ = SHAPES[job["shape"]]
    shape = [layers, hidden, intermediate, heads, kv_heads, vocabulary]
    numbers = [*shape, job["batch"], job["steps"]]
    command = [job["unsloth_python"], str(script), str(folder), *map(str, numbers)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=max(seconds - 1, 1))
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        print(done.stdout, done.stderr)
        reason = (done.stderr.splitlines() or ["it printed nothing"])[-1]
        return {"error": f"Unsloth ended with {done.returncode}: {reason}"[:300]}
    return json.loads(lines[-1])
