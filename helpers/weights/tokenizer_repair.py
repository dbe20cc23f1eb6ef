"""Repairs a tokenizer that transformers made from a GGUF file: SmolLM2's splitting of numbers into digits.

A GGUF file does not hold the rules that cut a text into words, only their name ("tokenizer.ggml.pre"), and
transformers 5 ignores that name. White space before a number is then cut differently: two spaces and "2023"
become ["Ġ", "Ġ", "2", "0", "2", "3"] instead of ["ĠĠ", "2", "0", "2", "3"] (Ġ is a space).
"""

from pathlib import Path
from typing import TYPE_CHECKING

from helpers.weights.gguf_header import read_header

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SMOLLM_RULES = "smollm"  # the name of rules that make each digit a word


def needs_digit_splitting(gguf: Path) -> bool:
    """True if the tokenizer in this GGUF file makes each digit a token. Raises DamagedError."""
    settings, _ = read_header(gguf)
    return settings.get("tokenizer.ggml.pre") == SMOLLM_RULES


def split_digits(tokenizer: "PreTrainedTokenizerFast") -> None:
    """Changes a loaded tokenizer so that each digit is a word of its own, before its other rules apply."""
    from tokenizers import pre_tokenizers

    core = tokenizer.backend_tokenizer
    digits = pre_tokenizers.Digits(individual_digits=True)
    core.pre_tokenizer = pre_tokenizers.Sequence([digits, core.pre_tokenizer])
