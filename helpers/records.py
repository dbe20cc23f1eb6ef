"""What a training leaves behind: the adapter's folder with what was measured, and the checkpoints of one that was interrupted."""

import contextlib
import dataclasses
import hashlib
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from transformers import Trainer

from helpers import KitError, find_commit, find_home, replace_when_complete, write_json
from helpers.cards import write_card
from helpers.dataset import Row
from helpers.loading import LoadedModel
from helpers.lora_folders import read_run
from helpers.machine import measure_peak_mb, name_device
from helpers.proving import take_fingerprint
from helpers.settings import TrainingSettings
from helpers.templating import Template


def refuse_unwritable(folder: Path) -> None:
    """KitError, before hours of work, when nothing can be written beside `folder`."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix="."):
            pass
    except OSError as error:
        raise KitError(f"Nothing can be written to {folder.parent} ({error.strerror}).", "Choose another folder, or mend its permissions.") from None


@contextlib.contextmanager
def open_adapter_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder to save an adapter in; it becomes `folder` when the block ends well, and an older one NAME-previous."""
    with replace_when_complete(folder) as fresh:
        yield fresh
        if folder.is_dir():
            with replace_when_complete(folder.with_name(folder.name + "-previous")) as previous:
                folder.rename(previous)


def record_run(
    trainer: Trainer, loaded: LoadedModel, folder: Path, rows: list[Row], template: Template, settings: TrainingSettings, facts: dict | None = None
) -> dict:
    """Writes what was measured into a saved adapter's folder: run.json and training_parameters.json; returns the content of run.json.

    Names the base in adapter_config.json by its relative path, as the WebUI does.
    """
    losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    write_json(folder / "adapter_config.json", {**config, "base_model_name_or_path": f"models/{loaded.name}"})
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty form
    adapted = dataclasses.replace(loaded, model=trainer.model.eval())
    run = {
        "base": loaded.name,
        "base_sha256": read_base_hash(loaded.folder),
        "template": template.name,
        "template_sha256": template.sha256,
        "rows": len(trainer.train_dataset),
        "rows_sha256": hash_rows(rows),
        "settings": asdict(settings),
        "trainable_parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "seconds": round(next(entry["train_runtime"] for entry in reversed(trainer.state.log_history) if "train_runtime" in entry), 1),
        "steps": trainer.state.global_step,
        "planned_steps": trainer.state.max_steps,  # more than `steps` where the training was ended early
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
    write_card(folder)
    return run


def hash_rows(rows: list[Row]) -> str:
    """sha256 of the rows, in their order."""
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def read_base_hash(folder: Path) -> dict[str, str]:
    """sha256 of each weight file of the base, as its weights.json has them; empty without one."""
    record = folder / "weights.json"
    files = json.loads(record.read_text(encoding="utf-8"))["files"] if record.is_file() else {}
    return {name: facts["sha256"] for name, facts in files.items()}


def add_to_run(folder: Path, **facts: object) -> None:
    """Adds facts, such as evaluations, to the run.json of an adapter, and to its model card; dataclasses become objects."""
    write_json(folder / "run.json", {**read_run(folder), **facts})
    write_card(folder)


def describe_checkpoints(steps: int) -> dict[str, object]:
    """The arguments of SFTConfig for a checkpoint after every so many steps; two are kept, since a kill may leave the last half written."""
    return {"save_strategy": "steps", "save_steps": steps, "save_total_limit": 2} if steps else {}


def open_checkpoints(name: str, rows: list[Row], settings: TrainingSettings, resume: bool) -> tuple[Path, Path | None]:
    """(folder for the checkpoints of the LoRA `name`, checkpoint to go on from or None), below runs/checkpoints/.

    KitError when there is nothing to resume, when what is there was made of other rows or settings, or when it would be overwritten.
    """
    folder = find_home() / "runs" / "checkpoints" / name
    last, plan = find_last_checkpoint(folder), {"rows_sha256": hash_rows(rows), "settings": asdict(settings)}
    if resume and not last:
        raise KitError(f"There is no checkpoint of {name} in {folder}.", "Leave out --resume to start that training.")
    if last and not resume:
        raise KitError(f"An interrupted training of {name} left {last}.", f"Add --resume to go on from there, or delete {folder}.")
    if last and json.loads((folder / "plan.json").read_text(encoding="utf-8")) != plan:
        raise KitError(f"{folder} is of other rows or settings.", "Repeat those of the interrupted training, or delete that folder.")
    write_json(folder / "plan.json", plan)
    return folder, last


def list_unfinished() -> dict[str, int]:
    """Trainings that began and left no LoRA yet: its name, and the step of the last checkpoint (0 where there is none)."""
    names = sorted(plan.parent.name for plan in (find_home() / "runs" / "checkpoints").glob("*/plan.json"))
    found = {name: find_last_checkpoint(find_home() / "runs" / "checkpoints" / name) for name in names}
    return {name: int(last.name.removeprefix("checkpoint-")) if last else 0 for name, last in found.items()}


def find_last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end: transformers writes trainer_state.json last."""
    complete = []
    for state in folder.glob("checkpoint-*/trainer_state.json"):
        with contextlib.suppress(json.JSONDecodeError):
            complete.append((json.loads(state.read_text(encoding="utf-8"))["global_step"], state.parent))
    return max(complete)[1] if complete else None
