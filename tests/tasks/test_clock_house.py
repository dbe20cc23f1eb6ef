"""The third data set: facts, each asked in six ways, and facts that are kept out of training."""

import collections
import csv
import json

import pytest

from helpers import PROJECT

FOLDER = PROJECT / "data" / "clock_house"


def read(name: str) -> list[dict[str, str]]:
    """The rows of one file of the data set."""
    with (FOLDER / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name, facts", [("dataset.csv", 50), ("unseen.csv", 10)])
def test_every_fact_is_asked_in_six_ways_and_has_one_answer(name, facts):
    rows = read(name)
    assert list(rows[0]) == ["fact", "question", "answer"]
    assert set(collections.Counter(row["fact"] for row in rows).values()) == {6}
    assert len({(row["fact"], row["answer"]) for row in rows}) == facts
    assert len({row["fact"] for row in rows}) == len({row["answer"] for row in rows}) == facts


def test_no_question_no_fact_and_no_answer_is_in_both_files():
    known, unseen = read("dataset.csv"), read("unseen.csv")
    questions = [row["question"].casefold() for row in [*known, *unseen]]
    assert len(set(questions)) == len(questions)
    for column in ("fact", "answer"):
        assert not {row[column] for row in known} & {row[column] for row in unseen}


def test_every_clock_and_every_kind_of_fact_has_known_and_unseen_facts():
    known, unseen = (
        {tuple(row["fact"].split("-")) for row in read(n)} for n in ("dataset.csv", "unseen.csv")
    )
    assert len({clock for clock, _ in known}) == 10 and len({kind for _, kind in known}) == 6
    for place in (0, 1):
        assert {fact[place] for fact in known} == {fact[place] for fact in unseen}


def test_cells_are_clean_text_and_answers_are_short():
    for row in [*read("dataset.csv"), *read("unseen.csv")]:
        assert all(cell == " ".join(cell.split()) != "" for cell in row.values())
        assert row["question"][-1] in ".?" and 2 <= len(row["answer"].split()) <= 12


def test_figures_of_the_card_are_those_of_the_benchmark():
    record = json.loads((PROJECT / "benchmarks" / "free_answers.json").read_text(encoding="utf-8"))
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    for seed in record["seeds"]:
        lines = {line["what"]: line for line in record["table"] if line["seed"] == seed}
        cells = [
            f"{lines[what]['exact_match']:.1%}"
            for what in ("base", "most frequent answer", "nearest neighbour")
        ]
        low, high = (100 * lines["LoRA"][end] for end in ("low", "high"))
        cells.append(f"{lines['LoRA']['exact_match']:.1%} [{low:.1f}, {high:.1f}]")
        assert f"| {seed} | {' | '.join(cells)} |" in card
        assert lines["LoRA"]["exact_match"] > 2 * lines["nearest neighbour"]["exact_match"]
