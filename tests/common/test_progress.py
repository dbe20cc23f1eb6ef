"""Progress that is drawn, reported to a function, or silent."""

import pytest

from helpers.common.progress import Bar


def test_function_is_called_with_the_description_and_the_share():
    calls = []
    with Bar(lambda words, share: calls.append((words, share)), 4, "reading", "row") as bar:
        bar.update()
        bar.rename("writing")
        bar.update(3)
    shares = [share for _, share in calls]
    assert shares == [0.25, 1.0]
    assert "reading" in calls[0][0] and "writing" in calls[1][0]


def test_bytes_are_reported_in_megabytes():
    calls = []
    with Bar(lambda words, share: calls.append(words), 93_000_000, "wheel", "B") as bar:
        bar.update(12_000_000)
    assert calls == ["wheel: 12 of 93 MB"]


def test_exception_of_the_function_ends_the_work():
    def stop(words, share):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), Bar(stop, 4, "reading", "row") as bar:
        bar.update()


def test_nothing_to_do_is_no_division_by_zero():
    shares = []
    with Bar(lambda words, share: shares.append(share), 0, "reading", "row") as bar:
        bar.update(0)
    assert shares == [0]


def test_only_true_draws_a_bar(capsys):
    for progress in (False, lambda words, share: None):
        with Bar(progress, 4, "reading", "row") as bar:
            bar.update()
    assert capsys.readouterr().err == ""
    with Bar(True, 4, "reading", "row") as bar:
        bar.update()
    assert "reading" in capsys.readouterr().err
