"""What libraries warn of, kept back until it is known whether the work was done."""

import contextlib
import logging
import warnings
from collections.abc import Iterator

Held = list[tuple[logging.Handler, logging.LogRecord]]


@contextlib.contextmanager
def hold_messages() -> Iterator[None]:
    """Inside the block, warnings and log records of libraries wait. They come out after it, unless it fails:
    then its error says in one line what they were about."""
    with collect_messages() as (warned, held):
        yield
    for warning in warned:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    for handler, record in held:
        handler.handle(record)


@contextlib.contextmanager
def collect_messages() -> Iterator[tuple[list[warnings.WarningMessage], Held]]:
    """Inside the block, warnings and log records of libraries go into two lists, and nowhere else."""
    held: Held = []
    filters = {handler: make_filter(handler, held) for handler in list_handlers()}
    for handler, keep in filters.items():
        handler.addFilter(keep)
    try:
        with warnings.catch_warnings(record=True) as warned:
            yield warned, held
    finally:
        for handler, keep in filters.items():
            handler.removeFilter(keep)


def make_filter(handler: logging.Handler, held: Held) -> logging.Filter:
    """A filter that lets nothing pass and puts it into `held`."""

    class Keep(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            held.append((handler, record))
            return False

    return Keep()


def list_handlers() -> set[logging.Handler]:
    """All that write log records, the one for loggers without a handler included."""
    known = list(logging.root.manager.loggerDict.values())
    loggers = [logging.getLogger(), *(each for each in known if isinstance(each, logging.Logger))]
    handlers = {handler for logger in loggers for handler in logger.handlers}
    return handlers | ({logging.lastResort} if logging.lastResort else set())
