"""A process that ends the server if it does not end by itself after a signal.

While llama.cpp loads a model, or is taken apart, it holds Python's lock, and a signal is not handled before
it is done, which may be never. C code still writes the number of a signal into a pipe (signal.set_wakeup_fd),
and this process reads it there. It is there from the beginning, as signals are.
"""

import os
import select
import signal
import subprocess
import sys
import time

KILL_S = 9  # from the signal


def start_watchdog() -> None:
    """Starts the process for this one. Windows needs none: a signal ends a process there in any case."""
    if os.name == "nt":
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, str(os.getpid())],
        stdin=reading,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # the signal is not for this process
    )
    os.close(reading)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)


def watch(pid: int) -> None:
    """Waits for a signal, then for the end of the process, which closes the pipe; ends it after KILL_S."""
    if not os.read(0, 1):
        return
    deadline = time.monotonic() + KILL_S
    while (left := deadline - time.monotonic()) > 0:
        if select.select([0], [], [], left)[0] and not os.read(0, 64):
            return
    os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    watch(int(sys.argv[1]))
