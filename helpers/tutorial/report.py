"""What came out of a run of the notebooks: the results they published, as report.json, as tables and as one page to read."""

import copy
import html
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter
from nbformat import NotebookNode

from helpers.common import machine
from helpers.tutorial import checks
from helpers.tutorial.notebook_files import KERNELSPEC

ANSWERS, ACCURACIES = ("raw", "openai"), ("majority", "base", "lora")


PUBLISHERS = {
    "03_api": [f"answer.{name}" for name in ANSWERS],
    "04_training": [f"accuracy.{name}" for name in ACCURACIES],
}


# Two scripts that nbconvert loads from the network and that no notebook here needs.
PAGE = "{% extends 'lab/index.html.j2' %}{% block html_head_js %}{% endblock %}{% block html_head_js_mermaidjs %}{% endblock %}"


@dataclass
class Execution:
    """One notebook after its run."""

    path: Path
    notebook: NotebookNode  # with outputs, up to the cell that failed
    minutes: float
    peak_mb: (
        int  # resident memory of kernel and child processes together, 1e6 bytes; shared pages count in each
    )
    disk_mb: int  # the lane's model and what the notebook wrote, 1e6 bytes
    problem: str = ""  # notebook, cell and error in words


def collect_results(notebooks: list[NotebookNode]) -> dict[str, object]:
    """What the cells published with checks.publish: name -> value; the last one of a name counts."""
    outputs = [
        output for notebook in notebooks for cell in notebook.cells for output in cell.get("outputs", [])
    ]
    published = [output.data[checks.MIME] for output in outputs if checks.MIME in output.get("data", {})]
    return {entry["name"]: entry["value"] for entry in published}


def build_report(executions: list[Execution], results: dict[str, object], commit: str) -> dict:
    """The content of report.json; None for a result that was not published, or not in the form that checks.publish asks for."""
    answers = {name: results.get(f"answer.{name}") for name in ANSWERS}
    accuracy = {name: results.get(f"accuracy.{name}") for name in ACCURACIES}
    return {
        "commit": commit,
        "device": machine.name_device(),
        "notebooks": [
            {"name": e.path.stem, "minutes": e.minutes, "peak_mb": e.peak_mb, "disk_mb": e.disk_mb}
            for e in executions
        ],
        "answers": {
            name: value if isinstance(value, str) and value.strip() else None
            for name, value in answers.items()
        },
        "accuracy": {name: value if is_accuracy(value) else None for name, value in accuracy.items()},
    }


def is_accuracy(value: object) -> bool:
    """True for {"value": number, "interval": [number, number]}."""
    if not (
        isinstance(value, dict)
        and set(value) == {"value", "interval"}
        and isinstance(value["interval"], list)
    ):
        return False
    return len(value["interval"]) == 2 and all(
        isinstance(number, (int, float)) for number in (value["value"], *value["interval"])
    )


def find_missing(report: dict) -> str:
    """Names the results that the notebooks that ran owe to the report, in words; empty when all are there."""
    there = {f"answer.{name}" for name, value in report["answers"].items() if value is not None}
    there |= {f"accuracy.{name}" for name, value in report["accuracy"].items() if value is not None}
    if os.environ.get("OPENAI_BASE_URL"):
        there.add("answer.raw")  # helpers.tutorial.lesson_server: such a server has no raw API
    owed = {
        notebook["name"]: set(PUBLISHERS.get(notebook["name"], [])) - there
        for notebook in report["notebooks"]
    }
    missing = [
        f"{notebook} ran but did not publish {', '.join(sorted(names))}"
        for notebook, names in owed.items()
        if names
    ]
    return f"{'; '.join(missing)}, as helpers.tutorial.checks.publish describes" if missing else ""


def format_summary(report: dict) -> str:
    """Two Markdown tables, for the terminal and the page: minutes and memory a notebook; answers and accuracies."""
    total = {
        "name": "together",
        "minutes": round(sum(n["minutes"] for n in report["notebooks"]), 2),
        "peak_mb": "",
    }
    costs = [
        f"| {n['name']:24} | {n['minutes']:7.2f} | {n['peak_mb']:>15} |"
        for n in [*report["notebooks"], total]
    ]
    results = {
        f"answer, {name}": " ".join(str(value).split()).replace("|", "\\|")
        for name, value in report["answers"].items()
        if value
    }
    for name, found in report["accuracy"].items():
        if found:
            low, high = found["interval"]
            results[f"accuracy, {name}"] = f"{found['value']:.1%}, 95 % interval {low:.1%} to {high:.1%}"
    lines = [
        "| notebook                 | minutes | peak memory, MB |",
        "|:-------------------------|--------:|----------------:|",
        *costs,
    ]
    lines += (
        ["", "| result                   | value |", "|:-------------------------|:------|"]
        if results
        else []
    )
    return "\n".join([*lines, *(f"| {name:24} | {value} |" for name, value in results.items())])


def render_page(executions: list[Execution], report: dict) -> str:
    """One HTML page: the summary and every executed notebook below it; links between notebooks lead to places in the page."""
    problems = [f"**Stopped:** {html.escape(e.problem, quote=False)}" for e in executions if e.problem]
    about = f"{time.strftime('%d %B %Y')}, commit {report['commit']}, on {report['device']}."
    links = "Notebooks: " + ", ".join(f"[{e.path.stem}](#{e.path.stem})" for e in executions)
    summary = [
        "# Open LLM Kit: the tutorial, run",
        about,
        *problems,
        html.escape(format_summary(report), quote=False),
        links,
    ]
    cells = [nbformat.v4.new_markdown_cell("\n\n".join(summary))]
    for execution in executions:
        cells.append(nbformat.v4.new_markdown_cell(f'<hr><a id="{execution.path.stem}"></a>'))
        cells += copy.deepcopy(execution.notebook.cells)
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"  # unique in the page
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"\]\((0\w+)\.ipynb\)", r"](#\1)", cell.source)
    page = nbformat.v4.new_notebook(
        cells=cells, metadata={"title": "Open LLM Kit: the tutorial, run", "kernelspec": KERNELSPEC}
    )
    exporter = HTMLExporter(raw_template=PAGE, embed_images=True)
    return exporter.from_notebook_node(
        page, resources={"metadata": {"path": str(executions[0].path.parent)}}
    )[0]
