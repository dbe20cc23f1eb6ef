"""The figure of the loss: its places, ticks and thinned points."""

import pytest

from helpers.adapters.curves import draw_curves, list_ticks, thin_out


@pytest.mark.parametrize(
    ("top", "ticks"),
    [(47, [0, 10, 20, 30, 40, 50]), (0.3, [0, 0.1, 0.2, 0.3]), (1, [0, 0.2, 0.4, 0.6, 0.8, 1])],
)
def test_ticks_are_round_and_reach_the_top(top, ticks):
    assert list_ticks(top) == ticks


def test_loss_of_0_everywhere_can_be_drawn():
    figure = draw_curves({"training": [(1, 0.0), (2, 0.0)]})
    assert figure and figure.curves[0].points == [(1, 0.0), (2, 0.0)]


def test_long_curve_is_thinned_to_the_means_of_its_steps():
    points = thin_out([1.0, 3.0, 2.0, 4.0, 5.0], steps=10, most=3)
    assert points == [(4, 2.0), (8, 3.0), (10, 5.0)]


def test_losses_that_are_not_numbers_are_left_out():
    assert thin_out([1.0, float("nan"), float("inf"), 2.0], steps=4) == [(1, 1.0), (4, 2.0)]
    assert thin_out([], steps=0) == []


def test_higher_loss_is_higher_on_the_canvas_and_later_step_farther_right():
    figure = draw_curves({"training": [(1, 2.0), (10, 1.0)]})
    (x1, y1), (x2, y2) = (map(float, place.split(",")) for place in figure.curves[0].path.split())
    assert figure.left < x1 < x2 <= figure.right
    assert figure.top <= y1 < y2 < figure.bottom


def test_single_point_is_no_curve():
    assert draw_curves({"training": [(1, 2.0)]}) is None
