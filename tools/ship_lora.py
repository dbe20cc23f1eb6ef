"""Trains the LoRA that comes with the kit: `python -m tools.ship_lora`, about a quarter of an hour.

It is trained with the preset of 15 minutes on the lessons' own split, so no comment that the lessons judge
was trained on. It is saved in 16 bits, which halves the file; the figures and fingerprints in its run.json
are those of the 16-bit weights.
"""

import shutil

from safetensors.torch import load_file, save_file

from helpers.adapters.attaching import attach_adapter
from helpers.adapters.card import add_to_run, write_card
from helpers.adapters.fingerprint import make_prompts, take_fingerprint
from helpers.adapters.folders import SHIPPED, AdapterFolder, loras_folder
from helpers.common.command import CommandParser, run_command
from helpers.common.files import replace_when_complete
from helpers.common.lanes import LANES
from helpers.common.presets import pick_settings
from helpers.evaluation.judging import summarise_scores
from helpers.evaluation.metrics import Scores
from helpers.evaluation.scoring import score_answers
from helpers.loading.model import load_model
from helpers.tasks.baseline import judge_fitted_bag
from helpers.tasks.data import TaskData
from helpers.tasks.template import Template
from helpers.tasks.template_file import load_template
from helpers.training.runs import was_trained_here
from helpers.training.train import train_lora
from helpers.tutorial.task import Task

TASK = Task("college_preferences")
PRESET = "tiny-15-minutes"
NAME = "college-preferences-15-minutes"


def main(arguments: list[str]) -> None:
    """`python -m tools.ship_lora`."""
    CommandParser(
        prog="python -m tools.ship_lora", description="Trains the LoRA that comes with the kit."
    ).parse_args(arguments)
    data, folder = TASK.load(), loras_folder() / NAME
    loaded = load_model(LANES["tiny"].folder, purpose="training")
    template = load_template(TASK.template)
    base = score_answers(loaded, data.test, template)
    train_lora(loaded, data, pick_settings(PRESET), folder)
    round_weights(AdapterFolder(folder))
    record(AdapterFolder(folder), data, template, base)
    with replace_when_complete(SHIPPED / NAME, was_trained_here) as fresh:
        shutil.copytree(folder, fresh, dirs_exist_ok=True)
    write_card(AdapterFolder(SHIPPED / NAME))  # its Python names the folder that it is in
    print(SHIPPED / NAME)


def round_weights(folder: AdapterFolder) -> None:
    """Rounds the LoRA in its folder to 16 bits."""
    tensors = {name: tensor.half() for name, tensor in load_file(folder.weights).items()}
    save_file(tensors, folder.weights, metadata={"format": "pt"})


def record(folder: AdapterFolder, data: TaskData, template: Template, base: list[Scores]) -> None:
    """Writes figures and fingerprints of the rounded weights, loaded as users load them, into run.json."""
    loaded = load_model(LANES["tiny"].folder)
    attach_adapter(loaded, folder.name)
    scores = {"base": base, "lora": score_answers(loaded, data.test, template)}
    prints = [take_fingerprint(loaded, messages) for messages in make_prompts(template)]
    found = {name: summarise_scores(each, data.test, template) for name, each in scores.items()}
    bag = {"accuracy": judge_fitted_bag(data.train, data.test), "rows": len(data.test)}
    add_to_run(folder, fingerprint=prints, evaluation=found, baselines={"bag of words": bag})


if __name__ == "__main__":
    raise SystemExit(run_command(main))
