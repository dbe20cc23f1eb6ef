"""Full-precision weights in, a 4-bit GPTQ folder out, laid out as TheBloke's are; on a CPU too.

optimum with gptqmodel does the work: layer by layer, each weight is rounded, and the weights still to come
make up for the error that this causes on sample texts. Source: Frantar et al., "GPTQ: Accurate
Post-Training Quantization for Generative Pre-trained Transformers", 2022.
"""

import contextlib
import importlib.util
import time
from pathlib import Path
from typing import Any

from helpers.common.errors import AlreadyThereError, MissingPackageError, UnsupportedError, UsageError
from helpers.common.files import read_json, replace_when_complete, write_json
from helpers.common.locks import hold
from helpers.common.messages import hold_messages
from helpers.common.outputs import check_output
from helpers.common.paths import find_file
from helpers.weights._private import import_gptqmodel
from helpers.weights.architecture import check_decoder
from helpers.weights.folders import FETCH_AGAIN, ModelFolder, find_model
from helpers.weights.quiet import quiet_transformers
from helpers.weights.reading import explain_unreadable, read_model, read_tokenizer
from helpers.weights.shape import Shape

SAMPLES = 8  # sample texts; 32 took twice the time, and the perplexity fell by half a percent
DAMP_PERCENT = 0.1  # of the mean diagonal, added to the diagonal for a stable inverse; optimum's default
PACKED = 32  # GPTQ packs eight 4-bit weights into one 32-bit number; kernels want outputs in steps of 32


def quantize(name: str, group_size: int = 32, act_order: bool = False) -> ModelFolder:
    """Makes models/NAME-GPTQ from a full-precision folder and returns it, at once if it is there already.

    `group_size` is how many weights share a scale; `act_order` quantises the columns that matter most
    first. Raises MissingPackageError without gptqmodel, UnsupportedError for a folder that is quantised
    already or whose layers do not fit, AlreadyThereError if NAME-GPTQ was made with other settings or is
    being made.
    """
    source = find_model(name)
    target = source.path.with_name(f"{source.name}-GPTQ")
    if not target.is_dir():
        refuse_unquantizable(source, group_size)
        check_output(target, "folder", bytes_needed=source.weight_bytes)  # small models are half embeddings
        with hold(target, "quantising"):
            if not target.is_dir():  # another may have made it just now
                make_quantized(source, target, group_size, act_order)
    made = find_model(target.name)
    refuse_other_settings(made, group_size, act_order)
    return made


def make_quantized(source: ModelFolder, target: Path, group_size: int, act_order: bool) -> None:
    """Makes the folder, with its record."""
    start = time.monotonic()
    with replace_when_complete(target) as fresh:
        save_quantized(source, fresh, group_size, act_order)
        write_quantize_config(fresh, group_size, act_order)
        seconds = round(time.monotonic() - start, 1)
        ModelFolder(fresh).write_record(source=f"made from {source.name}", revision="main", seconds=seconds)


def refuse_other_settings(made: ModelFolder, group_size: int, act_order: bool) -> None:
    """An AlreadyThereError if the folder was made with other settings than those that are asked for."""
    found = made.quantization
    if found is None or (found.group_size, found.act_order) != (group_size, act_order):
        settings = (
            f"group size {found.group_size}, act order {found.act_order}" if found else "full precision"
        )
        raise AlreadyThereError(
            f"{made.name} is there already, with {settings}.", "Rename or delete it first."
        )


def refuse_unquantizable(source: ModelFolder, group_size: int) -> None:
    """A KitError, before anything heavy is loaded, if this folder cannot be quantised so."""
    missing = [package for package in ("gptqmodel", "optimum") if not importlib.util.find_spec(package)]
    if missing:
        remedy = "Install it (Linux): pip install -c constraints.txt -e '.[gptq]'"
        raise MissingPackageError(f"Quantising needs {' and '.join(missing)}.", remedy)
    if source.format == "gguf":
        raise UnsupportedError(
            f"{source.name} is a GGUF file, which is quantised already.", "Name the safetensors folder."
        )
    check_decoder(source)
    if source.quantization:
        raise UnsupportedError(f"{source.name} is quantised already.", "Name a full-precision folder.")
    if group_size < 1:
        raise UsageError(
            f"The group size cannot be {group_size}.",
            "Give the number of weights that share a scale, such as 32.",
        )
    with contextlib.suppress(KeyError):  # other architectures pass
        refuse_unfit_layers(source.shape, group_size)


def refuse_unfit_layers(shape: Shape, group_size: int) -> None:
    """An UnsupportedError if a layer's inputs cannot be grouped or its outputs cannot be packed."""
    widths = {"hidden_size": shape.hidden, "intermediate_size": shape.intermediate}
    if wrong := [f"{key} {width}" for key, width in widths.items() if width % group_size]:
        problem = f"{', '.join(wrong)} is not a multiple of the group size {group_size}."
        raise UnsupportedError(problem, "Choose another group size, such as 32.")
    for name, (_, outputs) in shape.list_linears().items():
        if outputs % PACKED:
            problem = f"{name} has {outputs} outputs, not a multiple of {PACKED}, as GPTQ packs them."
            raise UnsupportedError(problem, "Take a larger model.")


def save_quantized(source: ModelFolder, target: Path, group_size: int, act_order: bool) -> None:
    """Quantises in float32 and saves weights in float16, config and tokenizer."""
    import_gptqmodel()
    import torch
    from optimum.gptq import GPTQQuantizer

    with quiet_transformers(), hold_messages():
        tokenizer = read_tokenizer(source)
        full = read_model(source, dtype=torch.float32, device_map="cpu")
    quantizer = GPTQQuantizer(
        bits=4,
        group_size=group_size,
        desc_act=act_order,
        act_group_aware=not act_order,
        sym=True,
        damp_percent=DAMP_PERCENT,
        dataset=read_samples(),
    )
    with quiet_transformers():
        with explain_unreadable(source.name, "quantised"):
            model: Any = quantizer.quantize_model(full, tokenizer)
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.dtype == torch.float32:  # one by one: transformers refuses half() on a quantised model
                tensor.data = tensor.data.half()
        model.config.dtype = torch.float16
        # optimum saves the format of 2023, which everything reads; model.save_pretrained would keep
        # gptqmodel's own.
        quantizer.save(model, str(target))
        tokenizer.save_pretrained(target)


def read_samples() -> list[str]:
    """The first long comments of the lessons' data."""
    import pandas as pd

    texts = pd.read_csv(find_file("data/college_preferences/dataset.csv", "CSV of sample texts"))["text"]
    long = [text for text in dict.fromkeys(texts) if len(text) > 150]
    return long[:SAMPLES]


def write_quantize_config(folder: Path, group_size: int, act_order: bool) -> None:
    """Records the quantisation in both places where programs look, without optimum's sample texts."""
    facts = {
        "bits": 4,
        "group_size": group_size,
        "damp_percent": DAMP_PERCENT,
        "desc_act": act_order,
        "sym": True,
        "true_sequential": True,
    }
    config = read_json(folder / "config.json", FETCH_AGAIN)
    config["quantization_config"] = {**facts, "quant_method": "gptq", "checkpoint_format": "gptq"}
    write_json(folder / "config.json", config)
    beside = {**facts, "model_name_or_path": None, "model_file_base_name": "model"}
    write_json(folder / "quantize_config.json", beside)
