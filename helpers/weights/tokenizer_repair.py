"""Repairs a tokenizer that was converted from a GGUF file."""

from typing import Any

from tokenizers import pre_tokenizers


def split_digits(tokenizer: Any) -> None:
    """Makes a fast tokenizer split numbers into digits, a step that the conversion from GGUF loses."""
    core = tokenizer.backend_tokenizer
    digits = pre_tokenizers.Digits(individual_digits=True)
    core.pre_tokenizer = pre_tokenizers.Sequence([digits, core.pre_tokenizer])
