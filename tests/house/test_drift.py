"""Every argument that the kit and its lessons pass to trl, peft and transformers exists in the installed versions."""

import ast
import inspect

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from peft import LoraConfig, PeftModel
from trl import SFTConfig, SFTTrainer

from helpers import PROJECT
from helpers.training.trainer import describe_hardware

CALLABLES = {cls.__name__: cls for cls in (LoraConfig, SFTConfig, SFTTrainer)} | {
    "SharedPrefixTrainer": SFTTrainer,
    "PeftModel.from_pretrained": PeftModel.from_pretrained,
}
FILES = sorted(
    [
        *(PROJECT / "helpers").rglob("*.py"),
        *(PROJECT / "notebooks").glob("*.ipynb"),
        *(PROJECT / "benchmarks").glob("*.py"),
    ]
)


def read_code(path):
    """The Python of a module, or of a notebook's code cells with their shell commands and magics as calls."""
    if path.suffix == ".py":
        return path.read_text(encoding="utf-8")
    cells = nbformat.read(path, as_version=4).cells
    return "\n".join(
        TransformerManager().transform_cell(cell.source) for cell in cells if cell.cell_type == "code"
    )


def find_calls(path):
    """(line, callable's name, keyword names) of each call of one of CALLABLES."""
    for node in ast.walk(ast.parse(read_code(path))):
        if isinstance(node, ast.Call) and (name := ast.unparse(node.func)) in CALLABLES:
            yield node.lineno, name, [keyword.arg for keyword in node.keywords if keyword.arg]


def test_there_are_calls_to_check():
    names = {name for path in FILES for _, name, _ in find_calls(path)}
    assert {
        "LoraConfig",
        "SFTConfig",
        "SFTTrainer",
        "SharedPrefixTrainer",
        "PeftModel.from_pretrained",
    } <= names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_arguments_exist_in_the_installed_signatures(path):
    for line, name, keywords in find_calls(path):
        known = inspect.signature(CALLABLES[name]).parameters
        unknown = [keyword for keyword in keywords if keyword not in known]
        assert not unknown, f"{path.name}, line {line}: {name} has no {', '.join(unknown)}"


def test_arguments_that_follow_from_the_hardware_exist_too(tiny):
    assert set(describe_hardware(tiny.model)) <= set(inspect.signature(SFTConfig).parameters)
