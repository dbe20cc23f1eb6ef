"""Tiny replicas of the GPTQ folders that the lanes name, with Llama 2's tokenizer."""

from pathlib import Path

from benchmarks.gpu.replicas import make_gptq_replica, name_sizes
from support.real_tokenizers import find_tokenizer

GROUP = 32
SIZES = name_sizes(layers=2, hidden=128, intermediate=256, heads=4, kv_heads=4)


def make_replica(folder: Path, act_order: bool, beside: bool = False) -> Path:
    """Writes the folder; the tokenizer is as it was in 2023: without a chat template."""
    files = find_tokenizer("llama2")
    assert files is not None
    return make_gptq_replica(folder, files, SIZES, GROUP, act_order, beside)
