"""transformers without progress bars, for a while."""

import os
from logging import ERROR

import pytest
from transformers.utils import logging

from helpers.weights.quiet import hold_stderr, quiet_transformers


@pytest.fixture(params=[True, False], ids=["bars-on", "bars-off"])
def had_bars(request):
    """Progress bars of transformers are on, or off; they are as before after the test."""
    before = logging.is_progress_bar_enabled()
    switch(request.param)
    yield request.param
    switch(before)


def switch(bars):
    if bars:
        logging.enable_progress_bar()
    else:
        logging.disable_progress_bar()


def test_stderr_is_held_back_and_dropped_if_the_block_fails(capfd):
    with hold_stderr():
        os.write(2, b"a warning")
    with pytest.raises(ZeroDivisionError), hold_stderr():
        os.write(2, b"of Rust")
        raise ZeroDivisionError
    os.write(2, b", the end")
    assert capfd.readouterr().err == "a warning, the end"


def test_bars_and_verbosity_are_as_before_at_the_end(had_bars):
    verbosity = logging.get_verbosity()
    with quiet_transformers():
        assert not logging.is_progress_bar_enabled()
        assert logging.get_verbosity() == ERROR
    assert logging.is_progress_bar_enabled() == had_bars
    assert logging.get_verbosity() == verbosity


def test_bars_are_as_before_after_an_error(had_bars):
    with pytest.raises(ZeroDivisionError), quiet_transformers():
        raise ZeroDivisionError
    assert logging.is_progress_bar_enabled() == had_bars


def test_blocks_may_be_nested(had_bars):
    with quiet_transformers():
        with quiet_transformers():
            pass
        assert not logging.is_progress_bar_enabled()
    assert logging.is_progress_bar_enabled() == had_bars
