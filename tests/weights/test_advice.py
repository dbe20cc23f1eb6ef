"""How a model's publisher samples: the same for the folder and for its GGUF version."""

import json

import pytest

from helpers.common.errors import DamagedError
from helpers.weights.folders import ModelFolder


def test_advice_is_read_from_beside_the_weights(tmp_path):
    assert ModelFolder(tmp_path).advice == {}
    (tmp_path / "generation_config.json").write_text(json.dumps({"temperature": 0.2, "top_p": 0.9}))
    assert ModelFolder(tmp_path).advice == {"temperature": 0.2, "top_p": 0.9}


def test_advice_that_is_damaged_is_one_error(tmp_path):
    (tmp_path / "generation_config.json").write_text('{"temperature": "warm"}')
    with pytest.raises(DamagedError, match="temperature"):
        _ = ModelFolder(tmp_path).advice
