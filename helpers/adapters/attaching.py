"""LoRAs on a loaded model: attached, switched, turned up and down, detached. The base is loaded once."""

import contextlib
import re
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, load_peft_weights
from peft.helpers import rescale_adapter_scale
from peft.tuners.lora import LoraLayer
from peft.utils import AuxiliaryTrainingWrapper
from safetensors.torch import save_file

from helpers.adapters._private import use_lean_layers
from helpers.adapters.folders import WEIGHTS, AdapterFolder, find_adapter, locate_adapter
from helpers.adapters.parts import check_attachable, list_copies, write_merge_command
from helpers.adapters.tensors import read_shapes
from helpers.common.errors import KitError, MismatchError, NotFoundError, UnsupportedError, UsageError
from helpers.common.files import read_steadily, write_json
from helpers.common.messages import hold_messages
from helpers.loading.model import LoadedModel
from helpers.weights._private import import_gptqmodel

WRAPPERS = (LoraLayer, AuxiliaryTrainingWrapper)  # what PEFT puts around a layer
ROUNDING = (0.01, 1e-3)  # relative and absolute: what a weight may move by between two number formats

# Quietly and now. PEFT would import it while it builds a LoRA layer, and gptqmodel keeps the stack frames
# that imported it: those would hold the model, which then could not be freed.
import_gptqmodel()


def attach_adapter(
    loaded: LoadedModel, name: str, loras_dir: Path | None = None, any_model: bool = False
) -> LoadedModel:
    """Attaches the LoRA loras/NAME to the loaded model and makes it active; returns `loaded`.

    Several can be attached; switch_adapter chooses. A and B take the base's dtype: casts around every layer
    would cost more than the LoRA itself. Raises MismatchError if it belongs to another base (unless
    `any_model`) or if its weights do not match the model's layers, of which PEFT only warns, and
    UnsupportedError if it changes the base itself; the model is then as it was.
    """

    def attach() -> LoadedModel:
        folder = find_adapter(name, loras_dir)
        check_module_name(folder.name)
        check_attachable(folder, loaded.folder, any_model)
        check_copies(loaded, folder)
        with hold_messages(), open_for_peft(folder) as path:
            return attach_folder(loaded, folder, path)

    return read_steadily(locate_adapter(name, loras_dir), attach)


def check_module_name(name: str) -> None:
    """A UsageError for a name under which PEFT cannot keep a LoRA's layers: one that their container has."""
    if hasattr(torch.nn.ModuleDict(), name) or hasattr(torch.nn.ParameterDict(), name):
        problem = f"PEFT cannot attach a LoRA called '{name}', which is a word of its own."
        raise UsageError(problem, f"Choose another name, such as {name.strip('_')}-lora.")


def attach_folder(loaded: LoadedModel, folder: AdapterFolder, path: Path) -> LoadedModel:
    """Attaches a LoRA that was checked, from the files in `path`; errors as attach_adapter."""
    name = folder.name
    if name in list_attached(loaded):
        detach_adapter(loaded, name)
    active = find_active(loaded)
    try:
        add_layers(loaded, name, path)
        if unmatched := find_unmatched(loaded, folder):
            problem = f"The LoRA {name} does not match {loaded.name}: {unmatched}."
            raise MismatchError(problem, "Load the base that it was trained on.")
    except Exception as error:  # of any kind: PEFT computes with the values of the config
        detach_adapter(loaded, name)
        if not list_attached(loaded):
            loaded.model = remove_lora_layers(loaded.model)  # of those that PEFT had made when it failed
        switch_adapter(loaded, active)
        if isinstance(error, (KitError, OSError, ImportError, MemoryError, torch.OutOfMemoryError)):
            raise
        missing = "its file lacks " if isinstance(error, KeyError) else ""
        reason = missing + " ".join(str(error).split())[:200]
        problem = f"The LoRA {name} cannot be attached to {loaded.name}: {reason}."
        raise MismatchError(problem, "Attach it alone, or load the base that it was trained on.") from None
    switch_adapter(loaded, name)
    loaded.model.eval()
    return loaded


@contextlib.contextmanager
def open_for_peft(folder: AdapterFolder, whole: bool = False) -> Iterator[Path]:
    """A folder that PEFT reads the LoRA from, without the copies of the base in it unless `whole`.

    PEFT saves the embeddings of the base beside a LoRA on them, and writes them over those of the model.
    """
    copies = [] if whole else list_copies(folder, read_shapes(folder.weights))
    if not copies and "peft_type" in folder.config:
        yield folder.path
        return
    with tempfile.TemporaryDirectory() as scratch:
        tensors = load_peft_weights(str(folder.path), device="cpu")
        kept = {name: tensor.contiguous() for name, tensor in tensors.items() if name not in copies}
        save_file(kept, Path(scratch) / WEIGHTS[0], metadata={"format": "pt"})
        write_json(Path(scratch) / "adapter_config.json", {"peft_type": "LORA", **folder.config})
        yield Path(scratch)


def check_copies(loaded: LoadedModel, folder: AdapterFolder) -> None:
    """An UnsupportedError if what the LoRA holds of its base is not what the model has.

    A GGUF file is rounded, so that it cannot be compared.
    """
    copies = list_copies(folder, read_shapes(folder.weights))
    if not copies or loaded.folder.gguf:
        return
    weights = {name: tensor.detach() for name, tensor in name_base_weights(loaded.model).items()}
    saved = load_peft_weights(str(folder.path), device="cpu")
    for name in copies:
        place, copy = strip_wrappers(name), saved[name].float()
        own = weights[place].float().cpu() if place in weights else copy
        if own.shape != copy.shape or not torch.allclose(own, copy, *ROUNDING):
            problem = f"The LoRA {folder.name} has other weights than {loaded.name} in {place}."
            remedy = f"Load the base that it was trained on, or merge it: {write_merge_command(folder)}"
            raise UnsupportedError(problem, remedy)


def name_base_weights(model: Any) -> dict[str, torch.Tensor]:
    """{name in the plain base: its weights}, tied ones under each of their names."""
    return {strip_wrappers(name): tensor for name, tensor in model.named_parameters(remove_duplicate=False)}


def strip_wrappers(name: str) -> str:
    """A tensor's name in the plain base: without the names of what PEFT puts around a layer."""
    return re.sub(r"^base_model\.model\.|\b(base_layer|original_module|token_adapter)\.", "", name)


def add_layers(loaded: LoadedModel, name: str, path: Path) -> None:
    """Lets PEFT add the layers of the LoRA in `path`, then load their weights.

    In two steps, so that a misfit can be detached again.
    """
    if not isinstance(loaded.model, PeftModel):
        config: Any = PeftConfig.from_pretrained(str(path))
        config.inference_mode = True
        with warnings.catch_warnings():
            # The first warning is about names such as "lora", which a test shows to work; the second about
            # the path of the recorded base.
            warnings.filterwarnings("ignore", message=".*should not be contained in the prefix")
            warnings.filterwarnings("ignore", message=".*was renamed from")
            loaded.model = get_peft_model(
                loaded.model, use_lean_layers(config), adapter_name=name, autocast_adapter_dtype=False
            )
    loaded.model.load_adapter(path, adapter_name=name, autocast_adapter_dtype=False)


def list_attached(loaded: LoadedModel) -> list[str]:
    """Names of the LoRAs that are attached to the model, in the order of attaching."""
    return list(loaded.model.peft_config) if isinstance(loaded.model, PeftModel) else []


def find_active(loaded: LoadedModel) -> str | None:
    """The LoRA that computes now; None if none is attached or all are switched off."""
    if not list_attached(loaded) or not loaded.model.get_model_status().enabled:
        return None
    return loaded.model.active_adapter


def switch_adapter(loaded: LoadedModel, name: str | None) -> None:
    """Makes one of the attached LoRAs active; None switches all of them off."""
    attached = list_attached(loaded)
    if name is not None and name not in attached:
        problem = f"No LoRA '{name}' is attached (attached: {', '.join(attached) or 'none'})."
        raise NotFoundError(problem, "Attach it first.")
    activate(loaded.model, name)


def activate(model: Any, name: str | None) -> None:
    """Makes one of the LoRAs on a PEFT model active, or none; does nothing on a model without LoRAs."""
    if not isinstance(model, PeftModel):
        return
    tuner: Any = model.base_model
    if name is None:
        tuner.disable_adapter_layers()
    else:
        tuner.enable_adapter_layers()
        model.set_adapter(name)


def detach_adapter(loaded: LoadedModel, name: str | None = None) -> None:
    """Detaches one LoRA, or all of them. Without the last one the model is the plain base again."""
    for one in list_attached(loaded) if name is None else [name]:
        attached = list_attached(loaded)
        if one in attached and len(attached) > 1:
            loaded.model.delete_adapter(one)
        elif one in attached:
            loaded.model = remove_lora_layers(loaded.model)


def remove_lora_layers(model: Any) -> Any:
    """The plain base of a model: PEFT's wrapper and all that it put around layers are replaced by the layers.

    PEFT's own `unload` leaves whole modules that were trained in the base. A trainer that fails leaves its
    layers in the model that it was given, and PEFT's list of them.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    vars(base).pop("peft_config", None)
    wrapped = {path: layer for path, layer in base.named_modules() if isinstance(layer, WRAPPERS)}
    for path, layer in wrapped.items():
        parents = path.split(".")[:-1]
        if not any(".".join(parents[:length]) in wrapped for length in range(len(parents) + 1)):
            setattr(base.get_submodule(".".join(parents)), path.rpartition(".")[2], unwrap(layer))
    return base


def unwrap(layer: Any) -> Any:
    """The layer of the base below what PEFT put around it."""
    while isinstance(layer, WRAPPERS):
        layer = layer.get_base_layer() if isinstance(layer, LoraLayer) else layer.original_module
    return layer


@contextlib.contextmanager
def set_strength(loaded: LoadedModel, strength: float) -> Iterator[None]:
    """Inside the block B A counts `strength` times: 0 is the base, 1 the LoRA as it was trained."""
    if not list_attached(loaded):
        yield
        return
    with rescale_adapter_scale(loaded.model, strength):
        yield


def find_unmatched(loaded: LoadedModel, folder: AdapterFolder) -> str:
    """Where the LoRA's file and the layers that PEFT made for it differ, in words; empty if nowhere.

    PEFT only warns. A tensor without a layer is lost; a layer without a tensor keeps its initial values,
    which change nothing.
    """
    shapes = read_shapes(folder.weights)
    doubles = {name for name in shapes if ".modules_to_save." in name}  # under PEFT's own name once more
    in_file = set(shapes) - set(list_copies(folder, shapes)) - doubles
    in_model = set(
        get_peft_model_state_dict(loaded.model, adapter_name=folder.name, save_embedding_layers=False)
    )
    lost, untouched = sorted(in_file - in_model), sorted(in_model - in_file)
    facts = []
    if lost:
        facts.append(f"{len(lost)} of its tensors have no layer here ({lost[0]})")
    if untouched:
        facts.append(f"{len(untouched)} layers have no tensor in it ({untouched[0]})")
    return "; ".join(facts)
