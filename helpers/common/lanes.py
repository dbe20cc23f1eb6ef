"""What this computer has: device, dtype, memory, each with the reason; and the lane that fits it.

A lane is a set of settings for a class of machine. The notebooks' cells are the same in every lane; `KIT_LANE` overrides the choice.
"""

import importlib.util
import os
import platform
from dataclasses import dataclass

import psutil
import torch

from helpers.common.errors import KitError
from helpers.common.machine import Choice, measure_memory, pick_device, pick_dtype


@dataclass(frozen=True)
class Lane:
    """Settings for a class of machine."""

    name: str  # what KIT_LANE takes
    machines: str  # for whom
    model: str  # name in the catalogue of helpers.weights, or OWNER/REPO
    revision: str  # branch of that repository
    folder: str  # where it lies below models/
    loader: str  # transformers or gptq
    batch_size: int  # rows an optimizer step
    gpu_gb: int  # GPU memory it needs, GB; 0 for a CPU


LANES = {
    lane.name: lane
    for lane in (
        Lane("tiny", "any CPU, CI, a GPU without GPTQ", "smollm2-135m-instruct", "main", "SmolLM2-135M-Instruct", "transformers", 8, 0),
        Lane("t4", "a 15 GB GPU, such as Colab's T4", "TheBloke/Llama-2-7B-Chat-GPTQ", "main", "TheBloke_Llama-2-7B-Chat-GPTQ", "gptq", 8, 14),
        Lane(
            "large", "a 48-80 GB GPU", "TheBloke/Llama-2-70B-chat-GPTQ", "gptq-4bit-64g-actorder_True",
            "TheBloke_Llama-2-70B-chat-GPTQ_gptq-4bit-64g-actorder_True", "gptq", 8, 45,
        ),
    )
}  # fmt: skip


def pick_lane() -> Choice:
    """The lane for this machine; raises KitError for an unknown KIT_LANE."""
    forced = os.environ.get("KIT_LANE")
    if forced:
        if forced not in LANES:
            raise KitError(f"KIT_LANE is '{forced}', which is no lane.", f"Use one of: {', '.join(LANES)}.")
        return Choice(LANES[forced], "KIT_LANE asks for it")
    device = pick_device()
    if device.value == "cpu":
        return Choice(LANES["tiny"], f"no GPU: {device.reason}")
    if not importlib.util.find_spec("gptqmodel"):
        return Choice(
            LANES["tiny"], "there is a GPU, but gptqmodel, which reads GPTQ weights, is not installed"
        )
    gigabytes = torch.cuda.get_device_properties(0).total_memory / 1e9
    fitting = [lane for lane in LANES.values() if lane.gpu_gb <= gigabytes]
    return Choice(fitting[-1], f"the GPU has {gigabytes:.0f} GB, the lane needs {fitting[-1].gpu_gb}")


def describe() -> dict[str, Choice]:
    """Everything the first cell of a notebook shows: one Choice a line."""
    device = pick_device()
    (free, total), why = measure_memory(device.value)
    return {
        "device": device,
        "dtype": pick_dtype(device.value),
        "memory": Choice(f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free", why),
        "cores": Choice(
            psutil.cpu_count(logical=False) or os.cpu_count(), f"{platform.system()}, {platform.machine()}"
        ),
        "lane": Choice((lane := pick_lane()).value.name, lane.reason),
    }
