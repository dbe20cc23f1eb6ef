"""Whether a checkpoint is whole, found out before a training continues from it.

transformers reads its files one after the other, with errors of many kinds. Nothing in them is run: they are
read as tensors and numbers alone.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import torch
from transformers import TrainerControl, TrainerState
from transformers.trainer_pt_utils import safe_globals

from helpers.adapters.folders import AdapterFolder
from helpers.common.errors import DamagedError, KitError
from helpers.common.files import read_json
from helpers.training.guards import is_out_of_memory

STATE = "trainer_state.json"


class Entry(TypedDict, total=False):
    """What was logged after a step."""

    loss: float
    eval_loss: float
    eval_exact: float
    step: int


class State(TypedDict):
    """trainer_state.json, as far as a training depends on it."""

    global_step: int
    max_steps: int
    num_train_epochs: int
    epoch: float | None
    log_history: list[Entry]
    stateful_callbacks: NotRequired[dict[str, Any]]


def find_damage(folder: Path) -> str:
    """What is wrong with a checkpoint, in words; empty if it is whole."""
    checks: list[tuple[str, Callable[[Path], None]]] = [(STATE, check_state)]
    if not any(folder.glob("*fsdp*")):  # several processes share out what one writes into these files
        checks += [("optimizer.pt", check_optimizer), ("scheduler.pt", check_scheduler)]
        checks += [(path.name, check_random) for path in sorted(folder.glob("rng_state*.pth"))]
        checks += [] if any(folder.glob("rng_state*.pth")) else [("rng_state.pth", check_random)]
        checks += [("adapter_model.safetensors", check_weights)]
    for name, check in checks:
        if not (folder / name).is_file():
            return f"{name} is missing"
        try:
            check(folder / name)
        except KitError as error:
            return error.problem.rstrip(".")
        except Exception as error:  # of any kind: the files are pickles
            return f"{name} cannot be read ({type(error).__name__})"
    return ""


def check_state(path: Path) -> None:
    """Raises an error of some kind for a state that transformers cannot take up."""
    state = read_json(path, "", State)
    step = int(path.parent.name.removeprefix("checkpoint-"))
    if not 0 < state["global_step"] == step <= state["max_steps"]:
        raise DamagedError(f"{path.name} is not that of step {step}.", "")
    callbacks: Any = TrainerState.load_from_json(str(path)).stateful_callbacks  # a dict, in a file
    if control := (callbacks or {}).get("TrainerControl"):
        TrainerControl.from_state(control)


def read_tensors(path: Path) -> Any:
    """What torch.save wrote, if it is tensors, numbers and texts alone."""
    with safe_globals(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a pickle of another kind, which is refused then
        return torch.load(path, map_location="cpu", weights_only=True)


def check_optimizer(path: Path) -> None:
    """Raises an error unless the file has the state of an optimizer."""
    found = read_tensors(path)
    if not isinstance(found["state"], Mapping) or not [group["params"] for group in found["param_groups"]]:
        raise DamagedError(f"{path.name} is not the state of an optimizer.", "")


def check_scheduler(path: Path) -> None:
    """Raises an error unless the file has the state of a schedule."""
    int(read_tensors(path)["last_epoch"])


def check_random(path: Path) -> None:
    """Raises an error unless the file has the states of random numbers."""
    found = read_tensors(path)
    torch.Generator().set_state(found["cpu"])
    if len(found["python"]) != 3 or len(found["numpy"]) != 5:
        raise DamagedError(f"{path.name} has no states of random numbers.", "")


def check_weights(path: Path) -> None:
    """Raises an error unless the checkpoint has a LoRA that can be loaded."""
    AdapterFolder(path.parent).check_complete()


@contextlib.contextmanager
def explain_checkpoint(folder: Path | None, count_steps: Callable[[], int]) -> Iterator[None]:
    """Turns what a checkpoint leads to before the first step after it into a DamagedError.

    `count_steps` says how many steps were made, those before the checkpoint included.
    """
    try:
        yield
    except (KitError, OSError, ImportError, MemoryError):
        raise
    except Exception as error:
        begun = folder is None or count_steps() > int(folder.name.removeprefix("checkpoint-"))
        if begun or (isinstance(error, RuntimeError) and is_out_of_memory(error)):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        problem = f"The training cannot continue from {folder} ({reason})."
        raise DamagedError(problem, f"Delete {folder} to continue from an older one.") from error
