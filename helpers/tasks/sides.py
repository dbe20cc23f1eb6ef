"""The two sides of a task: the answers that name one of two options, such as {option_a} and {option_b}."""

from helpers.tasks.rows import AnyTemplate
from helpers.tasks.template import Label, Template


def find_sides(template: AnyTemplate) -> dict[Label, str]:
    """{label: the column that is its answer} of the two sides; {} for a task that does not have two."""
    if not isinstance(template, Template):
        return {}
    names = {"{" + column + "}": column for column in template.columns}
    found = {label: names[text] for label, text in template.label.items() if text in names}
    return found if len(found) == 2 else {}
