"""The Training panel: a LoRA from a table or chats, with its loss; what the WebUI's Training tab does."""

import html
from pathlib import Path

import ipywidgets

from helpers.adapters.folders import list_adapters, loras_folder, name_output
from helpers.adapters.webui_parameters import copy_settings
from helpers.common.errors import AlreadyThereError, KitError, UsageError
from helpers.common.files import write_text
from helpers.common.lanes import Lane
from helpers.common.paths import PROJECT, find_file
from helpers.common.presets import pick_settings
from helpers.common.training_settings import LIMITS, TrainingSettings
from helpers.loading.model import load_model
from helpers.tasks.checks.checking import check_data
from helpers.tasks.checks.previewing import preview_rows
from helpers.tasks.checks.showing import describe_check
from helpers.tasks.checks.suggesting import suggest_template
from helpers.tasks.data import load_task_data
from helpers.tasks.split import Split
from helpers.training.checkpoints import list_unfinished
from helpers.training.guards import StopOnRequest
from helpers.training.train import check_training, train_lora
from helpers.tutorial.live_loss import LiveLoss
from helpers.tutorial.panels.base import NONE, Panel, Stopped, make_field
from helpers.tutorial.plots import frame_tokens
from helpers.tutorial.task import Task
from helpers.weights.folders import list_models

LABELS = {  # settings that the panel shows
    "epochs": "Epochs",
    "max_rows": "Rows (0: all)",
    "batch_size": "Rows per step",
    "learning_rate": "Learning rate",
    "lora_r": "Rank",
    "lora_alpha": "Alpha",
    "max_length": "Tokens per row",
}
Number = ipywidgets.BoundedFloatText | ipywidgets.BoundedIntText
SHAPES = ("lora_r", "lora_alpha", "lora_dropout", "targets")


class TrainingPanel(Panel):
    """Base, data, template and the main settings; Start, Stop, the curve and the time left.

    Suggest, Check and Preview help with data of your own. Nothing is trained before Start is pressed.
    """

    title, picture = "Training", "panel-training.png"
    alt = (
        "The Training panel: base, name, data set and template with Suggest, Check and Preview, settings, "
        "a share for validation, Start and Stop, the falling loss "
        "as a curve, the steps and seconds left"
    )

    def __init__(self, task: Task, lane: Lane):
        names = list_models()
        base = lane.folder if lane.folder in names else None
        self.base = make_field(ipywidgets.Dropdown, "Base model", options=names, value=base)
        self.name = make_field(ipywidgets.Text, "Name of the LoRA", value=f"{task.adapter}-by-panel")
        loras = [NONE, *((name, name) for name in list_adapters())]
        self.copy = make_field(ipywidgets.Dropdown, "Copy shapes from", options=loras)
        options = list_project_files("data/*/dataset.csv")
        self.data = make_field(ipywidgets.Combobox, "Data set", value=task.data, options=options)
        options = list_project_files("templates/*.yaml")
        self.template = make_field(ipywidgets.Combobox, "Template", value=task.template, options=options)
        self.text = make_field(ipywidgets.Textarea, "The template's text", rows=8)
        self.text.layout.display = "none"  # until there is a suggestion to edit
        self.written: Path | None = None  # the suggested template; the text is saved there
        share = {"value": 0.0, "min": 0.0, "max": 0.5, "step": 0.05}
        self.validation = make_field(ipywidgets.BoundedFloatText, "Validation share", **share)
        self.settings = pick_settings(lane.name)
        self.curve = ipywidgets.HTML()
        self.findings = ipywidgets.HTML()
        self.fields = {key: make_number(key, label, self.settings) for key, label in LABELS.items()}
        looking = self.make_buttons(
            Suggest=("Suggesting a template", self.suggest),
            Check=("Checking the data", self.check),
            Preview=("Preparing the preview", self.preview),
        )
        buttons = self.make_buttons(Start=("Training", self.train), Stop=self.stop)
        data = (self.data, self.template, self.text, looking, self.findings)
        chosen = (*self.fields.values(), self.validation)
        super().__init__(self.base, self.name, self.copy, *data, *chosen, buttons, self.curve)
        self.copy.observe(lambda change: self.copy_settings(change["new"]), "value")
        self.report_unfinished()

    def report_unfinished(self) -> None:
        """Says which trainings were interrupted, and what Start does about them."""
        for name, step in list_unfinished().items():
            action = (
                f"continues after step {step}"
                if step
                else "starts it again, because it has no checkpoint yet"
            )
            problem = f"A training of {name} was interrupted."
            self.say(f"{problem} With that name and the same settings, Start {action}.")

    def copy_settings(self, name: str) -> None:
        """Takes rank, alpha, dropout and layers from an older LoRA."""
        if not name:
            return
        try:
            old = copy_settings(loras_folder() / name)
        except KitError as error:
            self.say(f"Error: {error}", "alert")
            return
        self.settings = self.settings.replace({key: getattr(old, key) for key in SHAPES})
        self.fields["lora_r"].value = old.lora_r
        self.fields["lora_alpha"].value = old.lora_alpha
        shapes = f"rank {old.lora_r}, alpha {old.lora_alpha}, layers {old.targets}"
        self.say(f"Copied from {name}: {shapes}.")

    def read_settings(self) -> TrainingSettings:
        """The values in the fields; the rest as the lane or the older LoRA has it."""
        return self.settings.replace({key: field.value for key, field in self.fields.items()})

    def pick_files(self) -> tuple[str, str | None]:
        """The data and the template, None for chats; what was typed into the suggestion is saved first."""
        if self.written and self.template.value == str(self.written):
            write_text(self.written, self.text.value)
        return self.data.value.strip(), self.template.value.strip() or None

    def suggest(self) -> str:
        """tasks.suggest_template: a first template beside the data, with its text to be edited."""
        data = self.data.value.strip()
        suggestion = suggest_template(data)
        if not suggestion.text:
            self.template.value, self.text.layout.display = "", "none"
            return "these are chats, which need no template. Press Check or Start."
        path = find_file(data, "table", or_folder=True).with_suffix(".yaml")
        if path.exists() and path != self.written:
            raise AlreadyThereError(f"{path} already exists.", "Choose it as the template, or rename it.")
        self.written = write_text(path, suggestion.text)
        self.template.value, self.text.value = str(path), suggestion.text
        self.text.layout.display = ""
        return f"{path} is a first template. Change its text above, then press Preview."

    def check(self) -> str:
        """tasks.check_data: what is wrong with the rows, and what a training on them will take."""
        data, template = self.pick_files()
        settings = self.read_settings()
        found = check_data(data, template, self.base.value, settings, progress=self.show_progress)
        report = "\n".join(describe_check(found))
        self.findings.value = f'<pre style="white-space: pre-wrap">{html.escape(report)}</pre>'
        return "the data can be trained on as it is." if found.trainable else "fix what is listed above."

    def preview(self) -> str:
        """tasks.preview_rows: some rows as the model will see them, with what is learned framed."""
        data, template = self.pick_files()
        found = preview_rows(data, template, self.base.value, turns=self.settings.turns)
        pictures = [frame_tokens(*zip(*row.tokens, strict=True)) for row in found.rows]
        self.findings.value = f'<div style="white-space: normal">{"".join(pictures)}</div>'
        return "the first rows are above, as the model will see them. It learns what is framed."

    def train(self) -> str:
        """load_task_data, load_model and train_lora, as `python -m helpers.training` does."""
        output = name_output(self.name.value.strip())
        data = load_task_data(*self.pick_files(), Split(validation_size=self.validation.value))
        if self.base.value is None:
            raise UsageError(
                "No base model is chosen.", "Choose one; the Model panel of lesson 2 fetches models."
            )
        settings = self.read_settings()
        resume = list_unfinished().get(output.name, 0) > 0
        check_training(self.base.value, data, settings, output, resume)
        loaded = load_model(self.base.value, purpose="training")
        self.check_stop()
        run = train_lora(
            loaded,
            data,
            settings,
            output,
            progress=False,
            resume=resume,
            callbacks=[LiveLoss(2, self.show_curve), StopOnRequest(self.asked_to_stop)],
        )
        saved = f"loras/{output.name} is saved; {len(data.test)} rows were held out"
        if run["steps"] < run["planned_steps"]:
            problem = f"after {run['steps']} of {run['planned_steps']} steps."
            raise Stopped(problem, f"What was learned so far is kept: {saved}.")
        loss = f"loss {run['loss'][0]:.2f} at the start, {run['loss'][-1]:.2f} at the end"
        return f"{run['rows']} rows in {run['seconds']:.0f} s, {loss}. {saved}."

    def show_curve(self, markup: str) -> None:
        """Where LiveLoss draws."""
        self.curve.value = markup


def list_project_files(pattern: str) -> list[str]:
    """Paths of the project's files that match, relative to the project."""
    return [str(path.relative_to(PROJECT)) for path in sorted(PROJECT.glob(pattern))]


def make_number(key: str, label: str, chosen: TrainingSettings) -> Number:
    """A field for one of the settings, with the limits that make sense for it."""
    kind: type[Number] = ipywidgets.BoundedIntText
    if key in ("epochs", "learning_rate"):
        kind = ipywidgets.BoundedFloatText
    smallest, largest = LIMITS[key]
    return make_field(kind, label, value=getattr(chosen, key), min=smallest, max=largest)
