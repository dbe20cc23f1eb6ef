"""How the command judges labels: answers and sides, and what a server is asked."""

import pytest

from helpers.common.errors import ServerError
from helpers.evaluation.kinds import make_judge
from helpers.tasks.sides import find_sides
from helpers.tasks.template import Template

TEMPLATE = Template("t", "", "{text} {a} {b}", {0: "none", 1: "{a}", 2: "{b}"})
LABELS = [0, 1, 1, 2]
ROWS = [{"text": f"comment {n}", "a": "Elm", "b": "Glen", "label": label} for n, label in enumerate(LABELS)]


def answer_limited(messages, extra_body=None):
    """A server that says Elm when it may choose between the two, and otherwise always `none`."""
    return extra_body["structured_outputs"]["choice"][0] if extra_body else "none"


def test_sides_are_the_labels_whose_answers_are_columns():
    assert find_sides(TEMPLATE) == {1: "a", 2: "b"}
    assert find_sides(Template("t", "", "{text}", {0: "no", 1: "yes", 2: "later"})) == {}
    assert find_sides(Template("t", "", "{text} {a}", {0: "no", 1: "{a}"})) == {}
    assert find_sides(Template("t", "", "{text}", answer="{a}")) == {}


def test_server_is_asked_for_every_answer_and_for_the_sides_with_a_choice_of_two():
    judge = make_judge(TEMPLATE, ROWS, [])
    figures = judge.summarise(judge.ask(answer_limited))
    assert figures.accuracy == 1 / 4
    assert (figures.right_side["value"], figures.right_side["n"]) == (2 / 3, 3)


def refuse_choice(messages, extra_body=None):
    """A server that knows no choice and says so."""
    if extra_body:
        raise ServerError("Unknown field.", "Leave it out.", 422)
    return "none"


@pytest.mark.parametrize("ask", [refuse_choice, lambda messages, **_: "none"], ids=["refuses", "ignores"])
def test_server_that_cannot_be_held_to_two_answers_has_no_figure_for_sides(ask):
    judge = make_judge(TEMPLATE, ROWS, [])
    found = judge.ask(ask)
    assert judge.summarise(found).right_side is None and judge.summarise(found).accuracy == 1 / 4


def test_server_that_goes_away_is_an_error():
    def fail(messages, extra_body=None):
        if extra_body:
            raise ServerError("Gone.", "Start it again.")
        return "none"

    with pytest.raises(ServerError, match="Gone"):
        make_judge(TEMPLATE, ROWS, []).ask(fail)


def test_task_without_sides_asks_each_row_once():
    asked = []
    plain = Template("t", "", "{text}", {0: "no", 1: "yes", 2: "later"})
    judge = make_judge(plain, ROWS, [])
    found = judge.ask(lambda messages: asked.append(messages) or "yes")
    assert len(asked) == len(ROWS) and judge.summarise(found).right_side is None
    assert set(judge.measure_gains(found, found)) == {"accuracy"}
