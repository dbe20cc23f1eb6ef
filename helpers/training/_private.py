"""What this room uses of other libraries although they do not document it, each with the reason."""

from typing import Any

import torch
from transformers import PreTrainedModel, TrainingArguments


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


def judge_padded(model: torch.nn.Module, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each token but the first of padded sequences: its log-probability in nats, and whether it is right.

    Both (sequences, tokens - 1). Right is a token that is the likeliest or is not learned, whose
    log-probability is 0. SFTTrainer gives the model it trains an argument `fused_lm_head`, with which its
    output has these instead of logits, which take much memory.
    """
    outputs = model(**inputs, use_cache=False, fused_lm_head=True)
    return outputs.log_probs, outputs.is_top1 | ~outputs.label_mask


def use_one_gpu(config: TrainingArguments) -> int:
    """Makes a training of a single process use the first GPU alone; returns how many are left unused.

    Private: TrainingArguments._n_gpu. With several GPUs, transformers' Trainer would copy the model to each
    (torch's DataParallel), which TRL refuses with a ValueError. transformers sets the attribute to 1 itself
    for a model that is spread over GPUs. CUDA_VISIBLE_DEVICES has no effect once CUDA is in use.
    """
    unused = max(config.n_gpu - 1, 0)
    if unused:
        config._n_gpu = 1
    return unused
