import pytest

from helpers import tasks
from helpers.common.errors import DamagedError, MismatchError, NotFoundError
from helpers.tasks.checks.suggesting import suggest_template
from helpers.tasks.template import fill

GOOD = "instruction: Do it.\ntask: 'A: {alternative_a} {text}'\nlabel: {0: none, 1: '{alternative_a}'}\n"


def write(tmp_path, text):
    path = tmp_path / "t.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_placeholders_are_filled_in_one_pass():
    row = {"text": "I say {alternative_a} and text", "alternative_a": "X {text}"}
    assert fill("{alternative_a}: {text}", row) == "X {text}: I say {alternative_a} and text"


def test_template_of_the_lessons_has_four_answers(template):
    row = {"text": "t", "alternative_a": "X", "alternative_b": "Y"}
    assert template.build_answers(row) == {0: "No preference", 1: "X", 2: "Y", 3: "Equal preference"}
    assert sorted(template.columns) == ["alternative_a", "alternative_b", "text"]


def test_example_keeps_prompt_and_label_apart(template):
    row = {"text": "the comment", "alternative_a": "Xavier", "alternative_b": "Yves", "label": 2}
    example = template.build_example(row)
    assert example["completion"] == [{"role": "assistant", "content": "Yves"}]
    assert example["label"] == 2
    assert [message["role"] for message in example["prompt"]] == ["system", "user"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("instruction: x\ntask: no placeholder\nlabel: {0: a, 1: b}", "{text}"),
        ("instruction: x\nlabel: {0: a, 1: b}", "task"),
        ("instruction: x\ntask: '{text}'\nlabel: {0: alone}", "Line 3"),
        ("instruction: x\ntask: '{text}'\nlabel: [No, Yes]", "Line 3"),
        ("instruction: x\ntask: '{text}'\nlabel: {0: No, 1: }", "'1'"),
        ("instruction: x\ntask: '{text}'\nlabel: {0: No, 1: ~}", "'1'"),
        ("instruction: x\ntask: '{text}'\nlabel:\n  0: No\n  0: Yes", "Line 5"),
        ("instruction: x\ntask: '{text}'\ntask: '{text}!'\nlabel: {0: No, 1: Yes}", "Line 3"),
        ("instruction: x\ntask: {text}\nlabel: {0: a, 1: b}", '"{text}"'),
        ("instruction: x\ntask: A: {text}\nlabel: {0: a, 1: b}", "Line 2"),
        ("instruction: x\ntask: '{text}'\nlabels: {0: a, 1: b}", "Did you mean label?"),
        ("instruction: x\ntask: '{{ text }}'\nlabel: {0: a, 1: b}", "Write {text}."),
        ("instruction: x\ntask: |-\n  A\n  B { text }\nlabel: {0: a, 1: b}", "Line 4"),
        ("instruction: x\ntask: '{text} {price:.2f}'\nlabel: {0: a, 1: b}", "Write {price}."),
        ("instruction: x\ntask: '{text}'\nanswer: '{text}'", "already"),
        ("instruction: x\ntask: '{text}'\nanswer: Yes", "already"),
        ("instruction: x\ntask: '{text}'\nanswer: '{a}'\nlabel: {0: a, 1: b}", "both"),
        ("instruction: x\ntask: '{text} {label}'\nlabel: {0: a, 1: b}", "Line 2"),
        ("task: '{text}'\nanswer: '{a}'\nexamples: [{user: '{text}', assistant: b}]", "Line 3"),
        ("task: '{text}'\nanswer: '{a}'\nexamples: [{user: b}]", "Line 3"),
        ("instruction: [", "YAML"),
        ("", "instruction"),
    ],
)
def test_wrong_template_is_refused(tmp_path, text, named):
    with pytest.raises(DamagedError) as caught:
        tasks.load_template(write(tmp_path, text))
    assert named in str(caught.value)


def test_missing_template_is_named(home):
    with pytest.raises(NotFoundError, match=r"nowhere\.yaml"):
        tasks.load_template("nowhere.yaml")


def test_two_answers_that_read_the_same_are_refused(tmp_path):
    template = tasks.load_template(write(tmp_path, GOOD))
    with pytest.raises(MismatchError, match="none"):
        template.build_answers({"text": "t", "alternative_a": "none"})
    with pytest.raises(MismatchError, match="none"):
        template.build_answers({"text": "t", "alternative_a": " none "})


def test_column_that_the_row_lacks_is_named(tmp_path):
    template = tasks.load_template(write(tmp_path, GOOD))
    with pytest.raises(MismatchError, match="alternative_a"):
        template.build_messages({"text": "t"})


def test_hash_of_a_template_ignores_its_name_and_sees_its_text(tmp_path):
    one = tasks.load_template(write(tmp_path, GOOD))
    (tmp_path / "other.yaml").write_text(GOOD, encoding="utf-8")
    assert tasks.load_template(tmp_path / "other.yaml").sha256 == one.sha256
    (tmp_path / "other.yaml").write_text(GOOD.replace("Do it", "Do that"), encoding="utf-8")
    assert tasks.load_template(tmp_path / "other.yaml").sha256 != one.sha256


@pytest.mark.parametrize("labels", [("007", "7"), ("+1", "1"), ("+1", "-1"), ("007", "008")])
@pytest.mark.parametrize("column", ["text", "te\x0cxt", "a\u202ebc", "ü\x0c"])
def test_suggested_template_fits_its_own_table(tmp_path, labels, column):
    path = tmp_path / "my\x1b[31m\nfile.csv"
    rows = "".join(f"some words {number},{labels[number % 2]},x{number}\n" for number in range(20))
    path.write_text(f"{column},label,row\nid\n".replace("row\nid", '"row\nid"') + rows, encoding="utf-8")
    found = suggest_template(path)
    assert found.text.isprintable() or not set(found.text) & set("\x1b\x0c\u202e")
    (tmp_path / "t.yaml").write_text(found.text, encoding="utf-8")
    template = tasks.load_template(tmp_path / "t.yaml")
    answers = [template.build_answer(row) for row in tasks.load_rows(path, template)]
    assert answers == [labels[number % 2] for number in range(20)]


def test_words_stay_words_that_yaml_takes_for_something_else(tmp_path):
    text = "instruction: x\ntask: '{text}'\nlabel: {0: No, 1: Yes, 2: null and void, 3: 007}\n"
    template = tasks.load_template(write(tmp_path, text))
    assert template.label == {0: "No", 1: "Yes", 2: "null and void", 3: "007"}


def test_labels_that_are_no_plain_numbers_are_words(tmp_path):
    for given, labels in (
        ("1: a, 01: b", ["1", "01"]),
        ("1: a, +1: b", ["1", "+1"]),
        ("+1: a, -1: b", [1, -1]),
    ):
        template = tasks.load_template(write(tmp_path, f"task: '{{text}}'\nlabel: {{{given}}}\n"))
        assert list(template.label) == labels
        assert [template.find_label(str(label)) for label in labels] == labels
    assert template.find_label("+1") == 1


def test_labels_may_be_words(tmp_path):
    text = "task: '{text}'\nlabel: {yes: It is spam, no: It is not}\nlabel_column: spam\n"
    template = tasks.load_template(write(tmp_path, text))
    cells = [{"text": "t", "spam": cell} for cell in ("yes", "No", " no ", "YES")]
    rows = [template.make_row(row) for row in cells]
    assert [row["label"] for row in rows] == ["yes", "no", "no", "yes"]
    assert template.build_answer(rows[0]) == "It is spam"
    assert template.needed == ["text", "spam"]


@pytest.mark.parametrize(("cell", "label"), [("1", 1), (" 1", 1), ("1.0", 1), ("01", None), ("", None)])
def test_numbers_are_read_however_they_were_exported(template, cell, label):
    cells = {"text": "t", "alternative_a": "A", "alternative_b": "B", "label": cell}
    if label is None:
        with pytest.raises(MismatchError, match="label"):
            template.make_row(cells)
    else:
        assert template.make_row(cells)["label"] == label


ANSWERS = """
task: |-
  Context: {context}

  Question: {Question?}
answer: "{reply}"
optional: context
group_by: Question?
examples:
  - user: |-
      Question: Who?
    assistant: Ann.
"""


def test_answers_may_be_free_text_with_examples_before_and_no_instruction(tmp_path):
    template = tasks.load_template(write(tmp_path, ANSWERS))
    row = template.make_row({"context": " ", "Question?": "Where?", "reply": "Here."})
    example = template.build_example(row)
    assert example["prompt"] == [
        {"role": "user", "content": "Question: Who?"},
        {"role": "assistant", "content": "Ann."},
        {"role": "user", "content": "Question: Where?"},
    ]
    assert example["completion"] == [{"role": "assistant", "content": "Here."}]
    assert template.kind == "answers" and template.find_group(row) == "Where?"
    assert template.list_learned(row) == [3]
    full = template.make_row({"context": "A yard.", "Question?": "Where?", "reply": "Here."})
    assert template.build_messages(full)[-1]["content"] == "Context: A yard.\n\nQuestion: Where?"


def test_cell_that_may_not_be_empty_is_named(tmp_path):
    template = tasks.load_template(write(tmp_path, ANSWERS))
    for column in ("Question?", "reply"):
        with pytest.raises(DamagedError, match=column.replace("?", "")):
            template.make_row({"context": "", "Question?": "Q", "reply": "R"} | {column: "  "})


def test_braces_that_are_no_placeholder_stay_as_they_are(tmp_path):
    text = """task: 'Answer as {"verdict": 1}. {text}'\nanswer: '{"year": {year}}'\n"""
    template = tasks.load_template(write(tmp_path, text))
    row = template.make_row({"text": "t", "year": "1890"})
    assert template.build_messages(row)[0]["content"] == 'Answer as {"verdict": 1}. t'
    assert template.build_answer(row) == '{"year": 1890}'


def test_space_at_the_end_of_an_option_is_not_learned(template):
    cells = {"text": "t ", "alternative_a": "North College ", "alternative_b": "B", "label": "1"}
    row = template.make_row(cells)
    assert template.build_answer(row) == "North College"
    assert row["text"] == "t "


def test_hash_of_a_template_of_2023_is_that_of_earlier_versions(template):
    assert template.sha256.startswith("0120a3c9941d")


@pytest.mark.parametrize(
    "lines",
    ['label: {0: a, 1: b}\ninstruction: "\\ud800"', "answer: " + "[" * 1000],
    ids=["half of a character", "deeper than Python goes"],
)
def test_template_that_no_row_could_use_is_damaged(tmp_path, lines):
    with pytest.raises(DamagedError, match="t.yaml"):
        tasks.load_template(write(tmp_path, "task: '{text}'\n" + lines))
