"""A LoRA in the form in which other programs take it: the WebUI of 2023 and of today, llama.cpp, vLLM."""

import os
import shlex
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig

from helpers.adapters.bases import find_base, find_gguf
from helpers.adapters.chat_template import find_changed, pick_for_all
from helpers.adapters.folders import OWN_FILES, AdapterFolder, find_adapter
from helpers.adapters.gguf import export_gguf, is_lora_file, read_base
from helpers.adapters.parts import check_attachable, list_copies, refuse_more_than_factors
from helpers.adapters.tensors import count_broken, pair_factors, read_shapes, read_tensors
from helpers.adapters.webui_parameters import build_parameters, read_recorded_settings
from helpers.common.errors import AlreadyThereError, DamagedError, MismatchError, UnsupportedError, UsageError
from helpers.common.exports import (
    ANOTHER_OUTPUT,
    ELSEWHERE,
    MODEL_EXPORTS,
    is_export,
    list_own_files,
    open_export,
)
from helpers.common.files import size_of, write_json
from helpers.common.outputs import check_output, check_path, refuse_kept
from helpers.common.paths import find_home
from helpers.weights.shape import Shape

# The fields of LoraConfig in PEFT 0.5.0, which the WebUI of October 2023 installs; it fails at any other
# field. Source: that release's files.
PEFT_2023 = (
    "auto_mapping", "base_model_name_or_path", "bias", "fan_in_fan_out", "inference_mode",
    "init_lora_weights", "layers_pattern", "layers_to_transform", "lora_alpha", "lora_dropout",
    "modules_to_save", "peft_type", "r", "revision", "target_modules", "task_type",
)  # fmt: skip
RECORD_BASE = "Write base_model_name_or_path into its adapter_config.json."
VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM's --max-lora-rank takes


def export_adapter(name: str, program: str, output: Path | None = None) -> Path:
    """Writes loras/NAME for `program` (webui-2023, webui, llama.cpp); returns the folder or file.

    Without `output` it goes to runs/exports/PROGRAM/NAME, replacing an earlier export there. Raises a
    KitError for what that program cannot take, before anything is written.
    """
    if program not in WRITERS:
        problem = f"The kit cannot write files for a program called '{program}'."
        raise UsageError(problem, f"Use one of: {', '.join(WRITERS)}.")
    if output and os.path.lexists(check_path(output)):
        raise AlreadyThereError(f"{output} is there already.", ELSEWHERE)
    folder = find_adapter(name)
    if output:
        refuse_kept(output, [folder.path])
    refuse_broken(folder)
    is_file = program == "llama.cpp"
    file = f"{folder.name}.gguf" if is_file else folder.name  # `name` may end with a slash
    target = output or name_export(program, file)
    needed = 2 * size_of(folder.path)  # GGUF files have float32, and most LoRAs too
    check_output(
        target,
        "file" if is_file else "folder",
        is_lora_file if is_file else is_export,
        needed,
        ANOTHER_OUTPUT,
    )
    return WRITERS[program](folder, target)


def name_export(program: str, name: str) -> Path:
    """Where an export goes by itself; a UsageError for the name of the folder with the exports of models."""
    folder = find_home() / "runs" / "exports" / program
    if name.lower() == MODEL_EXPORTS:
        problem = f"{folder / name} is for exports of models, and cannot be that of a LoRA."
        raise UsageError(problem, "Name another place with --output.")
    return folder / name


def refuse_broken(folder: AdapterFolder) -> None:
    """A DamagedError for weights that are not numbers, or not of a LoRA: programs would give nonsense."""
    if not pair_factors(read_shapes(folder.weights)):
        raise DamagedError(f"The LoRA {folder.name} has no matrices in its weights.", "Train it again.")
    if broken := count_broken(folder.weights):
        problem = f"{broken} matrices of the LoRA {folder.name} hold NaN or infinity."
        raise DamagedError(problem, "Train it again with a lower learning rate.")


def write_for_webui_2023(folder: AdapterFolder, target: Path) -> Path:
    """PEFT 0.5's config and pickle, and the training tab's settings, which name layers one by one."""
    refuse_what_peft_2023_lacks(folder)
    layers = list_layers(folder)
    parameters = describe_training(folder, layers)
    del parameters["all_linear"]
    config = {key: value for key, value in folder.config.items() if key in PEFT_2023}
    config |= {"target_modules": layers, "init_lora_weights": True}
    found = read_tensors(folder.weights)
    copies = list_copies(folder, read_shapes(folder.weights))  # that PEFT does not read
    tensors = {key: torch.from_numpy(found[key].copy()) for key in found.keys() - set(copies)}
    with open_export(target) as fresh:
        fresh.mkdir()
        write_json(fresh / "adapter_config.json", config)
        torch.save(tensors, fresh / "adapter_model.bin")
        write_json(fresh / "training_parameters.json", parameters)
        folder.refuse_replaced()
    return target


def refuse_what_peft_2023_lacks(folder: AdapterFolder) -> None:
    """An UnsupportedError for a setting that PEFT 0.5 does not know and that changes what is computed."""
    defaults = LoraConfig().to_dict()

    def changes_result(key: str, value: Any) -> bool:
        return key not in (*PEFT_2023, "peft_version") and bool(value) and value != defaults.get(key)

    changed = [key for key, value in folder.config.items() if changes_result(key, value)]
    if not isinstance(folder.config.get("init_lora_weights", True), bool):
        changed.append("init_lora_weights")
    if changed:
        problem = f"The LoRA {folder.name} uses {changed[0]}, which PEFT 0.5 of 2023 does not know."
        raise UnsupportedError(problem, "Take today's WebUI (--for webui), or merge it.")


def write_for_webui(folder: AdapterFolder, target: Path) -> Path:
    """The LoRA's files as they are, with the settings of the training tab as far as they were recorded."""
    files = list_own_files(folder.path, OWN_FILES)
    with open_export(target) as fresh:
        fresh.mkdir()
        for path in files:
            shutil.copyfile(path, fresh / path.name)
        if not folder.parameters:
            parameters = describe_training(folder, list_layers(folder))
            write_json(fresh / "training_parameters.json", parameters)
        folder.refuse_replaced()
    return target


def list_layers(folder: AdapterFolder) -> list[str]:
    """The names of the layers that the LoRA's weights are for: q_proj, v_proj ..."""
    return sorted({module.rpartition(".")[2] for module in pair_factors(read_shapes(folder.weights))})


def describe_training(folder: AdapterFolder, layers: list[str]) -> dict[str, Any]:
    """training_parameters.json with what the LoRA's own files record, and nothing else."""
    settings = {**read_recorded_settings(folder), "targets": ",".join(layers)}
    return build_parameters(folder.name, settings, folder.parameters.get("add_eos_token"))


def write_for_llama_cpp(folder: AdapterFolder, target: Path) -> Path:
    """A GGUF file, for the GGUF version of the base."""
    refuse_more_than_factors(folder)
    gguf = find_gguf(folder, RECORD_BASE).gguf
    assert gguf is not None
    return export_gguf(folder, read_base(gguf), target)


WRITERS = {"webui-2023": write_for_webui_2023, "webui": write_for_webui, "llama.cpp": write_for_llama_cpp}
PROGRAMS = (*WRITERS, "vllm")  # what `export --for` takes; vLLM reads PEFT's folder and gets a command


def build_vllm_command(names: list[str], gpus: int = 1, machines: int = 1) -> list[str]:
    """The lines that serve the LoRAs with vLLM on one base; `gpus` in each machine, machines joined by Ray.

    The last one starts it; a comment says so where it cannot use all GPUs.

    Raises a KitError for what vLLM does not take: different bases or chat templates, ranks above 512, more
    than A and B.
    """
    folders = [find_adapter(name) for name in names]
    bases = {base.name: base for base in (find_base(folder, RECORD_BASE) for folder in folders)}
    if len(bases) > 1:
        problem = f"vLLM serves one base; these LoRAs have {', '.join(sorted(bases))}."
        raise MismatchError(problem, "Start one server for each base.")
    (base,) = bases.values()
    for folder in folders:
        refuse_broken(folder)
        refuse_more_than_factors(folder, "vLLM")
        check_attachable(folder, base)
    parts = ["vllm", "serve", show_path(base.path), "--served-model-name", base.name]
    parts += ["--enable-lora", "--lora-modules"]
    parts += [f"{folder.name}={show_path(folder.path)}" for folder in folders]
    parts += ["--max-lora-rank", str(pick_vllm_rank(folders)), "--max-loras", str(len(folders))]
    parts += ["--generation-config", "auto"]
    _ = pick_for_all(None, folders, "Export them one by one, for a server each.")
    if template := find_changed(folders[0]):
        parts += ["--chat-template", show_path(template)]
    return spread(parts, base.shape, gpus, machines)


def spread(parts: list[str], shape: Shape, gpus: int, machines: int) -> list[str]:
    """The lines that start vLLM with this command on so many GPUs in each of so many machines."""
    split, lines = split_evenly(shape, gpus) if gpus > 1 else 1, []
    if split < gpus:
        lines.append(f"# {split} of {gpus} GPUs: vLLM gives each the same number of attention heads")
    if split > 1:
        parts = [*parts, "--tensor-parallel-size", str(split)]
    if machines > 1:
        parts += ["--pipeline-parallel-size", str(machines), "--distributed-executor-backend", "ray"]
        lines.append("ray start --head --port=6379    # on the first machine")
        lines.append("ray start --address=FIRST_MACHINE:6379    # on every other one")
    return [*lines, shlex.join(parts)]


def split_evenly(shape: Shape, gpus: int) -> int:
    """The most GPUs, `gpus` at most, that vLLM splits a model across.

    Each gets the same number of attention heads and the same part of the MLP, and the same number of
    key-value heads, or several GPUs share one.
    """

    def fits(count: int) -> bool:
        keys = shape.kv_heads
        shared = keys % count == 0 or count % keys == 0
        return shape.heads % count == 0 and shape.intermediate % count == 0 and shared

    return next(count for count in range(min(gpus, shape.heads), 0, -1) if fits(count))


def show_path(path: Path) -> str:
    """The path as it is typed in the kit's home: models/NAME."""
    home = find_home()
    return path.relative_to(home).as_posix() if path.is_relative_to(home) else str(path)


def pick_vllm_rank(folders: list[AdapterFolder]) -> int:
    """The smallest of vLLM's ranks that holds all LoRAs; UnsupportedError if none does."""
    pairs = [pair for folder in folders for pair in pair_factors(read_shapes(folder.weights)).values()]
    rank = max((pair["A"][0] for pair in pairs if "A" in pair), default=0)
    if rank == 0:
        raise UnsupportedError("vLLM takes LoRAs; these folders have no A and B.", "Train a LoRA.")
    for limit in VLLM_RANKS:
        if limit >= rank:
            return limit
    problem = f"vLLM takes ranks up to {VLLM_RANKS[-1]}, not {rank}."
    raise UnsupportedError(problem, "Merge the LoRA: python -m helpers.adapters merge.")
