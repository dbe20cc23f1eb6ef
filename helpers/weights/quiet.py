"""Libraries without their warnings and progress bars, for a while."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

STDERR = 2  # its number for the operating system


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Inside the block transformers shows errors only, and no progress bars; then both are as they were."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    had_bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bars:  # helpers.loading switches them off for good: a notebook would keep each as a widget
            logging.enable_progress_bar()


@contextmanager
def hold_stderr() -> Iterator[None]:
    """Holds back what any library writes to stderr, in whatever language; drops it if the block fails.

    Rust says there where it gave up, in lines that no caller can prevent.
    """
    try:
        kept = os.dup(STDERR)
    except OSError:  # the process was started without one
        yield
        return
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), STDERR)
        try:
            yield
        except BaseException:
            held.truncate(0)
            raise
        finally:
            os.dup2(kept, STDERR)
            os.close(kept)
            held.seek(0)
            with suppress(OSError):  # of a stderr that is full or closed
                os.write(STDERR, held.read())
