"""Rows in, a saved LoRA out; TRL's SFTTrainer does the work (in a form that computes the shared prefix once).

`make_trainer` is the one place where rows become batches and a loss. What is saved appears in loras/NAME/ only when training ended
well: PEFT's files, `training_parameters.json` (the WebUI's names) and `run.json` (what was measured).
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from trl import SFTConfig, SFTTrainer

from helpers import CommandParser, KitError, find_commit, replace_when_complete, resolve_inside, run_command, write_json
from helpers.adapters import find_adapter, loras_folder, take_fingerprint
from helpers.dataset import Row, load_rows, split_rows
from helpers.loading import LoadedModel, load_model
from helpers.machine import Lane, measure_peak_mb, name_device, pick_lane
from helpers.prefix_trainer import SharedPrefixTrainer
from helpers.settings import TrainingSettings, pick_settings
from helpers.templating import Template, load_template


def build_dataset(rows: list[Row], template: Template, settings: TrainingSettings) -> Dataset:
    """The rows as TRL takes them: columns `prompt` and `completion`, each a list of messages; shuffled. settings.max_rows limits them."""
    kept = keep_short(rows, settings.max_rows, settings.seed) if settings.max_rows else rows
    examples = [template.build_example(row) for row in kept]
    return Dataset.from_list([{"prompt": e["prompt"], "completion": e["completion"]} for e in examples]).shuffle(seed=settings.seed)


def keep_short(rows: list[Row], count: int, seed: int) -> list[Row]:
    """`count` of the rows with short texts, the same number of each label, drawn at random: most rows for the computation.

    The limit of length is the same for all labels, the smallest that leaves enough of each; otherwise the length would tell the label.
    """
    groups: dict[object, list[Row]] = {}
    for row in sorted(rows, key=lambda row: len(row["text"])):
        groups.setdefault(row["label"], []).append(row)
    share = -(-count // len(groups))
    limit = max(len(group[min(share, len(group)) - 1]["text"]) for group in groups.values())
    draw = random.Random(seed)
    kept = []
    for group in groups.values():
        short = [row for row in group if len(row["text"]) <= limit]
        kept += draw.sample(short, min(share, len(short)))
    return kept


def list_targets(model: torch.nn.Module) -> list[str]:
    """Names of the linear layers inside the decoder blocks (q_proj, up_proj ...), sorted: what a LoRA is put on."""
    return sorted({name.rsplit(".", 1)[-1] for name, module in model.named_modules() if ".layers." in name and is_linear(module)})


def is_linear(module: torch.nn.Module) -> bool:
    """True for a linear layer, also a quantised one (gptqmodel's layers say in_features too)."""
    return hasattr(module, "in_features") and hasattr(module, "out_features") and not list(module.children())


def make_lora_config(model: torch.nn.Module, settings: TrainingSettings) -> LoraConfig:
    """PEFT's LoraConfig, on the layers that `settings.targets` names."""
    return LoraConfig(
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=list_targets(model) if settings.targets == "all-linear" else settings.targets.split(","),
        task_type="CAUSAL_LM",
    )


def describe_hardware(model: torch.nn.Module) -> dict[str, object]:
    """The arguments of SFTConfig that follow from the machine and the model's dtype, and the quiet ones."""
    on_gpu = torch.cuda.is_available()
    return {
        "bf16": model.dtype == torch.bfloat16,
        "fp16": model.dtype == torch.float16,
        "use_cpu": not on_gpu,
        "gradient_checkpointing": on_gpu,  # saves memory for time; a CPU has the memory and not the time
        "dataloader_pin_memory": on_gpu,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # else a loss that is no number is logged as the mean of the others
        "save_strategy": "no",
        "report_to": "none",
    }


def make_sft_config(model: torch.nn.Module, settings: TrainingSettings, output: Path, progress: bool = True) -> SFTConfig:
    """TRL's SFTConfig. The loss is on the completion only (prompt and completion are apart), its end-of-turn token included."""
    return SFTConfig(
        output_dir=str(output),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulation,
        max_length=settings.max_length,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup_ratio,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        optim=settings.optimizer,
        train_sampling_strategy="group_by_length",  # rows of one batch are about as long as each other: less padding
        seed=settings.seed,
        disable_tqdm=not progress,
        **describe_hardware(model),
    )


def make_trainer(
    loaded: LoadedModel, rows: list[Row], template: Template, settings: TrainingSettings, output: Path, progress: bool = True
) -> SFTTrainer:
    """The trainer for these rows: where rows become batches and a loss. A LoRA that is on `loaded.model` is taken off first."""
    torch.manual_seed(settings.seed)  # before PEFT draws the LoRA matrices
    return SharedPrefixTrainer(
        model=loaded.model.unload() if isinstance(loaded.model, PeftModel) else loaded.model,
        args=make_sft_config(loaded.model, settings, output, progress),
        train_dataset=build_dataset(rows, template, settings),
        processing_class=loaded.tokenizer,
        peft_config=make_lora_config(loaded.model, settings),
    )


@contextlib.contextmanager
def open_adapter_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder to save an adapter in; it becomes `folder` when the block ends well, and an older one NAME-previous."""
    with replace_when_complete(folder) as fresh:
        yield fresh
        if folder.is_dir():
            with replace_when_complete(folder.with_name(folder.name + "-previous")) as previous:
                folder.rename(previous)


def train_lora(
    loaded: LoadedModel,
    rows: list[Row],
    template: Template,
    settings: TrainingSettings,
    output: Path,
    facts: dict | None = None,
    progress: bool = True,
) -> dict:
    """Trains a LoRA on `rows` and saves it as the folder `output`; returns what is in its run.json.

    `facts` (paths of data and template, split) go into run.json too. On return the adapter is on `loaded.model`. Raises KitError when
    the loss is no number.
    """
    with open_adapter_folder(output) as fresh:
        trainer = make_trainer(loaded, rows, template, settings, fresh, progress)
        trainer.train()
        trainer.model.save_pretrained(fresh)
        run = record_run(trainer, loaded, fresh, rows, template, settings, facts)
    loaded.model = trainer.model.eval()
    return run


def record_run(
    trainer: SFTTrainer, loaded: LoadedModel, folder: Path, rows: list[Row], template: Template, settings: TrainingSettings, facts: dict | None = None
) -> dict:
    """Writes what was measured into a saved adapter's folder: run.json and training_parameters.json; returns the content of run.json.

    Names the base in adapter_config.json by its relative path, as the WebUI does.
    """
    losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    if not all(math.isfinite(loss) for loss in losses):
        raise KitError("The loss is no number any more.", "Lower learning_rate, or load the model with dtype float32.")
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    write_json(folder / "adapter_config.json", {**config, "base_model_name_or_path": f"models/{loaded.name}"})
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty form
    adapted = dataclasses.replace(loaded, model=trainer.model.eval())
    run = {
        "base": loaded.name,
        "base_sha256": read_base_hash(loaded.folder),
        "template": template.name,
        "rows": len(trainer.train_dataset),
        "rows_sha256": hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest(),
        "settings": asdict(settings),
        "trainable_parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "seconds": round(next(entry["train_runtime"] for entry in reversed(trainer.state.log_history) if "train_runtime" in entry), 1),
        "loss": [round(loss, 4) for loss in losses],
        "peak_mb": measure_peak_mb(),
        "device": name_device(),
        "commit": find_commit(),
        "date": time.strftime("%Y-%m-%d"),
        "fingerprint": [take_fingerprint(adapted, template.build_messages(row)) for row in rows[:3]],
        **(facts or {}),
    }
    write_json(folder / "run.json", run)
    write_json(folder / "training_parameters.json", settings.to_webui(folder.name))
    return run


def add_to_run(folder: Path, **facts: object) -> None:
    """Adds facts, such as evaluations, to the run.json of an adapter; dataclasses become objects."""
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    write_json(folder / "run.json", {**run, **facts})


def ensure_adapter(name: str, lane: Lane) -> Path:
    """The folder of the LoRA loras/NAME; when it is missing, a small one is trained on the lessons' data first (about a minute)."""
    folder = loras_folder() / name
    if not folder.exists():
        template = load_template("templates/college_preferences.yaml")
        split = {"seed": 0, "test_size": 0.2}
        train, _ = split_rows(load_rows("data/college_preferences/dataset.csv", template), **split)
        settings = pick_settings(lane.name).replace({"max_rows": 120})
        train_lora(load_model(lane.folder), train, template, settings, folder, {"split": split}, progress=False)
    return find_adapter(name)


def read_base_hash(folder: Path) -> dict[str, str]:
    """sha256 of each weight file of the base, as its weights.json has them; empty without one."""
    record = folder / "weights.json"
    files = json.loads(record.read_text(encoding="utf-8"))["files"] if record.is_file() else {}
    return {name: facts["sha256"] for name, facts in files.items()}


def main(arguments: list[str]) -> None:
    """`python -m helpers.training`: trains a LoRA on the rows of a CSV that the split does not hold out."""
    parser = CommandParser(prog="python -m helpers.training", description="Train a LoRA on a CSV with a YAML template.")
    parser.add_argument("--model", required=True, metavar="NAME", help="folder below models/")
    parser.add_argument("--data", required=True, metavar="CSV")
    parser.add_argument("--template", required=True, metavar="YAML")
    parser.add_argument("--output", required=True, metavar="loras/NAME", help="the adapter's folder below loras/")
    parser.add_argument("--settings", metavar="YAML", help="training settings; without it those of the lane")
    parser.add_argument("--epochs", type=float, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the split and the training (default: 0)")
    parser.add_argument("--test-size", type=float, default=0.2, help="share of the comments held out (default: 0.2)")
    options = parser.parse_args(arguments)
    output = resolve_inside(loras_folder(), options.output.removeprefix("loras/"), "LoRA")
    if "." in output.name:
        raise KitError(f"PEFT cannot attach a LoRA with a dot in its name ('{output.name}').", "Choose another --output.")
    template = load_template(options.template)
    train, test = split_rows(load_rows(options.data, template), options.test_size, options.seed)
    settings = TrainingSettings.from_yaml(options.settings) if options.settings else pick_settings(pick_lane().value.name)
    settings = settings.replace({"seed": options.seed} | ({"epochs": options.epochs} if options.epochs else {}))
    facts = {"data": str(options.data), "template": str(options.template), "split": {"seed": options.seed, "test_size": options.test_size}}
    run = train_lora(load_model(options.model), train, template, settings, output, facts)
    print(f"{output}: {run['rows']} rows in {run['seconds']:.0f} s, loss {run['loss'][0]:.2f} -> {run['loss'][-1]:.2f}, {len(test)} rows held out")


if __name__ == "__main__":
    raise SystemExit(run_command(main))
