"""Checkpoints of a training that was interrupted, below runs/checkpoints/NAME."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.common.errors import AlreadyThereError, DamagedError, MismatchError, NotFoundError
from helpers.common.files import read_json, write_json
from helpers.common.paths import find_home
from helpers.tasks.data import hash_rows
from helpers.tasks.rows import Row
from helpers.training.settings import TrainingSettings

if TYPE_CHECKING:
    from transformers import TrainingArguments


def checkpoints_folder() -> Path:
    """Where checkpoints are: runs/checkpoints/ in the kit's home."""
    return find_home() / "runs" / "checkpoints"


def keep_checkpoints(config: "TrainingArguments", steps: int) -> None:
    """Lets a training write a checkpoint every `steps` optimizer steps; 0 writes none.

    The last two are kept, since a kill may leave the last one half written.
    """
    if steps:
        config.set_save("steps", steps, total_limit=2)


def open_checkpoints(
    name: str, rows: list[Row], settings: TrainingSettings, resume: bool
) -> tuple[Path, Path | None]:
    """(folder for the checkpoints of the LoRA `name`, checkpoint to resume from or None).

    Raises NotFoundError if there is nothing to resume, MismatchError if what is there was made with other
    rows or settings, AlreadyThereError if it would be overwritten.
    """
    folder = checkpoints_folder() / name
    last = find_last_checkpoint(folder)
    plan = {"rows_sha256": hash_rows(rows), "settings": asdict(settings)}
    if resume and not last:
        problem = f"There is no checkpoint of {name} in {folder}."
        raise NotFoundError(problem, "Omit --resume to start that training.")
    if last and not resume:
        problem = f"An interrupted training of {name} left {last}."
        raise AlreadyThereError(problem, f"Add --resume to continue from there, or delete {folder}.")
    if last and read_plan(folder) != plan:
        remedy = "Use those of the interrupted training, or delete that folder."
        raise MismatchError(f"{folder} was made with other rows or settings.", remedy)
    write_json(folder / "plan.json", plan)
    return folder, last


def read_plan(folder: Path) -> dict[str, Any]:
    """What an interrupted training was made of. DamagedError without a readable plan.json."""
    path, remedy = folder / "plan.json", f"Delete {folder} to start that training again."
    if not path.is_file():
        raise DamagedError(f"{path} is missing.", remedy)
    return read_json(path, remedy)


def list_unfinished() -> dict[str, int]:
    """Trainings that began and left no LoRA: name and step of the last checkpoint (0 without one)."""
    found = {}
    for plan in sorted(checkpoints_folder().glob("*/plan.json")):
        last = find_last_checkpoint(plan.parent)
        found[plan.parent.name] = int(last.name.removeprefix("checkpoint-")) if last else 0
    return found


def find_last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written completely: transformers writes trainer_state.json last."""
    complete = []
    for state in folder.glob("checkpoint-*/trainer_state.json"):
        try:
            step = json.loads(state.read_text(encoding="utf-8"))["global_step"]
        except (ValueError, TypeError, KeyError):  # the file itself was cut short, or is something else
            continue
        complete.append((step, state.parent))
    return max(complete)[1] if complete else None
