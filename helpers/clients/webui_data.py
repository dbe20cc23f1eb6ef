"""Training data in the forms of the real WebUI's training tab, of 2023 and of today: written and read."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from transformers import PreTrainedTokenizerBase

from helpers.clients.webui import find_folder
from helpers.common.errors import UnsupportedError
from helpers.common.files import write_json
from helpers.common.outputs import name_new_folder
from helpers.common.own_files import check_own_file
from helpers.common.values import check_text
from helpers.tasks.chats import ChatForm
from helpers.tasks.rows import AnyTemplate, load_rows
from helpers.tasks.template import Row

# A row of 2023 has its texts under the names of their roles: alpaca's own keys, instruction, input and
# output, would not say whether the first is a system's or a user's.
SHAPES = (("system", "user", "assistant"), ("user", "assistant"))

Message = dict[str, str]  # {"role": ..., "content": ...}


class MessageForm(TypedDict):
    """A message in a file."""

    role: str
    content: str


class ChatRow(TypedDict):
    """A row of today."""

    messages: list[MessageForm]


class RowOf2023(TypedDict, total=False):
    """A row of 2023."""

    system: str
    user: str
    assistant: str


Format = TypedDict("Format", {"system,user,assistant": str, "user,assistant": str}, total=False)


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
    Template" for it there. Raises UnsupportedError for chats of several turns in the form of 2023, UsageError
    for a name that leads out of the folder of data sets, and AlreadyThereError for a file of another form.
    """
    check_text("name", name)
    folder = find_folder(era, root, "training/datasets")
    name_new_folder(folder, f"{name}.json", "data set")
    path = check_own_file(folder / f"{name}.json", list[ChatRow] if era == "today" else list[RowOf2023])
    conversations = [template.build_conversation(row) for row in rows]
    if era == "today":
        return [write_json(path, [{"messages": messages} for messages in conversations])]
    entries = [name_texts(messages) for messages in conversations]
    form_path = find_folder(era, root, "training/formats") / f"{name}-format.json"
    check_own_file(form_path, Format)
    used = [roles for roles in SHAPES if any(tuple(entry) == roles for entry in entries)]
    return [write_json(path, entries), write_json(form_path, build_format(tokenizer, used))]


def name_texts(messages: list[Message]) -> dict[str, str]:
    """The texts of one question and its answer by their roles; an UnsupportedError for more turns."""
    roles = tuple(message["role"] for message in messages)
    if roles not in SHAPES:
        problem = "The WebUI of 2023 trains one question and answer a row; these rows have more turns."
        raise UnsupportedError(problem, 'Write them for the era "today".')
    return {message["role"]: message["content"] for message in messages}


def build_format(
    tokenizer: PreTrainedTokenizerBase, shapes: Sequence[tuple[str, ...]] = SHAPES
) -> dict[str, str]:
    """The content of a format file: the keys of a row, and the model's chat template with %key% in it.

    Example: {"system,user,assistant": "<|im_start|>system\\n%system%<|im_end|>\\n..."}
    """
    form = {}
    for roles in shapes:
        messages = [{"role": role, "content": f"%{role}%"} for role in roles]
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        form[",".join(roles)] = str(text).rstrip()
    return form


def read_dataset(path: str | Path) -> list[dict[str, list[Message]]]:
    """The rows of a JSON data set of the WebUI: [{"prompt": messages, "completion": [the last answer]}, ...].

    Rows have `messages`, the keys that `write_dataset` gives them for 2023, or another form of chats
    (helpers.tasks.chats). Raises what load_rows raises: a KitError that names the row.
    """
    form = ChatForm()
    return [form.build_example(row) for row in load_rows(path, form)]
