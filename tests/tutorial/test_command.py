"""The command that runs the lessons."""

import pytest

from helpers.common.errors import UsageError
from helpers.tutorial.__main__ import main


def test_report_does_not_go_where_models_are_kept(home):
    with pytest.raises(UsageError, match="kept for models"):
        main(["--only", "05", "--output", str(home / "models" / "new")])
    assert not (home / "models" / "new").exists()
