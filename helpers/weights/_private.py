"""Private parts of libraries that this room touches, each with the reason.

tests/house/test_private.py watches them.
"""

import contextlib
import importlib
import importlib.util
import io
import logging
import sys

# huggingface_hub passes on the errors of its HTTP client and has no name of its own for them. Its release 1
# uses httpx and its release 2 httpx2; which one is an implementation detail, so both are looked up. The two
# classes are public in both: HTTPError is the base of all failed requests, InvalidURL is not derived from it.
HTTP_CLIENTS = ("httpx", "httpx2")

# transformers 5 writes these into a saved config.json. They describe the GGUF file, not the new folder.
MODEL_LEFTOVERS = ("quantization_config", "_name_or_path", "_model_name_or_path")

# transformers 5 writes these into a saved tokenizer_config.json. They say how this process loaded it.
TOKENIZER_LEFTOVERS = ("is_local", "local_files_only")


def list_http_client_errors() -> tuple[type[Exception], ...]:
    """The classes of error that huggingface_hub's HTTP client raises.

    A client that was never imported cannot have raised anything, so none is imported here.
    """
    clients = [sys.modules[name] for name in HTTP_CLIENTS if name in sys.modules]
    return tuple(error for client in clients for error in (client.HTTPError, client.InvalidURL))


def import_gptqmodel() -> None:
    """Imports gptqmodel, if it is installed, without its banner, and limits its log to warnings.

    Private: gptqmodel.utils.logger.setup_logger. The import also sets the root logger to INFO, which would
    let every library log; the level is restored. PEFT imports gptqmodel by itself when it builds a LoRA
    layer, so this comes first.
    """
    level = logging.getLogger().level
    if importlib.util.find_spec("gptqmodel"):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            importlib.import_module("gptqmodel.utils.logger").setup_logger().setLevel(logging.WARNING)
        logging.getLogger().setLevel(level)
