"""The real WebUI (oobabooga's text-generation-webui), 2023 and today: installing it, its command lines, folders and training data.

"2023" is its snapshot of 29 October 2023, the last with the raw API; "today" is version 4.7 (TextGen). Nothing here runs the WebUI.
"""

import json
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from helpers.clients.webui import find_folder
from helpers.common.errors import KitError
from helpers.common.files import write_json
from helpers.common.paths import find_file
from helpers.tasks.rows import Row
from helpers.tasks.template import Template


def write_dataset(
    era: str,
    root: str | Path,
    name: str,
    rows: list[Row],
    template: Template,
    tokenizer: PreTrainedTokenizerBase,
) -> list[Path]:
    """Writes rows as the training tab of a WebUI in `root` wants them; returns the paths.

    2023: a JSON list of instruction, input and output, and a format file with the model's own chat template around them. Today: a JSON
    list of `messages`; choose the format "Chat Template" there.
    """
    path = find_folder(era, root, "training/datasets") / f"{name}.json"
    examples = [template.build_example(row) for row in rows]
    if era == "today":
        return [
            write_json(
                path, [{"messages": example["prompt"] + example["completion"]} for example in examples]
            )
        ]
    contents = [
        [message["content"] for message in example["prompt"] + example["completion"]] for example in examples
    ]
    entries = [dict(zip(("instruction", "input", "output"), texts, strict=True)) for texts in contents]
    marks = [
        {"role": role, "content": f"%{key}%"}
        for role, key in (("system", "instruction"), ("user", "input"), ("assistant", "output"))
    ]
    form = {"instruction,input,output": tokenizer.apply_chat_template(marks, tokenize=False).rstrip()}
    return [
        write_json(path, entries),
        write_json(find_folder(era, root, "training/formats") / f"{name}-format.json", form),
    ]


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
        raise KitError(
            f"{name} has neither messages nor instruction and output.", "Give every row one or the other."
        )
    if (
        len(messages) < 2
        or not all({"role", "content"} <= set(message) for message in messages)
        or messages[-1]["role"] != "assistant"
    ):
        raise KitError(f"{name} does not end with an answer of the assistant.", "Mend or delete that row.")
    return {"prompt": messages[:-1], "completion": messages[-1:]}
