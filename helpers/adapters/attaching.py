"""LoRAs on a loaded model: attached, switched, turned up and down, detached. The base is loaded once."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.helpers import rescale_adapter_scale
from peft.tuners.lora import LoraLayer

from helpers.adapters._private import use_lean_layers
from helpers.adapters.folders import AdapterFolder, find_adapter
from helpers.adapters.tensors import read_shapes
from helpers.common.errors import KitError, MismatchError, NotFoundError
from helpers.loading.model import LoadedModel
from helpers.weights._private import import_gptqmodel

# Quietly and now. PEFT would import it while it builds a LoRA layer, and gptqmodel keeps the stack frames
# that imported it: those would hold the model, which then could not be freed.
import_gptqmodel()


def attach_adapter(
    loaded: LoadedModel, name: str, loras_dir: Path | None = None, any_model: bool = False
) -> LoadedModel:
    """Attaches the LoRA loras/NAME to the loaded model and makes it active; returns `loaded`.

    Several can be attached; switch_adapter chooses. A and B take the base's dtype: casts around every layer
    would cost more than the LoRA itself. Raises MismatchError if another base is recorded (unless
    `any_model`) or if its weights do not match the model's layers, of which PEFT only warns; the model is
    then as it was.
    """
    folder = find_adapter(name, loras_dir)
    name = folder.name  # `name` may be a link, or end with a slash
    if not any_model:
        folder.check_base(loaded.name)
    read_shapes(folder.weights)  # refuses a pickle that holds more than tensors, before PEFT opens it
    if name in list_attached(loaded):
        detach_adapter(loaded, name)
    active = find_active(loaded)
    try:
        add_layers(loaded, folder)
        if unmatched := find_unmatched(loaded, folder):
            problem = f"The LoRA {name} does not match {loaded.name}: {unmatched}."
            raise MismatchError(problem, "Load the base that it was trained on.")
    except (RuntimeError, ValueError, KitError) as error:
        detach_adapter(loaded, name)
        switch_adapter(loaded, active)
        if isinstance(error, KitError):
            raise
        reason = " ".join(str(error).split())[:200]
        problem = f"The LoRA {name} does not fit {loaded.name}: {reason}"
        raise MismatchError(problem, "Load the base that it was trained on.") from None
    switch_adapter(loaded, name)
    loaded.model.eval()
    return loaded


def add_layers(loaded: LoadedModel, folder: AdapterFolder) -> None:
    """Lets PEFT add the LoRA's layers, then load their weights.

    In two steps, so that a misfit can be detached again.
    """
    if not isinstance(loaded.model, PeftModel):
        config: Any = PeftConfig.from_pretrained(str(folder.path))
        config.inference_mode = True
        with warnings.catch_warnings():
            # The first warning is about names such as "lora", which a test shows to work; the second about
            # the path of the recorded base.
            warnings.filterwarnings("ignore", message=".*should not be contained in the prefix")
            warnings.filterwarnings("ignore", message=".*was renamed from")
            loaded.model = get_peft_model(
                loaded.model, use_lean_layers(config), adapter_name=folder.name, autocast_adapter_dtype=False
            )
    loaded.model.load_adapter(folder.path, adapter_name=folder.name, autocast_adapter_dtype=False)


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
            loaded.model = loaded.model.unload()


def remove_lora_layers(model: Any) -> Any:
    """The plain base of a model: PEFT's wrapper and every LoRA layer are replaced by what they wrap.

    A trainer that fails leaves such layers in the model that it was given, and PEFT's list of them.
    """
    base = model.unload() if isinstance(model, PeftModel) else model
    vars(base).pop("peft_config", None)
    layers = [(path, layer) for path, layer in base.named_modules() if isinstance(layer, LoraLayer)]
    for path, layer in layers:
        parent, _, name = path.rpartition(".")
        setattr(base.get_submodule(parent), name, layer.get_base_layer())
    return base


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
    in_file = set(read_shapes(folder.weights))
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
