"""LoRAs on a loaded model: put on, switched, turned up and down, taken off; the base is loaded once."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path

from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer

from helpers.adapters.folders import check_base, find_adapter
from helpers.adapters.layers import make_lean
from helpers.adapters.tensors import read_shapes
from helpers.common.errors import KitError
from helpers.loading.model import LoadedModel
from helpers.weights.gptq import import_gptqmodel

import_gptqmodel()  # here, once and quietly: PEFT imports it anyway when it builds a LoRA layer


def attach_adapter(
    loaded: LoadedModel, name: str, base: Path | None = None, any_model: bool = False
) -> LoadedModel:
    """Puts the LoRA loras/NAME onto the loaded model under its own name and makes it the active one; returns `loaded`.

    More than one can be attached; switch_adapter picks. A and B take the base's dtype: casts around every layer would cost more than the
    LoRA itself. KitError when its recorded base model is another one (unless `any_model`), and when its weights do not match the
    model's layers, of which PEFT only warns; the model is then as it was.
    """
    folder = find_adapter(name, base)
    if not any_model:
        check_base(folder, loaded.name)
    read_shapes(folder)  # refuses a pickle with more than tensors in it, before PEFT opens it
    if name in list_attached(loaded):
        detach_adapter(loaded, name)
    active = loaded.model.active_adapter if list_attached(loaded) else None
    try:
        put_on(loaded, name, folder)
        if unmatched := find_unmatched(loaded, name, folder):
            raise KitError(
                f"The LoRA {name} does not match {loaded.name}: {unmatched}.",
                "Load the base that it was trained on.",
            )
    except (RuntimeError, ValueError, KitError) as error:
        detach_adapter(loaded, name)
        switch_adapter(loaded, active)
        if isinstance(error, KitError):
            raise
        reason = " ".join(str(error).split())[:200]
        raise KitError(
            f"The LoRA {name} does not fit {loaded.name}: {reason}", "Load the base that it was trained on."
        ) from None
    switch_adapter(loaded, name)
    loaded.model.eval()
    return loaded


def put_on(loaded: LoadedModel, name: str, folder: Path) -> None:
    """PEFT's steps, in an order that lets a LoRA be taken off again when its weights do not fit the layers made for it."""
    if not isinstance(loaded.model, PeftModel):
        config = PeftConfig.from_pretrained(folder)
        config.inference_mode = True
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message=".*should not be contained in the prefix"
            )  # a test shows such names whole
            warnings.filterwarnings(
                "ignore", message=".*was renamed from"
            )  # the recorded base: a path of another day
            loaded.model = get_peft_model(
                loaded.model, make_lean(config), adapter_name=name, autocast_adapter_dtype=False
            )
    loaded.model.load_adapter(folder, adapter_name=name, autocast_adapter_dtype=False)


def list_attached(loaded: LoadedModel) -> list[str]:
    """Names of the LoRAs that are on the model."""
    return list(loaded.model.peft_config) if isinstance(loaded.model, PeftModel) else []


def switch_adapter(loaded: LoadedModel, name: str | None) -> None:
    """Makes one of the attached LoRAs the active one; None leaves the base alone active, with the LoRAs at hand."""
    there = list_attached(loaded)
    if name is None:
        if there:
            loaded.model.base_model.disable_adapter_layers()
        return
    if name not in there:
        raise KitError(
            f"No LoRA '{name}' is attached (attached: {', '.join(there) or 'none'}).", "Attach it first."
        )
    loaded.model.base_model.enable_adapter_layers()
    loaded.model.set_adapter(name)


def detach_adapter(loaded: LoadedModel, name: str | None = None) -> None:
    """Takes one LoRA off the model, or all of them; without the last one the model is the plain base again."""
    for one in list_attached(loaded) if name is None else [name]:
        if one in list_attached(loaded) and len(list_attached(loaded)) > 1:
            loaded.model.delete_adapter(one)
        elif one in list_attached(loaded):
            loaded.model = loaded.model.unload()


@contextlib.contextmanager
def set_strength(loaded: LoadedModel, strength: float) -> Iterator[None]:
    """Inside the block the active LoRA's B A counts `strength` times: 0 is the base, 1 the LoRA as trained, 2 twice its push."""
    layers = [layer for layer in loaded.model.modules() if isinstance(layer, LoraLayer)]
    before = [dict(layer.scaling) for layer in layers]
    try:
        for layer in layers:
            layer.scaling = {name: strength * scale for name, scale in layer.scaling.items()}
        yield
    finally:
        for layer, scaling in zip(layers, before, strict=True):
            layer.scaling = scaling


def find_unmatched(loaded: LoadedModel, name: str, folder: Path) -> str:
    """Where the names in the LoRA's file and the layers that PEFT made for it differ, in words; empty when they are the same.

    PEFT only warns: what has no layer is lost, and a layer that has no tensor stays as it was drawn and changes nothing.
    """
    in_file, in_model = (
        set(read_shapes(folder)),
        set(get_peft_model_state_dict(loaded.model, adapter_name=name, save_embedding_layers=False)),
    )
    lost, untouched = sorted(in_file - in_model), sorted(in_model - in_file)
    facts = [f"{len(lost)} of its tensors have no layer here ({lost[0]})"] if lost else []
    facts += [f"{len(untouched)} layers have no tensor in it ({untouched[0]})"] if untouched else []
    return "; ".join(facts)
