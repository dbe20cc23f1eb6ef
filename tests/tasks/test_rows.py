import pytest

from helpers import PROJECT, tasks
from helpers.common.errors import DamagedError, MismatchError

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
    ("text", "kind", "named"),
    [
        ("", DamagedError, "d.csv"),
        (HEADER, DamagedError, "d.csv"),
        ("text,alternative_a,label\nx,y,0\n", MismatchError, "alternative_b"),
        (HEADER + "x,A,B,7\n", MismatchError, "Row 1 "),
        (HEADER + "x,A,B,0\nx,A,B,\n", MismatchError, "Row 2 "),
        (HEADER + "x,A,B,0\n ,A,B,0\n", DamagedError, "Row 2 "),
        (HEADER + '"open,A,B,0\n', DamagedError, "d.csv"),
    ],
)
def test_wrong_csv_is_refused_with_the_place(tmp_path, template, text, kind, named):
    with pytest.raises(kind) as caught:
        tasks.load_rows(write(tmp_path, text), template)
    assert named in str(caught.value)


def test_text_such_as_na_stays_a_text(tmp_path, template):
    assert tasks.load_rows(write(tmp_path, HEADER + "NA,A,B,0\n"), template)[0]["text"] == "NA"


def test_other_faults_are_counted(tmp_path, template):
    with pytest.raises(MismatchError, match="2 other rows"):
        tasks.load_rows(write(tmp_path, HEADER + "x,A,B,7\nx,A,B,0\nx,,B,1\nx,A,B,\n"), template)


def test_column_of_another_name_is_suggested(tmp_path, template):
    with pytest.raises(MismatchError, match="{Text}"):
        tasks.load_rows(write(tmp_path, HEADER.replace("text", "Text") + "x,A,B,0\n"), template)
