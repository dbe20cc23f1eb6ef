"""Which model a LoRA belongs to, told by shapes, by recorded hashes, and by all names that a model goes by.

One model is recorded as OWNER/NAME (the hub), models/OWNER_NAME or models/OWNER_NAME_REVISION (what `fetch`
makes of it), models--OWNER--NAME/snapshots/HASH (the hub's cache) or OWNER/NAME-bnb-4bit (what QLoRA takes).
Nothing here imports torch.
"""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from helpers.adapters.folders import CACHE, AdapterFolder
from helpers.adapters.tensors import pair_factors, read_shapes
from helpers.common.errors import KitError, MismatchError, NotFoundError
from helpers.common.files import list_subfolders
from helpers.weights.config import Quantization
from helpers.weights.folders import ModelFolder, find_model, models_folder
from helpers.weights.names import name_folder

Name = tuple[str | None, str]  # (owner, name) in lower case; the owner may be unknown

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# Forms of the same weights. Who converted them is not who made the model.
CONVERTED = re.compile(r"-(gguf|(unsloth-)?bnb-[48]bit)$", re.IGNORECASE)
ROUNDED = re.compile(r"-(gptq|awq)(_[^/]*)?$", re.IGNORECASE)  # other weights, with a branch or without
MIRRORS = {"unsloth"}  # owners who publish models of others under the same name
BLOCK = re.compile(r"(?:^|\.)(\w+\.(\d+)\..+)")  # the part of a module's name from its list of blocks on


def check_base(lora: AdapterFolder, base: ModelFolder) -> None:
    """A MismatchError if `base` is another model than the one that the LoRA was trained on."""
    if reason := explain_other_base(lora, base):
        remedy = f"Load {lora.base_name or 'the base that it was trained on'} first."
        only_names_differ = find_misfit(lora, base) is None and has_same_hashes(lora, base) is None
        if lora.base_name and only_names_differ:  # /kaggle/input/llama/1 tells nobody which model that was
            file = lora.path / "adapter_config.json"
            remedy += f" If that is {base.name}, write {base.name} into {file} as base_model_name_or_path."
        raise MismatchError(f"The LoRA {lora.name} {reason}.", remedy)


def explain_other_base(lora: AdapterFolder, base: ModelFolder) -> str | None:
    """Why `base` is not the LoRA's model, in words that follow its name; None if it may be the model.

    It is not if its shapes differ. Otherwise the same hashes of weights show that it is, whatever its name,
    and other hashes of the same form of weights that it is not. Without such hashes, the names decide.
    """
    if misfit := find_misfit(lora, base):
        return f"does not fit {base.name}: {misfit}"
    if lora.base_name is None:
        return None
    named = is_called(base, lora.recorded_base)
    same = has_same_hashes(lora, base)
    if same or (named and same is None):
        return None
    if named and find_form(lora.base_name) == find_form(base.name):
        return f"was trained on {lora.base_name} with other weights than {base.name} has (other hashes)"
    return None if named else f"was trained on {lora.base_name}, not on {base.name}"


def has_same_hashes(lora: AdapterFolder, base: ModelFolder) -> bool | None:
    """Whether the LoRA's training recorded the hashes of this folder; None if they cannot be compared."""
    recorded, known = lora.run.get("base_sha256"), base.hashes
    if not isinstance(recorded, dict) or not recorded:
        return None
    if "converted_from" in base.record:  # made here, perhaps by other versions than there
        return set(recorded.values()) == set(known.values()) or None
    if {Path(name).suffix for name in recorded} != {Path(name).suffix for name in known}:
        return None
    return set(recorded.values()) == set(known.values())


def find_form(name: str) -> str:
    """How the weights are quantised if the name says so ("gguf", "bnb-4bit", "gptq"), else empty."""
    found = CONVERTED.search(name.lower()) or ROUNDED.search(name.lower())
    return found[1] if found else ""


# By names


def is_called(base: ModelFolder, recorded: str) -> bool:
    """Whether the folder can be the model that is recorded so."""
    wanted = list_recorded_names(recorded)
    source = str(base.record.get("source", ""))
    known = set(list_folder_names(base.name))
    if HUB_ID.fullmatch(source):
        known.add(normalise(*source.split("/")))
    elif not is_path(recorded) and any(
        owner and base.name.lower().startswith(f"{owner}_{name}_") for owner, name in wanted
    ):
        return True  # OWNER_NAME_REVISION
    return any(
        name == other and (owner == maker or owner is None or maker is None)
        for owner, name in wanted
        for maker, other in known
    )


def list_recorded_names(recorded: str) -> set[Name]:
    """What a recorded base can be called: a folder's name may have an owner in it or not."""
    if found := CACHE.search(recorded):
        return {normalise(found[1], found[2])}
    if is_hub_id(recorded):
        return {normalise(*recorded.split("/"))}
    return set(list_folder_names(recorded.rpartition("/")[2]))


def is_path(recorded: str) -> bool:
    """True for a folder's path: what follows a name in it may be part of the name, and not a branch."""
    return not (is_hub_id(recorded) or CACHE.search(recorded))


def is_hub_id(recorded: str) -> bool:
    """True for OWNER/NAME; a path such as models/NAME looks the same except for its first part."""
    return bool(HUB_ID.fullmatch(recorded)) and recorded.split("/")[0] not in (".", "..", "models")


def list_folder_names(folder: str) -> Iterator[Name]:
    """A folder's name as a whole, and as OWNER_NAME. A number, as in NAME_1, is not a model's name."""
    yield normalise(None, folder)
    owner, _, name = folder.partition("_")
    if re.search("[^\\W\\d_]", name):
        yield normalise(owner, name)


def normalise(owner: str | None, name: str) -> Name:
    """A model's owner and name in lower case, without the words for a conversion."""
    owner, name = owner and owner.lower(), name.lower()
    plain = CONVERTED.sub("", name)
    return (None if plain != name or owner in MIRRORS else owner), plain


# By shapes


def find_misfit(lora: AdapterFolder, base: ModelFolder) -> str | None:
    """Where the shapes of the LoRA and of the base's blocks differ, in words; None if they fit.

    None as well for layers whose shapes the base's files do not tell.
    """
    layers = read_layers(base)
    kinds = {re.sub(r"\d+", "N", name, count=1) for name in layers}
    for module, pair in pair_factors(read_shapes(lora.weights)).items():
        found = BLOCK.search(module)
        if not found or lora.config.get("target_parameters") or lora.config.get("layer_replication"):
            continue
        wanted = layers.get(found[1])
        if wanted is None and re.sub(r"\d+", "N", found[1], count=1) in kinds:
            return f"it has no layer {module}"
        if (
            wanted
            and not fits(pair, wanted)
            and not (lora.config.get("fan_in_fan_out") and fits(pair, wanted[::-1]))
        ):
            shapes = " and ".join(str(pair[half]) for half in sorted(pair))
            return f"{module} has the shapes {shapes}, its layer {wanted[0]} inputs and {wanted[1]} outputs"
    return None


def fits(pair: dict[str, tuple[int, ...]], layer: tuple[int, ...]) -> bool:
    """True if A (rank, inputs) and B (outputs, rank) belong to a layer of (inputs, outputs)."""
    if set(pair) != {"A", "B"} or len(pair["A"]) != 2 or len(pair["B"]) != 2:
        return False
    (rank, inputs), (outputs, other_rank) = pair["A"], pair["B"]
    return (inputs, outputs) == layer and rank == other_rank


def read_layers(base: ModelFolder) -> dict[str, tuple[int, int]]:
    """{layers.0.mlp.up_proj: (inputs, outputs)} from the headers of the safetensors files.

    Packed numbers are counted as what they hold. Two layers of one name, in a decoder and in a vision tower,
    are left out, and so are layers in forms that are not known here.
    """
    layers: dict[str, set[tuple[int, int]]] = {}
    for name, shape in read_names(base).items():
        module, _, kind = name.rpartition(".")
        found = BLOCK.search(module)
        if found and (layer := read_layer(kind, shape, base.quantization)):
            layers.setdefault(found[1], set()).add(layer)
    return {name: next(iter(found)) for name, found in layers.items() if len(found) == 1}


def read_names(base: ModelFolder) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors in the safetensors files of a folder, by their names."""
    found: dict[str, tuple[int, ...]] = {}
    for file in base.safetensors:
        with contextlib.suppress(KitError):  # a damaged folder is refused where it is loaded
            found |= read_shapes(file)
    return found


def read_layer(
    kind: str, shape: tuple[int, ...], quantization: Quantization | None
) -> tuple[int, int] | None:
    """(inputs, outputs) of a layer from its tensor of this kind; None if that does not tell."""
    if len(shape) != 2:
        return None
    rows, columns = shape
    if kind == "weight" and not (quantization and quantization.method == "bitsandbytes"):
        return columns, rows
    if kind != "qweight" or quantization is None or not quantization.bits:
        return None
    settings, packed = quantization.settings, 32 // quantization.bits  # weights in a number
    layout = (
        quantization.method,
        str(settings.get("checkpoint_format") or settings.get("version") or "").lower(),
    )
    if layout in (("gptq", ""), ("gptq", "gptq"), ("gptq", "gptq_v2")):
        return rows * packed, columns
    return (rows, columns * packed) if layout in (("awq", ""), ("awq", "gemm")) else None


# The folder


def find_base(lora: AdapterFolder, remedy: str = "Name it with --model.") -> ModelFolder:
    """The complete folder in models/ that the LoRA belongs to, best of all one of the recorded name.

    Raises MismatchError with `remedy` if no base is recorded, NotFoundError if it is not there, and
    DamagedError if it is incomplete.
    """
    recorded = lora.need_base(remedy)
    if found := list_bases(lora, recorded):
        return find_model(found[0].name)
    fetch = f"Fetch it: python -m helpers.weights fetch {recorded}"
    problem = f"The base of the LoRA {lora.name}, {lora.base_name}, is not in {models_folder()}."
    raise NotFoundError(problem, fetch if is_hub_id(recorded) else "See `python -m helpers.weights list`.")


def find_gguf(lora: AdapterFolder, remedy: str) -> ModelFolder:
    """The folder in models/ with the GGUF version of the LoRA's base. Errors as find_base."""
    recorded = ROUNDED.sub("", lora.need_base(remedy))
    for folder in list_bases(lora, recorded):
        if folder.gguf:
            return folder
    name = CONVERTED.sub("", recorded.rpartition("/")[2]) + "-GGUF"
    fetch = f"Fetch the GGUF version of {lora.base_name}: python -m helpers.weights fetch REPO."
    raise NotFoundError(f"No model '{name}' in {models_folder()}.", fetch)


def list_bases(lora: AdapterFolder, recorded: str) -> list[ModelFolder]:
    """The folders in models/ that have this name: those with the same hashes first, then the exact name."""
    names = (recorded.rpartition("/")[2], name_folder(recorded))
    _ = lora.run  # a damaged one is an error of the LoRA, not of a base
    found = []
    for folder in (ModelFolder(models_folder() / name) for name in list_subfolders(models_folder())):
        exact = folder.name in names
        try:
            same = has_same_hashes(lora, folder) is True
            called = is_called(folder, recorded)
        except (KitError, OSError):  # a damaged record, which is an error only in the base itself
            same, called = False, exact
        if same or called:
            found.append(((not same, not exact, folder.gguf is not None), folder))
    return [folder for _, folder in sorted(found, key=lambda entry: entry[0])]
