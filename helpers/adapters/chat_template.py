"""The chat template that a LoRA was trained with: recorded in its folder, and taken again. No torch."""

import datetime
import re
from collections.abc import Sequence
from pathlib import Path

from helpers.adapters.folders import WITHOUT_RECORD, AdapterFolder
from helpers.common.errors import MismatchError
from helpers.common.files import hash_text, read_text, write_text
from helpers.loading.chat_templates import ADMIT_SYSTEM, NAMES, OWN, PickedTemplate

ANOTHER_TEMPLATE = "Serve them apart, or choose one with --chat-template."
NOW = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")  # how templates ask for the present time
FILE = "chat_template.jinja"  # transformers' name for it; vLLM takes it with --chat-template


def record_template(folder: Path, picked: PickedTemplate) -> dict[str, str]:
    """Writes a chat template into a LoRA's folder; returns what run.json records of it."""
    write_text(folder / FILE, picked.source)
    return {"name": picked.name, "reason": picked.reason, "sha256": hash_text(picked.source)}


def set_day(source: str, day: str) -> str:
    """A chat template that writes this day (2026-12-31) where it would write the present one."""
    try:
        then = datetime.date.fromisoformat(day)
    except ValueError:
        return source
    return NOW.sub(lambda call: repr(then.strftime(call[2])), source)


def find_recorded(folder: AdapterFolder) -> str | None:
    """What load_model takes as `chat_template` to ask a LoRA as it was trained; None for the model's default.

    A template that was read from a file is taken from the LoRA's folder.
    """
    name = folder.run.get("chat_template", {}).get("name", OWN)
    if name == OWN:
        return None
    return name if name in NAMES else str(folder.path / FILE)


def find_changed(folder: AdapterFolder) -> Path | None:
    """The file with the chat template of a LoRA's training, if the base's own tokenizer does not have it."""
    path = folder.path / FILE
    if not path.is_file():
        return None
    changed = find_recorded(folder) or read_text(path, WITHOUT_RECORD).startswith(ADMIT_SYSTEM)
    return path if changed else None


def pick_for_all(
    asked: str | None, folders: Sequence[AdapterFolder], remedy: str = ANOTHER_TEMPLATE
) -> str | None:
    """The chat template that was asked for, or else the one that the LoRAs were trained with.

    Raises a MismatchError with `remedy` if they were trained with different ones.
    """
    if asked:
        return asked
    recorded = {folder.name: find_recorded(folder) for folder in folders}
    if len({read(path) for path in recorded.values()}) > 1:
        each = ", ".join(f"{name}: {template or OWN}" for name, template in recorded.items())
        problem = f"The LoRAs were trained with different chat templates ({each})."
        raise MismatchError(problem, remedy)
    return next(iter(recorded.values()), None)


def read(template: str | None) -> str | None:
    """A template's name, or the text of its file, to compare two of them."""
    is_file = template and template.endswith(".jinja")
    return read_text(Path(template), WITHOUT_RECORD) if template and is_file else template
