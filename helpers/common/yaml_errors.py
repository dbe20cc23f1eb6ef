"""YAML from somebody else: read without what could make a few lines large, and what PyYAML raises for it."""

from typing import Any

import yaml
from yaml.composer import ComposerError

# Its own errors, and others for bytes, dates, numbers and brackets that it cannot read.
YAML_ERRORS = (
    yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError,
)  # fmt: skip


class PlainLoader(yaml.SafeLoader):
    """PyYAML's safe loader without aliases (*name), of which a few lines can stand for billions of values."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """A node; an error for an alias."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise ComposerError(None, None, "an alias (*) is not read here", mark)
        return super().compose_node(parent, index)


def read_plain_yaml(text: str) -> Any:
    """The value of a YAML text without aliases. Raises one of YAML_ERRORS."""
    return yaml.load(text, Loader=PlainLoader)
