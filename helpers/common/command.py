"""Open LLM Kit: the code that the five notebooks share.

Promise of this file: what every module needs and nothing else: the error that names its remedy, the project's folders, files that
are complete or absent, and how a command reads its words and ends. It imports no module of the kit.
"""

import argparse
import logging
import sys
from collections.abc import Callable

from helpers.common.errors import KitError


class CommandParser(argparse.ArgumentParser):
    """argparse's parser; a wrong command line is a KitError, one line like every other, with the way to the help."""

    def error(self, message: str):
        """Raises the KitError in place of argparse's usage lines."""
        raise KitError(f"{message[:1].upper()}{message[1:]}.", f"See {self.prog} --help.")


def run_command(main: Callable[[list[str]], int | None], arguments: list[str] | None = None) -> int:
    """Runs a command's main function: its exit code, or 2 after one line on stderr for a KitError, 130 for Ctrl-C."""
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        return main(sys.argv[1:] if arguments is None else arguments) or 0
    except KitError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
