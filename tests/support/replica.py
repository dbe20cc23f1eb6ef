"""Replicas of the GPTQ folders that the lanes name: their layout and tokenizer, tiny and random weights.

They show that every cell runs, never what is learned. The layout is that of a TheBloke folder of 2023; the
tensors are those of GPTQ's format, which packs eight 4-bit numbers into an int32:

    qweight  (inputs / 8, outputs)            the weights
    scales   (inputs / group, outputs)        float16, of each group of inputs
    qzeros   (inputs / group, outputs / 8)    the zero points, minus 1: 7 in each of the 4-bit numbers
    g_idx    (inputs,)                        the group of each input; in another order with act-order
"""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from support.real_tokenizers import find_tokenizer

GROUP = 32
PACKED = 8  # 4-bit numbers in an int32
SEVENS = 0x77777777
SCALE = 0.02  # of the random weights: 16 steps of it from end to end
CONFIG = {
    "vocab_size": 32000,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
# config.json as it was written in 2023.
OF_2023 = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "model_type": "llama",
    "pad_token_id": 0,
    "pretraining_tp": 1,
    "rope_scaling": None,
    "torch_dtype": "float16",
    "transformers_version": "4.32.0",
    "use_cache": True,
}


def make_replica(folder: Path, act_order: bool, beside: bool = False) -> Path:
    """Writes the folder, whose tokenizer is Llama 2's as it was in 2023: without a chat template.

    Until August 2023 the quantisation was described `beside` config.json only, then in both places.
    """
    folder.mkdir(parents=True)
    files = find_tokenizer("llama2")
    assert files is not None
    shutil.copytree(files, folder, dirs_exist_ok=True)
    kind = {"bits": 4, "group_size": GROUP, "damp_percent": 0.01, "desc_act": act_order, "sym": True}
    kind |= {"true_sequential": True, "model_name_or_path": None, "model_file_base_name": "model"}
    inside = {} if beside else {"quantization_config": {**kind, "quant_method": "gptq"}}
    write(folder / "config.json", {**CONFIG, **OF_2023, **inside})
    write(folder / "quantize_config.json", kind)
    write(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "max_length": 4096})
    save_file(make_tensors(act_order), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2))


def make_tensors(act_order: bool) -> dict[str, torch.Tensor]:
    """The weights: random ones, those of the linear layers in 4 bits."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**CONFIG)).half()
    tensors = {}
    for name, tensor in model.state_dict().items():
        if "_proj" in name:
            outputs, inputs = tensor.shape
            tensors |= pack_layer(name.removesuffix("weight"), inputs, outputs, act_order, generator)
        else:
            tensors[name] = tensor.contiguous()
    return tensors


def pack_layer(
    stem: str, inputs: int, outputs: int, act_order: bool, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """The tensors of a linear layer with random 4-bit weights."""
    groups = inputs // GROUP
    order = torch.randperm(inputs, generator=generator) if act_order else torch.arange(inputs)
    low, high = torch.iinfo(torch.int32).min, torch.iinfo(torch.int32).max
    return {
        f"{stem}qweight": torch.randint(
            low, high, (inputs // PACKED, outputs), dtype=torch.int32, generator=generator
        ),
        f"{stem}qzeros": torch.full((groups, outputs // PACKED), SEVENS, dtype=torch.int32),
        f"{stem}scales": torch.full((groups, outputs), SCALE, dtype=torch.float16),
        f"{stem}g_idx": (order // GROUP).to(torch.int32),
    }
