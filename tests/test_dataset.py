import json

import pytest

from helpers import PROJECT, KitError, dataset

HEADER = "text,alternative_a,alternative_b,label\n"


def write(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "d.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_data_of_the_lessons_is_as_its_card_says(template):
    rows = dataset.load_rows(PROJECT / "data/college_preferences/dataset.csv", template)
    card = (PROJECT / "data/college_preferences/README.md").read_text(encoding="utf-8")
    comments = {row["text"] for row in rows}
    assert f"{len(rows)} rows, {len(comments)} different comments" in card
    for label, count in dataset.count_labels(rows).items():
        assert any(line.startswith(f"| {label} |") and line.endswith(f"| {count} |") for line in card.splitlines())
    words = [len(comment.split()) for comment in comments]
    assert min(words) >= 5 and max(words) <= 120


def test_no_pair_of_options_is_a_college_with_itself(template):
    rows = dataset.load_rows(PROJECT / "data/college_preferences/dataset.csv", template)
    assert all(row["alternative_a"] != row["alternative_b"] for row in rows)
    assert len({(row["text"], *sorted((row["alternative_a"], row["alternative_b"]))) for row in rows}) == len(rows)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (HEADER, "no rows"),
        ("text,alternative_a,label\nx,y,0\n", "lacks the column alternative_b"),
        (HEADER + "x,A,B,7\n", "Row 1 .* has the label '7'"),
        (HEADER + "x,A,B,0\nx,A,B,\n", "Row 2 .* has the label ''"),
        (HEADER + " ,A,B,0\n", "empty text"),
        (HEADER + '"open,A,B,0\n', "no CSV"),
    ],
)
def test_wrong_csv_is_refused_with_the_place(tmp_path, template, text, message):
    with pytest.raises(KitError, match=message):
        dataset.load_rows(write(tmp_path, text), template)


def test_csv_in_latin_1_is_refused(tmp_path, template):
    with pytest.raises(KitError, match="UTF-8"):
        dataset.load_rows(write(tmp_path, HEADER + "café,A,B,0\n", "latin-1"), template)


def test_text_such_as_na_stays_a_text(tmp_path, template):
    assert dataset.load_rows(write(tmp_path, HEADER + "NA,A,B,0\n"), template)[0]["text"] == "NA"


@pytest.mark.parametrize("seed", range(3))
def test_split_keeps_a_comment_on_one_side(template, seed):
    rows = dataset.load_rows(PROJECT / "data/college_preferences/dataset.csv", template)
    train, test = dataset.split_rows(rows, seed=seed)
    assert not {row["text"] for row in train} & {row["text"] for row in test}
    assert len(train) + len(test) == len(rows) and abs(len(test) / len(rows) - 0.2) < 0.03
    shares = [count / len(test) for count in dataset.count_labels(test).values()]
    assert len(shares) == 4 and all(0.2 < share < 0.3 for share in shares)


def test_split_is_the_same_for_the_same_seed(rows):
    assert dataset.split_rows(rows, 0.5, seed=1) == dataset.split_rows(rows, 0.5, seed=1)


@pytest.mark.parametrize("size", [0, 1, -0.1, 0.6])
def test_impossible_test_size_is_refused(rows, size):
    with pytest.raises(KitError, match="out of range"):
        dataset.split_rows(rows, size)


def test_too_few_rows_to_split_are_refused(rows):
    with pytest.raises(KitError, match="too few"):
        dataset.split_rows(rows[:4], 0.2)


def test_split_is_written_with_prompt_and_label_apart(tmp_path, template, rows):
    train, test = dataset.write_split(tmp_path, template, rows[:8], rows[8:])
    written = json.loads(test.read_text(encoding="utf-8"))
    assert len(json.loads(train.read_text(encoding="utf-8"))) == 8 and len(written) == 4
    assert set(written[0]) == {"prompt", "completion", "label"}
    answers = [entry["completion"][0]["content"] for entry in written]
    assert not any(entry["prompt"][-1]["content"].endswith(answer) for entry, answer in zip(written, answers, strict=True))
