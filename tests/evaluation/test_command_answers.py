"""`python -m helpers.evaluation` for free answers and chats, and the gain of a LoRA over its base."""

import http.server
import json
import shutil

import pandas as pd
import pytest
from support.fake_webui import serve_http, serve_reply
from support.loras import read_json
from support.tiny import make_tiny_adapter

from helpers import PROJECT, tasks, training
from helpers.common.command import run_command
from helpers.common.training_settings import TrainingSettings
from helpers.evaluation.__main__ import main
from helpers.server.keys import KEY_VARIABLE

FIGURES = {
    "rows",
    "exact_match",
    "exact_interval",
    "token_f1",
    "token_f1_interval",
    "chrf",
    "chrf_interval",
    "perplexity",
    "baselines",
}
ROWS = [{"question": f"Is {number} even?", "answer": f"secret {number % 3}"} for number in range(12)]
TEMPLATE = 'instruction: Answer.\ntask: "{question}"\nanswer: "{answer}"\n'


@pytest.fixture
def files(home):
    """The options that name the table and the template of free answers."""
    pd.DataFrame(ROWS).to_csv(home / "rows.csv", index=False)
    (home / "questions.yaml").write_text(TEMPLATE)
    return ["--data", str(home / "rows.csv"), "--template", str(home / "questions.yaml")]


@pytest.fixture
def base(tiny, files):
    """The options that judge models/tiny on the table."""
    return ["--model", "tiny", *files]


@pytest.fixture(scope="session")
def loras_once(tmp_path_factory):
    """Where the first test that needs loras/mine leaves a copy of it for the other."""
    return tmp_path_factory.mktemp("once") / "loras"


@pytest.fixture
def trained(tiny, home, files, loras_once):
    """The folder loras/mine, whose training watched a quarter of the table and held out another one."""
    if not loras_once.exists():
        split = tasks.Split(seed=0, test_size=0.25, validation_size=0.25)
        data = tasks.load_task_data(files[1], files[3], split)
        settings = TrainingSettings(lora_r=4, epochs=1, batch_size=4)
        training.train_lora(tiny, data, settings, home / "loras" / "mine", progress=False)
        shutil.copytree(home / "loras", loras_once)
    shutil.copytree(loras_once, home / "loras", dirs_exist_ok=True)
    return home / "loras" / "mine"


def judge(*options):
    """Runs the command, which must succeed."""
    assert run_command(main, list(options)) == 0


def refuse(capsys, *options):
    """Runs the command, which must fail with one line; the line."""
    capsys.readouterr()
    assert run_command(main, list(options)) == 2
    *_, line = capsys.readouterr().err.splitlines()
    return line


def test_figures_are_written_under_the_documented_names_and_printed_in_one_line(base, home, capsys):
    judge(*base, "--limit", "3", "--json", str(home / "out.json"))
    assert set(read_json(home / "out.json")) == FIGURES
    out = capsys.readouterr().out
    assert "secret" not in out + (home / "out.json").read_text()
    line = next(line for line in out.splitlines() if line.startswith("rows 3 "))
    assert all(name in line for name in ("exact match", "token F1", "chrF", "perplexity"))


def test_baselines_are_judged_when_the_training_rows_are_known(base, home, capsys):
    judge(*base, "--split", "test", "--limit", "2", "--json", str(home / "out.json"))
    baselines = read_json(home / "out.json")["baselines"]
    assert set(baselines) == {"most frequent answer", "nearest neighbour"}
    assert set(baselines["nearest neighbour"]) == {"exact_match", "token_f1", "chrf"}
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines if line.split(":")[0] in baselines] == list(baselines)


def test_texts_of_rows_are_shown_only_if_they_may_be(base, home, capsys):
    assert "--show-rows" in refuse(capsys, *base, "--worst", "2")
    judge(*base, "--limit", "3", "--worst", "2", "--show-rows", "--json", str(home / "out.json"))
    out = capsys.readouterr().out
    assert out.count("  right  secret") == out.count("  asked  Is ") == out.count("  said   ") == 2
    answers = read_json(home / "out.json")["answers"]
    assert [answer["row"] for answer in answers] == ROWS[:3]
    assert set(answers[0]) == {"row", "right", "said", "exact_match", "token_f1", "chrf"}


def test_chats_need_no_template(tiny, home, capsys):
    chats = [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        for question, answer in (("One?", "1"), ("Two?", "2"))
    ]
    (home / "chats.jsonl").write_text("\n".join(map(json.dumps, chats)))
    judge("--model", "tiny", "--data", str(home / "chats.jsonl"), "--json", str(home / "out.json"))
    assert read_json(home / "out.json")["rows"] == 2


def test_gain_over_the_base_is_measured_on_the_same_rows(base, home, capsys):
    make_tiny_adapter(home / "loras" / "shift", home / "models" / "tiny")
    judge(*base, "--lora", "shift", "--base", "--limit", "3", "--json", str(home / "out.json"))
    found = read_json(home / "out.json")
    assert set(found["gain"]) == {"exact_match", "token_f1", "chrf"}
    low, high = found["gain"]["chrf"]["interval"]
    assert low <= found["gain"]["chrf"]["value"] <= high
    assert found["gain"]["chrf"]["value"] == pytest.approx(found["chrf"] - found["base"]["chrf"])
    assert "gain over the base" in capsys.readouterr().out
    judge(*base, "--limit", "3", "--json", str(home / "alone.json"))
    assert found["base"] == read_json(home / "alone.json") != found


def test_gain_in_accuracy_is_measured_for_labels(tiny, home, rows, capsys):
    pd.DataFrame(rows).to_csv(home / "labels.csv", index=False)
    make_tiny_adapter(home / "loras" / "shift", home / "models" / "tiny")
    template = str(PROJECT / "templates" / "college_preferences.yaml")
    options = ["--model", "tiny", "--data", str(home / "labels.csv"), "--template", template]
    judge(*options, "--lora", "shift", "--base", "--json", str(home / "out.json"))
    found = read_json(home / "out.json")
    gain = found["gain"]["accuracy"]
    assert gain["value"] == pytest.approx(found["accuracy"] - found["base"]["accuracy"])
    side = found["gain"]["right_side"]
    assert side["value"] == pytest.approx(found["right_side"]["value"] - found["base"]["right_side"]["value"])
    printed = capsys.readouterr().out
    assert "gain over the base: right answer " in printed and "points  right side " in printed
    assert "--show-rows" in refuse(capsys, *options, "--show-rows")


def test_base_goes_with_a_lora(base, capsys):
    assert "--base" in refuse(capsys, *base, "--base")


# What it records


def test_figures_on_held_out_rows_are_recorded_whatever_the_training_watched(trained, base):
    judge(*base, "--lora", "mine", "--base", "--split", "test", "--test-size", "0.25")
    recorded = read_json(trained / "run.json")["evaluation"]
    assert list(recorded) == ["base", "lora"]
    assert set(recorded["lora"]) == FIGURES
    card = (trained / "README.md").read_text()
    assert all(f"| {name} |" in card for name in ("base", "lora", "nearest neighbour", "perplexity"))


@pytest.mark.parametrize("options", [["--seed", "1"], ["--test-size", "0.5"]], ids=" ".join)
def test_figures_on_rows_that_the_training_did_not_hold_out_are_not_recorded(trained, base, options):
    judge(*base, "--lora", "mine", "--split", "test", "--test-size", "0.25", *options)
    assert "evaluation" not in read_json(trained / "run.json")


# Over a URL


class WithKey(http.server.BaseHTTPRequestHandler):
    """A server whose key is "secret"."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200 if self.headers["Authorization"] == "Bearer secret" else 401)
        self.end_headers()
        self.wfile.write(b'{"choices": [{"message": {"content": "secret 1"}}]}')

    def log_message(self, *_):
        pass


def test_server_is_judged_by_what_it_says(files, home):
    body = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Secret 1!"}}]}
    with serve_reply(200, json.dumps(body).encode()) as (url, asked):
        judge("--url", f"{url}/v1", "--model", "x", *files, "--json", str(home / "out.json"))
    found = read_json(home / "out.json")
    assert found["exact_match"] == pytest.approx(1 / 3)
    assert found["perplexity"] is None
    assert {request["messages"][-1]["content"] for request in asked} == {row["question"] for row in ROWS}
    assert all((request["temperature"], request["max_tokens"]) == (0, 32) for request in asked)


def test_half_of_a_character_in_an_answer_costs_only_this_answer(files, home):
    body = b'{"choices": [{"index": 0, "message": {"role": "assistant", "content": "a \\ud800"}}]}'
    with serve_reply(200, body) as (url, _):
        judge("--url", f"{url}/v1", "--model", "x", *files, "--show-rows", "--json", str(home / "out.json"))
    assert read_json(home / "out.json")["answers"][0]["said"] == "a \ufffd"


def test_server_with_a_key_is_given_the_key_of_a_file_or_of_the_environment(files, home, capsys, monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    (home / "key").write_text("secret\n")
    with serve_http(WithKey) as (url, _):
        asked = ["--url", f"{url}/v1", "--model", "x", *files]
        assert KEY_VARIABLE in refuse(capsys, *asked)
        judge(*asked, "--api-key-file", str(home / "key"))
        judge(*asked, "--api-key", "secret")
        monkeypatch.setenv(KEY_VARIABLE, "secret")
        judge(*asked)
    assert "--url" in refuse(capsys, "--model", "x", *files, "--api-key", "secret")


def test_control_characters_of_a_server_do_not_reach_the_terminal(files, capsys):
    body = json.dumps({"choices": [{"message": {"content": "\x1b[31mred\u202e"}}]}).encode()
    with serve_reply(200, body) as (url, _):
        judge("--url", f"{url}/v1", "--model", "x", *files, "--show-rows", "--worst", "1")
    assert "\\x1b[31mred\\u202e" in capsys.readouterr().out


def test_refusal_of_a_server_is_one_line(files, capsys):
    with serve_reply(503, b'{"error": {"message": "too busy"}}') as (url, _):
        assert "too busy" in refuse(capsys, "--url", f"{url}/v1", "--model", "x", *files)
