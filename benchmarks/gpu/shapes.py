"""Random models of known shapes, made on the device, and a tokenizer; nothing is read but the lessons' data.

On a computer without CUDA every shape is tiny, so that the same code runs there in seconds.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPTQConfig,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from helpers.common.machine import Choice, name_dtype, pick_device, pick_dtype
from helpers.common.paths import PROJECT
from helpers.loading._private import undo_compiling
from helpers.loading.gptq_training import let_gradients_through
from helpers.loading.kernels import pick_kernel, read_facts
from helpers.loading.model import LoadedModel
from helpers.loading.tokenizer import load_both
from helpers.weights.folders import ModelFolder

SEVENS = 0x77777777  # eight zero points of 4 bits, minus 1 each, as GPTQ's first format has them
# name: (layers, hidden, intermediate, heads, KV heads, vocabulary, group size or 0, act-order)
SHAPES = {
    "1b": (16, 2048, 8192, 32, 8, 49152, 0, False),
    "7b": (32, 4096, 11008, 32, 32, 32000, 0, False),
    "8b": (32, 4096, 14336, 32, 8, 128256, 0, False),
    "7b-gptq": (32, 4096, 11008, 32, 32, 32000, 128, False),
    "70b-gptq": (80, 8192, 28672, 64, 8, 32000, 64, True),
}
TINY = (2, 128, 256, 4, 2)  # what the first five numbers are on a CPU
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_config(shape: str, tokens: int, layers: int | None = None) -> LlamaConfig:
    """The config of a shape for a tokenizer with so many tokens, on request with fewer layers."""
    *sizes, vocabulary, _, _ = SHAPES[shape]
    all_layers, hidden, intermediate, heads, kv_heads = sizes if torch.cuda.is_available() else TINY
    return LlamaConfig(
        vocab_size=max(vocabulary, tokens) if torch.cuda.is_available() else tokens,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=min(layers or all_layers, all_layers),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=4096,
    )


def make_loaded(
    shape: str, job: dict[str, Any], kernel: str = "kit", purpose: str = "inference", dtype: str | None = None
) -> LoadedModel:
    """A random model of a shape as load_model would return it, from a folder without weights.

    `kernel` is gptqmodel's name of one, or "kit" for the one that the kit picks for the purpose; `dtype` is
    the kit's if it is None.
    """
    start = time.monotonic()
    tokenizer = find_tokenizer(job)
    wanted = getattr(torch, dtype) if dtype and torch.cuda.is_available() else pick_number()
    config = make_config(shape, len(tokenizer), job.get("layers"))
    model = (
        make_gptq(config, shape, kernel, purpose, wanted) if is_gptq(shape) else make_float(config, wanted)
    )
    model.eval()
    let_gradients_through(model)
    model.generation_config.max_length = None
    folder = Path(job["scratch"]) / "models" / shape
    config.dtype = wanted
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    read = ModelFolder(folder)
    ready, template = load_both(read)
    made = Choice("gptq" if is_gptq(shape) else "transformers", "made on the spot")
    synchronise()
    seconds, size = time.monotonic() - start, model.get_memory_footprint()
    number = Choice(wanted, "asked for")
    return LoadedModel(shape, read, made, model, ready, pick_device(), number, template, seconds, size)


def is_gptq(shape: str) -> bool:
    """Whether the weights of a shape are quantised."""
    return bool(SHAPES[shape][6])


def pick_number() -> torch.dtype:
    """The dtype that the kit computes in on this GPU; float32 on a CPU."""
    return pick_dtype().value if torch.cuda.is_available() else torch.float32


def synchronise() -> None:
    """Waits until the GPU has done all that it was given, before a clock is read."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def make_float(config: LlamaConfig, dtype: torch.dtype) -> PreTrainedModel:
    """A random model, whose weights are drawn on the device and in the dtype."""
    torch.manual_seed(0)
    with torch.device(pick_device().value):
        return AutoModelForCausalLM.from_config(config, dtype=dtype)


def make_gptq(
    config: LlamaConfig, shape: str, kernel: str, purpose: str, dtype: torch.dtype
) -> PreTrainedModel:
    """A model with random GPTQ weights of 4 bits; no float weights of its linear layers ever exist."""
    from optimum.gptq import GPTQQuantizer

    device, (*_, group, act_order) = pick_device().value, SHAPES[shape]
    backend = pick_kit_kernel(shape, purpose) if kernel == "kit" else kernel
    kind = {"bits": 4, "group_size": group, "desc_act": act_order, "sym": True, "backend": backend}
    kind["act_group_aware"] = not act_order  # gptqmodel refuses both
    quantizer = GPTQQuantizer(**kind)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        model = quantizer.convert_model(model, device_map={"": device})
    model.to_empty(device=device)
    with torch.device(device):  # it has numbers that are computed and not drawn
        model.model.rotary_emb = type(model.model.rotary_emb)(config)
    with torch.no_grad():
        fill(model, group, act_order)
    model = quantizer.post_init_model(model)
    undo_compiling(model)
    config.quantization_config = GPTQConfig(**kind).to_dict()
    return model.requires_grad_(False)


def pick_kit_kernel(shape: str, purpose: str = "inference") -> str | None:
    """gptqmodel's name of the kernel that the kit takes for a shape; None: gptqmodel chooses."""
    *_, group, act_order = SHAPES[shape]
    facts = read_facts(pick_device().value, name_dtype(pick_number()), purpose)
    return pick_kernel(replace(facts, group_size=group, act_order=act_order)).value


def fill(model: PreTrainedModel, group: int, act_order: bool) -> None:
    """Random numbers for all weights, the same for every kernel; those of linear layers are about 0.02."""
    torch.manual_seed(0)
    for layer in model.modules():
        if hasattr(layer, "qweight"):
            layer.qweight.random_(-(2**31), 2**31 - 1)
            layer.qzeros.fill_(SEVENS)
            layer.scales.uniform_(0.003, 0.006)  # of numbers from -8 to 7
            inputs = len(layer.g_idx)
            order = torch.randperm if act_order else torch.arange
            layer.g_idx.copy_(order(inputs, device=layer.g_idx.device) // group)
    for name, weight in model.named_parameters():
        if name.endswith("norm.weight"):
            weight.fill_(1)
        elif weight.is_floating_point() and not name.endswith("scales"):
            weight.normal_(std=0.02)


def name_kernel(model: torch.nn.Module) -> str:
    """The class of a GPTQ model's linear layers; "" for another model."""
    return next((type(one).__name__ for one in model.modules() if hasattr(one, "qweight")), "")


def refuse_small(job: dict[str, Any]) -> None:
    """A MemoryError if the GPU has no room for the 70B shape."""
    if torch.cuda.is_available() and job["shape"].startswith("70b"):
        free = torch.cuda.mem_get_info()[0] / 1e9
        if free < 45:
            raise MemoryError(f"skipped: it needs 45 GB, and the card has {free:.0f} GB free")


def count_weights(model: torch.nn.Module) -> int:
    """The numbers in a model's weights, quantised ones included. To be called before it has a LoRA."""
    packed = sum(8 * layer.qweight.numel() for layer in model.modules() if hasattr(layer, "qweight"))
    names = ("qweight", "qzeros", "scales", "g_idx")
    plain = [weight for name, weight in model.named_parameters() if not name.endswith(names)]
    return packed + sum(weight.numel() for weight in plain)


def find_tokenizer(job: dict[str, Any]) -> PreTrainedTokenizerBase:
    """The tokenizer of the folder that the job names, or one made on the spot."""
    return (
        AutoTokenizer.from_pretrained(job["tokenizer"], trust_remote_code=False)
        if job.get("tokenizer")
        else make_tokenizer()
    )


def make_tokenizer(size: int = 4096) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that has learned its words from the lessons' data, with ChatML's template."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    begin, end = "<|im_start|>", "<|im_end|>"
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[begin, end],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    text = (PROJECT / "data/college_preferences/dataset.csv").read_text(encoding="utf-8")
    core.train_from_iterator(text.splitlines(), trainer)
    core.add_special_tokens([AddedToken(begin, special=True), AddedToken(end, special=True)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=begin,
        eos_token=end,
        pad_token=end,
        chat_template=CHAT_TEMPLATE,
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )
