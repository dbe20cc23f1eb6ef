"""A CSV in; validated rows, an audit and leak-free splits out.

One comment can stand in several rows (one for each pair of options), so a split keeps all rows of a comment on one side.
"""

import re


def split_words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    return re.findall(r"\w+", text.lower())


def list_ngrams(text: str, size: int) -> set[tuple[str, ...]]:
    """The different runs of `size` words of a text."""
    words = split_words(text)
    return set(zip(*(words[i:] for i in range(size)), strict=False))
