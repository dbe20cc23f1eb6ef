"""What an estimate of memory is made of: terms, in bytes, with their formulas."""

from dataclasses import dataclass

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}  # of one number


@dataclass(frozen=True)
class Term:
    """One part of an estimate."""

    name: str
    bytes: int
    formula: str  # in words and numbers


def add_up(terms: list[Term]) -> int:
    """The bytes of an estimate."""
    return sum(term.bytes for term in terms)
