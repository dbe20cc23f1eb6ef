"""The tutorial command on small notebooks in a folder of their own: real kernels, no model."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import nbformat
import psutil
import pytest
from support.lessons import read_lesson, read_notebook

from helpers.common import paths
from helpers.common.command import run_command
from helpers.tutorial.__main__ import main
from helpers.tutorial.execution import Execution, build_environment
from helpers.tutorial.report import PUBLISHERS, build_report, collect_results, render_page

PUBLISH = """
from helpers.tutorial import checks
checks.publish("answer.raw", "The sky is <blue>.")
checks.publish("answer.openai", "Blue.")
"""


def publish_board(name: str, share: float) -> str:
    """The code of a cell that publishes a scoreboard of one line."""
    column = "right answer"
    figures = {"value": share, "low": share - 0.1, "high": share + 0.1, "n": 9}
    line = {"name": name, "what": f"what {name} is", "shares": {column: figures}, "gains": {}}
    board = {"rows": "All figures are of 9 rows.", "rival": "words", "columns": [column], "lines": [line]}
    return f"from helpers.tutorial import checks\nchecks.publish('scoreboard', {board!r}, 'of 9 rows')"


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """An empty home with notebooks/; it is the working folder."""
    (tmp_path / "notebooks").mkdir()
    monkeypatch.delenv("OPEN_LLM_KIT_HOME", raising=False)
    monkeypatch.setenv("KIT_LANE", "tiny")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_notebook(home: Path, name: str, *sources: str) -> Path:
    """A notebook with a heading and these code cells, made for a kernel that is not installed."""
    cells = [nbformat.v4.new_markdown_cell(f"# Lesson {name}")]
    cells += [nbformat.v4.new_code_cell(source) for source in sources]
    metadata = {"kernelspec": {"name": "elsewhere", "display_name": "Elsewhere"}}
    path = home / "notebooks" / f"{name}.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)
    return path


def run_tutorial(*arguments: str, output: str = "out") -> int:
    """The command's exit code; the report goes into the folder `output`."""
    return run_command(main, ["--output", output, *arguments])


def read_report(home: Path) -> dict:
    """report.json in ./out."""
    return json.loads((home / "out" / "report.json").read_text(encoding="utf-8"))


def list_names(report: dict) -> list[str]:
    """The notebooks that ran."""
    return [notebook["name"] for notebook in report["notebooks"]]


@pytest.mark.long
def test_report_has_every_notebook_and_the_published_results(home, capsys):
    write_notebook(home, "01_first", "print('from the first')")
    write_notebook(home, "02_second", PUBLISH, publish_board("LoRA", 0.75))
    assert run_tutorial() == 0
    report = read_report(home)
    assert set(report) == {"commit", "device", "notebooks", "answers", "scoreboard"}
    assert list_names(report) == ["01_first", "02_second"]
    assert set(report["notebooks"][0]) == {"name", "minutes", "peak_mb", "disk_mb"}
    assert report["answers"] == {"raw": "The sky is <blue>.", "openai": "Blue."}
    [line] = report["scoreboard"]["lines"]
    assert line["shares"]["right answer"] == {"value": 0.75, "low": 0.65, "high": 0.85, "n": 9}
    printed = capsys.readouterr().out
    expected = ("02_second", "The sky", "75.0% [65, 85]", "of 9 rows", "- LoRA: what LoRA is", "report.html")
    assert [text for text in expected if text not in printed] == []


@pytest.mark.long
def test_last_scoreboard_is_the_one_of_the_report_and_without_it_the_one_before(home):
    write_notebook(home, "04_training", publish_board("live LoRA", 0.25))
    write_notebook(home, "05_lora_loading", publish_board("over the API", 0.75))
    assert run_tutorial() == 0
    assert read_report(home)["scoreboard"]["lines"][0]["name"] == "over the API"
    page = (home / "out" / "report.html").read_text(encoding="utf-8")
    assert "All figures are of 9 rows." in page and "<td>75.0% [65, 85]</td>" in re.sub(
        " style=[^>]*", "", page
    )
    assert run_tutorial("--only", "04", output="first") == 0
    first = json.loads((home / "first" / "report.json").read_text(encoding="utf-8"))
    assert first["scoreboard"]["lines"][0]["name"] == "live LoRA"


def test_what_a_lesson_folds_away_is_folded_in_the_page(home):
    folds = (
        "<details><summary>Answer</summary>\n\n**b**\n\n</details>",
        "<details><summary>A</summary>\n<b>c</b>\n</details>",
    )
    path = write_notebook(home, "01_first")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text) for text in folds])
    executions = [Execution(path, notebook, 1.0, 1, 1)]
    page = render_page(executions, build_report(executions, {}, "abc"))
    found = re.findall(r"<details>(.*?)</details>", page, flags=re.DOTALL)
    assert ["<strong>b</strong>" in found[0], "<b>c</b>" in found[1]] == [True, True] and len(found) == 2


@pytest.mark.long
def test_page_has_every_notebook_and_needs_no_other_file(home):
    write_notebook(home, "01_first", "print('from the first')")
    write_notebook(home, "02_second", PUBLISH)
    run_tutorial()
    page = (home / "out" / "report.html").read_text(encoding="utf-8")
    assert "from the first" in page and "Lesson 02_second" in page
    assert 'href="#01_first"' in page and 'id="01_first"' in page
    assert "The sky is &lt;blue&gt;." in page and "<blue>" not in page
    assert "require.min.js" not in page


@pytest.mark.long
def test_page_begins_with_the_answers_of_base_and_lora_and_lists_all_sections(home):
    line = {"question": "Whose |\nside?", "truth": "<A>", "base": "x", "LoRA: mine": "A"}
    publish = f"from helpers.tutorial import checks\nchecks.publish('table', [{line}])"
    path = write_notebook(home, "01_first", publish)
    notebook = nbformat.read(path, 4)
    notebook.cells.append(nbformat.v4.new_markdown_cell("## Where it goes"))
    nbformat.write(notebook, path)
    run_tutorial()
    page = (home / "out" / "report.html").read_text(encoding="utf-8")
    head = page[: page.index('id="01_first"')]
    assert "Whose |<br" in head and "LoRA: mine</th>" in head and "&lt;A&gt;" in head
    sections = re.findall(r'href="#(01_first-\d+)"', head)
    assert sections and all(f'id="{name}"' in page for name in sections)


@pytest.mark.long
def test_failing_cell_is_named_and_the_notebooks_before_it_are_reported(home, capsys):
    write_notebook(home, "01_first", "1 + 1", "number = 6\n7 / (number - 6)", "print('never')")
    write_notebook(home, "02_second", PUBLISH)
    assert run_tutorial() == 1
    error = capsys.readouterr().err
    assert "01_first, cell 2 (number = 6)" in error and "ZeroDivisionError: division by zero" in error
    assert list_names(read_report(home)) == ["01_first"]
    assert "ZeroDivisionError" in (home / "out" / "report.html").read_text(encoding="utf-8")


@pytest.mark.long
def test_cell_that_kills_its_kernel_is_named(home, capsys):
    write_notebook(home, "01_first", "import os; os._exit(9)")
    assert run_tutorial() == 1
    assert "01_first, cell 1 (import os; os._exit(9))" in capsys.readouterr().err


@pytest.mark.long
def test_unpublished_results_are_named(home, capsys):
    write_notebook(home, "03_api", PUBLISH.replace("answer.openai", "answer.other"))
    write_notebook(home, "04_training", publish_board("LoRA", 0.75).replace("columns", "lines of text"))
    assert run_tutorial() == 1
    error = capsys.readouterr().err
    assert "04_training ran but did not publish scoreboard" in error
    assert "answer.openai" in error and "answer.raw" not in error
    assert read_report(home)["answers"] == {"raw": "The sky is <blue>.", "openai": None}
    assert read_report(home)["scoreboard"] is None


@pytest.mark.long
def test_only_the_chosen_notebooks_run(home):
    write_notebook(home, "01_first", "1 + 1")
    write_notebook(home, "04_training", "1 / 0")
    assert run_tutorial("--only", "01") == 0
    assert list_names(read_report(home)) == ["01_first"]


@pytest.mark.long
def test_only_the_results_of_the_chosen_notebooks_are_expected(home, capsys):
    write_notebook(home, "03_api", "1 + 1")
    write_notebook(home, "04_training", "1 / 0")
    assert run_tutorial("--only", "03") == 1
    error = capsys.readouterr().err
    assert "answer.raw" in error and "scoreboard" not in error


@pytest.mark.parametrize("lesson", PUBLISHERS)
def test_lesson_publishes_the_results_that_the_report_expects(lesson):
    assert set(PUBLISHERS[lesson]) <= set(collect_results([read_lesson(lesson)]))


@pytest.mark.parametrize(
    ("arguments", "named"), [(["--only", "07"], "'07'"), (["--output", "notebooks"], "notebooks")]
)
def test_wrong_option_ends_with_one_line(home, capsys, arguments, named):
    write_notebook(home, "01_first", "1 + 1")
    assert run_command(main, arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and named in error and error.count("\n") == 1


@pytest.mark.long
def test_memory_of_child_processes_counts(home):
    child = "import time; block = bytearray(300_000_000); time.sleep(1.5)"
    write_notebook(home, "01_alone", "import time; time.sleep(1)")
    start_child = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}])"
    write_notebook(home, "02_with_child", start_child)
    assert run_tutorial() == 0
    alone, with_child = (notebook["peak_mb"] for notebook in read_report(home)["notebooks"])
    assert alone > 20 and with_child > alone + 290


@pytest.mark.long
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Only Linux divides shared memory.")
def test_memory_that_two_processes_share_counts_once(home):
    block = "import os, time\nblock = bytearray(b'x') * 400_000_000"
    write_notebook(home, "01_alone", f"{block}\ntime.sleep(1.5)")
    fork = "child = os.fork()\nif not child:\n    time.sleep(1.5)\n    os._exit(0)\nos.waitpid(child, 0)"
    write_notebook(home, "02_with_child", f"{block}\n{fork};")
    assert run_tutorial() == 0
    alone, with_child = (notebook["peak_mb"] for notebook in read_report(home)["notebooks"])
    assert alone > 400 and with_child < alone + 100


def test_kernel_and_shell_commands_use_this_python(home):
    folder = os.path.dirname(sys.executable)
    found = "{os.path.dirname(path) for path in (sys.executable, shutil.which('python'))}"
    write_notebook(home, "01_first", f"import os, shutil, sys\nassert {found} == {{{folder!r}}}")
    assert run_tutorial() == 0


def test_hub_is_off_once_the_model_of_the_lane_is_there(home, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert "HF_HUB_OFFLINE" not in build_environment()
    (home / "models" / "SmolLM2-135M-Instruct").mkdir(parents=True)
    assert build_environment()["HF_HUB_OFFLINE"] == "1"


@pytest.mark.long
def test_in_place_changes_outputs_only_and_is_repeatable(home):
    path = write_notebook(home, "01_first", "import ipywidgets\nipywidgets.IntSlider()", "print(1)\nprint(2)")
    sources = [cell.source for cell in read_notebook(path).cells]
    assert run_tutorial("--only", "01", "--in-place") == 0
    first = path.read_bytes()
    notebook = read_notebook(path)
    assert [cell.source for cell in notebook.cells] == sources
    assert notebook.metadata.kernelspec.name == "python3" and set(notebook.metadata) == {"kernelspec"}
    printed = {"name": "stdout", "output_type": "stream", "text": "1\n2\n"}
    assert [cell.outputs for cell in notebook.cells[1:]] == [[], [printed]]
    assert all(cell.metadata == {} for cell in notebook.cells)
    assert run_tutorial("--only", "01", "--in-place", output="again") == 0
    assert path.read_bytes() == first


@pytest.mark.long
def test_failure_leaves_the_notebooks_as_they_were(home):
    path = write_notebook(home, "01_first", "print(1)", "1 / 0")
    before = path.read_bytes()
    assert run_tutorial("--in-place") == 1
    assert path.read_bytes() == before


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT to send to one process")
@pytest.mark.long
def test_interrupt_ends_the_kernel_and_what_it_started(home):
    sleep = "import time; time.sleep(600)"
    start_child = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {sleep!r}])"
    write_notebook(home, "01_first", f"{start_child}\nopen({str(home / 'up')!r}, 'w')", sleep)
    # The background jobs of a shell, such as a CI's, start with SIGINT ignored.
    hear_interrupts = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    command = subprocess.Popen(
        [sys.executable, "-m", "helpers.tutorial"],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_interrupts,
    )
    while not (home / "up").exists() and command.poll() is None:
        time.sleep(0.2)
    processes = psutil.Process(command.pid).children(recursive=True)
    command.send_signal(signal.SIGINT)
    assert command.wait(timeout=60) == 130
    assert "Traceback" not in command.stderr.read()
    assert len(processes) >= 2 and not psutil.wait_procs(processes, timeout=10)[1]
    assert not list((home / "runs").iterdir())


def test_commit_says_when_files_differ(home, monkeypatch):
    monkeypatch.setattr(paths, "PROJECT", home)
    assert paths.find_commit() == "unknown"
    git = ["git", "-c", "user.name=A", "-c", "user.email=a@example.org"]
    (home / "file").write_text("1")
    for command in (["init", "--quiet"], ["add", "file"], ["commit", "--quiet", "--message", "one"]):
        subprocess.run([*git, *command], check=True)
    clean = paths.find_commit()
    (home / "file").write_text("2")
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    assert head.startswith(clean) and len(clean) == 12 and paths.find_commit() == f"{clean}-dirty"
