"""What this room uses of other libraries although they do not document it, each with the reason."""

import torch
from transformers import PreTrainedModel


def read_attention(model: PreTrainedModel) -> str:
    """The name of the attention implementation that a model uses now, such as "sdpa".

    transformers documents how to set it (PreTrainedModel.set_attn_implementation) but not how to read it. A
    model without one uses "eager".
    """
    return model.config._attn_implementation or "eager"


def unpack_4bit_weights(model: torch.nn.Module) -> None:
    """Undoes what bitsandbytes does to the weights of a 4-bit model that has answered on a CPU.

    It repacks them for its inference kernel, which does not let gradients through. Its hook on `state_dict`
    unpacks them again, and bitsandbytes offers no other way to do that. Nothing changes for any other model.
    """
    model.state_dict()
