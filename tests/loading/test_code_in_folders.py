"""Code that lies in a model's folder never runs, whoever sits at the terminal."""

import ast
import contextlib
import json
import os
import pty
import subprocess
import sys

import pytest
from support.tiny import make_tiny_model

from helpers import PROJECT

CODE = """
from pathlib import Path
Path({marker!r}).write_text("ran")
from transformers import {base} as Base
class Own(Base):
    model_type = "own"
"""
# Everything in helpers that lets transformers read a folder.
CALLS = """
from pathlib import Path
from helpers.adapters.merging import read_dtype
from helpers.loading.model import describe_weights, load_model
from helpers.weights.reading import read_tokenizer
from helpers.weights.embedded import check_tokenizer
from helpers.weights.folders import ModelFolder

folder = ModelFolder(Path({folder!r}))
calls = {{describe_weights: folder, read_tokenizer: folder, read_dtype: folder, load_model: folder.path.name,
    check_tokenizer: folder.path}}
for call, argument in calls.items():
    try:
        call(argument)
    except Exception as error:
        print(call.__name__, error)
print("all called")
"""
ROOMS = ("helpers", "tools", "benchmarks")


def plant(folder, marker, kind):
    """Gives a model's folder code of its own for the config, the model and the tokenizer."""
    for base in ("PretrainedConfig", "LlamaForCausalLM", "PreTrainedTokenizerFast"):
        code = CODE.format(marker=str(marker), base=base)
        (folder / f"own_{base.lower()}.py").write_text(code, encoding="utf-8")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    models = {"AutoConfig": "own_pretrainedconfig.Own", "AutoModelForCausalLM": "own_llamaforcausallm.Own"}
    config |= {"model_type": kind, "auto_map": models}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    path = folder / "tokenizer_config.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    own = [None, "own_pretrainedtokenizerfast.Own"]
    tokenizer |= {"auto_map": {"AutoTokenizer": own}, "tokenizer_class": "Own"}
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    generate = folder / "custom_generate" / "generate.py"
    generate.parent.mkdir()
    generate.write_text(CODE.format(marker=str(marker), base="LlamaConfig"), encoding="utf-8")


def run_on_a_terminal(code, answer):
    """What a Python process prints whose standard streams are a terminal with `answer` typed ahead."""
    ours, theirs = pty.openpty()
    os.write(ours, answer)
    process = subprocess.Popen([sys.executable, "-c", code], stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    printed = b""
    with contextlib.suppress(OSError):  # raised when the process has ended and its terminal is closed
        while block := os.read(ours, 65536):
            printed += block
    process.wait()
    os.close(ours)
    return printed.decode(errors="replace")


@pytest.mark.long
@pytest.mark.parametrize("kind", ["own", "llama"])  # a type that only the code knows, and one that all know
def test_code_in_a_folder_is_not_run_and_nobody_is_asked(home, tmp_path, kind):
    folder, marker = home / "models" / "own", tmp_path / "ran"
    make_tiny_model(folder)
    plant(folder, marker, kind)
    printed = run_on_a_terminal(CALLS.format(folder=str(folder)), b"y\n" * 10)
    assert "all called" in printed and not marker.exists() and "[y/N]" not in printed, printed[-2000:]


def find_calls(path):
    """The calls of transformers' Auto classes in a module that may meet a folder's code: (line, call)."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = ast.unparse(node.func.value)
            if node.func.attr == "from_pretrained" and owner.startswith(("Auto", "fast")):
                yield node.lineno, node


def test_every_call_that_could_run_a_folder_s_code_says_no():
    calls = [
        (f"{path.relative_to(PROJECT)}:{line}", call)
        for room in ROOMS
        for path in sorted((PROJECT / room).rglob("*.py"))
        for line, call in find_calls(path)
    ]
    assert len(calls) >= 10
    lax = [
        place
        for place, call in calls
        if not any(
            word.arg == "trust_remote_code" and ast.unparse(word.value) == "False" for word in call.keywords
        )
    ]
    assert lax == []
