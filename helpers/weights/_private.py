"""What this room takes from other libraries beyond their documented interface, each item with its reason."""

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
