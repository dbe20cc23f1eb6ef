"""A server that is interrupted while it starts, or cannot start, ends at once."""

import os
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.long


def start(*extra):
    arguments = ["--model", "tiny", "--extensions", "openai", "--openai-port", "0", *extra]
    command = [sys.executable, "-m", "helpers.server", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_template_that_is_not_there_is_one_line(at_home):
    with start("--chat-template", "/nope") as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "/nope" in errors
    assert errors.count("\n") == 1


INTERRUPTED = """
import signal, socket
from fastapi import FastAPI
from helpers.common.command import run_command
from helpers.server.serving import serve

def main(arguments):
    try:
        signal.raise_signal(signal.SIGINT)
    except BaseException:
        pass
    serve([FastAPI()], [socket.create_server(("127.0.0.1", 0))], None)

raise SystemExit(run_command(main))
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for another process")
def test_interrupt_that_a_library_has_caught_still_ends_the_server():
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "stopped\n")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for another process")
def test_interrupt_before_the_model_is_there_ends_the_server(at_home):
    with start("--dtype", "float32") as process:
        time.sleep(3)  # it imports or loads
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=15)
    assert process.returncode in (130, 0, -signal.SIGINT)
