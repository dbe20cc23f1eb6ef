import json

import pytest

from helpers import PROJECT, tasks
from helpers.common.errors import DamagedError, UsageError


@pytest.mark.parametrize("seed", range(3))
def test_split_keeps_a_comment_on_one_side(template, seed):
    rows = tasks.load_rows(PROJECT / "data/college_preferences/dataset.csv", template)
    train, test = tasks.split_rows(rows, seed=seed)
    assert not {row["text"] for row in train} & {row["text"] for row in test}
    assert len(train) + len(test) == len(rows) and abs(len(test) / len(rows) - 0.2) < 0.03
    shares = [count / len(test) for count in tasks.count_labels(test).values()]
    assert len(shares) == 4 and all(0.2 < share < 0.3 for share in shares)


def test_split_is_the_same_for_the_same_seed(rows):
    assert tasks.split_rows(rows, 0.5, seed=1) == tasks.split_rows(rows, 0.5, seed=1)


@pytest.mark.parametrize("size", [0, 1, -0.1, 0.6])
def test_impossible_test_size_is_refused(rows, size):
    with pytest.raises(UsageError):
        tasks.split_rows(rows, size)


def test_too_few_rows_to_split_are_refused(rows):
    with pytest.raises(DamagedError):
        tasks.split_rows(rows[:4], 0.2)


def test_one_class_only_is_refused(rows):
    with pytest.raises(DamagedError, match="3"):
        tasks.split_rows([{**row, "label": 3} for row in rows])


def test_split_is_written_with_prompt_and_label_apart(tmp_path, template, rows):
    train, test = tasks.write_split(tmp_path, template, rows[:8], rows[8:])
    written = json.loads(test.read_text(encoding="utf-8"))
    assert len(json.loads(train.read_text(encoding="utf-8"))) == 8 and len(written) == 4
    assert set(written[0]) == {"prompt", "completion", "label"}
    answers = [entry["completion"][0]["content"] for entry in written]
    assert not any(
        entry["prompt"][-1]["content"].endswith(answer)
        for entry, answer in zip(written, answers, strict=True)
    )


def test_split_has_the_defaults_of_split_rows(rows):
    assert tasks.Split().divide(rows * 2) == tasks.split_rows(rows * 2)
