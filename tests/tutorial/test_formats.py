"""The comparison of number formats, on the real model. Every format is measured in a process of its own."""

import importlib.util

import pytest

from helpers import tutorial
from helpers.common.errors import UnsupportedError
from helpers.tutorial.formats import PASSAGE
from helpers.weights.gptq import SAMPLES, read_samples


@pytest.mark.real
def test_formats_of_the_real_model_differ_in_memory_and_agree_in_perplexity(real_model_name):
    rows = {row["format"]: row for row in tutorial.compare_formats(real_model_name)}
    full, half = rows["float32"], rows["bfloat16"]
    assert half["memory_mb"] < full["memory_mb"] - 200
    assert half["perplexity"] == pytest.approx(full["perplexity"], rel=0.02)
    assert all(row["load_s"] > 0 and row["tokens_per_s"] > 1 for row in rows.values())
    if importlib.util.find_spec("xllamacpp"):
        gguf = rows["GGUF, llama.cpp"]
        assert gguf["perplexity"] == pytest.approx(half["perplexity"], rel=0.05)  # the same weights
        assert gguf["memory_mb"] < half["memory_mb"]
        assert gguf["disk_mb"] < half["disk_mb"] / 2


def test_error_names_the_format_and_its_cause(home):
    with pytest.raises(UnsupportedError) as caught:
        tutorial.compare_formats("nothing")
    assert "float32" in str(caught.value) and "'nothing'" in str(caught.value)


def test_passage_is_not_part_of_the_calibration(home):
    samples = read_samples()
    assert len(samples) == SAMPLES and PASSAGE not in samples
