"""Which loader a folder needs, and the loaded model and tokenizer; and chat with the model's own template.

| in the folder | loader | why |
|---|---|---|
| *.gguf | llama.cpp | the one format llama.cpp reads |
| quantize_config.json, or quant_method gptq in config.json | gptq | transformers reads it through optimum and gptqmodel |
| safetensors | transformers | full precision |
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from helpers import KitError
from helpers.machine import Choice, measure_memory, pick_device, pick_dtype
from helpers.weights import find_model

# A bar of transformers' would stay in a notebook's file as a widget, and GitHub shows no notebook with broken widgets.
transformers_logging.disable_progress_bar()


@dataclass
class LoadedModel:
    """A model in memory with what belongs to it. An adapter may be attached to `model` later (helpers.adapters)."""

    name: str  # the folder's name
    folder: Path
    loader: Choice  # which one, and why
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def detect_loader(folder: Path) -> Choice:
    """The loader for a complete model folder, with the reason; KitError for a format that this kit does not read."""
    if any(folder.glob("*.gguf")):
        return Choice("llama.cpp", "there is a .gguf file")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    method = config.get("quantization_config", {}).get("quant_method")
    if (folder / "quantize_config.json").is_file() or method == "gptq":
        return Choice("gptq", "its config says quant_method gptq" if method else "there is a quantize_config.json")
    if method:
        raise KitError(f"{folder.name} is quantised with {method}, which this kit does not load.", "Take a GPTQ or an unquantised version.")
    return Choice("transformers", "safetensors with no quantisation: full precision")


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The folder's tokenizer, padding on the left as generation needs it; a missing pad token becomes EOS."""
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(name: str, loader: str | None = None, dtype: str | torch.dtype | None = None, base: Path | None = None) -> LoadedModel:
    """Loads a model folder below `base` (models/ by default) onto this machine's device, ready to generate.

    `loader` overrides detect_loader, `dtype` ("float32", "bfloat16", "float16" or a torch dtype) overrides machine.pick_dtype.
    Raises KitError: no such folder, an incomplete one, a format not read here, more weights than memory.
    """
    folder = find_model(name, base)
    choice = Choice(loader, "asked for") if loader else detect_loader(folder)
    if choice.value == "llama.cpp":
        raise KitError(f"{folder.name} is a GGUF file, which llama.cpp runs.", "Load the safetensors folder of the model instead.")
    device = pick_device().value
    refuse_too_large(folder, device)
    if isinstance(dtype, str):
        dtype = getattr(torch, dtype)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype or pick_dtype(device).value, device_map=device)
    return LoadedModel(folder.name, folder, choice, model.eval(), load_tokenizer(folder))


def refuse_too_large(folder: Path, device: str) -> None:
    """KitError when the weight files alone are larger than the free memory they would go to."""
    needed = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    free = measure_memory(device).value[0]
    if needed > free:
        raise KitError(
            f"{folder.name} needs {needed / 1e9:.1f} GB for its weights; {free / 1e9:.1f} GB are free ({device}).",
            "Free memory (helpers.machine.free_memory), or take a smaller or a 4-bit model.",
        )


def render_chat(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], continue_last: bool = False) -> str:
    """Messages ([{"role", "content"}, ...]) as the text the model was trained on, ready for the assistant's turn (or inside its last one)."""
    if tokenizer.chat_template is None:
        raise KitError("This model's tokenizer has no chat template.", "Take a chat (instruct) model.")
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=not continue_last, continue_final_message=continue_last)


def tokenize_chat(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> BatchEncoding:
    """The rendered messages as ids and mask, each (1, tokens). The template writes BOS itself where the model has one, so none is added."""
    return tokenizer(render_chat(tokenizer, messages), return_tensors="pt", add_special_tokens=False)


def chat(loaded: LoadedModel, messages: list[dict[str, str]], max_new_tokens: int = 64, **sampling) -> str:
    """The model's reply to the messages. Greedy unless `sampling` (do_sample, temperature, top_p ...) says otherwise."""
    inputs = tokenize_chat(loaded.tokenizer, messages).to(loaded.model.device)
    settings = {"do_sample": False, "temperature": None, "top_p": None, **sampling}
    with torch.inference_mode():
        output = loaded.model.generate(**inputs, max_new_tokens=max_new_tokens, **settings)
    return loaded.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
