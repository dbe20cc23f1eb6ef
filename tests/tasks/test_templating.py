import pytest

from helpers import KitError, tasks


def write(tmp_path, text):
    path = tmp_path / "t.yaml"
    path.write_text(text, encoding="utf-8")
    return path


GOOD = "instruction: Do it.\ntask: 'A: {alternative_a} {text}'\nlabel: {0: none, 1: '{alternative_a}'}\n"


def test_placeholders_are_filled_in_one_pass():
    row = {"text": "I say {alternative_a} and text", "alternative_a": "X {text}"}
    assert tasks.fill("{alternative_a}: {text}", row) == "X {text}: I say {alternative_a} and text"


def test_template_of_the_lessons_has_four_answers(template):
    row = {"text": "t", "alternative_a": "X", "alternative_b": "Y"}
    assert template.build_answers(row) == {0: "No preference", 1: "X", 2: "Y", 3: "Equal preference"}
    assert sorted(template.columns) == ["alternative_a", "alternative_b", "text"]


def test_example_keeps_prompt_and_label_apart(template):
    row = {"text": "the comment", "alternative_a": "Xavier", "alternative_b": "Yves", "label": 2}
    example = template.build_example(row)
    assert example["completion"] == [{"role": "assistant", "content": "Yves"}] and example["label"] == 2
    assert [m["role"] for m in example["prompt"]] == ["system", "user"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("instruction: x\ntask: no placeholder\nlabel: {0: a, 1: b}", "lacks {text}"),
        ("task: '{text}'\nlabel: {0: a, 1: b}", "lacks instruction"),
        ("instruction: x\ntask: '{text}'\nlabel: {zero: a, 1: b}", "no whole numbers"),
        ("instruction: [", "no YAML"),
        ("", "lacks instruction, task, label"),
    ],
)
def test_wrong_template_is_refused(tmp_path, text, message):
    with pytest.raises(KitError, match=message):
        tasks.load_template(write(tmp_path, text))


def test_missing_template_is_named(home):
    with pytest.raises(KitError, match="No template at nowhere.yaml"):
        tasks.load_template("nowhere.yaml")


def test_two_answers_that_read_the_same_are_refused(tmp_path):
    template = tasks.load_template(write(tmp_path, GOOD))
    with pytest.raises(KitError, match="read the same"):
        template.build_answers({"text": "t", "alternative_a": "none"})


def test_column_that_the_row_lacks_is_named(tmp_path):
    template = tasks.load_template(write(tmp_path, GOOD))
    with pytest.raises(KitError, match="alternative_a"):
        template.build_messages({"text": "t"})
