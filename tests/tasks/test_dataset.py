import json

import pytest

from helpers import PROJECT, KitError, tasks

HEADER = "text,alternative_a,alternative_b,label\n"


def write(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "d.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_data_of_the_lessons_is_as_its_card_says(template):
    rows = tasks.load_rows(PROJECT / "data/college_preferences/dataset.csv", template)
    card = (PROJECT / "data/college_preferences/README.md").read_text(encoding="utf-8")
    comments = {row["text"] for row in rows}
    assert f"{len(rows)} rows, {len(comments)} different comments" in card
    for label, count in tasks.count_labels(rows).items():
        assert any(
            line.startswith(f"| {label} |") and line.endswith(f"| {count} |") for line in card.splitlines()
        )
    words = [len(comment.split()) for comment in comments]
    assert min(words) >= 5 and max(words) <= 120


def test_no_pair_of_options_is_a_college_with_itself(template):
    rows = tasks.load_rows(PROJECT / "data/college_preferences/dataset.csv", template)
    assert all(row["alternative_a"] != row["alternative_b"] for row in rows)
    assert len({(row["text"], *sorted((row["alternative_a"], row["alternative_b"]))) for row in rows}) == len(
        rows
    )


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
        tasks.load_rows(write(tmp_path, text), template)


def test_csv_in_latin_1_is_refused(tmp_path, template):
    with pytest.raises(KitError, match="UTF-8"):
        tasks.load_rows(write(tmp_path, HEADER + "café,A,B,0\n", "latin-1"), template)


def test_text_such_as_na_stays_a_text(tmp_path, template):
    assert tasks.load_rows(write(tmp_path, HEADER + "NA,A,B,0\n"), template)[0]["text"] == "NA"


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
    with pytest.raises(KitError, match="out of range"):
        tasks.split_rows(rows, size)


def test_too_few_rows_to_split_are_refused(rows):
    with pytest.raises(KitError, match="too few"):
        tasks.split_rows(rows[:4], 0.2)


def test_one_class_only_is_refused(rows):
    with pytest.raises(KitError, match="All rows have the label 3.*another label"):
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


COLLEGES = {"alternative_a": "Alderbrook College", "alternative_b": "Dunmarsh State University"}


def test_audit_counts_copies_and_what_is_nearly_one():
    texts = [
        "The dorms are old but warm and quiet.",
        "the dorms are OLD, but warm and quiet",
        "The dorms are old but warm and very quiet.",
    ]
    rows = [
        {"text": text, "label": i % 2, **COLLEGES}
        for i, text in enumerate([*texts, "Go where the money is.", "No idea, honestly.", "I like it."])
    ]
    audit = tasks.audit_rows(rows, folds=2)
    assert (audit.rows, audit.comments, audit.duplicates) == (6, 6, 1)
    assert audit.near_duplicates == [(texts[0], texts[2]), (texts[1], texts[2])]
    assert audit.labels == {0: 3, 1: 3} and audit.words == {0: 8, 1: 5}
    assert audit.repeated_5grams == pytest.approx(4 / 7) and audit.bag_told_apart is None


def test_bag_of_words_finds_a_shortcut_and_none_where_there_is_none():
    names = ["Alderbrook", "Dunmarsh", "Elmwick", "Fernhollow"]
    loud = [
        {"text": f"wonderful {i}" if label == 1 else f"awful {i}", "label": label, **COLLEGES}
        for i in range(20)
        for label in (1, 2)
    ]
    assert tasks.judge_bag_of_words(loud) == (1.0, 1.0)
    fair = [
        {
            "text": f"{winner} beats {loser}, visit {i}",
            "alternative_a": a,
            "alternative_b": b,
            "label": 1 if winner == a else 2,
        }
        for i, (a, b) in enumerate((a, b) for a in names for b in names if a != b)
        for winner, loser in ((a, b), (b, a))
    ]
    assert tasks.judge_bag_of_words(fair)[1] <= 0.6


def test_leak_is_found_through_case_and_punctuation():
    assert tasks.find_leaks(
        [{"text": "So, Elmwick it is!"}], [{"text": "so elmwick it is"}, {"text": "not Elmwick"}]
    ) == [{"text": "so elmwick it is"}]


@pytest.mark.long
def test_data_of_the_lessons_neither_repeats_itself_nor_gives_the_answer_away(template):
    rows = tasks.load_rows(PROJECT / "data/college_preferences/dataset.csv", template)
    audit = tasks.audit_rows(rows)
    assert audit.duplicates == 0 and audit.near_duplicates == [] and audit.repeated_5grams <= 0.02
    assert audit.bag_told_apart <= 0.6 and audit.comments >= 400 and audit.rows >= 900
    assert tasks.find_leaks(*tasks.split_rows(rows)) == []
