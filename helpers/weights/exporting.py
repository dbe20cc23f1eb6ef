"""A model folder in the form in which another program takes it: the WebUI of October 2023.

That WebUI has transformers 4.34 and tokenizers 0.14, which do not read what is saved today: rope_theta inside
rope_parameters is silently read as 10000, and tokenizers differ (helpers.weights.tokenizer_2023). The weights
stay as they are.
"""

import os
import shutil
from pathlib import Path
from typing import Any

from safetensors import safe_open

from helpers.common.errors import AlreadyThereError, UnsupportedError
from helpers.common.exports import (
    ANOTHER_OUTPUT,
    ELSEWHERE,
    MODEL_EXPORTS,
    is_export,
    list_own_files,
    open_export,
)
from helpers.common.files import explain_odd_form, read_json, write_json
from helpers.common.outputs import check_output, check_path, refuse_kept
from helpers.common.paths import find_home
from helpers.weights.config import ADVICE, read_dtype
from helpers.weights.folders import FETCH_AGAIN, SAFETENSORS, ModelFolder, find_model
from helpers.weights.intact import explain_damage
from helpers.weights.tokenizer_2023 import TOKENIZER_FILES, write_tokenizer

PROGRAMS = ("webui-2023",)  # what `export --for` takes
# Decoders that transformers 4.34 computes as today's does, as far as refuse_unknown_settings lets them pass.
MODELS_2023 = {
    "bloom": "BloomForCausalLM", "gpt2": "GPT2LMHeadModel", "gpt_neox": "GPTNeoXForCausalLM",
    "gptj": "GPTJForCausalLM", "llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM",
    "opt": "OPTForCausalLM",
}  # fmt: skip
SCALINGS_2023 = ("linear", "dynamic")  # of rope
COPIED = (
    ADVICE,
    "quantize_config.json",
    f"{SAFETENSORS}.index.json",
)
ANOTHER = "Take another model, or today's WebUI, which reads the folder as it is."


def export_model(name: str, program: str, output: Path | None = None) -> Path:
    """Writes models/NAME for `program` (webui-2023); returns the new folder.

    Without `output` it goes to runs/exports/PROGRAM/models/NAME, replacing an earlier export there. It is a
    copy: what the other program writes there never reaches models/. Raises a KitError for what that program
    cannot take, before anything is written.
    """
    if output and os.path.lexists(check_path(output)):
        raise AlreadyThereError(f"{output} is there already.", ELSEWHERE)
    folder = find_model(name)
    if output:
        refuse_kept(output, [folder.path])
    if folder.format == "pickle":
        problem = f"{folder.name} has its weights as pickles only, which can run any code."
        raise UnsupportedError(problem, "Export a copy with safetensors.")
    config = convert_config(folder)
    refuse_unmarked_weights(folder)
    target = output or find_home() / "runs" / "exports" / program / MODEL_EXPORTS / folder.path.name
    check_output(target, "folder", is_export, folder.weight_bytes, ANOTHER_OUTPUT)
    _ = list_own_files(folder.path, ("config.json", *TOKENIZER_FILES))  # whoever gets it gets no other file
    texts = list_texts(folder)
    with open_export(target) as fresh:
        fresh.mkdir()
        write_json(fresh / "config.json", config)
        write_tokenizer(folder, fresh)
        for path in (*texts, *folder.weight_files):
            shutil.copyfile(path, fresh / path.name)
    return target


def list_texts(folder: ModelFolder) -> list[Path]:
    """The JSON files that are copied as they are; a DamagedError for one that holds anything else."""
    found = list_own_files(folder.path, COPIED)
    for path in found:
        read_json(path, FETCH_AGAIN)
    return found


def convert_config(folder: ModelFolder) -> dict[str, Any]:
    """config.json as transformers 4.34 reads it; UnsupportedError for what that would compute otherwise."""
    if folder.gguf:
        problem = f"{folder.name} is a GGUF file, which the WebUI of 2023 takes as it is."
        raise UnsupportedError(problem, f"Copy {folder.gguf} into its models/.")
    kind = folder.config.get("model_type")
    if kind not in MODELS_2023:
        known = ", ".join(MODELS_2023)
        problem = f"{folder.name} has the model_type {kind}; the kit exports {known} for the WebUI of 2023."
        raise UnsupportedError(problem, ANOTHER)
    config = {**folder.config, "torch_dtype": read_dtype(folder.config)}
    config.setdefault("architectures", [MODELS_2023[kind]])
    if folder.quantization:
        config["quantization_config"] = folder.quantization.settings
    with explain_odd_form(folder.path / "config.json", FETCH_AGAIN):
        config |= convert_rope(folder)
        if kind == "mistral":  # 4.34 needs a number, and lets a token see one more than that
            config["sliding_window"] = (config.get("sliding_window") or config["max_position_embeddings"]) - 1
        refuse_unknown_settings(folder, config)
    return config


def convert_rope(folder: ModelFolder) -> dict[str, Any]:
    """The settings of rotary positions under the names of 2023; {} if config.json has those already."""
    rope = {**(folder.config.get("rope_scaling") or {}), **(folder.config.get("rope_parameters") or {})}
    if not rope:
        return {}
    found: dict[str, Any] = {}
    if theta := rope.get("rope_theta", folder.config.get("rope_theta")):
        found |= {"rope_theta": theta, "rotary_emb_base": theta}  # Llama's name, and GPT-NeoX's
    if "partial_rotary_factor" in rope:
        found["rotary_pct"] = rope["partial_rotary_factor"]
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind in SCALINGS_2023:
        found["rope_scaling"] = {"type": kind, "factor": float(rope["factor"])}
    elif kind != "default":
        problem = (
            f"{folder.name} has positions of the rope type {kind}, which transformers 4.34 does not know."
        )
        raise UnsupportedError(problem, ANOTHER)
    return found


def refuse_unknown_settings(folder: ModelFolder, config: dict[str, Any]) -> None:
    """An UnsupportedError for a setting that transformers 4.34 does not know and that changes the result."""
    changed = "mlp_bias" if config.get("mlp_bias") else None
    if config["model_type"] in ("llama", "mistral"):
        shape = folder.shape
        if shape.head_size * shape.heads != shape.hidden:
            changed = "head_dim"
        if config.get("rotary_pct", 1) != 1:
            changed = "partial_rotary_factor"
    if changed:
        problem = f"{folder.name} has {changed} {config.get(changed)}, which transformers 4.34 does not know."
        raise UnsupportedError(problem, ANOTHER)


def refuse_unmarked_weights(folder: ModelFolder) -> None:
    """An UnsupportedError if a safetensors file does not say that it is PyTorch's: 4.34 insists on it."""
    for path in folder.safetensors:
        with explain_damage(path), safe_open(path, "numpy") as file:
            if (file.metadata() or {}).get("format") != "pt":
                problem = f"{path.name} has no format in its metadata, which transformers 4.34 needs."
                raise UnsupportedError(problem, "Load the model and save it with save_pretrained first.")
