"""Loading takes the memory of one copy of the weights: measured in a process of its own."""

import subprocess
import sys

import pytest
from support.tiny import make_tiny_model

# Prints MB: of the weights in memory, the most that the process had of its own beyond what it began with, and
# what it kept. Pages of the file that are mapped into memory do not count: the system takes them back.
LOAD = """
import re, sys, threading
from pathlib import Path
from helpers import loading

def measure():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1000

def watch():
    while not done.wait(0.001):
        seen.append(measure())

loading.load_model("narrow", device_map="cpu")  # imports what loading takes
before, seen, done = measure(), [0], threading.Event()
watcher = threading.Thread(target=watch)
watcher.start()
loaded = loading.load_model("wide", dtype=sys.argv[1], device_map="cpu")
kept = measure() - before
done.set()
watcher.join()
print(round(loaded.bytes / 1e6), round(max(seen) - before), round(kept))
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how much memory is not a file's")
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_weights_are_never_in_memory_twice(home, dtype):
    make_tiny_model(home / "models" / "wide", hidden=2048)  # 302 MB in float32
    make_tiny_model(home / "models" / "narrow")
    command = [sys.executable, "-c", LOAD, dtype]
    done = subprocess.run(command, capture_output=True, text=True, cwd=home)
    assert done.returncode == 0, done.stderr[-2000:]
    weights, most, kept = map(int, done.stdout.split())
    assert weights > 100
    assert most < 1.5 * weights + 50
    assert most < kept + 0.2 * weights + 50  # what goes again when the loading ends
