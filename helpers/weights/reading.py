"""Weights and tokenizers as transformers reads them: whole and of use, or an error of one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.common.arguments import LARGEST
from helpers.common.errors import DamagedError, KitError
from helpers.common.files import read_json
from helpers.weights.architecture import make_config
from helpers.weights.folders import FETCH_AGAIN, ModelFolder
from helpers.weights.quiet import hold_stderr

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# transformers keeps what is in them, and writes it again with a merged or a quantised model.
KEPT_AS_READ = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
TRIED = "Hello, 2 naïve words:\n\t東京 \U0001f600 ab"  # letters that are rare are unknown to some tokenizers


def read_model(folder: ModelFolder, **settings: Any) -> "PreTrainedModel":
    """The decoder that transformers makes of the folder with these settings of from_pretrained.

    Raises DamagedError if it cannot, or if the files lack a tensor.
    """
    from transformers import AutoModelForCausalLM

    with explain_unreadable(folder.name):
        result: Any = AutoModelForCausalLM.from_pretrained(
            folder.path, **settings, output_loading_info=True, trust_remote_code=False
        )
    model, found = result
    if found["missing_keys"]:  # transformers fills them with random numbers
        example = sorted(found["missing_keys"])[0]
        problem = f"{folder.name} lacks {len(found['missing_keys'])} tensors, such as {example}."
        raise DamagedError(problem, "Fetch it again; if that changes nothing, choose another loader.")
    return model


def read_tokenizer(folder: ModelFolder, **settings: Any) -> "PreTrainedTokenizerBase":
    """The tokenizer that transformers makes of the folder with these settings of from_pretrained.

    Raises DamagedError if it cannot, or if what it makes cannot tokenize a text.
    """
    from transformers import AutoTokenizer

    if folder.gguf:
        settings["gguf_file"] = folder.gguf.name
    else:
        for path in filter(Path.is_file, map(folder.path.joinpath, KEPT_AS_READ)):
            read_json(path, FETCH_AGAIN)
    try:
        with hold_stderr():
            tokenizer = AutoTokenizer.from_pretrained(folder.path, trust_remote_code=False, **settings)
            try_out(tokenizer)
            return tokenizer
    except ImportError:  # a package is missing, which the caller explains
        raise
    except BaseException as error:  # the library's own errors are of all kinds: its parser is written in Rust
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        if (folder.path / "config.json").is_file() and not folder.gguf:
            make_config(folder)  # in which transformers looks up the tokenizer's class
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DamagedError(
            f"The tokenizer of {folder.name} cannot be read ({reason}).", FETCH_AGAIN
        ) from None


def try_out(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Raises an error of any kind if the tokenizer cannot be used, or leaves out what it is given."""
    tokenizer("")  # which shows settings of another kind, such as a text as model_max_length
    text, whole = tokenizer(TRIED, add_special_tokens=False)["input_ids"], tokenizer(TRIED)["input_ids"]
    tokenizer.decode(whole)
    if not 0 < len(text) <= len(whole):
        raise ValueError(f"of a text it makes {len(text)} tokens, and {len(whole)} with the special ones")
    if max(whole) >= LARGEST:
        raise ValueError(f"a token has the number {max(whole)}")


@contextmanager
def explain_unreadable(name: str, done: str = "loaded") -> Iterator[None]:
    """Turns any error of the block, in which the model `name` is `done`, into a DamagedError of one line.

    Missing packages and memory are left to those who can explain them.
    """
    import torch

    try:
        yield
    except (KitError, ImportError, MemoryError, torch.OutOfMemoryError):
        raise
    except BaseException as error:  # KeyError for a config's value, AttributeError for a layer ...
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        if "ignore_mismatched_sizes" in reason:  # the report that transformers points to is not shown
            reason = "its weights have other shapes than its config.json says"
        problem = f"{name} cannot be {done} ({reason})."
        raise DamagedError(problem, "Fetch it again; if that changes nothing, take another model.") from None


def is_panic(error: BaseException) -> bool:
    """Whether a library in Rust gave up, which is not an Exception for Python."""
    return type(error).__name__ == "PanicException"
