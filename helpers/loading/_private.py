"""Private parts of libraries that this room touches, each with the reason.

tests/house/test_private.py watches them.
"""

from typing import TYPE_CHECKING, Any

from transformers.utils import chat_template_utils

from helpers.weights._private import import_gptqmodel

if TYPE_CHECKING:  # a server on llama.cpp does without it
    import torch


def undo_compiling(model: "torch.nn.Module") -> None:
    """Removes torch.compile from gptqmodel's layers, which apply it to their method dequantize_weight.

    Private: gptqmodel replaces the method on each layer object; deleting the attribute brings the class's
    own back. Compiling needs a C++ compiler. On a CPU it takes a quarter of a minute before the first
    training step and again before the first answer, and makes a step only a tenth faster.
    """
    for module in model.modules():
        module.__dict__.pop("dequantize_weight", None)


def find_kernel_class(name: str) -> Any:
    """gptqmodel's class of layers for the kernel `name`, whose attributes SUPPORTS_... say what it can take.

    Private: gptqmodel.utils.importer.get_kernel_for_backend. The class's own method `validate` would compile
    some kernels.
    """
    import_gptqmodel()
    from gptqmodel.quantization import FORMAT, METHOD
    from gptqmodel.utils.backend import BACKEND
    from gptqmodel.utils.importer import get_kernel_for_backend

    return get_kernel_for_backend(BACKEND(name), METHOD.GPTQ, FORMAT.GPTQ)


def is_built(extension: str) -> bool:
    """Whether gptqmodel keeps this extension compiled for the GPUs and the torch of this machine.

    Private: gptqmodel.extension._extension_for_name, and its methods `build_root`, a folder whose name has a
    hash of all that the binary depends on, and `_candidate_binary_paths`. The public `is_available` compiles.
    """
    import_gptqmodel()
    from gptqmodel import extension as extensions

    found = extensions._extension_for_name(extension)
    try:
        return any(path.is_file() for path in found._candidate_binary_paths(found.build_root()))
    except (OSError, RuntimeError, ValueError):  # no CUDA headers, no folder that can be read
        return False


def make_chat_environment() -> Any:
    """A new environment of Jinja, of the kind in which transformers renders chat templates.

    Private: _compile_jinja_template and the function that it caches. The environment has the functions and
    the sandbox that templates are written for; transformers makes one for each template.
    """
    make: Any = chat_template_utils._cached_compile_jinja_template
    return getattr(make, "__wrapped__", make)("").environment
