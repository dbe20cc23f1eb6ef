"""What came out of a run of the notebooks: the published results as JSON, as tables and as one page."""

import copy
import html
import os
import re
import time
from collections.abc import Sequence
from typing import Any

import nbformat
from nbconvert import HTMLExporter
from nbformat import NotebookNode

from helpers.common import machine
from helpers.common.forms import find_misfit
from helpers.evaluation.board_figures import is_board, write_board
from helpers.tutorial import checks
from helpers.tutorial.asking import break_lines, list_heads
from helpers.tutorial.execution import Execution
from helpers.tutorial.markdown import write_table
from helpers.tutorial.notebook_files import KERNELSPEC

ANSWERS = ("raw", "openai")
BOARD = "scoreboard"
PUBLISHERS = {  # {notebook: the results that it publishes}
    "03_api": [f"answer.{name}" for name in ANSWERS],
    "04_training": [BOARD],
    "05_lora_loading": [BOARD],
}
TITLE = "Open LLM Kit: report of a run"

# nbconvert's page without two scripts that it would load from the network and that no notebook here needs.
PAGE = (
    "{% extends 'lab/index.html.j2' %}"
    "{% block html_head_js %}{% endblock %}"
    "{% block html_head_js_mermaidjs %}{% endblock %}"
)

# What Markdown folds away. nbconvert would close a fold at its first blank line, so it gets words instead.
FOLD = re.compile(r"<details><summary>([^<\n]*)</summary>\n\n(.*?)\n+</details>", re.DOTALL)
FOLD_BEGINS = re.compile(r"<p>FOLD-BEGINS (.*?)</p>")
FOLD_ENDS = "FOLD-ENDS"

Report = dict[str, Any]  # the content of report.json, see build_report


def collect_results(notebooks: list[NotebookNode]) -> dict[str, Any]:
    """{name: value} of what the cells published with checks.publish; the last value of a name counts."""
    results = {}
    for notebook in notebooks:
        for cell in notebook.cells:
            for output in cell.get("outputs", []):
                published = output.get("data", {}).get(checks.MIME)
                if published:
                    results[published["name"]] = published["value"]
    return results


def build_report(executions: list[Execution], results: dict[str, Any], commit: str) -> Report:
    """The content of report.json.

    A result is None if it was not published, or not in the form that checks.publish asks for.
    """
    notebooks = [
        {
            "name": execution.path.stem,
            "minutes": execution.minutes,
            "peak_mb": execution.peak_mb,
            "disk_mb": execution.disk_mb,
        }
        for execution in executions
    ]
    answers = {name: results.get(f"answer.{name}") for name in ANSWERS}
    board = results.get(BOARD)
    return {
        "commit": commit,
        "device": machine.name_device(),
        "notebooks": notebooks,
        "answers": {name: value if is_answer(value) else None for name, value in answers.items()},
        "scoreboard": board if is_board(board) else None,
    }


def read_table(results: dict[str, Any]) -> list[dict[str, str]]:
    """The published answers of base and LoRA, as asking.ask_both returns them; [] if there are none."""
    table = results.get("table", [])
    if find_misfit(table, list[dict[str, str]]) or not list_heads(table):
        return []
    return table


def is_answer(value: object) -> bool:
    """True for a text that is not blank."""
    return isinstance(value, str) and value.strip() != ""


def find_unpublished(report: Report) -> str:
    """Names the results that a notebook should have published and did not; "" if all are there."""
    published = {f"answer.{name}" for name, value in report["answers"].items() if value is not None}
    published |= {BOARD} if report["scoreboard"] else set()
    if os.environ.get("OPENAI_BASE_URL"):
        published.add("answer.raw")  # not expected, because such a server has no raw API
    problems = []
    for notebook in report["notebooks"]:
        unpublished = set(PUBLISHERS.get(notebook["name"], [])) - published
        if unpublished:
            problems.append(f"{notebook['name']} ran but did not publish {', '.join(sorted(unpublished))}")
    if not problems:
        return ""
    return f"{'; '.join(problems)}, as helpers.tutorial.checks.publish describes"


def format_summary(report: Report) -> str:
    """In Markdown, for terminal and page: what the notebooks took, what they published, the scoreboard."""
    lines = [
        "| notebook                 | minutes | peak memory, MB |",
        "|:-------------------------|--------:|----------------:|",
    ]
    for notebook in report["notebooks"]:
        lines.append(f"| {notebook['name']:24} | {notebook['minutes']:7.2f} | {notebook['peak_mb']:>15} |")
    total = sum(notebook["minutes"] for notebook in report["notebooks"])
    lines.append(f"| {'together':24} | {total:7.2f} | {'':>15} |")
    answers = describe_answers(report)
    if answers:
        lines += ["", "| answer                   | text |", "|:-------------------------|:-----|"]
    lines += [f"| {name:24} | {text} |" for name, text in answers.items()]
    if report["scoreboard"]:
        lines += ["", write_board(report["scoreboard"])]
    return "\n".join(lines)


def describe_answers(report: Report) -> dict[str, str]:
    """{API: what it answered}, for the cells of a Markdown table."""
    one_line = {name: " ".join(answer.split()) for name, answer in report["answers"].items() if answer}
    return {name: answer.replace("|", "\\|") for name, answer in one_line.items()}


def render_page(executions: list[Execution], report: Report, table: Sequence[dict[str, str]] = ()) -> str:
    """One HTML page: the answers in `table`, the summary, and below it every executed notebook.

    Links between notebooks lead to places in the page.
    """
    cells = [nbformat.v4.new_markdown_cell(write_introduction(executions, report, table))]
    for execution in executions:
        cells.append(nbformat.v4.new_markdown_cell(f'<hr><a id="{execution.path.stem}"></a>'))
        cells += mark_sections(execution)
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"  # unique in the page
        if cell.cell_type == "markdown":
            # [Lesson 2](02_loading.ipynb) becomes [Lesson 2](#02_loading).
            cell.source = re.sub(r"\]\((0\w+)\.ipynb\)", r"](#\1)", cell.source)
            cell.source = FOLD.sub(rf"FOLD-BEGINS \1\n\n\2\n\n{FOLD_ENDS}", cell.source)
    page = nbformat.v4.new_notebook(cells=cells, metadata={"title": TITLE, "kernelspec": KERNELSPEC})
    exporter = HTMLExporter(raw_template=PAGE, embed_images=True)
    folder = {"metadata": {"path": str(executions[0].path.parent)}}  # where the notebooks' images are
    body, _ = exporter.from_notebook_node(page, resources=folder)
    body = FOLD_BEGINS.sub(r"<details><summary>\1</summary>", body)
    return body.replace(f"<p>{FOLD_ENDS}</p>", "</details>")


def mark_sections(execution: Execution) -> list[NotebookNode]:
    """The cells of a notebook, with a place to link to before each section; the notebook stays as it is."""
    cells = copy.deepcopy(execution.notebook.cells)
    for number, cell in enumerate(cells):
        if is_section(cell):
            cell.source = f'<a id="{execution.path.stem}-{number}"></a>\n\n{cell.source}'
    return cells


def is_section(cell: NotebookNode) -> bool:
    """True for a cell that begins with a heading of the second level."""
    return cell.cell_type == "markdown" and cell.source.startswith("## ")


def list_contents(executions: list[Execution]) -> str:
    """Links to the notebooks and their sections, as a Markdown list."""
    lines = []
    for execution in executions:
        stem = execution.path.stem
        lines.append(f"- [{stem}](#{stem})")
        for number, cell in enumerate(execution.notebook.cells):
            if is_section(cell):
                title = cell.source.splitlines()[0].removeprefix("## ")
                lines.append(f"  - [{html.escape(title, quote=False)}](#{stem}-{number})")
    return "\n".join(lines)


def write_answers(table: Sequence[dict[str, str]]) -> str:
    """The answers of base and LoRA, as a Markdown table."""
    heads = list_heads(table)
    return write_table(heads, ([break_lines(line[head]) for head in heads] for line in table))


def write_introduction(executions: list[Execution], report: Report, table: Sequence[dict[str, str]]) -> str:
    """The page's first cell, in Markdown: when and where, what failed, answers, summary, contents."""
    paragraphs = [
        f"# {TITLE}",
        f"{time.strftime('%d %B %Y')}, commit {report['commit']}, on {report['device']}.",
    ]
    for execution in executions:
        if execution.problem:
            paragraphs.append(f"**Stopped:** {html.escape(execution.problem, quote=False)}")
    if table:
        paragraphs += ["Held-out rows of lesson 4, answered over the API:", write_answers(table)]
    paragraphs.append(html.escape(format_summary(report), quote=False))
    paragraphs += ["**Contents**", list_contents(executions)]
    return "\n\n".join(paragraphs)
