import pytest

from helpers import tasks
from helpers.common.errors import DamagedError, MismatchError, NotFoundError
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
        ("task: '{text}'\nlabel: {0: a, 1: b}", "instruction"),
        ("instruction: x\ntask: '{text}'\nlabel: {zero: a, 1: b}", "label"),
        ("instruction: x\ntask: '{text}'\nlabel: {0: alone}", "label"),
        ("instruction: 5\ntask: '{text}'\nlabel: {0: a, 1: b}", "instruction"),
        ("instruction: [", "YAML"),
        ("", "instruction, task, label"),
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
