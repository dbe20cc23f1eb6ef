"""How a command ends, and how it reads its arguments."""

import pytest

from helpers.common.command import CommandParser, run_command
from helpers.common.errors import KitError


def test_kit_error_is_one_line_and_exit_code_2(capsys):
    def main(arguments):
        raise KitError("This is\nwrong.", "Do that.")

    assert run_command(main, []) == 2
    assert capsys.readouterr().err == "error: This is wrong. Do that.\n"


def test_wrong_command_line_is_one_line_that_points_to_help(capsys):
    def main(arguments):
        parser = CommandParser(prog="python -m helpers.thing")
        parser.add_argument("--rows", type=int, required=True)
        parser.parse_args(arguments)

    assert run_command(main, ["--rows", "many"]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    for part in ("--rows", "'many'", "python -m helpers.thing --help"):
        assert part in error


def test_ctrl_c_is_exit_code_130(capsys):
    def main(arguments):
        raise KeyboardInterrupt

    assert run_command(main, []) == 130
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_exit_code_is_that_of_main():
    assert run_command(lambda arguments: None, []) == 0
    assert run_command(lambda arguments: len(arguments), ["a", "b", "c"]) == 3


def test_fault_in_the_code_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_command(lambda arguments: 1 // 0, [])
