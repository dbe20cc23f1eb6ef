"""What the tools read and cannot use: one error that names the file."""

import json
import os

import nbformat
import pytest

from helpers.common.errors import DamagedError
from helpers.tutorial.notebook_files import read_notebook
from tools.cost_boxes import fill_notebook, write_boxes
from tools.publication import read_publication
from tools.rooms import measure
from tools.tidy_notebooks import update_from_text


@pytest.mark.parametrize("source", [b"def (", b'x = "\xff"', b"x = 1\n\0"], ids=["syntax", "encoding", "NUL"])
def test_module_that_python_cannot_read_is_named(source, tmp_path):
    (tmp_path / "common").mkdir()
    (tmp_path / "common/bad.py").write_bytes(source)
    with pytest.raises(DamagedError, match="bad.py"):
        measure(tmp_path)


@pytest.mark.parametrize(
    "content", ["{", "[1]", json.dumps({"tiny": 5}), json.dumps({"tiny": {"notebooks": 5}})]
)
def test_records_of_another_form_are_named(content, tmp_path):
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks/tutorial.json").write_text(content)
    with pytest.raises(DamagedError, match="tutorial.json"):
        write_boxes(tmp_path)


@pytest.mark.parametrize("content", [b"x = [", b"\xff"], ids=["syntax", "encoding"])
def test_project_file_that_cannot_be_read_is_named(content, tmp_path):
    (tmp_path / "pyproject.toml").write_bytes(content)
    with pytest.raises(DamagedError, match="pyproject.toml"):
        read_publication(tmp_path)


@pytest.mark.parametrize("content", [b"\xff\xfe", b""], ids=["encoding", "empty"])
def test_text_pair_that_cannot_be_read_is_named_and_the_notebook_stays(content, tmp_path):
    notebook, pair = tmp_path / "01_x.ipynb", tmp_path / "text/01_x.py"
    pair.parent.mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")]), notebook)
    before = notebook.read_bytes()
    pair.write_bytes(content)
    os.utime(notebook, (0, 0))
    with pytest.raises(DamagedError, match="01_x.py"):
        update_from_text(read_notebook(notebook), notebook)
    assert notebook.read_bytes() == before


def test_notebook_without_a_box_is_named(tmp_path):
    path = tmp_path / "01_x.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")]), path)
    with pytest.raises(DamagedError, match="01_x.ipynb"):
        fill_notebook(path, "box")
