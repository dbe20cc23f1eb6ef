"""A YAML template in, prompts out: one renderer for training, evaluation, the API and the LoRA lessons.

A template has the keys of the 2023 tutorial: `instruction` (the system message), `task` (the user message, with {columns} of the
CSV) and `label` (the assistant's answer for each value of the label column). Placeholders are filled in one pass, so a brace inside
a comment stays what it is.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from helpers.adapters.folders import find_adapter, loras_folder
from helpers.common.lanes import Lane
from helpers.common.paths import find_file
from helpers.loading.model import load_model
from helpers.tasks.rows import load_rows
from helpers.tasks.split import split_rows
from helpers.tasks.template import load_template
from helpers.training.settings import pick_settings
from helpers.training.train import train_lora


@dataclass(frozen=True)
class Task:
    """What the lessons train for: a data set and a template of one name."""

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


def pick_task() -> Task:
    """The lessons' task, or what KIT_TASK names. KitError when its CSV or its template is not there."""
    task = Task(os.environ.get("KIT_TASK") or "college_preferences")
    find_file(task.data, "CSV file of KIT_TASK")
    find_file(task.template, "template of KIT_TASK")
    return task


def ensure_adapter(task: Task, lane: Lane) -> Path:
    """The folder of the task's LoRA; when it is missing, a small one is trained first (about a minute)."""
    folder = loras_folder() / task.adapter
    if not folder.exists():
        template, split = load_template(task.template), {"seed": 0, "test_size": 0.2}
        train, _ = split_rows(load_rows(task.data, template), **split)
        settings = pick_settings(lane.name).replace({"max_rows": 120})
        facts = {"data": task.data, "template_file": task.template, "split": split}
        train_lora(
            load_model(lane.folder, purpose="training"),
            train,
            template,
            settings,
            folder,
            facts,
            progress=False,
        )
    return find_adapter(task.adapter)
