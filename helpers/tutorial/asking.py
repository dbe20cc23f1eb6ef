"""Lesson 5's questions: a row of the learner's own, its options swapped, base and LoRA over an API."""

import html
import json
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from typing import Any

import openai
from IPython.display import display

from helpers.clients.openai_chat import ask_openai
from helpers.evaluation.judging import find_label
from helpers.tasks.sides import find_sides
from helpers.tasks.template import Row, Template
from helpers.tutorial.checks import MIME
from helpers.tutorial.game import RIGHT, ROUNDS, WRONG, pick_rounds

HEADS = ("question", "truth", "base")  # then the LoRA, with the name it was asked by
LORA = "LoRA"
CURL_S = 120  # seconds
CELL = '<td style="text-align: left">'  # JupyterLab sets the cells of tables to the right


def fit_row(row: Row, template: Template, rows: Sequence[Row]) -> Row:
    """The row if it has the template's columns; else, for another task, the first of `rows`."""
    return row if set(row) >= set(template.columns) else rows[0]


def list_orders(row: Row, template: Template) -> list[Row]:
    """The row, and the same with its two options swapped, if the template has options.

    Options are columns that are answers themselves, as find_sides finds them.
    """
    sides = list(find_sides(template).values())
    if not sides:
        return [row]
    first, second = sides
    return [row, {**row, first: row[second], second: row[first]}]


def run_curl(url: str, body: dict[str, Any], api_key: str | None = None) -> None:
    """Prints a request as a line of curl, runs it, and prints the answer's text; without curl, only the line.

    The key is taken from the environment in the printed line, so that a notebook does not keep it.
    """
    command = ["curl", "-s", url, "-H", "Content-Type: application/json", "-d", json.dumps(body)]
    shown = shlex.join(command)
    if api_key:
        shown += ' -H "Authorization: Bearer $OPENAI_API_KEY"'
        command += ["-H", f"Authorization: Bearer {api_key}"]
    print(shown)
    if not shutil.which("curl"):
        print("curl is not installed here.")
        return
    found = subprocess.run(command, capture_output=True, text=True, timeout=CURL_S, check=False).stdout
    try:
        print(json.loads(found)["choices"][0]["message"]["content"])
    except (ValueError, LookupError, TypeError):
        print(found)


def ask_both(
    client: openai.OpenAI, rows: Sequence[Row], template: Template, base: str, lora: str, count: int = ROUNDS
) -> list[dict[str, str]]:
    """What base and LoRA answer over the API to the rows of pick_rounds, with question and truth, marked.

    The last column is named after the LoRA: "LoRA: college-preferences".
    """
    table = []
    for row in pick_rounds(rows, template, count):
        answers, messages = template.build_answers(row), template.build_messages(row)
        line = {"question": messages[-1]["content"], "truth": answers[row["label"]]}
        for name, model in (("base", base), (f"{LORA}: {lora}", lora)):
            said = ask_openai(client, messages, model=model, temperature=0, max_tokens=12)
            mark = RIGHT if find_label(said, answers) == row["label"] else WRONG
            line[name] = f"{mark} {' '.join(said.split())}"
        table.append(line)
    return table


def show_answers(table: Sequence[dict[str, str]], address: str) -> None:
    """Displays the table of ask_both with the address that answered, and publishes it for the report."""
    published = {"name": "table", "value": list(table)}
    words = f"{len(table)} held-out rows, answered by {address}"
    display({"text/html": write_answers(table, address), "text/plain": words, MIME: published}, raw=True)


def list_heads(table: Sequence[dict[str, str]]) -> list[str]:
    """The columns of the table, that of the LoRA last; [] if one is missing somewhere."""
    names = [name for name in table[0] if name.partition(":")[0] == LORA] if table else []
    heads = [*HEADS, *names]
    complete = len(names) == 1 and all(set(heads) <= set(line) for line in table)
    return heads if complete else []


def break_lines(text: str) -> str:
    """A text for a cell of an HTML or Markdown table: escaped, with <br> for the ends of its lines."""
    return "<br>".join(html.escape(text, quote=False).strip().splitlines())


def write_answers(table: Sequence[dict[str, str]], address: str) -> str:
    """The table as HTML, with a caption that names the address."""
    names = list_heads(table)
    heads = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in names)
    lines = "".join(
        "<tr>" + "".join(f"{CELL}{break_lines(line[name])}</td>" for name in names) + "</tr>"
        for line in table
    )
    caption = f"Held-out rows, answered by {html.escape(address)}"
    return f"<table><caption>{caption}</caption><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>"
