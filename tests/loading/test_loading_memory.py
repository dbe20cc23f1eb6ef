"""Loading takes the memory of one copy of the weights: measured in a process of its own."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from support.tiny import make_tiny_model
from transformers import LlamaConfig, LlamaForCausalLM

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


# Prints MB: of the weights, and the most that the process had in memory beyond what it began with, pages of
# the file included, until the model has computed once. Writing 5 to clear_refs makes VmHWM begin again.
LOAD_AND_COMPUTE = """
import re
from pathlib import Path
import torch
from helpers import loading

def measure(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024 / 1e6

def load(name):
    loaded = loading.load_model(name, device_map="cpu", dtype="float16")
    with torch.inference_mode():
        loaded.model(torch.arange(8)[None])
    return loaded

load("narrow")
Path("/proc/self/clear_refs").write_text("5")
before = measure("VmRSS")
loaded = load("wide")
print(round(loaded.bytes / 1e6), round(measure("VmHWM") - before))
"""


def make_float16_model(folder, hidden, layers):
    """A model folder of zeros in float16, made without the memory for a second copy."""
    make_tiny_model(folder)
    config = json.loads((folder / "config.json").read_text())
    shape = {"hidden_size": hidden, "intermediate_size": 2 * hidden, "num_hidden_layers": layers}
    config |= {**shape, "head_dim": hidden // 4, "dtype": "float16"}
    (folder / "config.json").write_text(json.dumps(config))
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig.from_dict(config))
    weights = {
        name: torch.zeros(weight.shape, dtype=torch.float16) for name, weight in model.named_parameters()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what the most was since a moment")
def test_float16_weights_are_in_memory_once_pages_of_the_file_included(home):
    """As a 7B model, 13.5 GB, has to be loaded on a machine that has room for it once."""
    make_float16_model(home / "models" / "wide", 2048, 5)
    make_float16_model(home / "models" / "narrow", 32, 2)
    command = [sys.executable, "-c", LOAD_AND_COMPUTE]
    done = subprocess.run(command, capture_output=True, text=True, cwd=home)
    assert done.returncode == 0, done.stderr[-2000:]
    weights, most = map(int, done.stdout.split())
    assert weights > 300
    assert 0.9 * weights < most < 1.5 * weights
