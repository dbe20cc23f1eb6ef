"""transformers without its warnings and progress bars, for a while."""

from collections.abc import Iterator
from contextlib import contextmanager


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
