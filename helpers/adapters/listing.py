"""What is known of the LoRAs in loras/, as `python -m helpers.adapters list` and lesson 5 show it."""

from dataclasses import dataclass
from pathlib import Path

from helpers.adapters.bases import explain_other_base, list_bases
from helpers.adapters.folders import AdapterFolder, check_name, locate_adapter, loras_folder
from helpers.adapters.parts import check_supported, explain_changed_base
from helpers.adapters.tensors import pair_factors, read_shapes
from helpers.common.errors import KitError
from helpers.weights.folders import ModelFolder


@dataclass(frozen=True)
class LoraFacts:
    """What `adapters list` shows of a folder; None means not recorded."""

    name: str
    base: str | None = None  # its folder's name
    rank: int | None = None
    targets: str | None = None  # names of layers
    bytes: int = 0  # of the file with the weights
    data: str | None = None  # what it was trained on
    accuracy: float | None = None  # share between 0 and 1, from run.json; of labels
    exact_match: float | None = None  # the same, of free answers
    problem: str | None = None  # why it cannot be attached, in words


def describe_adapter(name: str, loras_dir: Path | None = None) -> LoraFacts:
    """What is known of one folder below loras/; a broken one has its `problem`, in words."""
    folder = AdapterFolder((loras_dir or loras_folder()) / name)
    try:
        check_name(folder.name)
        folder = AdapterFolder(locate_adapter(name, loras_dir))  # a link to nowhere is named as one
        folder.check_complete()
        return read_facts(folder)
    except KitError as error:
        return LoraFacts(folder.name, problem=error.problem)
    except (OSError, AttributeError, TypeError, ValueError, ArithmeticError) as error:
        # JSON of another form than PEFT's
        return LoraFacts(folder.name, problem=f"its files cannot be understood ({error})")


def read_facts(folder: AdapterFolder) -> LoraFacts:
    """The facts of a complete folder."""
    run = folder.run
    found = run.get("evaluation", {}).get("lora", {})
    accuracy, exact_match = found.get("accuracy"), found.get("exact_match")
    bases = list_bases(folder, folder.recorded_base) if folder.recorded_base else []
    return LoraFacts(
        name=folder.name,
        base=bases[0].name if bases else folder.base_name,
        rank=folder.config.get("r"),
        targets=folder.targets_in_words,
        bytes=folder.weights.stat().st_size,
        data=run.get("data"),
        accuracy=float(accuracy) if accuracy is not None else None,
        exact_match=float(exact_match) if exact_match is not None else None,
        problem=find_problem(folder, bases),
    )


def find_problem(folder: AdapterFolder, bases: list[ModelFolder]) -> str | None:
    """Why the LoRA cannot be attached to its base, the first of `bases`; None if nothing is known."""
    if not pair_factors(read_shapes(folder.weights)):
        return "no LoRA matrices in its weights"
    if folder.recorded_base and not bases:
        return f"its base {folder.base_name} is not in models/"
    base = bases[0] if bases else None
    if base and (reason := explain_other_base(folder, base)):
        return f"it {reason}"
    check_supported(folder, matching=False)
    reason = explain_changed_base(folder, base)
    return f"it {reason}" if reason else None
