"""What the environment says about the model hub, checked before huggingface_hub reads it.

huggingface_hub reads most of it while it is imported, and its import fails in its own words.
"""

import os
import traceback

from helpers.common.addresses import check_proxies, is_address
from helpers.common.arguments import shorten
from helpers.common.errors import UsageError

SECONDS = ("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT")
TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


def check_hub_environment() -> None:
    """A UsageError that names the variable whose value huggingface_hub cannot use."""
    endpoint = os.environ.get("HF_ENDPOINT")
    if endpoint is not None and not is_address(endpoint):
        remedy = "It has to be an address that begins with https:// or http://; correct or unset it."
        raise UsageError(f"HF_ENDPOINT is {shorten(endpoint)}.", remedy)
    for name in SECONDS:
        value = os.environ.get(name, "").strip()
        if value and not (value.isascii() and value.isdigit() and len(value) < 10):
            raise UsageError(f"{name} is {shorten(value)}.", "Give a whole number of seconds, or unset it.")
    for name in TOKENS:
        token = os.environ.get(name, "").strip()
        if not token.isascii():
            problem = f"{name} has characters that no token has."
            raise UsageError(problem, "Copy the token again, or unset the variable.")
    check_proxies()


def explain_wrong_variable(error: BaseException) -> UsageError | None:
    """The error to raise in place of a library's complaint, while it is imported, about a variable.

    The variable is one that check_hub_environment refuses, or one whose value the complaint repeats. None for
    any other error.
    """
    if not isinstance(error, ValueError) or not was_importing(error):
        return None
    try:
        check_hub_environment()
    except UsageError as wrong:
        return wrong
    names = [name for name, value in os.environ.items() if value and repr(value) in str(error)]
    if not names:
        return None
    problem = f"The environment variable {' or '.join(names)} has a value that a library cannot use: {error}."
    return UsageError(problem, "Correct or unset it.")


def was_importing(error: BaseException) -> bool:
    """Whether an error came from code that runs while a module is imported."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_code.co_name == "<module>" for frame, _ in frames)
