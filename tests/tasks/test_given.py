"""What Python calls are given and cannot use: a UsageError that names it, and what to give instead."""

import json

import pytest

from helpers import tasks
from helpers.common.errors import DamagedError, KitError, UnsupportedError, UsageError
from helpers.common.presets import explain_changes, pick_settings

FREE = tasks.Template("free", "", "{question}", answer="{answer}")
FREE_ROWS = [{"question": f"q {i}", "answer": f"a {i}"} for i in range(20)]
LABELLED = [{"text": f"a {i}", "label": i % 2} for i in range(20)]


@pytest.mark.parametrize(
    "call",
    [
        lambda: tasks.split_rows(FREE_ROWS),
        lambda: tasks.keep_short(FREE_ROWS, 3, 0),
        lambda: tasks.find_leaks(FREE_ROWS, FREE_ROWS),
        lambda: tasks.judge_bag_of_words(FREE_ROWS),
    ],
)
def test_rows_of_free_answers_without_their_template_point_to_it(call):
    with pytest.raises(UsageError, match="template=") as caught:
        call()
    assert "has no text" in caught.value.problem


def test_rows_without_labels_are_not_counted_or_audited():
    for call in (tasks.count_labels, tasks.audit_rows):
        with pytest.raises(UsageError, match="label"):
            call([{"text": "a"}])
    with pytest.raises(UsageError, match="free has no labels"):
        tasks.judge_bag_of_words(FREE_ROWS, template=FREE)


@pytest.mark.parametrize("values", [{"seed": -1}, {"seed": 2**40}, {"seed": 1.5}, {"seed": "a"},
    {"test_size": "0.2"}, {"test_size": float("nan")}, {"validation_size": -1}])  # fmt: skip
def test_split_has_a_seed_and_shares(values):
    with pytest.raises(UsageError):
        tasks.Split(**values).divide(LABELLED)


@pytest.mark.parametrize("rows", [[], None, [1, 2], "abc", {"text": "a"}])
def test_rows_are_a_list_of_rows(rows):
    for call in (tasks.split_rows, tasks.audit_rows, tasks.judge_bag_of_words):
        with pytest.raises(UsageError):
            call(rows)


def test_part_of_a_split_has_a_known_name():
    with pytest.raises(UsageError, match="part"):
        tasks.split_rows(LABELLED, part="bogus")


@pytest.mark.parametrize("folds", [0, 1, 99, "a"])
def test_folds_are_two_or_more_and_no_more_than_rows(folds):
    with pytest.raises(UsageError, match="folds"):
        tasks.audit_rows(LABELLED, folds=folds)


def test_rows_of_one_label_have_no_bag_of_words():
    with pytest.raises(UsageError, match="same label"):
        tasks.audit_rows([{**row, "label": 1} for row in LABELLED])


@pytest.mark.parametrize("path", [None, 5, b"x", ["x"], True, {}])
def test_path_is_a_path(path):
    for call in (tasks.read_table, tasks.load_template, tasks.suggest_template):
        with pytest.raises(UsageError):
            call(path)


@pytest.mark.parametrize("template", ["t.yaml", None, 5, tasks.Template])
def test_path_in_place_of_a_template_points_to_load_template(template, tmp_path):
    for call in (
        lambda: tasks.load_rows("x.csv", template),
        lambda: tasks.write_split(tmp_path, template, [], []),
    ):
        with pytest.raises(UsageError, match="load_template"):
            call()


@pytest.mark.parametrize("given", [{"settings": "tiny"}, {"split": 5}, {"model": 5}])
def test_check_takes_settings_a_split_and_a_name(given):
    with pytest.raises(UsageError, match=next(iter(given))):
        tasks.check_data("x.csv", **given)


@pytest.mark.parametrize("given", [{"turns": "bogus"}, {"rows": "3"}, {"rows": 0}, {"rows": 1.5}])
def test_preview_takes_a_number_and_known_turns(given):
    with pytest.raises(UsageError, match=next(iter(given))):
        tasks.preview_rows("x.csv", **given)


@pytest.mark.parametrize("name", [None, 5])
def test_settings_have_a_name(name):
    for call in (pick_settings, explain_changes):
        with pytest.raises(UsageError):
            call(name)


# What is read


def write(tmp_path, *rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.mark.parametrize("row", [{"a": "\ud800"}, {"\udfff": "x"}, {"a": [{"b": "x \ud83d"}]}])
def test_half_of_a_character_is_refused_with_its_line(row, tmp_path):
    path = write(tmp_path, {"a": "whole \U0001f600"}, row)
    with pytest.raises(DamagedError, match=r"Row 2 \(line 2\) .* half of a character"):
        tasks.read_table(path)


def test_whole_characters_in_halves_are_read(tmp_path):
    assert tasks.read_table(write(tmp_path, {"a": "\U0001f600"})).rows == [{"a": "\U0001f600"}]


@pytest.mark.parametrize("key", ["role", "from"])
@pytest.mark.parametrize("role", [["user"], {}, 5, None])
def test_role_that_is_no_text_is_refused(key, role, tmp_path):
    path = write(tmp_path, {"messages": [{key: role, "content": "x"}]})
    with pytest.raises(UnsupportedError, match="Message 1 has the role"):
        tasks.load_rows(path, tasks.ChatForm())


@pytest.mark.parametrize("name", ["message_id", "parent_id"])
def test_id_of_a_tree_that_is_a_list_is_refused(name, tmp_path):
    row = {"message_id": "a", "parent_id": None, "role": "prompter", "text": "x"}
    with pytest.raises(DamagedError, match=f"Row 2 .*{name}"):
        tasks.load_rows(write(tmp_path, row, {**row, name: ["a"]}), tasks.ChatForm())


def test_tree_without_a_root_or_with_a_loop_ends(tmp_path):
    first = {"message_id": "a", "parent_id": "b", "role": "prompter", "text": "x"}
    second = {"message_id": "b", "parent_id": "a", "role": "assistant", "text": "y"}
    with pytest.raises(DamagedError, match="without parent_id"):
        tasks.load_rows(write(tmp_path, first, second), tasks.ChatForm())
    root, loop = {**first, "parent_id": None}, {**second, "message_id": "a"}
    (row,) = tasks.load_rows(write(tmp_path, root, loop), tasks.ChatForm())
    assert [message["content"] for message in row["messages"]] == ["x", "y"]


@pytest.mark.parametrize("prompt", [{}, {"role": "prompter"}, {"role": ["x"], "text": "x", "replies": 5},
    {"role": "prompter", "text": "x", "replies": [5]}])  # fmt: skip
def test_tree_of_another_form_is_refused(prompt, tmp_path):
    with pytest.raises(KitError):
        tasks.load_rows(write(tmp_path, {"message_tree_id": "t", "prompt": prompt}), tasks.ChatForm())


def test_instruction_that_is_a_list_is_refused(tmp_path):
    with pytest.raises(UnsupportedError, match="not text"):
        tasks.load_rows(
            write(tmp_path, {"instruction": [{"a": 1}], "input": "b", "output": "c"}), tasks.ChatForm()
        )
