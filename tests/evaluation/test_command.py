"""`python -m helpers.evaluation`: what it prints, writes and records, and what it refuses."""

import json
import os
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from safetensors.torch import save_file
from support.fake_webui import serve_reply
from support.loras import change_json, read_json
from support.tiny import make_tiny_adapter, make_tiny_model

from helpers import PROJECT, evaluation, loading, server, tasks, training
from helpers.common.command import run_command
from helpers.common.training_settings import TrainingSettings
from helpers.evaluation.__main__ import main

TEMPLATE = str(PROJECT / "templates" / "college_preferences.yaml")
FIELDS = {
    "rows",
    "accuracy",
    "interval",
    "macro_f1",
    "weighted_f1",
    "confusion",
    "majority_accuracy",
    "right_side",
}


OLDER = {"accuracy": 0.25, "interval": [0, 1], "macro_f1": 0, "rows": 6, "majority_accuracy": 0}


def write_csv(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, index=False)


@pytest.fixture
def csv(home, rows):
    """The twelve rows as a table in the home; its name."""
    write_csv(home / "data" / "rows.csv", rows)
    return "data/rows.csv"


@pytest.fixture
def base(tiny, csv):
    """The arguments that judge models/tiny on the table."""
    return ["--model", "tiny", "--data", csv, "--template", TEMPLATE]


@pytest.fixture(scope="session")
def loras_once(tmp_path_factory):
    """Where the first test that needs loras/mine leaves a copy of it for the others."""
    return tmp_path_factory.mktemp("once") / "loras"


@pytest.fixture
def trained(tiny, home, csv, loras_once):
    """The folder loras/mine, trained on the half of the table that the split of seed 0 does not hold out."""
    if not loras_once.exists():
        data = tasks.load_task_data(csv, TEMPLATE, tasks.Split(seed=0, test_size=0.5))
        settings = TrainingSettings(lora_r=4, epochs=1, batch_size=4)
        training.train_lora(tiny, data, settings, home / "loras" / "mine", progress=False)
        shutil.copytree(home / "loras", loras_once)
    shutil.copytree(loras_once, home / "loras", dirs_exist_ok=True)
    return home / "loras" / "mine"


def judge(csv, *options):
    """Judges loras/mine on a table, by default on the half that its training held out."""
    arguments = ["--model", "tiny", "--lora", "mine", "--data", str(csv), "--template", TEMPLATE]
    assert run_command(main, [*arguments, "--split", "test", "--test-size", "0.5", *options]) == 0


def read_recorded(folder):
    """The evaluation in run.json; None if there is none."""
    return read_json(folder / "run.json").get("evaluation")


# What it prints and writes


def test_json_has_the_documented_fields(base, home):
    make_tiny_adapter(home / "loras" / "shift", home / "models" / "tiny")
    result = home / "out.json"
    assert run_command(main, [*base, "--lora", "shift", "--json", str(result)]) == 0
    written = read_json(result)
    assert set(written) == FIELDS
    assert written["rows"] == 12


def test_figures_are_printed_in_two_lines(base, rows, capsys):
    capsys.readouterr()
    assert run_command(main, base) == 0
    figures, confusion = capsys.readouterr().out.splitlines()
    assert "rows 12 " in figures
    assert re.search(r"  right answer [\d.]+% \[\d+, \d+\]  ", figures)
    assert int(re.search(r"  right side [\d.]+% \[\d+, \d+\] of (\d+) rows  ", figures)[1]) == sum(
        row["label"] in (1, 2) for row in rows
    )
    assert sum(map(sum, json.loads(confusion)["confusion"])) == 12


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ([], 12),
        (["--split", "test", "--test-size", "0.5"], 6),
        (["--split", "test", "--test-size", "0.5", "--limit", "2"], 2),
        (["--limit", "5"], 5),
        (["--limit", "500"], 12),
    ],
)
def test_rows_that_are_judged_can_be_chosen(base, home, options, count):
    result = home / "out.json"
    assert run_command(main, [*base, *options, "--json", str(result)]) == 0
    assert read_json(result)["rows"] == count


# What it records


@pytest.mark.parametrize("spelling", ["data/rows.csv", "./data/rows.csv", "data/../data/rows.csv"])
def test_accuracy_on_held_out_rows_is_recorded_however_the_path_is_spelled(trained, spelling):
    judge(spelling)
    recorded = read_recorded(trained)
    assert set(recorded) == {"lora"}
    assert set(recorded["lora"]) == FIELDS
    assert recorded["lora"]["rows"] == 6
    assert "| lora |" in (trained / "README.md").read_text()


def test_lora_is_judged_with_the_chat_template_of_its_training(base, home, csv, rows, template, capsys):
    loaded = loading.load_model("tiny", dtype="float32", chat_template="vicuna")
    settings = TrainingSettings(lora_r=4, epochs=1, batch_size=4)
    training.train_lora(loaded, tasks.TaskData(template, rows), settings, home / "loras" / "other", False)
    expected = evaluation.evaluate(loaded, rows, template, progress=False)
    assert run_command(main, [*base, "--lora", "other", "--json", str(home / "out.json")]) == 0
    assert "chat template: vicuna" in capsys.readouterr().err
    assert read_json(home / "out.json")["confusion"] == expected.confusion


def test_accuracy_on_a_copy_of_the_table_is_recorded(trained, home, rows):
    write_csv(home / "elsewhere" / "copy.csv", rows)
    judge(home / "elsewhere" / "copy.csv")
    assert read_recorded(trained)["lora"]["rows"] == 6


def test_accuracy_of_the_base_that_was_recorded_before_stays(trained):
    change_json(trained / "run.json", evaluation={"base": OLDER})
    judge("data/rows.csv")
    recorded = read_recorded(trained)
    assert recorded["base"] == OLDER
    assert recorded["lora"]["rows"] == 6


def test_accuracy_is_not_recorded_if_a_row_that_was_trained_on_has_changed(trained, home, rows):
    trained_on, held_out = tasks.Split(seed=0, test_size=0.5).divide(rows)
    changed = {**trained_on[0], "text": trained_on[0]["text"] + "!"}
    write_csv(home / "data" / "rows.csv", [changed, *trained_on[1:], *held_out])
    judge("data/rows.csv")
    assert read_recorded(trained) is None


@pytest.mark.parametrize(
    "options",
    [
        ["--seed", "1"],
        ["--test-size", "0.3"],
        ["--limit", "3"],
        ["--split", "all"],
    ],
    ids=" ".join,
)
def test_accuracy_on_rows_that_the_training_did_not_hold_out_is_not_recorded(trained, options):
    judge("data/rows.csv", *options)
    assert read_recorded(trained) is None


def test_accuracy_with_another_chat_template_than_that_of_the_training_is_not_recorded(trained):
    judge("data/rows.csv", "--chat-template", "vicuna")
    assert read_recorded(trained) is None
    judge("data/rows.csv", "--chat-template", "own")
    assert read_recorded(trained)["lora"]["rows"] == 6


def test_lora_of_another_base_is_refused_before_the_model_is_loaded(trained, home, csv, capsys):
    make_tiny_model(home / "models" / "another")
    save_file({}, home / "models" / "another" / "model.safetensors")  # loading it would fail
    options = ["--model", "another", "--lora", "mine", "--data", csv, "--template", TEMPLATE]
    assert run_command(main, options) == 2
    assert "was trained on tiny, not on another" in capsys.readouterr().err


def test_accuracy_of_a_lora_from_elsewhere_is_not_recorded(base, home):
    folder = make_tiny_adapter(home / "loras" / "shift", home / "models" / "tiny")
    options = ["--lora", "shift", "--split", "test", "--test-size", "0.5"]
    assert run_command(main, [*base, *options]) == 0
    assert not (folder / "run.json").exists()


# What it refuses


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--limit", "0"], "0"),
        (["--limit", "-3"], "-3"),
        (["--lora", "nothing"], "nothing"),
        (["--lora", "x", "--url", "http://127.0.0.1:9/v1"], "--url"),
        (["--chat-template", "vicuna", "--url", "http://127.0.0.1:9/v1"], "--url"),
        (["--chat-template", "nothing"], "nothing"),
        (["--data", "nothing.csv"], "nothing.csv"),
        (["--split", "train"], "train"),
        (["--split", "test", "--test-size", "2"], "2.0"),
    ],
    ids=" ".join,
)
def test_wrong_command_line_ends_with_one_line_and_code_2(base, capsys, options, named):
    capsys.readouterr()
    assert run_command(main, [*base, *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert named in line


def test_server_that_is_away_is_named_in_one_line(csv, capsys):
    url = f"http://127.0.0.1:{server.find_port(0)}/v1"
    arguments = ["--url", url, "--model", "x", "--data", csv, "--template", TEMPLATE]
    assert run_command(main, arguments) == 2
    assert url.removesuffix("/v1") in capsys.readouterr().err.splitlines()[-1]


def test_server_on_this_computer_is_judged_without_a_proxy(csv, capsys, proxy):
    answer = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Neither"}}]}
    with serve_reply(200, json.dumps(answer).encode()) as (url, asked):
        arguments = ["--url", f"{url}/v1", "--model", "x", "--data", csv, "--template", TEMPLATE]
        assert run_command(main, arguments) == 0
    assert asked and proxy == []


# Where the result goes


@pytest.mark.parametrize("place", ["folder", "pipe", "rows.csv/a.json", "a" * 300, "", "a\0"])
def test_json_that_cannot_be_written_is_refused_before_the_rows_are_judged(base, home, capsys, place):
    (home / "folder").mkdir()
    (home / "folder" / "precious").touch()
    (home / "rows.csv").touch()
    os.mkfifo(home / "pipe")  # neither file nor folder, as a device
    capsys.readouterr()
    path = str(home / place) if place else place
    assert run_command(main, [*base, "--json", path]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert (home / "folder" / "precious").is_file()


class Vanishing:
    """A folder that goes away when the rows have been judged: it is deleted with the first printed line."""

    def __init__(self, folder):
        self.folder, self.text = folder, ""

    def write(self, text):
        self.text += text
        if self.folder.is_dir():
            self.folder.rmdir()
            self.folder.write_text("a file in the way")

    def flush(self):
        pass


@pytest.mark.parametrize(
    "place", ["data/rows.csv", "template.yaml", "models/tiny/model.safetensors", "loras/new.json", "own.json"]
)
def test_json_replaces_no_input_and_nothing_else_than_a_result(tiny, csv, home, capsys, place):
    (home / "template.yaml").write_bytes(Path(TEMPLATE).read_bytes())
    (home / "own.json").write_text('{"rows": 5, "mine": 1}')
    path = home / place
    before = path.read_bytes() if path.is_file() else None
    line = ["--model", "tiny", "--data", csv, "--template", str(home / "template.yaml"), "--json", str(path)]
    assert run_command(main, line) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert (path.read_bytes() if path.is_file() else None) == before


def test_json_replaces_an_older_result(base, home):
    for limit in ("2", "3"):
        assert run_command(main, [*base, "--limit", limit, "--json", str(home / "out.json")]) == 0
    assert read_json(home / "out.json")["rows"] == 3


def test_result_that_cannot_be_filed_is_on_the_screen(base, home, monkeypatch, capsys):
    (home / "results").mkdir()
    screen = Vanishing(home / "results")
    monkeypatch.setattr("sys.stdout", screen)
    assert run_command(main, [*base, "--json", str(home / "results" / "a.json")]) == 2
    assert "rows 12 " in screen.text
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")


def test_figures_of_a_lora_are_not_recorded_in_the_one_that_took_its_name(trained, csv, monkeypatch, capsys):
    class Replacing(Vanishing):
        def write(self, text):
            if not self.text and text.startswith("rows"):
                trained.rename(trained.with_name("older"))
                shutil.copytree(trained.with_name("older"), trained)
            self.text += text if text.startswith("rows") or self.text else ""

    monkeypatch.setattr("sys.stdout", Replacing(trained))
    arguments = ["--model", "tiny", "--lora", "mine", "--data", csv, "--template", TEMPLATE]
    assert run_command(main, [*arguments, "--split", "test", "--test-size", "0.5"]) == 2
    assert read_recorded(trained) is None
    assert "mine" in capsys.readouterr().err.splitlines()[-1]
