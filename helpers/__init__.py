"""Open LLM Kit: the code that the five lessons share, and a command line for your own data and models.

Eleven packages, called rooms. A room imports only rooms that come before it in this list:

    common, weights, loading, tasks, adapters, generation, training, server, clients, evaluation, tutorial
"""

import logging
import os
import sys
import warnings
from itertools import pairwise

COMMANDS = ("helpers", "tools", "benchmarks")  # packages of which modules are run as commands


def end_in_one_line(kind, error, trace) -> None:
    """sys.excepthook of a command: one line for what goes wrong in the seconds that its imports take."""
    if issubclass(kind, KeyboardInterrupt):
        line, code = "stopped", 130
    elif issubclass(kind, ModuleNotFoundError):
        line, code = f"error: {error}. Run `make setup`, then use the Python in .venv.", 2
    elif known := explain_import(error):
        line, code = f"error: {known}", 2
    else:
        sys.__excepthook__(kind, error, trace)
        return
    print(line, file=sys.stderr, flush=True)
    os._exit(code)


def explain_import(error):
    """What the system refused, or which variable a library cannot use while it is imported; or None."""
    from helpers.common import hub_environment, os_errors

    return os_errors.explain_os_error(error) or hub_environment.explain_wrong_variable(error)


def find_obstacle() -> str | None:
    """Why no command can run here, if that is so: libraries would end in words of their own."""
    if sys.flags.optimize > 1:
        return "transformers reads docstrings, which -OO removes. Leave out -OO, or unset PYTHONOPTIMIZE."
    try:
        os.getcwd()
    except FileNotFoundError:
        return "The working directory has been deleted. Change to another."
    return None


if any(flag == "-m" and name.split(".")[0] in COMMANDS for flag, name in pairwise(sys.orig_argv)):
    sys.excepthook = end_in_one_line
    if obstacle := find_obstacle():
        print(f"error: {obstacle}", file=sys.stderr)
        sys.exit(2)

from helpers.common.errors import KitError as KitError  # noqa: E402, it imports packages
from helpers.common.paths import PROJECT as PROJECT  # noqa: E402, it imports packages
from helpers.common.paths import find_home as find_home  # noqa: E402, it imports packages

# Both are read when torch is imported. OpenMP's threads wait for each other after every operation. Threads
# that sleep at once train at 0.6 of the speed; threads that spin for long (GCC's runtime: 300,000 times) take
# the cores from every other busy process.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "3000")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# torchao (a dependency of gptqmodel) warns at import about CUDA libraries that a CPU torch cannot load;
# the kit uses none of them. bitsandbytes repeats for every layer that 8-bit layers compute in float16.
# transformers warns of texts that are longer than the context, which the kit refuses or cuts.
for noisy in ("torchao", "torch.utils._pytree", "bitsandbytes", "transformers.tokenization_utils_base"):
    logging.getLogger(noisy).setLevel(logging.ERROR)

# TRL 1.16 and PEFT 0.21 use a name that transformers has renamed since; a user of the kit cannot fix it.
warnings.filterwarnings(
    "ignore", message="`(is_)?gradient_checkpointing` is deprecated", category=FutureWarning
)
