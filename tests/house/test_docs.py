"""The pages for people name only files, commands and modules that exist; the GitHub forms are complete."""

import ast
import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import yaml
from support.lessons import read_lesson

from helpers import PROJECT
from helpers.adapters.folders import SHIPPED, AdapterFolder
from helpers.common.lanes import LANES
from helpers.server.__main__ import parse_arguments
from helpers.tutorial.report import collect_results
from helpers.weights.names import EMBEDDED_NAME
from tools.ship_lora import NAME, TASK

PAGES = [
    PROJECT / name
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "launch/README.md")
]
GUIDE = PROJECT / "notebooks" / "GUIDE.md"
MADE_BY_USE = ("models/", "loras/", "runs/", ".venv")
GITHUB = PROJECT / ".github"
FORMS = [path for path in sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.yml")) if path.stem != "config"]

by_name = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def find_code(page: Path) -> list[str]:
    """Fenced blocks and code spans of a page. Prose such as "make a copy" is not code."""
    found = re.findall(r"```\w*\n(.*?)```|`([^`\n]+)`", read(page), flags=re.DOTALL)
    return [fenced or span for fenced, span in found]


def find_targets() -> set[str]:
    """The targets of the Makefile."""
    return set(re.findall(r"^([a-z][a-z-]*):", read(PROJECT / "Makefile"), flags=re.MULTILINE))


def read_table(page: Path, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its two header lines."""
    lines = read(page).split(f"{heading}\n", 1)[1].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


@by_name
def test_links_of_a_page_lead_to_files_that_exist(page):
    targets = re.findall(r"\]\(([^)\s#]+)[^)]*\)", read(page))
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


@by_name
def test_files_that_a_page_names_exist(page):
    folders = "|".join(path.name for path in sorted(PROJECT.iterdir()) if path.is_dir())
    missing = []
    for code in find_code(page):
        for name in re.findall(rf"(?<![\w./])(?:{folders})/[\w./-]*\w", code):
            if not name.startswith(MADE_BY_USE) and "NAME" not in name and not (PROJECT / name).exists():
                missing.append(name)
    assert missing == []


@by_name
def test_make_commands_of_a_page_are_targets_of_the_makefile(page):
    commands = set(re.findall(r"\bmake ([a-z][a-z-]*)", "\n".join(find_code(page))))
    assert commands <= find_targets()


def test_makefile_has_the_usual_targets():
    assert {"setup", "tutorial", "lab", "test", "test-slow", "clean", "help"} <= find_targets()


def test_readme_begins_with_what_shows_the_lora_of_the_kit():
    first = read(PROJECT / "README.md").split("<!-- end of getting -->")[1]
    setup, fetch, serve = re.search(r"```bash\n(.*?)```", first, flags=re.DOTALL)[1].splitlines()
    assert setup.partition("#")[0].strip() == "make setup" and fetch.endswith(
        f"helpers.weights fetch {EMBEDDED_NAME}"
    )
    options = parse_arguments(shlex.split(serve)[3:])
    assert (
        options.model == LANES["tiny"].folder and options.lora == [NAME] and options.extensions == ["openai"]
    )


def test_python_of_the_readme_asks_base_and_lora_as_the_lora_was_trained_to_be_asked(template):
    source = re.search(r"```python\n(.*?)```", read(PROJECT / "README.md"), flags=re.DOTALL)[1]
    [row] = [ast.literal_eval(node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Dict)]
    assert template.build_messages(row)[-1]["content"].endswith(row["text"])
    assert f'load_template("{TASK.template}")' in source
    assert f'("{LANES["tiny"].folder}", "{NAME}")' in source


@by_name
def test_modules_that_a_page_runs_exist(page):
    modules = set(re.findall(r"python -m ([\w.]+\w)", "\n".join(find_code(page))))
    placeholders = {module for module in modules if module.split(".")[-1].isupper()}
    assert [name for name in sorted(modules - placeholders) if not importlib.util.find_spec(name)] == []


def test_figures_of_the_kits_lora_in_the_readme_are_those_of_its_record():
    run = AdapterFolder(SHIPPED / NAME).run
    judged = [run["evaluation"]["lora"], run["evaluation"]["base"], run["baselines"]["bag of words"]]
    assert len({found["rows"] for found in judged}) == 1
    claim = r"right on ([\d.]+)% of (\d+) rows .*? gets ([\d.]+)%, .*? counts words gets ([\d.]+)%"
    lora, rows, *others = re.search(claim, " ".join(read(PROJECT / "README.md").split())).groups()
    assert int(rows) == judged[0]["rows"]
    assert [lora, *others] == [f"{100 * found['accuracy']:.1f}" for found in judged]


def test_figures_of_lesson_4_in_the_readme_are_those_of_its_last_run():
    board = collect_results([read_lesson("04_training")])["scoreboard"]
    shares = {line["name"]: line["shares"]["right answer"]["value"] for line in board["lines"]}
    text = " ".join(read(PROJECT / "README.md").split())
    assert f"(Lesson 4 shows {shares['15-minute LoRA']:.1%}:" in text
    assert f"Over all 315 rows it is right on {shares['live LoRA']:.0%}." in text


def find_commands(page: Path) -> list[tuple[str, list[str]]]:
    """(module, its words) of each command of the kit on a page; `size REPO|FOLDER` names a choice."""
    code = "\n".join(find_code(page))
    found = re.findall(r"python -m ((?:helpers|tools)\.\w+)((?: [^\s#]+)*)", code)
    return [(module, words.split()) for module, words in found if importlib.util.find_spec(module)]


@pytest.mark.parametrize("page", [*PAGES, GUIDE], ids=lambda page: str(page.relative_to(PROJECT)))
def test_options_that_a_page_gives_a_command_exist(page, capsys):
    for module, words in find_commands(page):
        package = importlib.util.find_spec(module).submodule_search_locations
        main = importlib.import_module(f"{module}.__main__" if package else module).main
        with pytest.raises(SystemExit):
            main([*(word for word in words[:1] if word.islower() and word.isalpha()), "--help"])
        known = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
        assert {word for word in words if word.startswith("--")} <= known, (module, words)


def test_each_question_where_something_happens_has_one_file():
    rows = read_table(PROJECT / "CONTRIBUTING.md", "### Where does X happen?")
    files = [file.strip("`") for _, file in rows]
    assert len(rows) >= 10 and all(question.startswith("Where ") for question, _ in rows)
    assert [file for file in files if not (PROJECT / file).is_file()] == []


def test_new_import_paths_of_the_changelog_can_be_imported():
    rows = read_table(PROJECT / "CHANGELOG.md", "### Changed")
    new = {name for _, now in rows for name in re.findall(r"(?:helpers|tools)[.\w]*", now)}
    assert new and [name for name in sorted(new) if not importlib.util.find_spec(name)] == []


def test_hosted_workflow_runs_what_ci_runs():
    (job,) = yaml.safe_load(read(GITHUB / "workflows" / "test.yml"))["jobs"].values()
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert "bash .ci/run" in commands and job["timeout-minutes"] <= 60


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_form_has_what_github_asks_for(path):
    form = yaml.safe_load(read(path))
    assert form["name"] and form["description"]
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields) > 0
    assert all(field["attributes"]["label"] for field in fields)
