"""Weights as transformers reads them: all of them, or an error of one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.common.errors import DamagedError, KitError
from helpers.common.files import read_json
from helpers.weights.folders import FETCH_AGAIN, ModelFolder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# transformers keeps what is in them, and writes it again with a merged or a quantised model.
KEPT_AS_READ = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


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


def check_tokenizer_texts(folder: ModelFolder) -> None:
    """A DamagedError for a small file of the tokenizer that does not hold a JSON object in UTF-8."""
    for path in filter(Path.is_file, map(folder.path.joinpath, KEPT_AS_READ)):
        read_json(path, FETCH_AGAIN)


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
