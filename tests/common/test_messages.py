"""What libraries say while they work is held back, and dropped if they fail."""

import logging
import warnings

import pytest

from helpers.common.errors import UsageError
from helpers.common.messages import hold_messages


def speak():
    warnings.warn("a warning", stacklevel=1)
    logging.getLogger("a library").warning("a record")


def test_messages_come_out_after_the_block(caplog):
    with pytest.warns(UserWarning, match="a warning"), hold_messages():
        speak()
    assert "a record" in caplog.text


def test_messages_of_a_failure_are_dropped(caplog, recwarn):
    with pytest.raises(UsageError), hold_messages():
        speak()
        raise UsageError("This is wrong.", "Do that.")
    assert not caplog.text and not recwarn.list
