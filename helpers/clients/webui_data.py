"""Training data in the forms of the real WebUI's training tab, of 2023 and of today: written and read."""

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from helpers.clients.webui import find_folder
from helpers.common.errors import DamagedError
from helpers.common.files import write_json
from helpers.common.paths import find_file
from helpers.tasks.rows import AnyTemplate
from helpers.tasks.template import Row

# The roles of a training example, in order. A row of 2023 has its texts under these keys: alpaca's own,
# instruction, input and output, would not say whether the first is a system's or a user's.
ROLES = ("system", "user", "assistant")

Message = dict[str, str]  # {"role": ..., "content": ...}


def write_dataset(
    era: str,
    root: str | Path,
    name: str,
    rows: list[Row],
    template: AnyTemplate,
    tokenizer: PreTrainedTokenizerBase,
) -> list[Path]:
    """Writes rows for the training tab of a WebUI that is installed in `root`. Returns the paths.

    2023: a JSON list of objects with system, user and assistant, and a format file that puts the model's own
    chat template around them. Today: a JSON list of objects with `messages`; choose the format "Chat
    Template" for it there.
    """
    path = find_folder(era, root, "training/datasets") / f"{name}.json"
    examples = [template.build_example(row) for row in rows]
    conversations = [example["prompt"] + example["completion"] for example in examples]
    if era == "today":
        return [write_json(path, [{"messages": messages} for messages in conversations])]
    form_path = find_folder(era, root, "training/formats") / f"{name}-format.json"
    return [
        write_json(path, [name_texts(messages) for messages in conversations]),
        write_json(form_path, build_format(tokenizer)),
    ]


def name_texts(messages: list[Message]) -> dict[str, str]:
    """The texts of a conversation of [system, user, assistant] by their roles."""
    contents = [message["content"] for message in messages]
    return dict(zip(ROLES, contents, strict=True))


def build_format(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """The content of a format file: the keys of a row, and the model's chat template with %key% in it.

    Example: {"system,user,assistant": "<|im_start|>system\\n%system%<|im_end|>\\n..."}
    """
    messages = [{"role": role, "content": f"%{role}%"} for role in ROLES]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    return {",".join(ROLES): str(text).rstrip()}


def read_dataset(path: str | Path) -> list[dict[str, list[Message]]]:
    """The rows of a JSON data set of the WebUI: [{"prompt": messages, "completion": [the last answer]}, ...].

    Rows have `messages`, the keys that `write_dataset` gives them for 2023, or alpaca's: instruction, output
    and, optionally, input, which is added to the instruction. Raises a NotFoundError if the file does not
    exist, and a DamagedError that names the first row of another form.
    """
    path = find_file(path, "JSON data set")
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise DamagedError(f"{path} is not valid JSON ({error}).", "Give a JSON list of objects.") from None
    if not isinstance(rows, list) or not rows:
        raise DamagedError(f"{path} does not hold a list of rows.", "Give a JSON list of objects.")
    return [read_row(row, f"Row {number} of {path}") for number, row in enumerate(rows, start=1)]


def read_row(row: Any, name: str) -> dict[str, list[Message]]:
    """One row of such a data set; `name` says in the DamagedError which one it is."""
    messages = read_messages(row)
    if messages is None:
        problem = f"{name} has neither messages nor texts for instruction and output."
        raise DamagedError(problem, "Give every row one or the other.")
    complete = all(isinstance(message, dict) and {"role", "content"} <= set(message) for message in messages)
    if not complete or len(messages) < 2 or messages[-1]["role"] != "assistant":
        raise DamagedError(
            f"{name} does not end with an answer of the assistant.", "Correct or delete that row."
        )
    return {"prompt": messages[:-1], "completion": messages[-1:]}


def read_messages(row: Any) -> list[Message] | None:
    """The messages of a row, unchecked; None if it has none of the three forms."""
    if not isinstance(row, dict):
        return None
    if isinstance(row.get("messages"), list):
        return row["messages"]
    if all(isinstance(row.get(role), str) for role in ROLES):
        return [{"role": role, "content": row[role]} for role in ROLES]
    texts = [row.get("instruction"), row.get("input") or "", row.get("output")]
    if not all(isinstance(text, str) for text in texts):
        return None
    instruction, details, answer = texts
    question = "\n\n".join(text for text in (instruction, details) if text)
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
