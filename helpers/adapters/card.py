"""A LoRA's card, README.md and report.html, written from run.json, so that it says only what was measured."""

import re
from pathlib import Path
from typing import Any

import jinja2
import yaml

from helpers.adapters import facts, results
from helpers.adapters.curves import draw_curves
from helpers.adapters.folders import AdapterFolder
from helpers.common.errors import KitError
from helpers.common.files import read_text, write_json, write_text

MARK = "<!-- written from run.json; what is changed here is lost with the next measurement -->"
FILES = ("README.md", "report.html")
TEMPLATES = Path(__file__).parent / "templates"


def add_to_run(folder: AdapterFolder, **facts: object) -> None:
    """Adds facts, such as evaluations, to a LoRA's run.json and card; dataclasses become objects."""
    write_json(folder.path / "run.json", {**folder.run, **facts})
    write_card(folder)


def write_card(folder: AdapterFolder) -> Path:
    """Writes README.md and report.html from the LoRA's records; somebody else's stay. Returns README.md."""
    said = gather(folder)
    for name in FILES:
        path = folder.path / name
        if not path.is_file() or is_own(path):
            write_text(path, make_environment(name).get_template(f"{name}.jinja").render(said))
    return folder.path / FILES[0]


def is_own(path: Path) -> bool:
    """Whether the kit wrote a card."""
    try:
        return MARK in read_text(path, "Delete it.")
    except KitError:
        return False


def gather(folder: AdapterFolder) -> dict[str, Any]:
    """What the two templates say."""
    run = folder.run
    front = {
        "base_model": folder.config.get("base_model_name_or_path"),
        "library_name": "peft",
        "tags": ["lora"],
        "pipeline_tag": "text-generation",
    }
    return {
        "mark": MARK,
        "front": yaml.safe_dump(front, sort_keys=False),
        "name": folder.name,
        "base": folder.base_name or "its base",
        "rank": folder.config["r"],
        "alpha": folder.config["lora_alpha"],
        "targets": folder.targets_in_words,
        "kind": run.get("kind"),
        "template": run.get("template"),
        "results": results.tabulate(run),
        "missing": results.list_missing(run),
        "remarks": list(results.list_remarks(run)),
        "examples": results.list_examples(run),
        "data": facts.list_data(run),
        "training": facts.list_training(run),
        "settings": run.get("settings", {}),
        "figure": draw_curves(facts.list_curves(run)),
        "exact": facts.list_exact(run),
        "commands": facts.write_commands(folder),
        "loading": facts.write_loading(folder),
        "asking": facts.write_asking(folder),
        "limits": list(facts.list_limits(folder)),
    }


def make_environment(name: str) -> jinja2.Environment:
    """Jinja for one of FILES: HTML is escaped by itself, Markdown by the filters `cell` and `block`."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=name.endswith(".html"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"cell": escape_markdown, "block": fence}
    return environment


def escape_markdown(text: object) -> str:
    """A text as a line of Markdown, or a cell of its tables, shows it as it is."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", " ".join(str(text).split()))


def fence(text: object, language: str = "") -> str:
    """A text as a block of code, between more backticks than it has in a row itself."""
    marks = "`" * (max([2, *map(len, re.findall("`+", str(text)))]) + 1)
    return f"{marks}{language}\n{text}\n{marks}"
