"""Another task in place of the lessons' own: a data set and a template of another kind, and nothing else changed."""

import shutil

import pandas as pd
import pytest

from helpers import KitError, tasks, tutorial, weights
from helpers.tutorial.execution import execute_notebook, find_notebooks


def test_second_task_has_150_rows_of_three_labels_that_fit_its_template():
    task = tutorial.Task("repair_notes")
    rows = tasks.load_rows(task.data, tasks.load_template(task.template))
    assert len(rows) == 150 and tasks.count_labels(rows) == {0: 50, 1: 50, 2: 50}
    audit = tasks.audit_rows(rows)
    assert audit.duplicates == 0 and not audit.near_duplicates and audit.repeated_5grams <= 0.02


def test_task_is_picked_by_its_name_and_a_wrong_name_is_told(monkeypatch):
    assert tutorial.pick_task().adapter == "college-preferences"
    monkeypatch.setenv("KIT_TASK", "repair_notes")
    assert tutorial.pick_task().data == "data/repair_notes/dataset.csv"
    monkeypatch.setenv("KIT_TASK", "no_such")
    with pytest.raises(KitError, match="KIT_TASK"):
        tutorial.pick_task()


@pytest.mark.real
@pytest.mark.slow
def test_lessons_4_and_5_run_with_another_task(real_model_name, tmp_path, monkeypatch):
    shutil.copytree(weights.models_folder() / real_model_name, tmp_path / "models" / real_model_name)
    monkeypatch.setenv("OPEN_LLM_KIT_HOME", str(tmp_path))
    monkeypatch.setenv("KIT_TASK", "repair_notes")
    for start in ("04", "05"):
        [path] = find_notebooks([start])
        done = execute_notebook(path)
        assert done.problem == ""
    run = pd.read_json(tmp_path / "loras" / "repair-notes" / "run.json", typ="series")
    assert run["template"] == "repair_notes" and run["evaluation"]["lora"]["rows"] == 30
