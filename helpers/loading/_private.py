"""Private parts of libraries that this room touches, each with the reason.

tests/house/test_private.py watches them.
"""

import torch


def undo_compiling(model: torch.nn.Module) -> None:
    """Removes torch.compile from gptqmodel's layers, which apply it to their method dequantize_weight.

    Private: gptqmodel replaces the method on each layer object; deleting the attribute brings the class's
    own back. Compiling needs a C++ compiler. On a CPU it takes a quarter of a minute before the first
    training step and again before the first answer, and makes a step only a tenth faster.
    """
    for module in model.modules():
        module.__dict__.pop("dequantize_weight", None)
