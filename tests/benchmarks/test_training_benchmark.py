"""The benchmark of the training."""

import pytest

from benchmarks import training
from helpers.common.errors import NotFoundError


def test_data_that_is_not_there_is_said_before_anything_is_measured(tmp_path):
    with pytest.raises(NotFoundError, match="nope.csv"):
        training.main(["--data", str(tmp_path / "nope.csv")])
