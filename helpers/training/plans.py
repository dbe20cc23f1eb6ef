"""What a training is made of, as plan.json beside its checkpoints keeps it, and what differs between two."""

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.common.errors import DamagedError
from helpers.common.files import read_json
from helpers.common.training_settings import TrainingSettings
from helpers.tasks.data import TaskData, hash_rows

if TYPE_CHECKING:
    from helpers.weights.folders import ModelFolder

COMPARED = {  # in a plan, beside base and settings; with the words for a difference
    "template_sha256": "another template",
    "chat_template_sha256": "another chat template",
    "rows_sha256": "other rows",
    "validation_sha256": "other validation rows",
}


def make_plan(data: TaskData, settings: TrainingSettings, folder: "ModelFolder", base: str) -> dict[str, Any]:
    """What the result of a training depends on, without the chat template: base, prompts, rows, settings."""
    return {
        "base": base,
        "base_sha256": folder.hashes or hash_ends(folder.weight_files),
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
    changes = [words for key, words in COMPARED.items() if key in now and old[key] != now[key]]
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
    plan = read_json(path, remedy)
    if not isinstance(plan.get("settings", {}), dict):
        raise DamagedError(f"{path} has no settings.", remedy)
    return plan
