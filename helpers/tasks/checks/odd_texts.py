"""What nobody sees in a text, or nobody meant: control characters, wrong decoding, HTML, spaces."""

import re
from collections.abc import Iterator, Sequence

from helpers.tasks.chats import ChatForm
from helpers.tasks.checks.findings import Finding, make_finding
from helpers.tasks.files.tables import Table
from helpers.tasks.rows import AnyTemplate
from helpers.tasks.template import PLACEHOLDER, Row, Template

OFTEN_EMPTY = 0.5  # share of rows
# code: what it looks like, what it is, what to do.
ODD = {
    "mojibake": (
        re.compile("[ÃÂ][\u0080-\u00bf]|â[\u0080-\u009f€]|\ufffd"),
        "hold text that was read in a wrong encoding, such as Ã© for é",
        "Save the file again from its source, as UTF-8.",
    ),
    "control_characters": (
        re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u0080-\u0084\u0086-\u009f\u200b\u2060\ufeff]"),
        "hold control characters or spaces without a width",
        "Remove them: a model sees them, and people do not.",
    ),
    "html": (
        re.compile(r"&(?:amp|lt|gt|quot|nbsp|apos|#\d+|#x[0-9a-fA-F]+);|<(?:br|p|div|span|b|i)\s*/?>"),
        "hold HTML, such as &amp; or <br>",
        "Turn it into plain text, unless the texts will come like that.",
    ),
}  # fmt: skip


def find_odd_texts(
    table: Table, rows: Sequence[Row], places: Sequence[str], template: AnyTemplate
) -> list[Finding]:
    """Hints about the texts that the template uses, and about columns."""
    found = []
    texts = ["\n".join(list_texts(row, template)) for row in rows]
    for code, (pattern, what, remedy) in ODD.items():
        odd = (place for place, text in zip(places, texts, strict=True) if pattern.search(text))
        found += make_finding(code, "hints", odd, f"Rows that {what}: {{count}}.", remedy)
    if isinstance(template, Template):
        found += find_outer_spaces(table, template)
        found += find_empty_columns(table, template)
        found += find_unused_columns(table, template)
    return found


def list_texts(row: Row, template: AnyTemplate) -> Iterator[str]:
    """The texts of a row: its cells, or its messages."""
    if isinstance(template, ChatForm):
        yield from (message["content"] for message in row["messages"])
    else:
        yield from (row[column] for column in template.columns)


def find_outer_spaces(table: Table, template: Template) -> list[Finding]:
    """Cells of the answers with spaces at their ends, which are read without them."""
    texts = (*template.label.values(), template.answer)
    names = {name for text in texts for name in PLACEHOLDER.findall(text)}
    columns = [*names, template.label_column] if template.label else list(names)
    found = (
        place
        for place, cells in zip(table.places, table.rows, strict=True)
        if any(isinstance(cells[one], str) and cells[one] != cells[one].strip() for one in columns)
    )
    problem = "Rows with spaces at the ends of their answers, options or labels: {count}."
    remedy = "Nothing has to be done for labels and options, which are read without them; answers keep them."
    return make_finding("outer_spaces", "hints", found, problem, remedy)


def find_empty_columns(table: Table, template: Template) -> list[Finding]:
    """Columns of the template that are empty in many rows."""
    found = []
    for column in template.columns:
        empty = [
            place
            for place, cells in zip(table.places, table.rows, strict=True)
            if isinstance(cells[column], str) and not cells[column].strip()
        ]
        if len(empty) >= OFTEN_EMPTY * len(table.rows):
            problem = f"Rows in which the column {column} is empty: {{count}} of {len(table.rows):,}."
            found += make_finding("empty_column", "hints", empty, problem, "Ask whether the task needs it.")
    return found


def find_unused_columns(table: Table, template: Template) -> list[Finding]:
    """Columns that the template does not name."""
    used = {*template.needed, *(name.split(".")[0] for name in template.needed)}
    unused = [column for column in table.columns if column not in used]
    if not unused:
        return []
    problem = f"The template does not use the column{'s' * (len(unused) > 1)} {', '.join(unused)}."
    return [Finding("unused_columns", "hints", problem, "That is fine if the answer does not need them.")]
