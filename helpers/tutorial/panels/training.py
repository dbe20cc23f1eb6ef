"""The Training panel: a LoRA out of a CSV and a template, with the loss while it is trained; what the WebUI's Training tab does."""

import ipywidgets

from helpers.adapters.folders import list_adapters, loras_folder, name_output
from helpers.common.errors import KitError
from helpers.common.lanes import Lane
from helpers.common.paths import PROJECT
from helpers.loading.model import load_model
from helpers.tasks.rows import load_rows
from helpers.tasks.split import split_rows
from helpers.tasks.template import load_template
from helpers.training import checkpoints, settings
from helpers.training.guards import StopOnRequest
from helpers.training.train import CHECKPOINT_STEPS, train_lora
from helpers.tutorial import live_loss
from helpers.tutorial.panels.base import NONE, Panel, Stopped, make_field
from helpers.tutorial.task import Task
from helpers.weights.folders import list_models

LABELS = {
    "epochs": "Epochs", "max_rows": "Rows, 0 is all", "batch_size": "Rows a step", "learning_rate": "Learning rate",
    "lora_r": "Rank", "lora_alpha": "Alpha", "max_length": "Tokens a row",
}  # fmt: skip


SHAPES = ("lora_r", "lora_alpha", "lora_dropout", "targets")


class TrainingPanel(Panel):
    """Base, data set, template and the main settings; Start, Stop, the curve and the time left. Nothing is trained before Start is pressed."""

    title, picture = "Training", "panel-training.png"
    alt = "The Training panel: base, name, data set, template and settings, Start and Stop, the falling loss as a curve, the steps and seconds left"

    def __init__(self, task: Task, lane: Lane):
        names, data = list_models(), sorted(PROJECT.glob("data/*/dataset.csv"))
        templates, loras = sorted(PROJECT.glob("templates/*.yaml")), list_adapters()
        self.base = make_field(
            ipywidgets.Dropdown,
            "Base model",
            options=names,
            value=lane.folder if lane.folder in names else None,
        )
        self.name = make_field(ipywidgets.Text, "Name of the LoRA", value=f"{task.adapter}-by-panel")
        self.copy = make_field(
            ipywidgets.Dropdown, "Copy shapes from", options=[NONE, *((name, name) for name in loras)]
        )
        self.data = make_field(
            ipywidgets.Combobox,
            "Data set",
            value=task.data,
            options=[str(path.relative_to(PROJECT)) for path in data],
        )
        options = [str(path.relative_to(PROJECT)) for path in templates]
        self.template = make_field(ipywidgets.Combobox, "Template", value=task.template, options=options)
        self.settings, self.curve = settings.pick_settings(lane.name), ipywidgets.HTML()
        self.fields = {key: make_number(key, label, self.settings) for key, label in LABELS.items()}
        buttons = self.make_buttons(Start=("Training", self.train), Stop=self.stop)
        super().__init__(
            self.base,
            self.name,
            self.copy,
            self.data,
            self.template,
            *self.fields.values(),
            buttons,
            self.curve,
        )
        self.copy.observe(lambda change: self.copy_settings(change["new"]), "value")
        for name, step in checkpoints.list_unfinished().items():
            begun = (
                f"goes on after step {step}"
                if step
                else "begins it anew, since no checkpoint was written yet"
            )
            self.say(
                f"A training of {name} was interrupted: with that name and the same settings, Start {begun}."
            )

    def copy_settings(self, name: str) -> None:
        """Takes over rank, alpha, dropout and layers of an older LoRA."""
        if not name:
            return
        try:
            old = settings.TrainingSettings.from_adapter(loras_folder() / name)
        except KitError as error:
            return self.say(f"Error: {error}", "alert")
        self.settings = self.settings.replace({key: getattr(old, key) for key in SHAPES})
        self.fields["lora_r"].value, self.fields["lora_alpha"].value = old.lora_r, old.lora_alpha
        self.say(
            f"The shapes are those of {name}: rank {old.lora_r}, alpha {old.lora_alpha}, layers {old.targets}."
        )

    def read_settings(self) -> settings.TrainingSettings:
        """What stands in the fields, the rest as the lane or the older LoRA has it."""
        chosen = self.settings.replace({key: field.value for key, field in self.fields.items()})
        return chosen.replace({"checkpoint_steps": chosen.checkpoint_steps or CHECKPOINT_STEPS})

    def train(self) -> str:
        """load_rows, split_rows, load_model and train_lora, as `python -m helpers.training` does."""
        output, template, split = (
            name_output(self.name.value.strip()),
            load_template(self.template.value),
            {"seed": 0, "test_size": 0.2},
        )
        rows, held_out = split_rows(load_rows(self.data.value, template), **split)
        if self.base.value is None:
            raise KitError(
                "No base model is chosen.", "Choose one; the Model panel of lesson 2 brings models."
            )
        loaded = load_model(self.base.value, purpose="training")
        self.check_stop()
        run = train_lora(
            loaded, rows, template, self.read_settings(), output, progress=False, resume=checkpoints.list_unfinished().get(output.name, 0) > 0,
            facts={"data": self.data.value, "template_file": self.template.value, "split": split},
            callbacks=[live_loss.LiveLoss(2, self.show_curve), StopOnRequest(self.asked_to_stop)],
        )  # fmt: skip
        saved = f"loras/{output.name} is saved; {len(held_out)} rows were held out"
        if run["steps"] < run["planned_steps"]:
            raise Stopped(
                f"after {run['steps']} of {run['planned_steps']} steps.", f"As far as it came, {saved}."
            )
        return f"{run['rows']} rows in {run['seconds']:.0f} s, loss {run['loss'][0]:.2f} at first, {run['loss'][-1]:.2f} at last. {saved}."

    def show_curve(self, markup: str) -> None:
        """Where plots.LiveLoss draws."""
        self.curve.value = markup


def make_number(key: str, label: str, chosen: settings.TrainingSettings) -> ipywidgets.Widget:
    """A field for one of the settings, within what makes sense for it."""
    value, least = getattr(chosen, key), {"max_rows": 0, "epochs": 0.01, "learning_rate": 1e-6}.get(key, 1)
    kind = ipywidgets.BoundedFloatText if key in ("epochs", "learning_rate") else ipywidgets.BoundedIntText
    return make_field(kind, label, value=value, min=least, max=1_000_000)
