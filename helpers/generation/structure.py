"""The form that an answer must have: JSON of a schema, a regular expression, one of some texts, a grammar.

Each is written in Lark, the format of llguidance. llama.cpp takes it as well: it is built with llguidance. No
torch.
"""

from dataclasses import dataclass
from typing import Literal

from helpers.common.arguments import cut
from helpers.common.errors import UsageError
from helpers.generation.form_trial import try_form

MAX_BYTES = 64 * 1024  # of a schema, an expression or a grammar
Kind = Literal["json_schema", "regex", "choice", "grammar", "calls"]


class StructureRefused(UsageError):
    """A schema, expression or grammar that is too large, or that cannot be read."""


@dataclass(frozen=True)
class Structure:
    """What an answer must look like.

    `source` is a JSON schema as JSON, a regular expression (Rust's: no look-around), a JSON list of texts, a
    grammar in GBNF, llama.cpp's format, or what helpers.generation.tool_calls.describe_calls returns.
    """

    kind: Kind
    source: str


ANY_OBJECT = Structure("json_schema", '{"type": "object"}')  # OpenAI's json_object


def translate(structure: Structure, special: bool = True) -> str:
    """The same in Lark's format, as llguidance and llama.cpp take it. Raises StructureRefused.

    Without `special` it is the form of the answer's text, in which special tokens are left out. A form that
    is new is tried in another process, which may take seconds.
    """
    if len(structure.source.encode(errors="replace")) > MAX_BYTES:
        raise refuse(structure, f"it has more than {MAX_BYTES} bytes")
    special = special or structure.kind != "calls"  # others have none
    grammar, problem = try_form(structure.kind, structure.source, special)
    if grammar is None:
        raise refuse(structure, problem)
    return grammar


def refuse(structure: Structure, reason: str) -> StructureRefused:
    """The refusal, with llguidance's reason in one line."""
    names = {
        "json_schema": "JSON schema", "regex": "regular expression", "choice": "list of choices",
        "calls": "list of tools",
    }  # fmt: skip
    name = names.get(structure.kind, structure.kind)
    problem = f"The {name} cannot be used: {cut(' '.join(reason.split()).rstrip('.'), 300)}."
    return StructureRefused(problem, "Correct it, or write a simpler one.")
