"""Which chat template a model is used with, with the reason. Nothing here imports torch.

The tokenizer's own, unless another is asked for. Many models of 2023 have none; their model cards said how to
write a prompt. For four families the kit has one, in this room's templates/.

| recognised by | template |
|---|---|
| the tokens <|im_start|> and <|im_end|> | chatml |
| vicuna in the name | vicuna |
| alpaca in the name | alpaca |
| llama-2 in the name, and a tokenizer with <s>, </s> and 32,000 tokens | llama-2 |

A template without a system role gets one: the instruction goes before the first user message. The template
itself is changed, so everything that uses the tokenizer, or a copy of it, does the same.
"""

import re
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from helpers.common.errors import DamagedError, KitError, NotFoundError
from helpers.common.files import read_text
from helpers.common.paths import find_file
from helpers.loading.chat_tokenizer import PROBED, ChatTokenizer

TEMPLATES = Path(__file__).with_name("templates")
NAMES = tuple(sorted(path.stem for path in TEMPLATES.glob("*.jinja")))
OWN = "own"  # the name of the template that came with the tokenizer
CHAT_TEMPLATE_HELP = (
    f"own, {', '.join(NAMES)}, or a Jinja file (default: the tokenizer's own, or its family's)"
)
LLAMA_VOCABULARY = range(32000, 32008)  # Llama 2's, and with a padding token or a few others added to it

# Put before a template that has no system role.
ADMIT_SYSTEM = """\
{%- if messages and messages[0]["role"] == "system" -%}
    {%- if messages[1:] and messages[1]["role"] == "user" -%}
        {%- set both = messages[0]["content"] + "\\n\\n" + messages[1]["content"] -%}
        {%- set messages = [{"role": "user", "content": both}] + messages[2:] -%}
    {%- else -%}
        {%- set messages = [{"role": "user", "content": messages[0]["content"]}] + messages[1:] -%}
    {%- endif -%}
{%- endif -%}
"""


@dataclass(frozen=True)
class PickedTemplate:
    """A chat template, where it is from, and why it was taken."""

    name: str  # "own", one of NAMES, or a file's path
    source: str  # Jinja
    reason: str

    @property
    def notice(self) -> str:
        """A line that says what was chosen, for a command to print; "" for an unchanged template."""
        plain = self.name == OWN and not self.source.startswith(ADMIT_SYSTEM)
        return "" if plain else f"chat template: {self.name}, because {self.reason}"


def pick_template(
    asked: str | None, own: str | None, model: str, tokens: Collection[str], vocabulary: int, adds_bos: bool
) -> PickedTemplate | None:
    """The template that was asked for, the tokenizer's `own`, or its family's; None for an unknown family.

    `model` is the folder's name, `tokens` are the tokenizer's special tokens, and `adds_bos` tells whether it
    puts BOS before a text. Raises NotFoundError if `asked` is neither a name nor a file.
    """
    if asked == OWN or (asked is None and own):
        if not own:
            problem = f"The tokenizer of {model} has no chat template of its own."
            raise NotFoundError(problem, f"Give one of {', '.join(NAMES)}, or a file.")
        return PickedTemplate(OWN, own, "it came with the tokenizer")
    if asked and asked not in NAMES:
        remedy = f"Give one of {', '.join(NAMES)}, or the path of a Jinja file."
        if not asked.endswith(".jinja") and "/" not in asked:
            raise NotFoundError(f"'{asked}' is not a chat template.", remedy)
        return PickedTemplate(asked, read_template(find_file(asked, "chat template")), "it was asked for")
    name, reason = (asked, "it was asked for") if asked else recognise_family(model, tokens, vocabulary)
    if name is None:
        return None
    source = read_template(TEMPLATES / f"{name}.jinja")
    if adds_bos and "bos_token" not in source:  # BOS exactly once: Llama 2's template writes it itself
        source = "{{ bos_token }}" + source
    return PickedTemplate(name, source, reason)


def recognise_family(model: str, tokens: Collection[str], vocabulary: int) -> tuple[str | None, str]:
    """The kit's template for a tokenizer without one, and the reason; (None, "") for an unknown family."""
    none = "the tokenizer has no chat template, and"
    if {"<|im_start|>", "<|im_end|>"} <= set(tokens):
        return "chatml", f"{none} it has ChatML's tokens"
    if found := re.search("vicuna|alpaca", model, re.IGNORECASE):
        return found[0].lower(), f"{none} the model's name has {found[0]}"
    found = re.search("llama[-_ ]?2", model, re.IGNORECASE)
    if found and {"<s>", "</s>"} <= set(tokens) and vocabulary in LLAMA_VOCABULARY:
        return "llama-2", f"{none} the model's name has {found[0]} and its tokenizer is Llama 2's"
    return None, ""


def read_template(path: Path) -> str:
    """The text of a template's file; a DamagedError if it is empty or not text."""
    remedy = "Write a Jinja template into it."
    text = read_text(path, remedy)
    if not text.strip():
        raise DamagedError(f"{path} holds no chat template.", remedy)
    return text


def admit_system(picked: PickedTemplate, build: Callable[[str], ChatTokenizer], model: str) -> PickedTemplate:
    """The template with a system role: as it is if it has one, else with ADMIT_SYSTEM before it.

    `build` makes a chat tokenizer of a template. Raises a DamagedError if the template cannot be used at all.
    """
    chat, instruction = build(picked.source), "Instruction"
    try:
        chat.render(PROBED)
    except KitError as error:
        problem = f"The chat template of {model} ({picked.name}) cannot be used: {error.problem}"
        raise DamagedError(problem, "Give another one: --chat-template NAME|FILE.") from None
    try:
        if instruction in chat.render([{"role": "system", "content": instruction}, *PROBED]):
            return picked
    except KitError:
        pass
    reason = f"{picked.reason}; it has no system role, so an instruction goes before the first user message"
    return PickedTemplate(picked.name, ADMIT_SYSTEM + picked.source, reason)


def say_template(picked: PickedTemplate | None) -> None:
    """Prints which chat template a command uses, to stderr, unless it is used unchanged."""
    if picked and picked.notice:
        print(picked.notice, file=sys.stderr)


def explain_missing(model: str) -> KitError:
    """The error for a model that has no chat template and belongs to no known family."""
    problem = f"The tokenizer of {model} has no chat template, and its family is not known."
    return NotFoundError(problem, f"Name one: --chat-template {'|'.join(NAMES)}|FILE, or take a chat model.")
