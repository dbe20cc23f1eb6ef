"""JSON schemas at random, of the kinds that tools and response formats have."""

import random
from typing import Any


def make_schema(chance: random.Random, depth: int = 3) -> dict[str, Any]:
    """A schema of an object whose values are of all kinds, at most `depth` levels deep."""
    names = [
        f"{chance.choice(('name', 'größe', 'a b', 'x'))}{number}" for number in range(chance.randint(1, 4))
    ]
    return {
        "type": "object",
        "properties": {name: make_value(chance, depth - 1) for name in names},
        "required": [name for name in names if chance.random() < 0.7],
        "additionalProperties": False,
    }


def make_value(chance: random.Random, depth: int) -> dict[str, Any]:
    """A schema of a value."""
    simple: list[dict[str, Any]] = [
        {"type": "string"}, {"type": "string", "minLength": 2, "maxLength": 8}, {"type": "integer"},
        {"type": "integer", "minimum": 3, "maximum": 70}, {"type": "number"}, {"type": "boolean"},
        {"type": "null"}, {"enum": ["red", "green", 3, None]}, {"const": "ä"},
        {"type": "string", "pattern": "^[A-Z]{2}-[0-9]+$"}, {"type": "string", "format": "date"},
        {"type": ["string", "null"]},
    ]  # fmt: skip
    if depth <= 0 or chance.random() < 0.5:
        return chance.choice(simple)
    if chance.random() < 0.5:
        return make_schema(chance, depth)
    if chance.random() < 0.5:
        return {"anyOf": [make_value(chance, depth - 1), make_value(chance, depth - 1)]}
    least = chance.choice((0, 0, 2))
    return {"type": "array", "items": make_value(chance, depth - 1), "minItems": least}
