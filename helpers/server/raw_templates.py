"""Chat formats and characters that a raw request names: the YAML files of templates/instruct/ and templates/characters/."""

from pathlib import Path

import yaml

from helpers.common.paths import PROJECT
from helpers.server.errors import ApiError
from helpers.server.raw_prompts import BOT, REPLIED, SAID, TurnFormat

FOLDER = PROJECT / "templates"


def load_instruct(
    name: str, param: str = "instruction_template", folder: Path = FOLDER / "instruct"
) -> TurnFormat:
    """The chat format of that name; ApiError, which names the request's field `param`, where there is none or its file is damaged."""
    content = read_yaml(name, param, folder, ("user", "bot", "turn_template", "context"))
    return TurnFormat(
        content["user"].strip(),
        content["bot"].strip(),
        check_turn(content["turn_template"], param),
        content["context"],
    )


def load_character(name: str, folder: Path = FOLDER / "characters") -> tuple[str, str]:
    """The name and the context of a character; ApiError where there is none or its file is damaged."""
    content = read_yaml(name, "character", folder, ("name", "context"))
    return content["name"], content["context"]


def read_yaml(name: str, param: str, folder: Path, keys: tuple[str, ...]) -> dict[str, str]:
    """The texts under `keys` of a file; the name is looked up among those that are there, so none leads elsewhere."""
    files = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if name not in files:
        raise ApiError(400, f"{param}: there is no '{name}'; there are: {', '.join(files)}.", param)
    try:
        content = yaml.safe_load(files[name].read_text(encoding="utf-8"))
        return {key: content[key] + "" for key in keys}
    except (yaml.YAMLError, UnicodeDecodeError, LookupError, TypeError):
        raise ApiError(
            400, f"{param}: {files[name].name} is damaged; it needs the texts {', '.join(keys)}.", param
        ) from None


def check_turn(turn: str, param: str = "turn_template") -> str:
    """The turn template, its newlines real ones; ApiError unless it has its three placeholders once each, in order."""
    turn = turn.replace("\\n", "\n")
    places = [turn.find(mark) for mark in (SAID, BOT, REPLIED)]
    if places != sorted(places) or any(turn.count(mark) != 1 for mark in (SAID, BOT, REPLIED)):
        raise ApiError(
            400, f"{param}: write {SAID}, {BOT} and {REPLIED}, once each and in this order.", param
        )
    return turn
