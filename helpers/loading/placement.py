"""Where a model goes: a GPU, the CPU, or spread over several places."""

import re
from collections.abc import Mapping

import torch

from helpers.common.errors import UnsupportedError, UsageError
from helpers.common.machine import Choice, pick_device

Place = str | int | torch.device
# Values of device_map with which transformers decides.
STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")
# "14GiB" or "0.5 GB": what accelerate's convert_file_size_to_int reads.
SIZE = re.compile(r"(\d+\.?\d*|\.\d+)\s*[KMG]i?B", re.IGNORECASE)


def pick_place(
    device_map: Place | Mapping[str, Place] | None, max_memory: Mapping[Place, int | str] | None
) -> Choice[str]:
    """Where a model goes, "cuda" or "cpu", and why.

    Raises UsageError for what is not a place or a size, UnsupportedError for a GPU that is not there.
    """
    spread = device_map is None or device_map in STRATEGIES
    for size in (max_memory or {}).values():
        if isinstance(size, str) and not SIZE.fullmatch(size):
            raise UsageError(f"'{size}' in max_memory is not a size.", "Write it as '14GiB'.")
    places: list[Place] = list(max_memory or {})
    if isinstance(device_map, Mapping):
        places += device_map.values()
    elif device_map is not None and not spread:
        places.append(device_map)
    kinds = {find_kind(place) for place in places}
    if spread and not max_memory:
        return pick_device()
    return Choice("cuda" if "cuda" in kinds else "cpu", "asked for with device_map or max_memory")


def find_kind(place: Place) -> str:
    """Returns "cuda" for a GPU (a number means one), "cpu" or "disk". Errors as pick_place."""
    if place == "disk":
        return "disk"
    try:
        device = torch.device("cuda", place) if isinstance(place, int) else torch.device(place)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cuda", "cpu"):
        remedy = "Use 'cpu', 'disk', the number of a GPU, or device_map='auto'."
        raise UsageError(f"'{place}' is not a place for a model.", remedy)
    number = device.index or 0
    if device.type == "cuda" and number >= torch.cuda.device_count():
        problem = f"There is no GPU {number} on this machine ({pick_device().reason})."
        raise UnsupportedError(problem, "Name one that is there, 'cpu', or 'auto'.")
    return device.type
