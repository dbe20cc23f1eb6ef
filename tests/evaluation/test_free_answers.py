"""The figures of free answers, made from texts alone."""

from dataclasses import dataclass

import pytest

from helpers.evaluation.comparing import compare_answers, measure_chrf, measure_token_f1, normalise_answer
from helpers.evaluation.free_answers import (
    JudgedAnswers,
    find_worst_answers,
    judge_baselines,
    judge_texts,
    list_examples,
    measure_answer_gains,
    summarise_answers,
)
from helpers.tasks.template import Template

TEMPLATE = Template("questions", "Answer.", "Question: {question}", answer="{answer}")


def make_rows(*pairs):
    """Rows with these questions and answers."""
    return [{"question": question, "answer": answer} for question, answer in pairs]


ROWS = make_rows(("Two?", "The 2."), ("Three?", "three of them"), ("Four?", "four"), ("Five?", "five"))


# One answer


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The  Eiffel Tower!", "eiffel tower"),
        ("it's “here”", "its here"),
        ("Straße", "STRASSE"),
        ("Cafe\u0301", "caf\u00e9"),
        ("「東京」。", "東京"),
        ("\u200fשלום", "שלום"),
        ("１２", "12"),
    ],
)
def test_answers_are_the_same_whatever_their_case_punctuation_articles_and_spaces(one, other):
    assert compare_answers(one, other).exact_match == 1


@pytest.mark.parametrize(("one", "other"), [("A", "An"), ("A", ""), ("?", "!"), ("theory", "ory"), ("-", "")])
def test_answers_of_which_normalising_leaves_nothing_are_compared_as_they_are(one, other):
    assert compare_answers(one, other).exact_match == 0
    assert compare_answers(one, one) == (1, 1, 1)


def test_combining_marks_of_a_script_are_kept():
    assert normalise_answer("नमस्ते।") == "नमस्ते"


def test_token_f1_is_squads():
    # 2 of 3 words are right and 2 of 4 are found: 2 * 2 / (3 + 4)
    assert measure_token_f1("red green blue white", "green the red rose") == pytest.approx(4 / 7)
    assert measure_token_f1("no no", "no") == pytest.approx(2 / 3)
    assert measure_token_f1("red", "") == 0


def test_characters_are_the_tokens_of_scripts_without_spaces():
    assert measure_token_f1("東京都", "東京") == pytest.approx(4 / 5)
    assert measure_token_f1("GPU 東京", "GPU東京") == 1


def test_chrf_is_a_share_that_sees_inflected_words():
    assert 0.5 < measure_chrf("repaired", "repair") < 1
    assert measure_chrf("repaired", "xyz") == measure_chrf("repaired", "") == 0
    assert measure_chrf("", "") == measure_chrf("Ja", "Ja") == 1


# All answers


def test_figures_are_means_and_lie_in_their_intervals():
    judged = JudgedAnswers(judge_texts(ROWS, TEMPLATE, ["2", " three\n", "", "six"]), perplexity=1.5)
    result = summarise_answers(judged, {"nobody": {"chrf": 0.0}})
    assert (result.rows, result.exact_match, result.perplexity) == (4, 0.25, 1.5)
    assert result.token_f1 == pytest.approx((1 + 2 / 4) / 4)
    assert result.exact_interval[0] < 0.25 < result.exact_interval[1]
    assert result.token_f1_interval[0] < result.token_f1 < result.token_f1_interval[1]
    assert result.chrf_interval[0] < result.chrf < result.chrf_interval[1]
    assert result.baselines == {"nobody": {"chrf": 0.0}}


def test_rows_of_one_group_are_resampled_together():
    apart = make_rows(*[(f"Question {i}?", "yes") for i in range(60)])
    together = make_rows(*[(f"Question {i // 20}?", "yes") for i in range(60)])
    said = ["yes"] * 20 + ["no"] * 40
    low, high = summarise_answers(JudgedAnswers(judge_texts(apart, TEMPLATE, said))).token_f1_interval
    lower, higher = summarise_answers(JudgedAnswers(judge_texts(together, TEMPLATE, said))).token_f1_interval
    assert higher - lower > 2 * (high - low)


def test_gain_is_paired_and_lies_in_its_interval():
    rows = make_rows(*[(f"Question {i}?", "yes") for i in range(80)])
    base = JudgedAnswers(judge_texts(rows, TEMPLATE, ["no"] * 80))
    tuned = JudgedAnswers(judge_texts(rows, TEMPLATE, ["yes"] * 60 + ["no"] * 20))
    gains = measure_answer_gains(base, tuned)
    assert set(gains) == {"exact_match", "token_f1", "chrf"}
    gain = gains["exact_match"]
    assert gain.value == 0.75
    assert 0.6 < gain.interval[0] < 0.75 < gain.interval[1] < 0.9
    assert measure_answer_gains(tuned, tuned)["chrf"].interval == (0, 0)


def test_worst_answers_come_first():
    answers = judge_texts(ROWS, TEMPLATE, ["2", "three of", "", "fives"])
    worst = find_worst_answers(answers, 2)
    assert [answer.row for answer in worst] == [ROWS[2], ROWS[0]]
    assert (worst[1].right, worst[1].said) == ("The 2.", "2")


@pytest.mark.parametrize(
    ("said", "places"),
    [
        (["2", "x", "four", "five"], [0, 1, 2]),
        (["x", "y", "z", "five"], [0, 1, 3]),
        (["x", "y", "z", "q"], [0, 1, 2]),
        (["2", "three of them", "four", "five"], [0, 1, 2]),
    ],
)
def test_examples_are_right_and_wrong_answers(said, places):
    answers = judge_texts(ROWS, TEMPLATE, said)
    assert list_examples(answers, 3) == [answers[place] for place in places]


# Baselines


def test_baselines_know_the_training_rows_only():
    train = make_rows(
        ("When does the library open?", "At nine."),
        ("When does the pool open?", "At six."),
        ("Where is the lawn mower?", "At six."),
    )
    rows = make_rows(("When do libraries open", "At nine."), ("Where are the lawnmowers?", "In the shed."))
    found = judge_baselines(train, rows, TEMPLATE)
    assert found["most frequent answer"]["exact_match"] == 0
    assert found["nearest neighbour"]["exact_match"] == 0.5


@dataclass
class Chats:
    """The interface of a template, for rows that are chats."""

    kind = "chats"

    def build_messages(self, row):
        return row["messages"][:-1]

    def build_answer(self, row):
        return row["messages"][-1]["content"]

    def find_group(self, row):
        return row["messages"][0]["content"]


def make_chat(*texts):
    """A chat of these texts, the user's first."""
    roles = ["user", "assistant"] * len(texts)
    return {"messages": [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]}


def test_nearest_chat_is_found_by_all_turns_of_its_prompt():
    train = [make_chat("Hi", "Hello", "Bread?", "One euro."), make_chat("Hi", "Hello", "Milk?", "Two euros.")]
    found = judge_baselines(train, [make_chat("Hi", "Hello", "Any milk left?", "Two euros.")], Chats())
    assert found["nearest neighbour"]["exact_match"] == 1


@pytest.mark.parametrize("question", ["東京はどこですか", "🚲", "?"])
def test_nearest_neighbour_is_found_in_any_script(question):
    train = make_rows(("x", "no"), (question, "yes"))
    assert (
        judge_baselines(train, make_rows((question, "yes")), TEMPLATE)["nearest neighbour"]["exact_match"]
        == 1
    )


def test_answer_far_longer_than_the_right_one_is_compared_as_its_beginning_is():
    beginning = "word " * 4_000
    assert compare_answers("the answer", beginning + "more " * 500_000) == compare_answers(
        "the answer", beginning
    )
