"""Chat formats and characters that a raw request names: the YAML files in this room's templates/."""

from pathlib import Path

import yaml

from helpers.common.yaml_errors import YAML_ERRORS
from helpers.server.errors import ApiError
from helpers.server.raw_prompts import BOT_MESSAGE, BOT_NAME, USER_MESSAGE, TurnFormat

TEMPLATES = Path(__file__).with_name("templates")
INSTRUCT_FOLDER = TEMPLATES / "instruct"
CHARACTER_FOLDER = TEMPLATES / "characters"

INSTRUCT_KEYS = ("user", "bot", "turn_template", "context")
CHARACTER_KEYS = ("name", "context")


def load_instruct(name: str, folder: Path = INSTRUCT_FOLDER) -> TurnFormat:
    """The chat format of that name. Raises an ApiError if there is none or its file is damaged."""
    content = read_yaml(name, "instruction_template", folder, INSTRUCT_KEYS)
    turn = check_turn(content["turn_template"], "instruction_template")
    return TurnFormat(content["user"].strip(), content["bot"].strip(), turn, content["context"])


def load_character(name: str) -> tuple[str, str]:
    """The name and the context of a character. Raises an ApiError if there is none or its file is damaged."""
    content = read_yaml(name, "character", CHARACTER_FOLDER, CHARACTER_KEYS)
    return content["name"], content["context"]


def read_yaml(name: str, param: str, folder: Path, keys: tuple[str, ...]) -> dict[str, str]:
    """The texts under `keys` in the file of that name; an ApiError names the request's field `param`.

    The name is looked up among the files that are there, so no name leads out of the folder.
    """
    files = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if name not in files:
        raise ApiError(400, f"{param}: '{name}' does not exist; choose from {', '.join(files)}.", param)
    try:
        content = yaml.safe_load(files[name].read_text(encoding="utf-8"))
    except YAML_ERRORS:
        content = None
    if not isinstance(content, dict) or not all(isinstance(content.get(key), str) for key in keys):
        problem = f"{files[name].name} is damaged; it needs the texts {', '.join(keys)}."
        raise ApiError(400, f"{param}: {problem}", param)
    return {key: content[key] for key in keys}


def check_turn(turn: str, param: str = "turn_template") -> str:
    """The turn template, with each backslash-n turned into a newline.

    Raises an ApiError unless it has its three placeholders once each, in order.
    """
    turn = turn.replace("\\n", "\n")
    marks = (USER_MESSAGE, BOT_NAME, BOT_MESSAGE)
    places = [turn.find(mark) for mark in marks]
    once_each = all(turn.count(mark) == 1 for mark in marks)
    if not once_each or places != sorted(places):
        raise ApiError(400, f"{param}: write {', '.join(marks)}, once each and in this order.", param)
    return turn
