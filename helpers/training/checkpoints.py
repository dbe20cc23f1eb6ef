"""Checkpoints of a training that was interrupted, below runs/checkpoints/NAME."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.common.errors import AlreadyThereError, DamagedError, MismatchError, NotFoundError
from helpers.common.files import hash_text, read_json, write_json
from helpers.common.paths import find_home
from helpers.common.training_settings import TrainingSettings
from helpers.tasks.data import TaskData, hash_rows

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from helpers.loading.model import LoadedModel

COMPARED = {  # in a plan, beside base and settings; with the words for a difference
    "template_sha256": "another template",
    "chat_template_sha256": "another chat template",
    "rows_sha256": "other rows",
    "validation_sha256": "other validation rows",
}


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
    name: str, data: TaskData, settings: TrainingSettings, resume: bool, loaded: "LoadedModel"
) -> tuple[Path, Path | None]:
    """(folder for the checkpoints of the LoRA `name`, checkpoint to resume from or None).

    Raises NotFoundError if there is nothing to resume, MismatchError if what is there was made with another
    base or template, or other rows or settings, AlreadyThereError if it would be overwritten.
    """
    folder = checkpoints_folder() / name
    last = find_last_checkpoint(folder)
    plan = make_plan(data, settings, loaded)
    if resume and not last:
        problem = f"There is no checkpoint of {name} in {folder}."
        raise NotFoundError(problem, "Omit --resume to start that training.")
    if last and not resume:
        problem = f"An interrupted training of {name} left {last}."
        raise AlreadyThereError(problem, f"Add --resume to continue from there, or delete {folder}.")
    if last and (changes := list_changes(read_plan(folder), plan)):
        problem = f"The interrupted training of {name} had {', '.join(changes)}."
        raise MismatchError(problem, f"Use what it was started with, or delete {folder}.")
    write_json(folder / "plan.json", plan)
    return folder, last


def make_plan(data: TaskData, settings: TrainingSettings, loaded: "LoadedModel") -> dict[str, Any]:
    """What the result of a training depends on: base, text of the prompts, rows and settings."""
    return {
        "base": loaded.name,
        "base_sha256": loaded.folder.hashes or hash_ends(loaded.folder.weight_files),
        "chat_template_sha256": hash_text(str(loaded.tokenizer.chat_template)),
        "template_sha256": data.template.sha256,
        "rows_sha256": hash_rows(data.train),
        "validation_sha256": hash_rows(data.validation),
        "settings": asdict(settings),
    }


def hash_ends(files: list[Path]) -> dict[str, str]:
    """sha256 of the last MiB of each file, which are weights: for a folder without recorded hashes."""
    found = {}
    for path in files:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - (1 << 20), 0))
            found[path.name] = hashlib.sha256(file.read()).hexdigest()
    return found


def list_changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What two plans differ in, in words. A plan of an earlier version of the kit does not say all."""
    old = {**now, **before}
    changes = [words for key, words in COMPARED.items() if old[key] != now[key]]
    if old["base_sha256"] != now["base_sha256"]:  # the same base may have another name by now
        same = old["base"] == now["base"]
        changes.append(f"other weights in {now['base']}" if same else f"the base {old['base']}")
    wanted = {**asdict(TrainingSettings()), **old["settings"]}  # an older plan lacks newer settings
    changed = [
        f"{key} {wanted.get(key)}" for key, value in now["settings"].items() if wanted.get(key) != value
    ]
    return changes + changed


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
