"""Full-precision weights in, a 4-bit GPTQ folder out, laid out as TheBloke's are; on a CPU too.

optimum with gptqmodel does the work: layer by layer, each weight is rounded and the weights still to come make up for the error, as measured
on sample texts. Source: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", 2022.
"""

import contextlib
import importlib
import importlib.util
import io
import json
import logging
import time
from pathlib import Path

from helpers.common.errors import KitError
from helpers.common.files import replace_when_complete, write_json
from helpers.common.paths import PROJECT
from helpers.weights.config import read_shape
from helpers.weights.embedded import quiet_transformers
from helpers.weights.folders import find_model, record_source

SAMPLES = 8  # texts to measure on: with 32 it took twice the time, and the perplexity fell by half a percent


DAMP_PERCENT = 0.1  # of the mean diagonal, added to the diagonal for a stable inverse; optimum's default


def quantize(name: str, group_size: int = 32, act_order: bool = False) -> Path:
    """Makes models/NAME-GPTQ out of a full-precision folder and returns it; one that is there already is returned at once.

    KitError without gptqmodel, for a folder that is quantised already, and for layers whose inputs are no multiple of the group.
    """
    source = find_model(name)
    target = source.with_name(f"{source.name}-GPTQ")
    if target.is_dir():
        refuse_another_making(find_model(target.name), group_size, act_order)
        return target
    refuse_what_cannot_be_quantized(source, group_size)
    start = time.monotonic()
    with replace_when_complete(target) as fresh:
        save_quantized(source, fresh, group_size, act_order)
        write_quantize_config(fresh, group_size, act_order)
        record_source(
            fresh,
            source=f"made from {source.name}",
            revision="main",
            seconds=round(time.monotonic() - start, 1),
        )
    return target


def import_gptqmodel() -> None:
    """Imports gptqmodel, where it is installed, without its banner, and leaves its log at warnings.

    It also sets the root logger to INFO, which would let every library speak; that is undone.
    """
    level = logging.getLogger().level
    if importlib.util.find_spec("gptqmodel"):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            importlib.import_module("gptqmodel.utils.logger").setup_logger().setLevel(logging.WARNING)
        logging.getLogger().setLevel(level)


def pick_kernel(device: str, purpose: str = "inference") -> str | None:
    """gptqmodel's name of the GPTQ kernel for a device ("cpu", "cuda") and a purpose; None for the one that gptqmodel picks itself.

    For training and on a GPU it is the kernel in plain torch: of the others some let no gradient through, and those for CUDA are compiled
    at their first use, which takes a compiler and minutes.
    """
    return None if device == "cpu" and purpose == "inference" else "gptq_torch"


def undo_compiling(model) -> None:
    """Takes torch.compile off the layers of gptqmodel, which puts it on their dequantising.

    It needs a C++ compiler and takes, on a CPU, a quarter of a minute before the first step and again before the first answer; after that a
    step is a tenth faster.
    """
    for module in model.modules():
        module.__dict__.pop("dequantize_weight", None)


def refuse_another_making(folder: Path, group_size: int, act_order: bool) -> None:
    """KitError when the folder that is there was made with other settings than those asked for."""
    made = json.loads((folder / "quantize_config.json").read_text(encoding="utf-8"))
    if (made["group_size"], made["desc_act"]) != (group_size, act_order):
        there = f"group size {made['group_size']}, act order {made['desc_act']}"
        raise KitError(f"{folder.name} is there already, made with {there}.", "Rename or delete it first.")


def refuse_what_cannot_be_quantized(source: Path, group_size: int) -> None:
    """KitError with the remedy, before anything heavy is loaded."""
    if missing := [package for package in ("gptqmodel", "optimum") if not importlib.util.find_spec(package)]:
        raise KitError(
            f"Quantising needs {' and '.join(missing)}.",
            "Install them (Linux): pip install -c constraints.txt -e '.[gptq]'",
        )
    if any(source.glob("*.gguf")):
        raise KitError(f"{source.name} is a GGUF file, quantised already.", "Name the safetensors folder.")
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    if config.get("quantization_config") or (source / "quantize_config.json").is_file():
        raise KitError(f"{source.name} is quantised already.", "Name a full-precision folder.")
    widths = {key: config[key] for key in ("hidden_size", "intermediate_size") if key in config}
    if group_size < 1:
        raise KitError(f"{group_size} is no group size.", "Say how many weights share a scale, such as 32.")
    if wrong := [f"{key} {width}" for key, width in widths.items() if width % group_size]:
        raise KitError(
            f"{', '.join(wrong)} is no multiple of the group size {group_size}.",
            "Choose another group size, such as 32.",
        )
    with contextlib.suppress(KeyError):  # of another architecture
        if narrow := [
            f"{name} has {outputs} outputs"
            for name, (_, outputs) in read_shape(config).list_linears().items()
            if outputs % 32
        ]:
            raise KitError(f"{narrow[0]}, no multiple of 32, as GPTQ packs them.", "Take a larger model.")


def save_quantized(source: Path, target: Path, group_size: int, act_order: bool) -> None:
    """Quantises in float32 and saves weights in float16, config and tokenizer."""
    import_gptqmodel()
    import torch
    from optimum.gptq import GPTQQuantizer
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source)
    quantizer = GPTQQuantizer(
        bits=4, group_size=group_size, desc_act=act_order, act_group_aware=not act_order, sym=True, damp_percent=DAMP_PERCENT, dataset=read_samples()
    )  # fmt: skip
    with quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, device_map="cpu")
        model = quantizer.quantize_model(model, tokenizer)
        for tensor in (
            *model.parameters(),
            *model.buffers(),
        ):  # transformers refuses model.half() for a quantised model
            tensor.data = tensor.data.half() if tensor.dtype == torch.float32 else tensor.data
        model.config.dtype = torch.float16
        quantizer.save(
            model, target
        )  # in the format of 2023, which everything reads; model.save_pretrained would keep gptqmodel's own
        tokenizer.save_pretrained(target)


def read_samples() -> list[str]:
    """The first long comments of the lessons' data."""
    import pandas as pd

    texts = pd.read_csv(PROJECT / "data" / "college_preferences" / "dataset.csv")["text"].drop_duplicates()
    return texts[texts.str.len() > 150].head(SAMPLES).tolist()


def write_quantize_config(folder: Path, group_size: int, act_order: bool) -> None:
    """The facts of the quantisation in both places where programs look, with nothing else: optimum also notes the sample texts."""
    facts = {
        "bits": 4,
        "group_size": group_size,
        "damp_percent": DAMP_PERCENT,
        "desc_act": act_order,
        "sym": True,
        "true_sequential": True,
    }
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {**facts, "quant_method": "gptq", "checkpoint_format": "gptq"}
    write_json(folder / "config.json", config)
    write_json(
        folder / "quantize_config.json",
        {**facts, "model_name_or_path": None, "model_file_base_name": "model"},
    )


def try_layer() -> None:
    """Runs a model of one block with layers of GPTQ's, all zero, on this machine's device; raises what gptqmodel, optimum or a kernel raises."""
    import_gptqmodel()
    import torch
    from optimum.gptq import GPTQQuantizer
    from transformers import LlamaConfig, LlamaForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    shape = {
        "vocab_size": 64,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
    }
    quantizer = GPTQQuantizer(bits=4, group_size=32, desc_act=False, sym=True, backend=pick_kernel(device))
    with quiet_transformers(), torch.inference_mode():
        model = quantizer.convert_model(
            LlamaForCausalLM(LlamaConfig(**shape)).half(), device_map={"": device}
        ).to(device)
        model = quantizer.post_init_model(model)
        undo_compiling(model)
        logits = model(torch.arange(16, device=device)[None]).logits
    if not torch.isfinite(logits).all():
        raise KitError("A GPTQ layer gives no numbers.", "Use the lane tiny.")
