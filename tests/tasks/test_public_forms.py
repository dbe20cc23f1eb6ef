"""Tables in the forms in which public data sets come: from a suggested template to a training example.

The content is our own; columns and file formats are those of the data sets that the tests name.
"""

import csv
import json

import pytest

from helpers import tasks
from helpers.tasks.chats import ChatForm
from helpers.tasks.files.tables import Table

SUBJECTS = "kettle lamp clock radio chair stove fan iron drill mixer scale heater".split()
CALM, ODD = "The {} works well again after an hour.", "Nobody could do anything for the old {}."


def write_csv(path, rows, separator=","):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=separator)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_json(path, rows):
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def build(folder, path):
    """(the suggestion, the loaded data, the first training example), all by way of a written file."""
    suggestion = tasks.suggest_template(path)
    written = folder / "suggested.yaml"
    written.write_text(suggestion.text, encoding="utf-8")
    assert tasks.load_template(written) == suggestion.template
    data = tasks.load_task_data(path, written)
    return suggestion, data, data.template.build_example(data.train[0])


def find_row(data, **cells):
    """The row with these cells."""
    return next(row for row in [*data.train, *data.test] if cells.items() <= row.items())


def make_reviews(**more):
    """24 rows: a text, and what `more` says of its parity."""
    return [
        {"text": (CALM if number % 2 else ODD).format(f"{subject} {number}")}
        | {name: values[number % 2] for name, values in more.items()}
        for number, subject in enumerate(SUBJECTS * 2)
    ]


def test_dolly_has_a_context_that_may_be_empty(tmp_path):
    rows = [
        {
            "instruction": f"What is a {subject}?",
            "context": f"A {subject} is a thing in a house." if number % 3 == 0 else "",
            "response": f"It is a thing that people call {subject}, number {number}.",
            "category": ("closed_qa", "open_qa", "open_qa")[number % 3],
        }
        for number, subject in enumerate(SUBJECTS)
    ]
    suggestion, data, _ = build(tmp_path, write_lines(tmp_path / "dolly.jsonl", rows))
    assert (suggestion.kind, suggestion.answer_column) == ("answers", "response")
    assert (suggestion.columns, suggestion.optional) == (["instruction", "context"], ["context"])
    assert suggestion.unused == ["category"]
    row = find_row(data, instruction="What is a lamp?")
    example = data.template.build_example(row)
    assert example["prompt"] == [{"role": "user", "content": "Instruction: What is a lamp?"}]
    assert example["completion"][0]["content"] == rows[1]["response"]


def test_sst2_has_labels_as_numbers_and_an_index(tmp_path):
    rows = [
        {"sentence": row["text"], "label": row["label"], "idx": number}
        for number, row in enumerate(make_reviews(label=(0, 1)))
    ]
    suggestion, _, example = build(tmp_path, write_csv(tmp_path / "sst2.tsv", rows, "\t"))
    assert (suggestion.kind, suggestion.label_column, suggestion.unused) == ("labels", "label", ["idx"])
    assert suggestion.template.label == {0: "0", 1: "1"}
    assert example["label"] in (0, 1) and "works" in str(example) or "Nobody" in str(example)


def test_banking77_has_77_words_as_labels(tmp_path):
    rows = [
        {"text": f"Question {number} on matter {number % 77}?", "category": f"matter_{number % 77}"}
        for number in range(77 * 5)
    ]
    suggestion, _, example = build(tmp_path, write_csv(tmp_path / "banking.csv", rows))
    assert (suggestion.label_column, len(suggestion.template.label)) == ("category", 77)
    assert "matter_76" in example["prompt"][0]["content"]
    assert example["completion"][0]["content"] == example["label"]


def test_names_of_class_labels_become_the_answers(tmp_path):
    rows = [{key: str(value) for key, value in row.items()} for row in make_reviews(label=(0, 1))]
    places = [f"Row {number}" for number in range(1, len(rows) + 1)]
    names = {"label": ["bad news", "good: news"]}
    table = Table(tmp_path / "banking", ["text", "label"], rows, places, [], names)
    (tmp_path / "t.yaml").write_text(tasks.suggest_for(table).text)
    assert tasks.load_template(tmp_path / "t.yaml").label == {0: "bad news", 1: "good: news"}


def test_a_column_that_names_the_labels_becomes_the_answers_and_is_not_shown(tmp_path):
    rows = make_reviews(label=(0, 1), label_text=("negative", "positive"))
    suggestion, _, _ = build(tmp_path, write_lines(tmp_path / "setfit.jsonl", rows))
    assert suggestion.template.label == {0: "negative", 1: "positive"}
    assert suggestion.columns == ["text"]


def test_alpaca_and_oasst_are_chats_and_need_no_template(tmp_path):
    alpaca = [{"instruction": f"Name a {one}.", "input": "", "output": one} for one in SUBJECTS]
    oasst = [
        {
            "message_tree_id": one,
            "prompt": {
                "role": "prompter",
                "text": f"What is a {one}?",
                "replies": [{"role": "assistant", "text": "A thing.", "rank": 0, "replies": []}],
            },
        }
        for one in SUBJECTS
    ]
    for rows in (alpaca, oasst):
        path = write_lines(tmp_path / "chats.jsonl", rows)
        assert (tasks.suggest_template(path).kind, tasks.suggest_template(path).text) == ("chats", "")
        data = tasks.load_task_data(path)
        assert isinstance(data.template, ChatForm)
        assert data.template.build_example(data.train[0])["completion"][0]["role"] == "assistant"


def test_samsum_asks_for_a_summary_of_the_dialogue(tmp_path):
    rows = [
        {
            "id": f"13{number}",
            "dialogue": f"Ann: Is the {one} back?\r\nBo: Yes.",
            "summary": f"The {one} is back.",
        }
        for number, one in enumerate(SUBJECTS)
    ]
    suggestion, _, example = build(tmp_path, write_json(tmp_path / "samsum.json", rows))
    assert (suggestion.answer_column, suggestion.columns) == ("summary", ["dialogue"])
    assert "Summarise" in example["prompt"][0]["content"]


@pytest.mark.parametrize("nested", [True, False])
def test_squad_keeps_questions_on_one_context_together(tmp_path, nested):
    rows = [
        {
            "id": f"{one}-{number}",
            "title": "Workshop",
            "context": f"The {one} was repaired on a Friday in May by Ann, and fetched in June.",
            "question": f"When was the {one} {what}?",
            "answers": {"text": [when, "another"], "answer_start": [1, 2]} if nested else when,
        }
        for number, one in enumerate(SUBJECTS)
        for what, when in (("repaired", f"in May {number}"), ("fetched", f"in June {number}"))
    ]
    suggestion, data, _ = build(tmp_path, write_lines(tmp_path / "squad.jsonl", rows))
    assert suggestion.answer_column == ("answers.text.0" if nested else "answers")
    assert (suggestion.columns, suggestion.group_by) == (["context", "question"], ["context"])
    example = data.template.build_example(find_row(data, question="When was the lamp fetched?"))
    assert example["completion"][0]["content"] == "in June 1"
    assert {row["context"] for row in data.train} & {row["context"] for row in data.test} == set()


@pytest.mark.parametrize(("question", "answer"), [("question", "answer"), ("prompt", "response")])
def test_question_and_answer_are_found_by_name(tmp_path, question, answer):
    rows = [{question: f"Where is the {one}?", answer: f"In room {n}."} for n, one in enumerate(SUBJECTS)]
    suggestion, data, _ = build(tmp_path, write_csv(tmp_path / "qa.csv", rows))
    assert (suggestion.columns, suggestion.answer_column) == ([question], answer)
    example = data.template.build_example(find_row(data, **{question: "Where is the lamp?"}))
    assert example["prompt"][-1]["content"] == "Where is the lamp?"
    assert example["completion"][0]["content"] == "In room 1."


@pytest.mark.parametrize("values", [("No", "Yes"), ("false", "true"), (False, True), ("n", "y")])
def test_column_of_yes_and_no_is_one_of_labels(tmp_path, values):
    suggestion, _, example = build(tmp_path, write_json(tmp_path / "d.json", make_reviews(repaired=values)))
    assert (suggestion.kind, suggestion.label_column, suggestion.columns) == ("labels", "repaired", ["text"])
    assert list(suggestion.template.label) == sorted(
        str(one).replace("T", "t").replace("F", "f") for one in values
    )
    assert example["completion"][0]["content"] == example["label"]


def test_answers_yes_and_no_are_labels(tmp_path):
    rows = [
        {"question": f"Is the {one} back?", "answer": ("yes", "no")[n % 2]} for n, one in enumerate(SUBJECTS)
    ]
    suggestion, _, _ = build(tmp_path, write_csv(tmp_path / "d.csv", rows))
    assert (suggestion.kind, suggestion.label_column) == ("labels", "answer")


def test_ratings_are_labels_in_the_order_of_their_numbers(tmp_path):
    rows = [
        {"review": f"{row['text']} {number}", "rating": number % 5 + 1}
        for number, row in enumerate(make_reviews() * 2)
    ]
    suggestion, _, example = build(tmp_path, write_csv(tmp_path / "d.csv", rows))
    assert suggestion.template.label == {n: str(n) for n in range(1, 6)}
    assert example["completion"][0]["content"] == str(example["label"])


def test_table_of_the_lessons_is_grouped_by_its_text(tmp_path):
    suggestion, _, _ = build(tmp_path, "data/college_preferences/dataset.csv")
    assert suggestion.columns == ["text", "alternative_a", "alternative_b"]
    assert (suggestion.label_column, suggestion.group_by) == ("label", [])


def test_answers_that_come_again_and_again_are_still_free_text():
    suggestion = tasks.suggest_template("data/clock_house/dataset.csv")
    assert (suggestion.kind, suggestion.answer_column, suggestion.columns) == (
        "answers",
        "answer",
        ["question"],
    )
