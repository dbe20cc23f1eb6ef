"""Checkpoints of a training that was interrupted, below runs/checkpoints/NAME."""

import contextlib
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.common.errors import (
    AlreadyThereError,
    DamagedError,
    KitError,
    MismatchError,
    NotFoundError,
    TrainingError,
)
from helpers.common.files import hash_text, read_json, write_json
from helpers.common.machine import Choice
from helpers.common.paths import find_home
from helpers.common.training_settings import TrainingSettings
from helpers.tasks.data import TaskData
from helpers.training.plans import list_changes, make_plan, read_plan

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from helpers.loading.model import LoadedModel
    from helpers.weights.folders import ModelFolder

BATCH = ("batch_size", "learning_rate")  # what batch_size `auto` decides
CHECKPOINTS = 2  # that are kept: a kill may leave the last one half written
NAME = re.compile(r"checkpoint-[1-9][0-9]{0,17}")
# Some of them are in any checkpoint. The card comes first: a checkpoint that was cut short may have no more.
WRITTEN = {"adapter_model.safetensors", "adapter_config.json", "trainer_state.json"}
CARD = "README.md"
# How the names begin of all that transformers, PEFT and accelerate write into a checkpoint.
WRITTEN_BEGIN = re.compile(
    r"(adapter|model|pytorch_model|optimizer|scheduler|scaler|rng_state|random_states|train|global_step|zero"
    r"|latest|tokenizer|special_tokens|added_tokens|vocab|merges|chat_template|processor|README\.md$)"
)


def checkpoints_folder() -> Path:
    """Where checkpoints are: runs/checkpoints/ in the kit's home."""
    return find_home() / "runs" / "checkpoints"


def holds_checkpoints(folder: Path) -> bool:
    """True for a folder that a training of the kit made (it has its plan), or that is empty."""
    path = folder / "plan.json"
    if not path.is_file():
        return not any(folder.iterdir())
    try:
        return "rows_sha256" in read_json(path, "Delete it.")
    except KitError:
        return False


def remove_checkpoints(folder: Path) -> None:
    """Removes what trainings of the kit wrote in a folder of checkpoints, and the folder if it is empty then.

    A link to a folder stays, and so does what anybody else put there.
    """
    for path in list_checkpoints(folder):
        remove_checkpoint(path)
    (folder / "plan.json").unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # a link, or not empty
        folder.rmdir()


def remove_checkpoint(path: Path) -> None:
    """Removes what a training wrote into a checkpoint; a note of the user's stays, and its folder with it."""
    for found in path.iterdir():
        if WRITTEN_BEGIN.match(found.name) and found.is_dir() and not found.is_symlink():
            shutil.rmtree(found)
        elif WRITTEN_BEGIN.match(found.name):
            found.unlink()
    with contextlib.suppress(OSError):  # not empty
        path.rmdir()


@contextlib.contextmanager
def drop_unusable(folder: Path) -> Iterator[None]:
    """If the training of the block goes wrong before its first checkpoint, nothing stays of it."""
    try:
        yield
    except TrainingError:
        if not list_checkpoints(folder):
            remove_checkpoints(folder)
        raise


def list_checkpoints(folder: Path) -> list[Path]:
    """The folders of the checkpoints, also of broken ones, newest first."""
    found = [path for path in folder.glob("checkpoint-*") if NAME.fullmatch(path.name)]
    real = [path for path in found if path.is_dir() and not path.is_symlink()]
    return sorted(real, key=count_steps, reverse=True)


def save_checkpoints(config: "TrainingArguments", steps: int) -> None:
    """Lets a training write a checkpoint every `steps` optimizer steps; 0 writes none."""
    if steps:
        config.set_save("steps", steps)


def drop_older(folder: Path, step: int, best: int | None, count: int) -> None:
    """Removes all checkpoints but `count`: that of the step `best` and the newest up to `step`.

    transformers' own rotation would also take folders that only begin like a checkpoint.
    """

    def rank(path: Path) -> tuple[bool, bool]:
        return count_steps(path) != best, count_steps(path) > step  # those beyond it could not be continued

    for path in sorted(list_checkpoints(folder), key=rank)[count:]:
        with contextlib.suppress(OSError):
            remove_checkpoint(path)


def open_checkpoints(
    name: str, data: TaskData, settings: TrainingSettings, resume: bool, loaded: "LoadedModel"
) -> tuple[Path, Path | None]:
    """(folder for the checkpoints of the LoRA `name`, checkpoint to resume from or None).

    Raises NotFoundError if there is nothing to resume, MismatchError if what is there was made with another
    base or template, or other rows or settings, AlreadyThereError if it would be overwritten.
    """
    template = {"chat_template_sha256": hash_text(str(loaded.tokenizer.chat_template))}
    plan = make_plan(data, settings, loaded.folder, loaded.name) | template
    folder, last = find_resumable(name, plan, resume)
    if last:
        say_damaged(folder, last)
        plan = {**read_plan(folder), **plan}  # with the batch that it began with
    write_json(folder / "plan.json", plan)
    return folder, last


def record_batch(folder: Path, taken: Choice[TrainingSettings]) -> None:
    """Notes in the plan which batch was taken where the settings said `auto`, for a training that resumes."""
    batch = {name: getattr(taken.value, name) for name in BATCH}
    write_json(folder / "plan.json", {**read_plan(folder), "taken": batch, "batch_reason": taken.reason})


def read_batch(folder: Path, settings: TrainingSettings) -> Choice[TrainingSettings] | None:
    """The settings with the batch that an interrupted training took; None if its plan does not say."""
    plan = read_plan(folder)
    taken = plan.get("taken")
    if not isinstance(taken, dict) or set(taken) != set(BATCH):
        return None
    reason = str(plan.get("batch_reason", "the training began with it"))
    return Choice(settings.replace(taken, str(folder / "plan.json")), reason)


def say_damaged(folder: Path, last: Path) -> None:
    """Prints, to stderr, that a newer checkpoint than `last` cannot be used, if that is so."""
    newest = list_checkpoints(folder)[0]
    if newest != last:
        words = f"{newest.name} is damaged, so that the training goes on from {last.name}"
        print(f"{folder}: {words}", file=sys.stderr)


def check_plan(
    name: str, data: TaskData, settings: TrainingSettings, resume: bool, folder: "ModelFolder"
) -> None:
    """The errors of open_checkpoints that are known before the model is loaded; its template is not."""
    find_resumable(name, make_plan(data, settings, folder, folder.path.name), resume)


def find_resumable(name: str, plan: dict[str, Any], resume: bool) -> tuple[Path, Path | None]:
    """What open_checkpoints returns and raises, for a training of this plan."""
    folder = checkpoints_folder() / name
    refuse_foreign(folder)
    last = find_last_checkpoint(folder)
    if resume and not last:
        problem = f"There is no checkpoint of {name} in {folder}."
        raise NotFoundError(problem, "Omit --resume to start that training.")
    if last and not resume:
        problem = f"An interrupted training of {name} left {last}."
        raise AlreadyThereError(problem, f"Add --resume to continue from there, or delete {folder}.")
    if last and (changes := list_changes(read_plan(folder), plan)):
        problem = f"The interrupted training of {name} had {', '.join(changes)}."
        raise MismatchError(problem, f"Use what it was started with, or delete {folder}.")
    return folder, find_whole(folder) if last else None


def refuse_foreign(folder: Path) -> None:
    """An AlreadyThereError for what only has the name of a checkpoint: it would be written or removed."""
    for path in folder.glob("checkpoint-*"):
        if NAME.fullmatch(path.name) and not is_checkpoint(path):
            problem = f"{path} has the name of a checkpoint, but no training wrote it."
            raise AlreadyThereError(problem, "Move it away.")


def is_checkpoint(path: Path) -> bool:
    """Whether a training wrote this folder, or has just begun to."""
    if path.is_symlink() or not path.is_dir():
        return False
    inside = list(path.iterdir())
    is_odd = any(not (each.is_file() or each.is_dir()) for each in inside)  # such as a pipe
    names = {each.name for each in inside}
    return not is_odd and (not inside or not names.isdisjoint(WRITTEN) or names == {CARD} and has_card(path))


def has_card(path: Path) -> bool:
    """Whether README.md is PEFT's, which begins with YAML, or the begin of one."""
    with (path / CARD).open("rb") as file:
        return file.read(4) in (b"", b"---\n")


def find_whole(folder: Path) -> Path:
    """The newest checkpoint that is whole; a DamagedError if none is."""
    from helpers.training.intact import find_damage  # which imports torch

    damage = ""
    for path in list_checkpoints(folder):
        found = find_damage(path)
        if not found:
            return path
        damage = damage or f"{path.name}: {found}"
    problem = f"No checkpoint in {folder} is whole ({damage})."
    raise DamagedError(problem, f"Delete {folder} to start that training again.")


def count_steps(checkpoint: Path) -> int:
    """The steps after which a checkpoint was written, as its name says."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


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
    for path in list_checkpoints(folder):
        state = path / "trainer_state.json"
        if not state.is_file():
            continue
        try:
            complete.append((int(read_json(state, "Delete it.")["global_step"]), path))
        except (KitError, ValueError, TypeError, KeyError, ArithmeticError, RecursionError):
            continue  # the file itself was cut short, or is something else
    return max(complete)[1] if complete else None
