"""A LoRA in the form in which other programs take it: the WebUI of 2023 and of today, llama.cpp, vLLM."""

import shlex
import shutil
from pathlib import Path

import torch
from peft import LoraConfig

from helpers.adapters.folders import find_adapter, name_base, read_config
from helpers.adapters.gguf import export_gguf, refuse_more_than_factors
from helpers.adapters.tensors import pair_factors, read_shapes, read_tensors
from helpers.common.errors import KitError
from helpers.common.files import replace_when_complete, write_json
from helpers.common.paths import find_home
from helpers.training.settings import TrainingSettings
from helpers.weights.folders import find_model

# The fields of LoraConfig in PEFT 0.5.0, which the WebUI of October 2023 installs; it fails at any other. Source: that release's files.
PEFT_2023 = (
    "auto_mapping", "base_model_name_or_path", "bias", "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern",
    "layers_to_transform", "lora_alpha", "lora_dropout", "modules_to_save", "peft_type", "r", "revision", "target_modules", "task_type",
)  # fmt: skip


VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM's --max-lora-rank takes


def export_adapter(name: str, program: str, output: Path | None = None) -> Path:
    """Writes loras/NAME as `program` (webui-2023, webui, llama.cpp) takes it; returns the folder, or llama.cpp's file.

    Without `output` it is runs/exports/PROGRAM/NAME, which an earlier export may give way to; nothing else does. KitError for what that
    program cannot take, before anything is written.
    """
    writers = {"webui-2023": write_for_webui_2023, "webui": write_for_webui, "llama.cpp": write_for_llama_cpp}
    if program not in writers:
        raise KitError(
            f"'{program}' is no program that is exported for.", f"Use one of: {', '.join(writers)}, vllm."
        )
    if output and output.exists():
        raise KitError(f"{output} is there already.", "Choose another --output, or delete it.")
    folder, file = find_adapter(name), f"{name}.gguf" if program == "llama.cpp" else name
    return writers[program](folder, output or find_home() / "runs" / "exports" / program / file)


def write_for_webui_2023(folder: Path, target: Path) -> Path:
    """PEFT 0.5's config and pickle, and the fields of the training tab of 2023, which knows layers by name only."""
    config = read_config(folder)
    refuse_what_peft_2023_lacks(folder.name, config)
    layers = sorted({module.rpartition(".")[2] for module in pair_factors(read_shapes(folder))})
    settings = TrainingSettings.from_adapter(folder).replace({"targets": ",".join(layers)})
    parameters = {key: value for key, value in settings.to_webui(folder.name).items() if key != "all_linear"}
    with replace_when_complete(target) as fresh:
        fresh.mkdir()
        kept = {key: value for key, value in config.items() if key in PEFT_2023}
        write_json(
            fresh / "adapter_config.json", {**kept, "target_modules": layers, "init_lora_weights": True}
        )
        torch.save(
            {key: torch.from_numpy(tensor.copy()) for key, tensor in read_tensors(folder).items()},
            fresh / "adapter_model.bin",
        )
        write_json(fresh / "training_parameters.json", parameters)
    return target


def refuse_what_peft_2023_lacks(name: str, config: dict) -> None:
    """KitError for a setting that PEFT 0.5 does not know and that is not at its default today: it changes what is computed."""
    defaults = LoraConfig().to_dict()
    changed = [
        key
        for key, value in config.items()
        if key not in (*PEFT_2023, "peft_version") and value != defaults.get(key) and value
    ]
    if not isinstance(config.get("init_lora_weights", True), bool):
        changed.append("init_lora_weights")
    if changed:
        raise KitError(
            f"The LoRA {name} uses {changed[0]}, which PEFT 0.5 of 2023 does not know.",
            "Take today's WebUI (--for webui), or merge it.",
        )


def write_for_webui(folder: Path, target: Path) -> Path:
    """The folder as it is, with the fields of the training tab."""
    with replace_when_complete(target) as fresh:
        shutil.copytree(folder, fresh)
        if not (fresh / "training_parameters.json").is_file():
            write_json(
                fresh / "training_parameters.json",
                TrainingSettings.from_adapter(folder).to_webui(folder.name),
            )
    return target


def write_for_llama_cpp(folder: Path, target: Path) -> Path:
    """A GGUF file, for the GGUF form of the base: models/BASE-GGUF."""
    base = name_base(folder)
    if base is None:
        raise KitError(
            f"The LoRA {folder.name} does not record its base.",
            "Write base_model_name_or_path into its adapter_config.json.",
        )
    return export_gguf(
        folder, find_model(base if base.endswith("-GGUF") else f"{base.removesuffix('-GPTQ')}-GGUF"), target
    )


def build_vllm_command(names: list[str], gpus: int = 1, machines: int = 1) -> list[str]:
    """The lines that serve the LoRAs with vLLM on one base, on several GPUs and with Ray on several machines (`gpus` is of each).

    KitError for what vLLM does not take: different bases, GGUF, ranks above 512, adapters that are more than A and B.
    """
    folders = [find_adapter(name) for name in names]
    bases = sorted({name_base(folder) or "?" for folder in folders})
    if len(bases) > 1 or "?" in bases:
        raise KitError(
            f"vLLM serves one base; these LoRAs have {', '.join(bases)}.", "Start one server for each base."
        )
    for folder in folders:
        refuse_more_than_factors(folder.name, read_config(folder), "vLLM")
    rank = max(max(pair["A"][0] for pair in pair_factors(read_shapes(folder)).values()) for folder in folders)
    if rank > VLLM_RANKS[-1]:
        raise KitError(
            f"vLLM takes ranks up to {VLLM_RANKS[-1]}, not {rank}.",
            "Merge the LoRA: python -m helpers.adapters merge.",
        )
    limit = next(limit for limit in VLLM_RANKS if limit >= rank)
    parts = [
        "vllm",
        "serve",
        f"models/{bases[0]}",
        "--served-model-name",
        bases[0],
        "--enable-lora",
        "--lora-modules",
    ]
    parts += [f"{folder.name}=loras/{folder.name}" for folder in folders]
    parts += ["--max-lora-rank", str(limit), "--max-loras", str(len(folders)), "--generation-config", "auto"]
    parts += ["--tensor-parallel-size", str(gpus)] if gpus > 1 else []
    parts += (
        ["--pipeline-parallel-size", str(machines), "--distributed-executor-backend", "ray"]
        if machines > 1
        else []
    )
    ray = [
        "ray start --head --port=6379    # on the first machine",
        "ray start --address=FIRST_MACHINE:6379    # on every other one",
    ]
    return [*(ray if machines > 1 else []), shlex.join(parts)]
