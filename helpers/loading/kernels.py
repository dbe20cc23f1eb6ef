"""The kernel that multiplies GPTQ and AWQ weights: which one, and whether it runs on this machine."""

import importlib.util
from typing import TYPE_CHECKING

from helpers.common.errors import UnsupportedError
from helpers.loading._private import undo_compiling
from helpers.weights._private import import_gptqmodel
from helpers.weights.quiet import quiet_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def pick_kernel(device: str, purpose: str = "inference") -> str | None:
    """gptqmodel's name of the kernel for a device and a purpose; None leaves the choice to gptqmodel.

    On a GPU it is the one in Triton, which needs no compiler, and on a CPU for training the one in plain
    torch. Of the others, some let no gradient through, and those for CUDA are compiled when they are first
    used, which takes a compiler and minutes.
    """
    if device == "cuda":
        return "gptq_triton" if importlib.util.find_spec("triton") else "gptq_torch"
    return "gptq_torch" if purpose == "training" else None


def try_layer() -> None:
    """Runs a model of one block with GPTQ layers, all zero, on this machine's device.

    Raises what gptqmodel, optimum or a kernel raises, and UnsupportedError if the result is not finite.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    with quiet_transformers(), torch.inference_mode():
        model = build_gptq_block(device)
        logits = model(torch.arange(16, device=device)[None]).logits
    if not torch.isfinite(logits).all():
        raise UnsupportedError("A GPTQ layer gives no finite numbers.", "Use the lane tiny.")


def build_gptq_block(device: str) -> "PreTrainedModel":
    """A Llama of one block whose linear layers are GPTQ layers without weights."""
    import_gptqmodel()
    from optimum.gptq import GPTQQuantizer
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=4,
    )
    quantizer = GPTQQuantizer(bits=4, group_size=32, desc_act=False, sym=True, backend=pick_kernel(device))
    model = quantizer.convert_model(LlamaForCausalLM(config).half(), device_map={"": device})
    model = quantizer.post_init_model(model.to(device))
    undo_compiling(model)
    return model
