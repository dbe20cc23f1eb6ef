"""The end of a training: the LoRA's folder, with what was measured. Lesson 4 and train_lora share it.

A folder appears in loras/ only once it is complete. An older one of that name becomes NAME-previous, or
NAME-previous-2 and so on: none is ever deleted.
"""

import contextlib
import dataclasses
import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from datasets import Dataset
from transformers import Trainer

from helpers.adapters.attaching import check_module_name
from helpers.adapters.card import write_card
from helpers.adapters.chat_template import record_template
from helpers.adapters.fingerprint import make_prompts, take_fingerprint
from helpers.adapters.folders import AdapterFolder
from helpers.adapters.webui_parameters import build_parameters
from helpers.common.choices import record_choices
from helpers.common.errors import TrainingError
from helpers.common.files import replace_when_complete, write_json
from helpers.common.locks import hold
from helpers.common.machine import Choice, measure_peak_mb, name_device
from helpers.common.outputs import check_output, make_name
from helpers.common.paths import find_commit
from helpers.common.training_settings import TrainingSettings
from helpers.common.workspaces import remove_abandoned
from helpers.loading.chat_templates import OWN, PickedTemplate
from helpers.loading.model import LoadedModel
from helpers.loading.tokenizer import make_chat_tokenizer
from helpers.tasks.data import TaskData
from helpers.tasks.summary import describe_data
from helpers.training.checkpoints import CHECKPOINTS, checkpoints_folder, holds_checkpoints
from helpers.training.watching import describe_watching
from helpers.weights.folders import ModelFolder
from helpers.weights.step_memory import estimate_saving


def check_run_output(output: Path, base: ModelFolder, data: TaskData, settings: TrainingSettings) -> None:
    """Decides before the training whether LoRA and checkpoints can be written; errors as check_output.

    A folder of that name has to be one that the kit trained.
    """
    check_module_name(output.name)
    rows = min(len(data.train), settings.max_rows or len(data.train))
    steps = int(rows * settings.epochs / (settings.batch_size * settings.accumulation))
    lora, checkpoint = estimate_saving(base.config, settings.lora_r, settings.targets, settings.optimizer)
    kept = min(steps // settings.checkpoint_steps, CHECKPOINTS + 1) if settings.checkpoint_steps else 0
    check_output(output, "folder", was_trained_here, lora)
    check_output(checkpoints_folder() / output.name, "folder", holds_checkpoints, lora + kept * checkpoint)


def was_trained_here(folder: Path) -> bool:
    """True for the folder of a LoRA that the kit trained: it has a run.json."""
    return (folder / "run.json").is_file()


@contextlib.contextmanager
def hold_run(output: Path) -> Iterator[None]:
    """Holds the names of a new LoRA and of its checkpoints during its training; AlreadyThereError as hold.

    Of the processes that `accelerate launch` starts, only the first writes and holds.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    with hold(output, "a training"), hold(checkpoints_folder() / output.name, "a training"):
        remove_abandoned(output)  # a complete LoRA of a killed training takes its place
        yield


@contextlib.contextmanager
def save_run(
    trainer: Trainer, loaded: LoadedModel, data: TaskData, settings: TrainingSettings, output: Path
) -> Iterator[Path]:
    """Yields a temporary folder for save_pretrained, then adds the records and makes it `output`.

    run.json holds what was measured, training_parameters.json the settings by the WebUI's names, README.md
    and report.html the card. Raises TrainingError for a training without a step, else as check_output and
    hold; the trained model stays in memory.
    """
    check_output(output, "folder", was_trained_here)
    with hold(output, "a training"), write_run(trainer, loaded, data, settings, output) as fresh:
        yield fresh


@contextlib.contextmanager
def write_run(
    trainer: Trainer,
    loaded: LoadedModel,
    data: TaskData,
    settings: TrainingSettings,
    output: Path,
    batch_reason: str = "",
) -> Iterator[Path]:
    """As save_run, for a caller that holds the name. `batch_reason`: why batch_size `auto` is what it is."""
    refuse_no_step(trainer)
    with open_adapter_folder(output) as fresh:
        yield fresh
        folder = AdapterFolder(fresh)
        # By its relative path, as the WebUI writes it.
        base = {"base_model_name_or_path": f"models/{loaded.name}"}
        write_json(fresh / "adapter_config.json", {**folder.config, **base})
        facts: dict[str, Any] = {"chat_template": record_template(fresh, describe_template(loaded))}
        facts |= {"batch_reason": batch_reason} if batch_reason else {}
        write_json(fresh / "run.json", describe_run(trainer, loaded, data, settings) | facts)
        steps = trainer.state.max_steps
        parameters = build_parameters(output.name, asdict(settings), add_eos_token=True, steps=steps)
        write_json(fresh / "training_parameters.json", parameters)
        (fresh / "README.md").unlink(missing_ok=True)  # PEFT's empty form
        write_card(AdapterFolder(fresh))  # read again: the config has changed


def refuse_no_step(trainer: Trainer) -> None:
    """A TrainingError if the training made no step: its LoRA would change nothing."""
    if not trainer.state.global_step:
        raise TrainingError("The training made no step, so that nothing is saved.", "Let it make one.")


@contextlib.contextmanager
def open_adapter_folder(folder: Path) -> Iterator[Path]:
    """Yields a folder that becomes `folder` if the block succeeds; an older one becomes NAME-previous."""
    with replace_when_complete(folder, set_aside=find_free_name) as fresh:
        yield fresh


def find_free_name(folder: Path) -> Path:
    """The first of NAME-previous, NAME-previous-2, NAME-previous-3 ... that is not there."""
    ends = itertools.chain(["-previous"], (f"-previous-{number}" for number in itertools.count(2)))
    names = (folder.with_name(make_name(folder.name, after=end)) for end in ends)
    return next(path for path in names if not os.path.lexists(path))


def describe_template(loaded: LoadedModel) -> PickedTemplate:
    """The chat template that the tokenizer has now, and where it is from."""
    source = str(loaded.tokenizer.get_chat_template())
    picked = loaded.chat_template
    if picked and picked.source == source:
        return picked
    return PickedTemplate(OWN, source, "the tokenizer had it")


def list_choices(loaded: LoadedModel, trainer: Trainer) -> dict[str, Choice[Any]]:
    """What was chosen for a training on this machine, and why: kernel, checkpointing, CUDA graphs.

    A trainer that is not the kit's made no choice.
    """
    choices = {**loaded.choices, **getattr(trainer, "choices", {})}
    graphs = getattr(trainer, "graphs", None)
    if graphs and graphs.failed:
        choices["cuda_graphs"] = Choice(False, f"they could not be recorded ({graphs.failed})")
    return choices


def describe_run(
    trainer: Trainer, loaded: LoadedModel, data: TaskData, settings: TrainingSettings
) -> dict[str, Any]:
    """The content of run.json: base, data, settings, time, memory, loss curve and fingerprint."""
    history = trainer.state.log_history
    losses = [float(entry["loss"]) for entry in history if "loss" in entry]
    seconds = next(entry["train_runtime"] for entry in reversed(history) if "train_runtime" in entry)
    watched = describe_watching(trainer)
    model: Any = trainer.model
    adapted = dataclasses.replace(loaded, model=model.eval())
    chat = make_chat_tokenizer(loaded.tokenizer)
    prompts = [one for one in make_prompts(data.template) if len(chat.tokenize(one)) <= loaded.context]
    return {
        "base": loaded.name,
        "base_sha256": loaded.folder.hashes,
        "rows": len(cast(Dataset, trainer.train_dataset)),
        "settings": asdict(settings),
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "seconds": round(seconds, 1),
        "steps": trainer.state.global_step,
        "planned_steps": trainer.state.max_steps,  # more than `steps` if the training was ended early
        "loss": [round(loss, 4) for loss in losses],
        **({"validation": watched} if watched else {}),
        "peak_mb": measure_peak_mb(),
        "device": name_device(),
        "choices": record_choices(list_choices(loaded, trainer)),
        "commit": find_commit(),
        "date": time.strftime("%Y-%m-%d"),
        "fingerprint": [take_fingerprint(adapted, messages) for messages in prompts],
        **data.list_facts(),
        **describe_data(data),
    }
