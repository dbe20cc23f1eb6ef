"""Undocumented parts of other packages that the tools use, each with the reason."""

import jupytext
from jupytext.combine import combine_inputs_with_outputs
from nbformat import NotebookNode


def combine_pair(text: str, notebook: NotebookNode, text_format: dict[str, str]) -> NotebookNode:
    """The cells of a text pair, with the outputs of `notebook` where the source is the same.

    The documented way is the command `jupytext --sync`. It takes seconds a file, works on files with the
    right times only, and rewrites the text pair. It calls this function.
    """
    return combine_inputs_with_outputs(jupytext.reads(text, fmt=text_format), notebook, fmt=text_format)
