"""What a training leaves behind: the adapter's folder with what was measured, and the checkpoints of one that was interrupted."""

import contextlib
import json
from dataclasses import asdict
from pathlib import Path

from helpers.common.errors import KitError
from helpers.common.files import write_json
from helpers.common.paths import find_home
from helpers.tasks.rows import Row
from helpers.training.runs import hash_rows
from helpers.training.settings import TrainingSettings


def describe_checkpoints(steps: int) -> dict[str, object]:
    """The arguments of SFTConfig for a checkpoint after every so many steps; two are kept, since a kill may leave the last half written."""
    return {"save_strategy": "steps", "save_steps": steps, "save_total_limit": 2} if steps else {}


def open_checkpoints(
    name: str, rows: list[Row], settings: TrainingSettings, resume: bool
) -> tuple[Path, Path | None]:
    """(folder for the checkpoints of the LoRA `name`, checkpoint to go on from or None), below runs/checkpoints/.

    KitError when there is nothing to resume, when what is there was made of other rows or settings, or when it would be overwritten.
    """
    folder = find_home() / "runs" / "checkpoints" / name
    last, plan = find_last_checkpoint(folder), {"rows_sha256": hash_rows(rows), "settings": asdict(settings)}
    if resume and not last:
        raise KitError(
            f"There is no checkpoint of {name} in {folder}.", "Leave out --resume to start that training."
        )
    if last and not resume:
        raise KitError(
            f"An interrupted training of {name} left {last}.",
            f"Add --resume to go on from there, or delete {folder}.",
        )
    if last and json.loads((folder / "plan.json").read_text(encoding="utf-8")) != plan:
        raise KitError(
            f"{folder} is of other rows or settings.",
            "Repeat those of the interrupted training, or delete that folder.",
        )
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
