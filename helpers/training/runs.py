"""The end of a training: the LoRA's folder, with what was measured. Lesson 4 and train_lora share it.

A folder appears in loras/ only once it is complete; an older one of that name becomes NAME-previous.
"""

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from datasets import Dataset
from transformers import Trainer

from helpers.adapters.card import write_card
from helpers.adapters.chat_template import record_template
from helpers.adapters.fingerprint import make_prompts, take_fingerprint
from helpers.adapters.folders import AdapterFolder
from helpers.adapters.webui_parameters import build_parameters
from helpers.common.errors import ResourceError
from helpers.common.files import replace_when_complete, write_json
from helpers.common.machine import measure_peak_mb, name_device
from helpers.common.paths import find_commit
from helpers.common.training_settings import TrainingSettings
from helpers.loading.chat_templates import OWN, PickedTemplate
from helpers.loading.model import LoadedModel
from helpers.loading.tokenizer import make_chat_tokenizer
from helpers.tasks.data import TaskData
from helpers.tasks.summary import describe_data
from helpers.training.watching import describe_watching


def refuse_unwritable(folder: Path) -> None:
    """A ResourceError, before hours of work, if nothing can be written beside `folder`."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix="."):
            pass
    except OSError as error:
        problem = f"Nothing can be written to {folder.parent} ({error.strerror})."
        raise ResourceError(problem, "Choose another folder, or fix its permissions.") from None


@contextlib.contextmanager
def save_run(
    trainer: Trainer, loaded: LoadedModel, data: TaskData, settings: TrainingSettings, output: Path
) -> Iterator[Path]:
    """Yields a temporary folder for save_pretrained, then adds the records and makes it `output`.

    run.json holds what was measured, training_parameters.json the settings by the WebUI's names, README.md
    and report.html the card.
    """
    with open_adapter_folder(output) as fresh:
        yield fresh
        folder = AdapterFolder(fresh)
        # By its relative path, as the WebUI writes it.
        base = {"base_model_name_or_path": f"models/{loaded.name}"}
        write_json(fresh / "adapter_config.json", {**folder.config, **base})
        facts = {"chat_template": record_template(fresh, describe_template(loaded))}
        write_json(fresh / "run.json", describe_run(trainer, loaded, data, settings) | facts)
        steps = trainer.state.max_steps
        parameters = build_parameters(output.name, asdict(settings), add_eos_token=True, steps=steps)
        write_json(fresh / "training_parameters.json", parameters)
        (fresh / "README.md").unlink(missing_ok=True)  # PEFT's empty form
        write_card(AdapterFolder(fresh))  # read again: the config has changed


@contextlib.contextmanager
def open_adapter_folder(folder: Path) -> Iterator[Path]:
    """Yields a folder that becomes `folder` if the block succeeds; an older one becomes NAME-previous."""
    with replace_when_complete(folder) as fresh:
        yield fresh
        if folder.is_dir():
            with replace_when_complete(folder.with_name(folder.name + "-previous")) as previous:
                folder.rename(previous)


def describe_template(loaded: LoadedModel) -> PickedTemplate:
    """The chat template that the tokenizer has now, and where it is from."""
    source = str(loaded.tokenizer.get_chat_template())
    picked = loaded.chat_template
    if picked and picked.source == source:
        return picked
    return PickedTemplate(OWN, source, "the tokenizer had it")


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
        "commit": find_commit(),
        "date": time.strftime("%Y-%m-%d"),
        "fingerprint": [take_fingerprint(adapted, messages) for messages in prompts],
        **data.list_facts(),
        **describe_data(data),
    }
