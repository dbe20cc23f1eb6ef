"""What the tools read and cannot use: one error that names the file."""

import json

import pytest

from helpers.common.errors import DamagedError
from tools.cost_boxes import write_boxes
from tools.rooms import measure


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
