"""The house: a module imports only modules that stand above it in this list."""

import ast

import pytest

from helpers import PROJECT

ORDER = """
    installing machine bars refusals hub embedded folders costs sizes quantizing weights loaders loading templating dataset verdicts
    lora_tensors lora_folders lean_lora attaching proving merging cards settings packing scoring prefix_trainer records trainers training
    generation engines stopping decoding sampling batching transformers_engine gguf_header lora_gguf exporting adapters
    llama_server llama_engine running transport clients reaching evaluation server webui webui_control formats plots checks
    panels asking_panel model_panel session_panel training_panel lora_panel tidying report boxes tutorial slides
""".split()
MODULES = sorted(path for path in (PROJECT / "helpers").rglob("*.py") if path.name != "__init__.py")


def list_imports(tree):
    """Names of the kit's modules that a file imports, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "helpers":
            yield from (alias.name for alias in node.names if alias.name in ORDER)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("helpers."):
            yield node.module.split(".")[1]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_module_imports_only_what_stands_above_it(path):
    name = path.parent.name if path.parent.name == "server" else path.stem
    above = ORDER[: ORDER.index(name) + (name == "server")]  # the server's own files import each other
    assert [found for found in list_imports(ast.parse(path.read_text(encoding="utf-8"))) if found not in above] == []
