"""The real WebUI (oobabooga's text-generation-webui), 2023 and today: its command lines, folders and training data.

"2023" is its snapshot of 29 October 2023, the last with the raw API; "today" is version 4.7 (TextGen). Nothing here runs the WebUI.
"""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from helpers import KitError, find_file, write_json
from helpers.dataset import Row
from helpers.templating import Template

ERAS = ("2023", "today")
LOADERS = {  # the kit's name: each era's name for what loads such a folder
    "transformers": {"2023": "transformers", "today": "Transformers"},
    "gptq": {"2023": "exllama_hf", "today": "Transformers"},
    "awq": {"2023": "autoawq", "today": "Transformers"},
    "bitsandbytes": {"2023": "transformers", "today": "Transformers"},
    "llama.cpp": {"2023": "llama.cpp", "today": "llama.cpp"},
}
CONTEXT_FLAGS = {"2023": "--max_seq_len", "today": "--ctx-size"}
FOLDERS = {"2023": Path(), "today": Path("user_data")}  # what models/, loras/ and training/ lie in, inside the WebUI's folder


@dataclass(frozen=True)
class Choices:
    """What a user decides before starting the WebUI; None and empty leave it to the WebUI."""

    model: str | None = None  # folder name below its models/
    loras: tuple[str, ...] = ()  # folder names below its loras/
    loader: str | None = None  # as the kit names them: a key of LOADERS
    context: int | None = None  # tokens
    api: bool = False  # 2023: the raw API; today: the OpenAI-style one, the only one
    openai: bool = False  # the OpenAI-style API
    raw_port: int | None = None  # of the raw API (2023 only; default 5000)
    openai_port: int | None = None  # of the OpenAI-style API (defaults: 5001 in 2023, 5000 today)
    model_dir: str | None = None  # such as the kit's models/, in place of its own folder
    lora_dir: str | None = None


def build_command(era: str, choices: Choices) -> str:
    """The line that starts the WebUI of `era`, as a shell on Linux or macOS takes it, typed in the WebUI's folder.

    Raises KitError for what that era does not have.
    """
    parts = ["python", "server.py"]
    for flag, value in (("--model-dir", choices.model_dir), ("--lora-dir", choices.lora_dir), ("--model", choices.model)):
        parts += [flag, value] if value else []
    parts += ["--lora", *choices.loras] if choices.loras else []
    parts += ["--loader", name_loader(era, choices.loader)] if choices.loader else []
    parts += [CONTEXT_FLAGS[era], str(choices.context)] if choices.context else []
    variables, api = list_api_flags(era, choices)
    return " ".join([*variables, shlex.join([*parts, *api])])


def name_loader(era: str, loader: str) -> str:
    """What the WebUI of `era` calls one of the kit's loaders."""
    check_era(era)
    if loader not in LOADERS:
        raise KitError(f"'{loader}' is no loader of the kit.", f"Use one of: {', '.join(LOADERS)}.")
    return LOADERS[loader][era]


def list_api_flags(era: str, choices: Choices) -> tuple[list[str], list[str]]:
    """(environment variables, flags) that start the wanted APIs."""
    check_era(era)
    if era == "today":
        if choices.raw_port:
            raise KitError("Today's WebUI has no raw API: it was removed in November 2023.", "Leave out raw_port, or take the kit's own server.")
        flags = ["--api"] if choices.api or choices.openai else []
        return [], flags + (["--api-port", str(choices.openai_port)] if choices.openai_port else [])
    flags = (["--api"] if choices.api else []) + (["--extensions", "openai"] if choices.openai else [])
    flags += ["--api-blocking-port", str(choices.raw_port)] if choices.raw_port else []
    return [f"OPENEDAI_PORT={choices.openai_port}"] if choices.openai_port else [], flags


def find_folder(era: str, root: str | Path, kind: str) -> Path:
    """Where the WebUI of `era`, installed in `root`, looks for `kind`: models, loras or training/datasets."""
    check_era(era)
    return Path(root) / FOLDERS[era] / kind


def check_era(era: str) -> None:
    """Raises KitError for a name that is no era."""
    if era not in ERAS:
        raise KitError(f"'{era}' is no era of the WebUI.", f"Use one of: {', '.join(ERAS)}.")


def write_dataset(era: str, root: str | Path, name: str, rows: list[Row], template: Template, tokenizer: PreTrainedTokenizerBase) -> list[Path]:
    """Writes rows as the training tab of a WebUI in `root` wants them; returns the paths.

    2023: a JSON list of instruction, input and output, and a format file with the model's own chat template around them. Today: a JSON
    list of `messages`; choose the format "Chat Template" there.
    """
    path = find_folder(era, root, "training/datasets") / f"{name}.json"
    examples = [template.build_example(row) for row in rows]
    if era == "today":
        return [write_json(path, [{"messages": example["prompt"] + example["completion"]} for example in examples])]
    contents = [[message["content"] for message in example["prompt"] + example["completion"]] for example in examples]
    entries = [dict(zip(("instruction", "input", "output"), texts, strict=True)) for texts in contents]
    marks = [{"role": role, "content": f"%{key}%"} for role, key in (("system", "instruction"), ("user", "input"), ("assistant", "output"))]
    form = {"instruction,input,output": tokenizer.apply_chat_template(marks, tokenize=False).rstrip()}
    return [write_json(path, entries), write_json(find_folder(era, root, "training/formats") / f"{name}-format.json", form)]


def read_dataset(path: str | Path) -> list[dict]:
    """A JSON data set of the WebUI as [{"prompt": messages, "completion": messages}], the last answer being the completion.

    Rows are alpaca's (instruction, output, and input or none) or have `messages`. KitError names the first row that is neither.
    """
    path = find_file(path, "JSON data set")
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise KitError(f"{path} is no JSON: {error}.", "Give a JSON list of objects.") from None
    if not isinstance(rows, list) or not rows:
        raise KitError(f"{path} holds no list of rows.", "Give a JSON list of objects.")
    return [read_row(row, f"Row {number} of {path}") for number, row in enumerate(rows, start=1)]


def read_row(row: object, name: str) -> dict:
    """One row of such a data set; `name` says in a KitError which."""
    if isinstance(row, dict) and isinstance(row.get("messages"), list):
        messages = row["messages"]
    elif isinstance(row, dict) and all(isinstance(row.get(key), str) for key in ("instruction", "output")):
        asked = "\n\n".join(text for text in (row["instruction"], row.get("input", "")) if text)
        messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": row["output"]}]
    else:
        raise KitError(f"{name} has neither messages nor instruction and output.", "Give every row one or the other.")
    if len(messages) < 2 or not all({"role", "content"} <= set(message) for message in messages) or messages[-1]["role"] != "assistant":
        raise KitError(f"{name} does not end with an answer of the assistant.", "Mend or delete that row.")
    return {"prompt": messages[:-1], "completion": messages[-1:]}
