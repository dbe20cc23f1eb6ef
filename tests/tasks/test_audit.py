import pytest

from helpers import PROJECT, tasks

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
    assert audit.repeated_5grams == pytest.approx(4 / 7) and audit.bag_pairwise is None


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
    assert audit.bag_pairwise <= 0.6 and audit.comments >= 400 and audit.rows >= 900
    assert tasks.find_leaks(*tasks.split_rows(rows)) == []
