"""The contestants besides the kit: SFTTrainer as it comes and as a knowing user sets it, and QLoRA."""

import importlib.util
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from helpers.common.machine import pick_dtype
from helpers.common.training_settings import TrainingSettings
from helpers.loading.model import LoadedModel
from helpers.tasks.data import TaskData
from helpers.training.dataset import build_dataset
from helpers.training.targets import make_lora_config

MOST_STEPS = 60  # of a contestant
Batch = int | str  # rows of a batch, or AUTO


@dataclass(frozen=True)
class StepPlan:
    """How a contestant trains."""

    kind: str  # a key of NAMES
    batch: Batch
    warm: int  # steps before those that are timed
    timed: int
    end: float  # on the clock of time.monotonic
    checkpointing: bool = False  # what a knowing user sets


def has_flash() -> bool:
    """Whether FlashAttention is installed, which TRL wants for batches without padding."""
    return torch.cuda.is_available() and importlib.util.find_spec("flash_attn") is not None


def has_liger() -> bool:
    """Whether Liger's kernels can be used."""
    return torch.cuda.is_available() and importlib.util.find_spec("liger_kernel") is not None


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
