"""How fast a LoRA is trained on random models: by the kit, by SFTTrainer in three forms, QLoRA, Unsloth."""

import importlib.util
import json
import random
import statistics
import subprocess
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from benchmarks.gpu.answering import name_kernel, refuse_small
from benchmarks.gpu.shapes import SHAPES, count_weights, is_gptq, make_loaded, synchronise
from benchmarks.training import LESSONS, PEAK_FLOPS
from helpers.adapters.attaching import remove_lora_layers
from helpers.common.machine import free_memory, name_device, pick_dtype
from helpers.common.paths import PROJECT
from helpers.common.presets import pick_settings
from helpers.common.training_settings import TrainingSettings
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
    "knowing": "SFTTrainer, checkpointing off",
    "2023": "2023 recipe: float32, loss on every token",
    "qlora": "QLoRA, bitsandbytes NF4, SFTTrainer",
}
RANDOM_ROWS = 400


class StepTimer(TrainerCallback):
    """The seconds of each step. Ends the training after `seconds`, but not before a step was timed."""

    def __init__(self, warm: int, seconds: float):
        self.warm, self.end = warm, time.monotonic() + seconds
        self.steps: list[float] = []
        self.before = 0.0

    def on_train_begin(self, args, state, control, **kwargs):
        synchronise()
        self.before = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        synchronise()
        now = time.perf_counter()
        self.steps.append(now - self.before)
        self.before = now
        if len(self.steps) > self.warm and time.monotonic() + self.steps[-1] > self.end:
            control.should_training_stop = True

    @property
    def median(self) -> float:
        """The median of the steps after those that warm up."""
        return statistics.median(self.steps[self.warm :])


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
            return self.kept
        shape, dtype = self.job["shape"], "float32" if kind == "2023" else None
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
        size = batch if torch.cuda.is_available() else min(batch, 4)
        liger = ", Liger" if kind == "knowing" and has_liger() else ""
        name = f"{job['shape']}, {NAMES[kind]}{liger}, batch {size}"
        listed.append((name, partial(measure, base, kind, size, warm, timed, data)))
    return listed


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
    base: "Base", kind: str, batch: int, warm: int, timed: int, data: TaskData, seconds: float
) -> dict[str, Any]:
    """Trains so many steps; rows a second by the median step, the first step's seconds, MFU, mean loss."""
    end, job = time.monotonic() + seconds, base.job
    if kind == "qlora" and not importlib.util.find_spec("bitsandbytes"):
        return {"error": "bitsandbytes is not installed"}
    loaded = base.make(kind)
    weights, kernel = count_weights(loaded.model), name_kernel(loaded.model)
    if kind == "qlora":
        loaded.model = quantise_nf4(loaded.model)
        forget_peak()
    steps = warm + timed if torch.cuda.is_available() else 2
    warm = min(warm, steps - 1)
    settings = pick_settings("large" if job["shape"].startswith("70b") else "tiny").replace(
        {"batch_size": batch, "epochs": 1000, "max_rows": 0, "checkpoint_steps": 0, "learning_rate": 1e-4}
    )
    few = TaskData(data.template, data.train[: batch * steps])
    trainer = build_trainer(kind, loaded, few, settings, Path(job["scratch"]) / "training", steps)
    timer = StepTimer(warm, end - time.monotonic())
    trainer.add_callback(timer)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    tokens = statistics.mean(map(len, trainer.train_dataset["input_ids"]))
    rows = batch / timer.median
    result = {
        "rows_per_second": rows,
        "step_s": timer.median,
        "first_step_s": timer.steps[0],
        "timed_steps": len(timer.steps) - warm,
        "mfu": estimate_mfu(weights, rows * tokens),
        "loss": statistics.mean(losses),
        "tokens_a_row": tokens,
        "checkpointing": bool(trainer.args.gradient_checkpointing),
        "slowest_s": max(timer.steps[warm:]),
        "kernel": kernel,
    }
    if job.get("rows"):
        result[f"minutes_for_{job['rows']}_rows_extrapolated"] = job["rows"] / rows / 60
    return result


def build_trainer(
    kind: str, loaded: LoadedModel, data: TaskData, settings: TrainingSettings, folder: Path, steps: int
) -> SFTTrainer:
    """The kit's trainer as the kit makes it, or SFTTrainer with the arguments of this kind."""
    if kind == "kit":
        trainer = make_trainer(loaded, data, settings, folder, progress=False)
        trainer.args.max_steps = steps
        return trainer
    torch.manual_seed(settings.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Liger's argument is deprecated in TRL
        return SFTTrainer(
            model=loaded.model,
            args=make_stock_config(kind, loaded.model.dtype, settings, folder, steps),
            train_dataset=build_dataset(data.train, data.template, settings, loaded.tokenizer),
            processing_class=loaded.tokenizer,
            peft_config=make_lora_config(loaded.model, settings),
        )


def make_stock_config(
    kind: str, dtype: torch.dtype, settings: TrainingSettings, folder: Path, steps: int
) -> SFTConfig:
    """SFTConfig with TRL's own values, but for what the LoRA learns; a knowing user sets three more."""
    on_gpu = torch.cuda.is_available()
    known = {}
    if kind == "knowing":
        known = {"gradient_checkpointing": False, "use_liger_kernel": has_liger()}
        known["train_sampling_strategy"] = "group_by_length"
    return SFTConfig(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=settings.batch_size,
        max_length=settings.max_length,
        learning_rate=settings.learning_rate,
        completion_only_loss=kind != "2023",
        bf16=(kind == "qlora" or dtype == torch.bfloat16) and on_gpu,
        fp16=kind != "qlora" and dtype == torch.float16,
        use_cpu=not on_gpu,
        dataloader_pin_memory=on_gpu,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **known,
    )


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
    return [(f"{job['shape']}, Unsloth, batch {job['batch']}", partial(run_unsloth, job))]


def run_unsloth(job: dict[str, Any], seconds: float) -> dict[str, Any]:
    """What benchmarks/gpu/unsloth_script.py measures with the Python of that environment."""
    script = Path(__file__).with_name("unsloth_script.py")
    layers, hidden, intermediate, heads, kv_heads, vocabulary, *_ = SHAPES[job["shape"]]
    shape = [layers, hidden, intermediate, heads, kv_heads, vocabulary]
    numbers = [*shape, job["batch"], job["steps"]]
    command = [job["unsloth_python"], str(script), job["scratch"], *map(str, numbers)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=max(seconds - 1, 1))
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        print(done.stdout, done.stderr)
        reason = (done.stderr.splitlines() or ["it printed nothing"])[-1]
        return {"error": f"Unsloth ended with {done.returncode}: {reason}"[:300]}
    return json.loads(lines[-1])
