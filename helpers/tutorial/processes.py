"""The processes that this one has started: how much memory they take, and how to end them."""

import contextlib

import psutil

GONE_S = 10.0  # a killed process goes at once, unless it waits for a disk


class StartedProcesses:
    """What this process starts after the object was made, with everything that is started by it in turn.

    A notebook's kernel and the server that one of its cells starts are found in this way.
    """

    def __init__(self) -> None:
        self.earlier = set(list_descendants())
        self.seen: set[psutil.Process] = set()  # at the last look at the memory

    def find(self) -> list[psutil.Process]:
        """Those that run now."""
        return [process for process in list_descendants() if process not in self.earlier]

    def measure_memory(self) -> int:
        """Bytes of memory of all of them together, as measure_share, without those that are new.

        A process counts from the second look on: a new one may only just have been forked, and then shows its
        parent's memory as its own.
        """
        found = self.find()
        known, self.seen = self.seen, set(found)
        return sum(measure_share(process) for process in found if process in known)

    def kill(self) -> None:
        """Kills all of them, and waits until they are gone: GONE_S seconds at most."""
        found = self.find()
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(found, timeout=GONE_S)


def list_descendants() -> list[psutil.Process]:
    """The child processes of this process, their children, and so on."""
    return psutil.Process().children(recursive=True)


def measure_share(process: psutil.Process) -> int:
    """Bytes of a process's memory; 0 if it has just ended.

    What several processes share, such as weights that are mapped from a file, is divided among them: the
    proportional set size. Windows and macOS do not know it; there it is the memory of this process alone,
    or all of its resident memory if that is not told either.
    """
    try:
        with contextlib.suppress(psutil.AccessDenied):  # macOS may tell only root
            memory = process.memory_full_info()
            return getattr(memory, "pss", memory.uss)
        return process.memory_info().rss
    except psutil.Error:
        return 0
