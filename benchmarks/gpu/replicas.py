"""Model folders with random weights in the layout of real ones, for lessons on a machine without the models.

They show that every cell runs, how long it takes and what it needs, never what is learned.

The embedded model's replica is made from the *head* of its GGUF file: settings, tokenizer and the places of
all tensors, 1.8 of its 98 MB. The tensors are drawn here, in the types that the head names.

The replicas of the lanes `t4` and `large` have the layout of a TheBloke folder of 2023. Their tensors are
those of GPTQ's format, which packs eight 4-bit numbers into an int32:

    qweight  (inputs / 8, outputs)            the weights
    scales   (inputs / group, outputs)        float16, of each group of inputs
    qzeros   (inputs / group, outputs / 8)    the zero points, minus 1: 7 in each of the 4-bit numbers
    g_idx    (inputs,)                        the group of each input; in another order with act-order
"""

import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import quantize
from safetensors.torch import save_file

from helpers.weights.embedded import GGUF_NAME, fetch_embedded

PACKED = 8  # 4-bit numbers in an int32
SEVENS = 0x77777777
STD = 0.02  # of random weights that are not quantised
SCALE = 0.02  # of random 4-bit weights in a model 128 wide: 16 steps of it from end to end
SPARSE = 1 << 30  # bytes: more than the embedded model's file has
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
LLAMA_2 = {
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}


def name_sizes(layers: int, hidden: int, intermediate: int, heads: int, kv_heads: int) -> dict[str, int]:
    """A shape with the names that config.json has for its numbers."""
    return {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
    }


def write_head(gguf: Path, target: Path) -> Path:
    """Copies the head of a GGUF file: all that comes before the first tensor's numbers."""
    with gguf.open("rb") as file:
        target.write_bytes(file.read(GGUFReader(gguf).data_offset))
    return target


def make_embedded_replica(head: Path, folder: Path) -> Path:
    """The embedded model's folder, and its GGUF folder beside it, with random weights; returns the first.

    It is converted from the GGUF file as the real one is. Errors as fetch_embedded.
    """
    gguf_folder = folder.with_name(folder.name + "-GGUF")
    gguf_folder.mkdir(parents=True)
    gguf = gguf_folder / GGUF_NAME
    shutil.copyfile(head, gguf)
    fill_gguf(gguf)
    return fetch_embedded(folder, progress=False)


def fill_gguf(gguf: Path) -> None:
    """Draws the tensors of a GGUF file that has a head only: 1 for those with one axis, the norms."""
    os.truncate(gguf, SPARSE)
    draw, end = np.random.default_rng(0), 0
    tensors = GGUFReader(gguf, "r+").tensors
    for tensor in tensors:
        shape = tuple(reversed(tensor.shape.tolist()))
        random = (
            draw.standard_normal(shape, np.float32) * STD if len(shape) > 1 else np.ones(shape, np.float32)
        )
        kind = GGMLQuantizationType(tensor.tensor_type)
        tensor.data[:] = random if kind == GGMLQuantizationType.F32 else quantize(random, kind)
        end = max(end, tensor.data_offset + tensor.n_bytes)
    del tensors, tensor  # with them the file's memory is written and closed
    os.truncate(gguf, end)


def make_gptq_replica(
    folder: Path,
    tokenizer: Path,
    sizes: dict[str, int],
    group: int,
    act_order: bool,
    beside: bool = False,
    device: str = "cpu",
) -> Path:
    """Writes a GPTQ folder with the files of a tokenizer; its tensors are drawn on the device.

    `sizes` as name_sizes gives them. Until August 2023 the quantisation was described `beside` config.json
    only, then in both places.
    """
    folder.mkdir(parents=True)
    shutil.copytree(tokenizer, folder, dirs_exist_ok=True)
    kind = {"bits": 4, "group_size": group, "damp_percent": 0.01, "desc_act": act_order, "sym": True}
    kind |= {"true_sequential": True, "model_name_or_path": None, "model_file_base_name": "model"}
    inside = {} if beside else {"quantization_config": {**kind, "quant_method": "gptq"}}
    write_json(folder / "config.json", {**LLAMA_2, **sizes, **OF_2023, **inside})
    write_json(folder / "quantize_config.json", kind)
    write_json(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "max_length": 4096})
    save_parts(
        folder, draw_tensors({**LLAMA_2, **sizes}, group, act_order, device), sizes["num_hidden_layers"]
    )
    return folder


def write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2))


def save_parts(folder: Path, parts: Iterator[dict[str, torch.Tensor]], layers: int) -> None:
    """Saves each part as a file of its own, so that no more than one is in memory, and their index."""
    count, places, size = layers + 1, {}, 0
    for number, tensors in enumerate(parts, 1):
        name = f"model-{number:05}-of-{count:05}.safetensors"
        save_file(tensors, folder / name, metadata={"format": "pt"})
        places |= dict.fromkeys(tensors, name)
        size += sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": places}
    write_json(folder / "model.safetensors.index.json", index)


def draw_tensors(
    config: dict[str, int], group: int, act_order: bool, device: str
) -> Iterator[dict[str, torch.Tensor]]:
    """The weights by name, on the CPU: those of each block, then the others."""
    hidden = config["hidden_size"]
    draw = Drawing(group, act_order, device, SCALE * math.sqrt(128 / hidden))
    for number in range(config["num_hidden_layers"]):
        block, tensors = f"model.layers.{number}.", {}
        for name, (inputs, outputs) in list_layers(config).items():
            tensors |= draw.pack_layer(f"{block}{name}.", inputs, outputs)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{block}{name}.weight"] = torch.ones(hidden, dtype=torch.float16)
        yield tensors
    yield {
        "model.embed_tokens.weight": draw.normal(config["vocab_size"], hidden),
        "model.norm.weight": torch.ones(hidden, dtype=torch.float16),
        "lm_head.weight": draw.normal(config["vocab_size"], hidden),
    }


def list_layers(config: dict[str, int]) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of the linear layers of a block, by name."""
    hidden, intermediate = config["hidden_size"], config["intermediate_size"]
    keys = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    return {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (hidden, keys),
        "self_attn.v_proj": (hidden, keys),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (hidden, intermediate),
        "mlp.up_proj": (hidden, intermediate),
        "mlp.down_proj": (intermediate, hidden),
    }


class Drawing:
    """Random tensors, the same for the same device."""

    def __init__(self, group: int, act_order: bool, device: str, scale: float):
        self.group, self.act_order, self.device, self.scale = group, act_order, device, scale
        self.generator = torch.Generator(device).manual_seed(0)

    def normal(self, *shape: int) -> torch.Tensor:
        """float16 numbers around 0."""
        numbers = torch.randn(shape, generator=self.generator, device=self.device)
        return (numbers * STD).half().cpu()

    def pack_layer(self, stem: str, inputs: int, outputs: int) -> dict[str, torch.Tensor]:
        """The tensors of a linear layer with random 4-bit weights; its name, with a dot, is `stem`."""
        groups, low, high = inputs // self.group, torch.iinfo(torch.int32).min, torch.iinfo(torch.int32).max
        where = {"generator": self.generator, "device": self.device}
        order = torch.randperm(inputs, **where).cpu() if self.act_order else torch.arange(inputs)
        weights = torch.randint(low, high, (inputs // PACKED, outputs), dtype=torch.int32, **where)
        return {
            f"{stem}qweight": weights.cpu(),
            f"{stem}qzeros": torch.full((groups, outputs // PACKED), SEVENS, dtype=torch.int32),
            f"{stem}scales": torch.full((groups, outputs), self.scale, dtype=torch.float16),
            f"{stem}g_idx": (order // self.group).to(torch.int32),
        }
