"""Another task instead of the lessons' own: another data set and template, and nothing else changed."""

import json
import shutil

import pytest

from helpers import tasks, tutorial, weights
from helpers.common.errors import NotFoundError, UnsupportedError
from helpers.tutorial.execution import execute_notebook, find_notebooks


def test_second_task_has_150_rows_of_three_labels_that_fit_its_template():
    task = tutorial.Task("repair_notes")
    rows = tasks.load_rows(task.data, tasks.load_template(task.template))
    assert len(rows) == 150 and tasks.count_labels(rows) == {0: 50, 1: 50, 2: 50}
    audit = tasks.audit_rows(rows)
    assert audit.duplicates == 0 and not audit.near_duplicates and audit.repeated_5grams <= 0.02


def test_task_is_picked_by_its_name(monkeypatch):
    monkeypatch.delenv("KIT_TASK", raising=False)
    assert tutorial.pick_task().adapter == "college-preferences"
    monkeypatch.setenv("KIT_TASK", "repair_notes")
    assert tutorial.pick_task().data == "data/repair_notes/dataset.csv"


def test_error_for_an_unknown_task_names_it(monkeypatch):
    monkeypatch.setenv("KIT_TASK", "no_such")
    with pytest.raises(NotFoundError, match="no_such"):
        tutorial.pick_task()


def test_task_with_free_answers_is_refused_in_words(monkeypatch):
    monkeypatch.setenv("KIT_TASK", "clock_house")
    with pytest.raises(UnsupportedError, match="helpers.training"):
        tutorial.pick_task()


@pytest.mark.real
@pytest.mark.slow
def test_lessons_4_and_5_run_with_another_task(real_model_name, tmp_path, monkeypatch):
    shutil.copytree(weights.models_folder() / real_model_name, tmp_path / "models" / real_model_name)
    monkeypatch.setenv("OPEN_LLM_KIT_HOME", str(tmp_path))
    monkeypatch.setenv("KIT_TASK", "repair_notes")
    for path in find_notebooks(["04", "05"]):
        assert execute_notebook(path).problem == ""
    run = json.loads((tmp_path / "loras" / "repair-notes" / "run.json").read_text(encoding="utf-8"))
    assert run["template"] == "repair_notes" and run["evaluation"]["lora"]["rows"] == 30
