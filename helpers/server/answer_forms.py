"""The form that a client asks for: OpenAI's response_format, vLLM's structured_outputs, a grammar of 2023."""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from helpers.generation.structure import ANY_OBJECT, Structure, StructureRefused, translate
from helpers.server.errors import ApiError
from helpers.server.fields import Text

Schema = dict[str, Any]


class NamedSchema(BaseModel):
    """OpenAI's json_schema. Its name and description are for models that read them."""

    model_config = ConfigDict(extra="forbid", strict=True)

    content: Schema | None = Field(None, alias="schema")
    name: Text | None = None
    description: Text | None = None
    strict: bool | None = None  # the form is enforced in any case


class PlainFormat(BaseModel):
    """Any text, or any JSON object."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text", "json_object"]

    @property
    def structure(self) -> Structure | None:
        """The form; None for any text."""
        return ANY_OBJECT if self.type == "json_object" else None


class SchemaFormat(BaseModel):
    """JSON of a schema."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["json_schema"]
    json_schema: NamedSchema

    @property
    def structure(self) -> Structure:
        """The form."""
        return write_schema(self.json_schema.content)


ResponseFormat = Annotated[PlainFormat | SchemaFormat, Field(discriminator="type")]


class StructuredOutputs(BaseModel):
    """vLLM's field, of which exactly one is set."""

    model_config = ConfigDict(extra="forbid", strict=True)

    schema_: Schema | Text | None = Field(None, alias="json")
    json_object: bool | None = None
    regex: Text | None = None
    choice: list[Text] | None = Field(None, min_length=1)
    grammar: Text | None = None

    @model_validator(mode="after")
    def check_one(self) -> "StructuredOutputs":
        """Raises a ValueError unless exactly one is set."""
        if sum(value is not None for _, value in self) != 1:
            raise ValueError("set one of json, json_object, regex, choice and grammar")
        return self

    @property
    def structure(self) -> Structure | None:
        """The form; None for any text."""
        if self.json_object is not None:
            return ANY_OBJECT if self.json_object else None
        if self.choice is not None:
            return Structure("choice", json.dumps(self.choice))
        if self.regex is not None:
            return Structure("regex", self.regex)
        if self.grammar is not None:
            return Structure("grammar", self.grammar)
        source = self.schema_
        return Structure("json_schema", source) if isinstance(source, str) else write_schema(source)


def write_schema(schema: Schema | None) -> Structure:
    """The form of a JSON schema; any object without one."""
    return Structure("json_schema", json.dumps(schema)) if schema is not None else ANY_OBJECT


def check_structure(structure: Structure | None, field: str) -> Structure | None:
    """The form; an ApiError that names the field which asks for it, if it cannot be followed."""
    try:
        if structure:
            translate(structure)
    except StructureRefused as error:
        raise ApiError(400, str(error), field, "invalid_value") from None
    return structure
