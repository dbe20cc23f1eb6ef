"""What the lessons train for: a data set, a template of the same name, and the LoRA made from both."""

import os
from dataclasses import dataclass
from pathlib import Path

from helpers.adapters.folders import AdapterFolder, find_adapter, list_shipped, loras_folder
from helpers.common.errors import UnsupportedError
from helpers.common.lanes import Lane
from helpers.common.paths import find_file, find_home
from helpers.common.presets import pick_settings
from helpers.loading.model import load_model
from helpers.tasks.data import TaskData, load_task_data
from helpers.tasks.template_file import load_template
from helpers.training.train import train_lora

SMALL_RUN = 120  # rows of the LoRA that is trained if lesson 4 was not run


@dataclass(frozen=True)
class Task:
    """A data set and a template of one name."""

    name: str

    @property
    def data(self) -> str:
        """Path of the CSV."""
        return f"data/{self.name}/dataset.csv"

    @property
    def template(self) -> str:
        """Path of the template."""
        return f"templates/{self.name}.yaml"

    @property
    def adapter(self) -> str:
        """The LoRA's folder below loras/."""
        return self.name.replace("_", "-")

    def load(self) -> TaskData:
        """The rows, split as every lesson and command splits them."""
        return load_task_data(self.data, self.template)


def pick_task() -> Task:
    """The lessons' task, or what KIT_TASK names.

    Raises NotFoundError if its CSV or its template is missing, UnsupportedError if it has no labels, which
    the cells of lesson 4 judge.
    """
    task = Task(os.environ.get("KIT_TASK") or "college_preferences")
    find_file(task.data, "CSV file of KIT_TASK")
    find_file(task.template, "template of KIT_TASK")
    if load_template(task.template).kind != "labels":
        problem = f"The lessons are about labels, and {task.template} has free answers."
        raise UnsupportedError(problem, "Train it with `python -m helpers.training`; lesson 4 says how.")
    return task


def name_board(task: Task) -> Path:
    """Where the lessons keep their scoreboard of this task."""
    return find_home() / "runs" / task.name / "scoreboard.json"


def find_ready(task: Task, lane: Lane) -> str | None:
    """The name of a LoRA for this task and this lane's model that comes with the kit; None without one."""
    for name in list_shipped():
        run = find_adapter(name).run
        if run.get("template") == task.name and run.get("base") == lane.folder:
            return name
    return None


def ensure_adapter(task: Task, lane: Lane) -> AdapterFolder:
    """The folder of the task's LoRA: lesson 4's, or else the one that comes with the kit.

    If there is neither, a small one is trained first (about a minute).
    """
    folder = loras_folder() / task.adapter
    ready = find_ready(task, lane)
    if not folder.exists() and ready:
        return find_adapter(ready)
    if not folder.exists():
        settings = pick_settings(lane.name).replace({"max_rows": SMALL_RUN, "checkpoint_steps": 0})
        loaded = load_model(lane.folder, purpose="training")
        train_lora(loaded, task.load(), settings, folder, progress=False)
    return find_adapter(task.adapter)
