"""How a command ends, and how it reads its arguments."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from helpers import PROJECT
from helpers.common.command import CommandParser, run_command
from helpers.common.errors import KitError, ResourceError, UsageError
from helpers.common.os_errors import explain_os_error

NOBODY = ["setpriv", "--reuid", "54321", "--clear-groups"]  # a user without an entry, and so without a home
posix = pytest.mark.skipif(os.name == "nt", reason="uses signals, folders and devices as POSIX has them")


def test_kit_error_is_one_line_and_exit_code_2(capsys):
    def main(arguments):
        raise KitError("This is\nwrong.", "Do that.")

    assert run_command(main, []) == 2
    assert capsys.readouterr().err == "error: This is wrong. Do that.\n"


def test_marks_that_turn_letters_round_are_escaped_in_errors(capsys):
    def main(arguments):
        raise KitError("nope\u202egpj.csv", "Do \x1b[31mthat.")

    assert run_command(main, []) == 2
    assert capsys.readouterr().err == "error: nope\\u202egpj.csv Do \\x1b[31mthat.\n"


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


@pytest.mark.parametrize(
    "line", ["raise ValueError(f'no number: {os.environ[\"SOME_NUMBER\"]!r}')", "import that_library"]
)
def test_variable_that_a_library_cannot_read_while_it_is_imported_is_named(tmp_path, line):
    (tmp_path / "that_library.py").write_text("import os; float(os.environ['SOME_NUMBER'])")
    code = f"from helpers.common.command import run_command\ndef main(given):\n  import os\n  {line}\n"
    code += "raise SystemExit(run_command(main))"
    environment = {
        **os.environ,
        "SOME_NUMBER": "abc",
        "PYTHONPATH": os.pathsep.join([str(PROJECT), str(tmp_path)]),
    }
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    is_imported = line.startswith("import")
    assert ("Traceback" in done.stderr) is not is_imported
    assert not is_imported or (done.returncode == 2 and "SOME_NUMBER" in done.stderr)
    assert not is_imported or len(done.stderr.splitlines()) == 1


def test_command_names_a_variable_that_a_library_cannot_read():
    command = [sys.executable, "-m", "helpers.tasks", "check", "nope.csv"]
    environment = {**os.environ, "TQDM_MININTERVAL": "abc"}
    done = subprocess.run(command, env=environment, cwd=PROJECT, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and "TQDM_MININTERVAL" in done.stderr


def test_exit_code_is_that_of_main():
    assert run_command(lambda arguments: None, []) == 0
    assert run_command(lambda arguments: len(arguments), ["a", "b", "c"]) == 3


def test_fault_in_the_code_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_command(lambda arguments: 1 // 0, [])


def write_to_full_device(arguments):
    with open("/dev/full", "w") as file:
        file.write("x" * 100_000)


def use_a_long_name(arguments):
    Path("x" * 300).is_file()


def save_with_torch(arguments):
    torch.save(torch.zeros(100_000), "/dev/full")


def save_with_safetensors(arguments):
    save_file({"x": torch.zeros(1)}, Path("/dev/null/x"))


def copy_a_tree_onto_a_file(arguments):
    shutil.copytree(Path(__file__).parent, "/dev/null/x")


@pytest.mark.parametrize(
    "main",
    [write_to_full_device, use_a_long_name, save_with_torch, save_with_safetensors, copy_a_tree_onto_a_file],
)
def test_what_the_system_refuses_is_one_line(main, capsys):
    assert run_command(main, []) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and len(error.splitlines()) == 1


def test_error_of_the_system_has_the_class_of_its_remedy():
    assert isinstance(explain_os_error(OSError(errno.ENOSPC, "full", "x")), ResourceError)
    assert isinstance(explain_os_error(OSError(errno.ENAMETOOLONG, "long", "x" * 300)), UsageError)
    assert isinstance(explain_os_error(RuntimeError("I/O error (os error 28)")), ResourceError)
    assert explain_os_error(ValueError("x")) is None
    assert "ulimit" in str(explain_os_error(OSError(errno.EFBIG, "large", "x")))


def test_unfinished_file_is_named_as_what_it_would_become():
    error = OSError(errno.EACCES, "refused", "/home/models/.new.ab_c1234.part/new/new/config.json")
    assert "/home/models/new/config.json " in str(explain_os_error(error))


def test_closed_pipe_is_no_error(capsys):
    def main(arguments):
        raise BrokenPipeError

    assert run_command(main, []) == 141
    assert capsys.readouterr().err == ""


# Before `main` runs


def run_module(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    """python -m ..., started elsewhere or with other options."""
    command = [sys.executable, *options.pop("flags", ()), "-m", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


@posix
def test_ctrl_c_while_a_command_imports_ends_it_in_one_line():
    command = [sys.executable, "-m", "helpers.evaluation", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while "torch" not in Path(f"/proc/{process.pid}/maps").read_text():
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (errors, process.returncode) == ("stopped\n", 130)


@posix
@pytest.mark.parametrize("command", ["tasks check x.csv", "evaluation mine", "tutorial", "weights list"])
def test_command_in_a_deleted_folder_ends_in_one_line(tmp_path, command):
    (tmp_path / "gone").mkdir()
    lines = f"cd {tmp_path}/gone && rmdir ../gone && {sys.executable} -m helpers.{command}"
    done = subprocess.run(
        ["bash", "-c", lines], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(PROJECT)}
    )
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "has been deleted" in done.stderr


def test_python_without_the_packages_is_told_where_they_are():
    done = run_module("helpers.tasks", "check", "x.csv", flags=["-S"], cwd=PROJECT)
    assert done.returncode == 2
    assert "make setup" in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("module", ["weights", "tasks"])
def test_python_without_docstrings_is_told_so(module):
    done = run_module(f"helpers.{module}", "--help", flags=["-OO"], cwd=PROJECT)
    assert done.returncode == 2
    assert "-OO" in done.stderr and len(done.stderr.splitlines()) == 1


@posix
@pytest.mark.skipif(not shutil.which("setpriv"), reason="no setpriv to become a user without a home")
def test_user_without_a_home_is_told_to_set_one():
    if subprocess.run([*NOBODY, "true"], capture_output=True).returncode:
        pytest.skip("only root may become another user")
    homeless = {name: value for name, value in os.environ.items() if name != "HOME"}
    command = [*NOBODY, sys.executable, "-m", "helpers.tutorial", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, env=homeless)
    assert done.returncode == 2, done.stderr
    assert "HOME" in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("variable", [("HF_ENDPOINT", "http://[bad"), ("HF_HUB_DOWNLOAD_TIMEOUT", "x")])
def test_variable_that_ends_the_imports_is_named(variable):
    done = run_module("helpers.tasks", "check", "x.csv", cwd=PROJECT, env={**os.environ, **dict([variable])})
    assert done.returncode == 2
    assert variable[0] in done.stderr and len(done.stderr.splitlines()) == 1


@posix
def test_help_that_cannot_be_written_is_an_error(capfd):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "helpers.tasks", "--help"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=PROJECT)
    assert done.returncode == 2 and done.stderr.startswith("error: ")


def test_control_characters_of_a_name_do_not_reach_the_terminal(capsys):
    assert run_command(refuse_odd_name, []) == 2
    assert capsys.readouterr().err == "error: No \\x1b[2Jwipe here. Look.\n"


def refuse_odd_name(arguments):
    raise UsageError("No \x1b[2Jwipe here.", "Look.")


def test_two_dashes_are_no_value_of_an_option(capsys):
    parser = CommandParser(prog="python -m kit")
    parser.add_argument("--key")
    assert run_command(parser.parse_args, ["--key=--"]) == 2
    assert "--key" in capsys.readouterr().err
