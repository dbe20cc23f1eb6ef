"""Lesson 5's questions: own rows, swapped options, curl, and base beside LoRA over an API."""

import openai
import pytest
from support.scripted_engine import ScriptedEngine
from support.server import serve_app

from helpers.server.openai_api import make_openai_app
from helpers.server.service import Service
from helpers.tasks.template import Template
from helpers.tutorial import asking

TEMPLATE = Template("t", "Judge.", "{text} {a} {b}", {0: "none", 1: "{a}", 2: "{b}"})
ROWS = [{"text": f"comment {number}", "a": "Elm", "b": "Glen", "label": number % 3} for number in range(6)]


def test_options_are_swapped_with_the_rest_unchanged():
    first, second = asking.list_orders(ROWS[0], TEMPLATE)
    assert first == ROWS[0]
    assert (second["a"], second["b"], second["text"]) == ("Glen", "Elm", "comment 0")


def test_template_without_options_has_one_order():
    fixed = Template("t", "", "{text}", {0: "no", 1: "yes"})
    assert asking.list_orders({"text": "x"}, fixed) == [{"text": "x"}]


def test_row_of_another_task_is_replaced_by_one_that_fits():
    assert asking.fit_row({"text": "x", "a": "1", "b": "2"}, TEMPLATE, ROWS)["text"] == "x"
    assert asking.fit_row({"question": "x"}, TEMPLATE, ROWS) == ROWS[0]


@pytest.fixture
def url():
    with serve_app(make_openai_app(Service(engine=ScriptedEngine(["Elm"])))) as address:
        yield f"{address}/v1"


def test_base_and_lora_are_asked_and_marked(url):
    client = openai.OpenAI(base_url=url, api_key="none")
    table = asking.ask_both(client, ROWS, TEMPLATE, base="x", lora="mine", count=3)
    assert [line["truth"] for line in table] == ["none", "Elm", "Glen"]
    assert [line["LoRA: mine"] for line in table] == ["✘ Elm", "✔ Elm", "✘ Elm"]


def test_curl_prints_its_line_and_the_answer_and_not_the_key(url, capsys):
    body = {"model": "x", "messages": [{"role": "user", "content": "Who?"}]}
    asking.run_curl(f"{url}/chat/completions", body, api_key="secret-of-mine")
    line, answer = capsys.readouterr().out.splitlines()
    assert line.startswith("curl -s http") and "secret-of-mine" not in line and "$OPENAI_API_KEY" in line
    assert answer == "Elm"


def test_curl_without_a_server_prints_what_came(capsys):
    asking.run_curl("http://127.0.0.1:9/v1", {})
    assert capsys.readouterr().out.startswith("curl -s")


def test_answers_are_a_table_with_a_caption_and_are_escaped():
    line = {"question": "Option A: <b>\nComment: ?", "truth": "Elm", "base": "✘ x", "LoRA: mine": "✔ Elm"}
    shown = asking.write_answers([line], "http://127.0.0.1:5001/v1")
    assert "<caption>Held-out rows, answered by http://127.0.0.1:5001/v1</caption>" in shown
    assert f"{asking.CELL}Option A: &lt;b&gt;<br>Comment: ?</td>" in shown and shown.count(asking.CELL) == 4
    assert '<th scope="col">LoRA: mine</th>' in shown


@pytest.mark.parametrize("lines", [[], [{"question": "?", "truth": "Elm", "base": "x"}]])
def test_table_without_a_lora_is_none(lines):
    assert asking.list_heads(lines) == []
