"""Texts as words and runs of words."""

import re


def split_words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    return re.findall(r"\w+", text.lower())


def list_ngrams(text: str, size: int) -> set[tuple[str, ...]]:
    """The different runs of `size` words of a text."""
    words = split_words(text)
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}
