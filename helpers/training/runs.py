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

from helpers.adapters.card import write_card
from helpers.adapters.fingerprint import take_fingerprint
from helpers.adapters.folders import read_run
from helpers.common.errors import KitError
from helpers.common.files import replace_when_complete, write_json
from helpers.common.machine import measure_peak_mb, name_device
from helpers.common.paths import find_commit
from helpers.loading.model import LoadedModel
from helpers.tasks.rows import Row
from helpers.tasks.template import Template
from helpers.training.settings import TrainingSettings


def refuse_unwritable(folder: Path) -> None:
    """KitError, before hours of work, when nothing can be written beside `folder`."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix="."):
            pass
    except OSError as error:
        raise KitError(
            f"Nothing can be written to {folder.parent} ({error.strerror}).",
            "Choose another folder, or mend its permissions.",
        ) from None


@contextlib.contextmanager
def open_adapter_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder to save an adapter in; it becomes `folder` when the block ends well, and an older one NAME-previous."""
    with replace_when_complete(folder) as fresh:
        yield fresh
        if folder.is_dir():
            with replace_when_complete(folder.with_name(folder.name + "-previous")) as previous:
                folder.rename(previous)


def record_run(
    trainer: Trainer,
    loaded: LoadedModel,
    folder: Path,
    rows: list[Row],
    template: Template,
    settings: TrainingSettings,
    facts: dict | None = None,
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
        "seconds": round(
            next(
                entry["train_runtime"]
                for entry in reversed(trainer.state.log_history)
                if "train_runtime" in entry
            ),
            1,
        ),
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
