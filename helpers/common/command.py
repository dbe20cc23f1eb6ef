"""How a command reads its arguments and how it ends: a mistake is one line on stderr, never a traceback."""

import argparse
import codecs
import contextlib
import io
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn

from helpers.common.arguments import cut, escape, name
from helpers.common.errors import KitError, UsageError
from helpers.common.os_errors import explain_os_error

interrupted = threading.Event()  # Ctrl-C was pressed while a command ran
CLOSED_PIPE = 128 + 13  # the exit code that a shell shows for a program that ends by SIGPIPE


class CommandParser(argparse.ArgumentParser):
    """argparse's parser, except that a wrong command line raises a UsageError that points to --help.

    An argument without a `type` is a `name`: no text that is empty, not UTF-8 or too long for a file.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.register("type", None, name)

    def add_subparsers(self, **kwargs):
        """argparse's, with arguments that are checked by the command's own parser alone."""
        commands = super().add_subparsers(**kwargs)
        commands.type = str
        return commands

    def parse_known_args(self, args: Sequence[str] | None = None, *rest: Any, **named: Any) -> Any:
        """argparse's, except that --option=-- is refused: argparse takes it for an option with no value."""
        args = sys.argv[1:] if args is None else list(args)
        for arg in args:
            if arg.startswith("-") and arg.endswith("=--"):
                self.error(f"argument {arg[:-3]}: '--' is not a value")
        return super().parse_known_args(args, *rest, **named)

    def print_help(self, file=None) -> None:
        """argparse's, which says nothing if it cannot be written."""
        print(self.format_help(), end="", file=file)

    def error(self, message: str) -> NoReturn:
        """Raises the UsageError; argparse itself would print its usage lines and exit."""
        message = cut(message, 400)  # it quotes what was given
        raise UsageError(f"{message[:1].upper()}{message[1:]}.", f"See {self.prog} --help.")


def run_command(main: Callable[[list[str]], int | None], arguments: list[str] | None = None) -> int:
    """Runs a command's main function; returns its exit code.

    A KitError becomes one line on stderr and exit code 2, and so does what the operating system refuses, such
    as a full disk, and what a library says of a wrong variable of the environment. Ctrl-C is exit code 130.
    Nothing is said if whoever reads the output has closed the pipe.
    """
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it would log every request
    escape_unprintable()
    try:
        with remember_interrupts():
            return call(main, sys.argv[1:] if arguments is None else arguments)
    except KitError as error:
        return report(error)
    except BrokenPipeError:
        return CLOSED_PIPE
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except Exception as error:
        known = explain_os_error(error) or explain_variable(error)
        if known is None:
            raise
        return report(known)
    finally:
        drop_unwritable()


@contextlib.contextmanager
def remember_interrupts() -> Iterator[None]:
    """Inside the block Ctrl-C raises KeyboardInterrupt, as ever, and also sets `interrupted`.

    Some libraries catch every exception while they are imported, and the KeyboardInterrupt is gone.
    """
    interrupted.clear()
    usual = signal.default_int_handler
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) != usual:
        yield
        return

    def remember(number: int, frame: FrameType | None) -> None:
        interrupted.set()
        usual(number, frame)

    signal.signal(signal.SIGINT, remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)


def explain_variable(error: Exception) -> KitError | None:
    """What explain_wrong_variable says of it, which imports packages: tools.install has none yet."""
    if not isinstance(error, ValueError):
        return None
    from helpers.common.hub_environment import explain_wrong_variable

    return explain_wrong_variable(error)


def call(main: Callable[[list[str]], int | None], arguments: list[str]) -> int:
    """The exit code of `main`, or of the SystemExit of --help, when all that it printed is written."""
    try:
        code = main(arguments) or 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    if sys.stdout is not None:  # it is None if the process was started with a closed one
        sys.stdout.flush()
    return code


def report(error: KitError) -> int:
    """Prints the error as one line; returns the exit code.

    Control characters in it, of a file's name for instance, are written as \\x1b: a terminal would obey them.
    """
    line = escape(" ".join(str(error).split()))
    with contextlib.suppress(OSError):  # of a stderr that is full or closed
        print(f"error: {line}", file=sys.stderr)
    return 2


def escape_unprintable() -> None:
    """Lets stdout and stderr write what their encoding lacks as JSON does: \\u00e4 for ä in ASCII."""

    def escape(error: UnicodeError) -> tuple[str, int]:
        if not isinstance(error, UnicodeEncodeError):
            raise error
        return json.dumps(error.object[error.start : error.end])[1:-1], error.end

    codecs.register_error("json_escape", escape)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="json_escape")


def drop_unwritable() -> None:
    """Drops what cannot be written to stdout; else Python would complain of it when the process ends."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except (OSError, ValueError):  # a ValueError if it was closed
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
