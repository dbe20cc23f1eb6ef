"""A file that is not a notebook is an error of one line."""

import pytest

from helpers.common.errors import DamagedError
from helpers.tutorial.notebook_files import read_notebook


@pytest.mark.parametrize(
    "content",
    [
        b"<<<<<<< HEAD\n",
        b"{}",
        b"[]",
        b"\xff\xfe",
        b'{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}',
        b'{"cells": [{}], "metadata": {}, "nbformat": 3, "nbformat_minor": 5}',
        b'{"cells": 5, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}',
    ],
)
def test_file_that_is_not_a_notebook_with_cells_is_damage(tmp_path, content):
    path = tmp_path / "01_x.ipynb"
    path.write_bytes(content)
    with pytest.raises(DamagedError, match="01_x.ipynb is not a notebook"):
        read_notebook(path)
