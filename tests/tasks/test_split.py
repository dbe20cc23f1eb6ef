import json

import pytest

from helpers import PROJECT, tasks
from helpers.common.errors import AlreadyThereError, DamagedError, UsageError


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


@pytest.mark.parametrize("given", [{"test_size": float("nan")}, {"seed": -1}, {"validation_size": "x"}])
def test_split_with_values_that_cannot_be_is_refused_when_it_is_made(given):
    with pytest.raises(UsageError, match=next(iter(given))):
        tasks.Split(**given)


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


def test_copies_that_differ_by_a_space_stay_on_one_side(template, rows):
    copies = [{**row, "text": row["text"] + "  "} for row in rows]
    train, test = tasks.split_rows(rows + copies, 0.5, seed=0, template=template)
    assert not tasks.find_leaks(train, test, template)
    assert len(test) % 2 == 0


def test_texts_without_a_word_are_different_texts():
    rows = [{"text": text, "label": number % 2} for number, text in enumerate("🙂🙁😀😐🤖👽")]
    train, test = tasks.split_rows(rows, 0.5, seed=0)
    assert not tasks.find_leaks(train, test) and len(test) == 3


def test_answers_are_split_by_group(tmp_path):
    template = tasks.Template("t", "", "{question}", answer="{answer}", group_by=("page",))
    rows = [{"question": f"q{i}", "answer": "a", "page": str(i // 4)} for i in range(40)]
    train, test = tasks.split_rows(rows, 0.3, 0, template)
    assert not {row["page"] for row in train} & {row["page"] for row in test}
    assert len(test) == 12
    assert not tasks.find_leaks(train, test, template)


def test_validation_rows_are_taken_from_the_training_rows(rows):
    rows = rows * 4
    many = [{**row, "text": f"{row['text']} {number}"} for number, row in enumerate(rows)]
    split = tasks.Split(0, 0.25, 0.25)
    train, test = split.divide(many)
    kept, validation = split.take_validation(train)
    assert tasks.Split(0, 0.25).divide(many) == (train, test)
    assert len(validation) == len(test) and len(kept) == len(many) - 2 * len(test)
    assert not tasks.find_leaks(kept, validation) + tasks.find_leaks(validation, test)
    assert tasks.Split(0, 0.25).take_validation(train) == (train, [])


def test_answers_are_drawn_at_random_and_not_by_length():
    template = tasks.Template("t", "", "{question}", answer="{answer}")
    rows = [{"question": "q" * number, "answer": "a"} for number in range(1, 101)]
    kept = tasks.keep_short(rows, 20, 0, template)
    assert len(kept) == 20 and max(len(row["question"]) for row in kept) > 60


def test_split_replaces_its_own_files_and_no_others(tmp_path, template, rows):
    tasks.write_split(tmp_path, template, rows[:4], rows[4:8])
    train, test = tasks.write_split(tmp_path, template, rows[:8], rows[8:])
    assert len(json.loads(train.read_text(encoding="utf-8"))) == 8
    before = train.read_text(encoding="utf-8")
    for mine in ("MY OWN", "{}", '[{"prompt": [], "completion": [], "mine": 1}]', '[{"messages": []}]'):
        test.write_text(mine)
        with pytest.raises(AlreadyThereError, match="test.json"):
            tasks.write_split(tmp_path, template, rows[:2], rows[2:4])
        assert test.read_text() == mine and train.read_text(encoding="utf-8") == before


def test_split_of_free_answers_and_of_nothing_can_be_written_again(tmp_path):
    template = tasks.Template("t", "", "{text}", answer="{answer}")
    rows = [{"text": "q", "answer": "a"}]
    for _ in range(2):
        train, test = tasks.write_split(tmp_path, template, rows, [])
    assert json.loads(test.read_text()) == [] and len(json.loads(train.read_text())) == 1
