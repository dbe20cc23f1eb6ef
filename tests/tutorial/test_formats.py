"""The comparison of number formats, on the real model: every figure is of a process of its own."""

import importlib.util

import pytest

from helpers import KitError, tutorial
from helpers.tutorial.formats import PASSAGE


@pytest.mark.real
def test_formats_of_the_real_model_differ_where_they_must_and_agree_where_they_must(real_model_name):
    rows = {row["format"]: row for row in tutorial.compare_formats(real_model_name)}
    full, half = rows["float32"], rows["bfloat16"]
    assert half["memory_mb"] < full["memory_mb"] - 200 and half["perplexity"] == pytest.approx(
        full["perplexity"], rel=0.02
    )
    assert all(row["load_s"] > 0 and row["tokens_per_s"] > 1 for row in rows.values())
    if importlib.util.find_spec("xllamacpp"):
        gguf = rows["GGUF, llama.cpp"]
        assert gguf["perplexity"] == pytest.approx(half["perplexity"], rel=0.05)  # the same weights
        assert gguf["memory_mb"] < half["memory_mb"] and gguf["disk_mb"] < half["disk_mb"] / 2


def test_format_that_fails_is_named(home):
    with pytest.raises(KitError, match="float32 could not be measured: error: No model 'nothing'"):
        tutorial.compare_formats("nothing")


def test_passage_is_not_in_the_calibration(home):
    from helpers.weights.gptq import SAMPLES, read_samples

    assert len(read_samples()) == SAMPLES and PASSAGE not in read_samples()
