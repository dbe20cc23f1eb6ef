"""Open LLM Kit: the code that the five lessons share, and a command line for your own data and models.

Eleven packages, called rooms. A room imports only rooms that come before it in this list:

    common, weights, loading, tasks, adapters, generation, training, server, clients, evaluation, tutorial
"""

import logging
import os
import warnings

from helpers.common.errors import KitError as KitError
from helpers.common.paths import PROJECT as PROJECT
from helpers.common.paths import find_home as find_home

# Both are read when torch is imported. OpenMP's threads wait for each other after every operation. Threads
# that sleep at once train at 0.6 of the speed; threads that spin for long (GCC's runtime: 300,000 times) take
# the cores from every other busy process.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "3000")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# torchao (a dependency of gptqmodel) warns at import about CUDA libraries that a CPU torch cannot load;
# the kit uses none of them. bitsandbytes repeats for every layer that 8-bit layers compute in float16.
for noisy in ("torchao", "torch.utils._pytree", "bitsandbytes"):
    logging.getLogger(noisy).setLevel(logging.ERROR)

# TRL 1.16 and PEFT 0.21 use a name that transformers has renamed since; a user of the kit cannot fix it.
warnings.filterwarnings(
    "ignore", message="`(is_)?gradient_checkpointing` is deprecated", category=FutureWarning
)
