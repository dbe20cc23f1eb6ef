"""Rows in, a saved LoRA out; TRL's SFTTrainer does the work (in a form that computes the shared prefix once).

`make_trainer` is the one place where rows become batches and a loss. What is saved appears in loras/NAME/ only when training ended
well: PEFT's files, `training_parameters.json` (the WebUI's names) and `run.json` (what was measured).
"""

import math
import shutil
import statistics
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from helpers import CommandParser, KitError, resolve_inside, run_command
from helpers.adapters import find_adapter, loras_folder
from helpers.dataset import Row, keep_short, load_rows, split_rows
from helpers.loading import LoadedModel, load_model
from helpers.machine import Lane, pick_lane
from helpers.prefix_trainer import SharedPrefixTrainer
from helpers.records import describe_checkpoints, open_adapter_folder, open_checkpoints, record_run, refuse_unwritable
from helpers.settings import TrainingSettings, pick_settings
from helpers.templating import Template, load_template

CHECKPOINT_STEPS = 50  # from a terminal: a minute or two on a CPU


def build_dataset(rows: list[Row], template: Template, settings: TrainingSettings) -> Dataset:
    """The rows as TRL takes them: columns `prompt` and `completion`, each a list of messages; shuffled. settings.max_rows limits them."""
    kept = keep_short(rows, settings.max_rows, settings.seed) if settings.max_rows else rows
    examples = [template.build_example(row) for row in kept]
    return Dataset.from_list([{"prompt": e["prompt"], "completion": e["completion"]} for e in examples]).shuffle(seed=settings.seed)


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
        **describe_hardware(model) | describe_checkpoints(settings.checkpoint_steps),
    )


def make_trainer(
    loaded: LoadedModel, rows: list[Row], template: Template, settings: TrainingSettings, output: Path, progress: bool = True
) -> SFTTrainer:
    """The trainer for these rows: where rows become batches and a loss. A LoRA that is on `loaded.model` is taken off first."""
    torch.manual_seed(settings.seed)  # before PEFT draws the LoRA matrices
    loaded.model.state_dict()  # on a CPU a 4-bit model that has answered lets no gradient through until bitsandbytes unpacks it, as it does here
    return SharedPrefixTrainer(
        model=loaded.model.unload() if isinstance(loaded.model, PeftModel) else loaded.model,
        args=make_sft_config(loaded.model, settings, output, progress),
        train_dataset=build_dataset(rows, template, settings),
        processing_class=loaded.tokenizer,
        peft_config=make_lora_config(loaded.model, settings),
        callbacks=[LossGuard()],
    )


class LossGuard(TrainerCallback):
    """Ends a training whose loss is no number or runs away, with a KitError that says what to change."""

    def on_log(self, args, state, control, **kwargs):
        """Looks at the losses so far: the mean of the last ten steps must not be twice that of the first ten."""
        first, last = ([float(entry["loss"]) for entry in some if "loss" in entry] for some in (state.log_history[:10], state.log_history[-10:]))
        if last and not math.isfinite(last[-1]):
            problem = f"The loss is no number any more at step {state.global_step}."
            raise KitError(problem, "Lower learning_rate, or load the model with dtype float32.")
        if len(state.log_history) >= 20 and first and last and statistics.mean(last) > 2 * statistics.mean(first):
            words = f"{statistics.mean(first):.2f} on average in the first ten steps, {statistics.mean(last):.2f} in the last ten"
            raise KitError(f"The loss ran away: {words}.", "Lower learning_rate, or raise warmup_ratio.")


def train_lora(
    loaded: LoadedModel,
    rows: list[Row],
    template: Template,
    settings: TrainingSettings,
    output: Path,
    facts: dict | None = None,
    progress: bool = True,
    resume: bool = False,
) -> dict:
    """Trains a LoRA on `rows` and saves it as the folder `output`; returns what is in its run.json ({} in all processes but the first).

    `facts` (paths of data and template, split) go into run.json too. With settings.checkpoint_steps, what is killed can go on with
    `resume`. On return the adapter is on `loaded.model`. Raises KitError when the loss is no number or runs away.
    """
    refuse_unwritable(output)
    checkpoints, last = open_checkpoints(output.name, rows, settings, resume)
    trainer = make_trainer(loaded, rows, template, settings, checkpoints, progress)
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    run = {}
    if trainer.is_world_process_zero():  # the only one, unless `accelerate launch` started more
        with open_adapter_folder(output) as fresh:
            trainer.model.save_pretrained(fresh)
            run = record_run(trainer, loaded, fresh, rows, template, settings, facts)
        shutil.rmtree(checkpoints)
    loaded.model = trainer.model.eval()
    return run


def ensure_adapter(name: str, lane: Lane) -> Path:
    """The folder of the LoRA loras/NAME; when it is missing, a small one is trained on the lessons' data first (about a minute)."""
    folder = loras_folder() / name
    if not folder.exists():
        template = load_template("templates/college_preferences.yaml")
        split = {"seed": 0, "test_size": 0.2}
        train, _ = split_rows(load_rows("data/college_preferences/dataset.csv", template), **split)
        settings = pick_settings(lane.name).replace({"max_rows": 120})
        train_lora(load_model(lane.folder, purpose="training"), train, template, settings, folder, {"split": split}, progress=False)
    return find_adapter(name)


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
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint of a training that was interrupted")
    options = parser.parse_args(arguments)
    output = resolve_inside(loras_folder(), options.output.removeprefix("loras/"), "LoRA")
    if "." in output.name:
        raise KitError(f"PEFT cannot attach a LoRA with a dot in its name ('{output.name}').", "Choose another --output.")
    template = load_template(options.template)
    train, test = split_rows(load_rows(options.data, template), options.test_size, options.seed)
    settings = TrainingSettings.from_yaml(options.settings) if options.settings else pick_settings(pick_lane().value.name)
    settings = settings.replace({"seed": options.seed} | ({"epochs": options.epochs} if options.epochs else {}))
    settings = settings.replace({"checkpoint_steps": settings.checkpoint_steps or CHECKPOINT_STEPS})
    facts = {"data": str(options.data), "template": str(options.template), "split": {"seed": options.seed, "test_size": options.test_size}}
    run = train_lora(load_model(options.model, purpose="training"), train, template, settings, output, facts, resume=options.resume)
    if run:
        print(
            f"{output}: {run['rows']} rows in {run['seconds']:.0f} s, loss {run['loss'][0]:.2f} -> {run['loss'][-1]:.2f}, {len(test)} rows held out"
        )


if __name__ == "__main__":
    raise SystemExit(run_command(main))
