"""Forms are read in a process of their own first, within limits of time, memory and depth.

A form is a program for llguidance, and comes from a client. One of a few hundred bytes can take all memory,
or hours, or overflow the stack, which ends the process. Here that is the end of the trial process only, and
the form is refused.
"""

import contextlib
import json
import select
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PROGRAM = (
    f"import sys; sys.path.insert(0, {str(ROOT)!r}); from helpers.generation.form_trial import work; work()"
)
CPU_SECONDS = 2  # that a form takes at most; those of real clients take hundredths of a second
WAIT_SECONDS = 20  # for the answer, on a busy machine
MEMORY = 1 << 30  # bytes of address space
STACK = 2 << 20  # bytes, a quarter of what the threads have in which forms are read again
TOO_LARGE = "it takes too much time, memory or depth"


class Trial:
    """The process, which is started for the first form and again after one that ended it."""

    def __init__(self):
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def ask(self, kind: str, source: str, special: bool) -> tuple[str | None, str]:
        """(the form in Lark or None, why it is refused)."""
        with self._lock:
            reply = self._exchange(json.dumps([kind, source, special]))
            if reply is None:
                self._end()
                return None, TOO_LARGE
        return tuple(json.loads(reply))

    def _exchange(self, line: str) -> str | None:
        """The process's reply to a line; None if there is none."""
        if self._process is None or self._process.poll() is not None:
            self._process = start()
        process = self._process
        assert process.stdin and process.stdout
        try:
            process.stdin.write(line + "\n")
            process.stdin.flush()
        except OSError:
            return None
        if not wait_for(process.stdout, WAIT_SECONDS):
            return None
        return process.stdout.readline() or None

    def _end(self) -> None:
        if self._process:
            self._process.kill()
            self._process.communicate()
            self._process = None


def start() -> "subprocess.Popen[str]":
    """Starts the process. It ends when this one does, since nothing can be read any more."""
    command = [sys.executable, "-c", PROGRAM]
    pipes: dict[str, Any] = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.DEVNULL,
    }
    return subprocess.Popen(command, text=True, encoding="utf-8", **pipes)


def wait_for(stream: Any, seconds: float) -> bool:
    """Whether there is something to be read within the time. Windows cannot tell for a pipe."""
    if sys.platform == "win32":
        return True
    return bool(select.select([stream], [], [], seconds)[0])


@lru_cache(256)
def try_form(kind: str, source: str, special: bool) -> tuple[str | None, str]:
    """(the form in Lark or None, why it is refused), once for each form."""
    return TRIAL.ask(kind, source, special)


TRIAL = Trial()


# In the process itself


def work() -> None:
    """Reads forms from standard input, one a line, and writes what each becomes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that started it
    limit_memory()
    threading.stack_size(STACK)
    for line in sys.stdin:
        limit_time()
        with ThreadPoolExecutor(1) as thread:  # a new one, whose stack is small
            found = thread.submit(read, *json.loads(line)).result()
        print(json.dumps(found), flush=True)


def read(kind: Any, source: str, special: bool) -> tuple[str | None, str]:
    """(the form in Lark or None, why it is refused)."""
    from helpers.generation.forms import byte_tokenizer, prepare
    from helpers.generation.lark import write_lark

    try:
        grammar = write_lark(kind, source, special)
        prepare(write_lark(kind, source, special=False), byte_tokenizer())  # which has no special tokens
    except (ValueError, OverflowError) as error:
        return None, str(error)
    except (RecursionError, MemoryError):
        return None, TOO_LARGE
    return grammar, ""


def limit_memory() -> None:
    """Limits the memory of this process, where the system can do that."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def limit_time() -> None:
    """Limits the CPU time until the next form, where the system can do that: then the process is ended."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + CPU_SECONDS + 1, hard))
