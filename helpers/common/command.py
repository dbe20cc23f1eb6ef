"""How a command reads its arguments and how it ends: a mistake is one line on stderr, never a traceback."""

import argparse
import logging
import sys
from collections.abc import Callable
from typing import NoReturn

from helpers.common.errors import KitError, UsageError


class CommandParser(argparse.ArgumentParser):
    """argparse's parser, except that a wrong command line raises a UsageError that points to --help."""

    def error(self, message: str) -> NoReturn:
        """Raises the UsageError; argparse itself would print its usage lines and exit."""
        raise UsageError(f"{message[:1].upper()}{message[1:]}.", f"See {self.prog} --help.")


def run_command(main: Callable[[list[str]], int | None], arguments: list[str] | None = None) -> int:
    """Runs a command's main function; returns its exit code.

    A KitError becomes one line on stderr and exit code 2, Ctrl-C exit code 130.
    """
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it would log every request
    try:
        return main(sys.argv[1:] if arguments is None else arguments) or 0
    except KitError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
