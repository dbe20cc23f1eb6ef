"""Every argument that the kit and its lessons pass to TRL and PEFT exists in the installed versions."""

import ast
import inspect

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from peft import LoraConfig, PeftModel
from trl import SFTConfig, SFTTrainer

from helpers import PROJECT
from helpers.training.configs import describe_hardware

CALLABLES = {
    "LoraConfig": LoraConfig,
    "PeftModel.from_pretrained": PeftModel.from_pretrained,
    "SFTConfig": SFTConfig,
    "SFTTrainer": SFTTrainer,
    "training.SharedPrefixTrainer": SFTTrainer,  # it adds no argument of its own
}
FILES = sorted(
    [
        *(PROJECT / "helpers").rglob("*.py"),
        *(PROJECT / "notebooks").glob("*.ipynb"),
        *(PROJECT / "benchmarks").glob("*.py"),
    ]
)


def read_code(path):
    """The Python of a module, or of a notebook's cells with shell commands and magics turned into calls."""
    if path.suffix == ".py":
        return path.read_text(encoding="utf-8")
    cells = nbformat.read(path, as_version=4).cells
    manager = TransformerManager()
    return "\n".join(manager.transform_cell(cell.source) for cell in cells if cell.cell_type == "code")


def find_calls(path):
    """(line, name of the callable, names of the keyword arguments) of each call of one of CALLABLES."""
    for node in ast.walk(ast.parse(read_code(path))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in CALLABLES:
            keywords = [keyword.arg for keyword in node.keywords if keyword.arg]
            yield node.lineno, ast.unparse(node.func), keywords


def test_every_callable_is_called_somewhere():
    names = {name for path in FILES for _, name, _ in find_calls(path)}
    assert names == set(CALLABLES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_arguments_exist_in_the_installed_signatures(path):
    unknown = []
    for line, name, keywords in find_calls(path):
        parameters = inspect.signature(CALLABLES[name]).parameters
        unknown += [(line, name, keyword) for keyword in keywords if keyword not in parameters]
    assert unknown == []


def test_arguments_that_follow_from_the_hardware_exist_too(tiny):
    assert set(describe_hardware(tiny.model)) <= set(inspect.signature(SFTConfig).parameters)
