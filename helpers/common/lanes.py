"""Lanes: settings for a class of machine. `KIT_LANE` overrides the choice.

The lessons' cells are the same in every lane.
"""

import importlib.util
import os
import platform
from dataclasses import dataclass

import psutil

from helpers.common.errors import UsageError
from helpers.common.machine import Choice, measure_memory, pick_device, pick_dtype


@dataclass(frozen=True)
class Lane:
    """Settings for a class of machine."""

    name: str  # what KIT_LANE takes
    machines: str  # the machines that it is for
    model: str  # a name in the catalogue of helpers.weights, or OWNER/REPO
    revision: str  # the branch of that repository
    folder: str  # its folder below models/
    loader: str  # transformers or gptq
    gpu_gb: int  # GPU memory that it needs, GB; 0 for a CPU


LANES = {
    lane.name: lane
    for lane in (
        Lane(
            name="tiny", machines="any CPU, CI, a GPU without GPTQ",
            model="smollm2-135m-instruct", revision="main", folder="SmolLM2-135M-Instruct",
            loader="transformers", gpu_gb=0,
        ),
        Lane(
            name="t4", machines="a 15 GB GPU, such as Colab's T4",
            model="TheBloke/Llama-2-7B-Chat-GPTQ", revision="main", folder="TheBloke_Llama-2-7B-Chat-GPTQ",
            loader="gptq", gpu_gb=14,
        ),
        Lane(
            name="large", machines="an 80 GB GPU, such as an A100 or H100",
            model="TheBloke/Llama-2-70B-chat-GPTQ", revision="gptq-4bit-64g-actorder_True",
            folder="TheBloke_Llama-2-70B-chat-GPTQ_gptq-4bit-64g-actorder_True",
            loader="gptq", gpu_gb=60,  # training peaked at 55 to 59 GB on an H200; running takes 40
        ),
    )
}  # fmt: skip


def pick_lane() -> Choice[Lane]:
    """The lane for this machine; a UsageError if KIT_LANE names none."""
    forced = os.environ.get("KIT_LANE")
    if forced:
        if forced not in LANES:
            raise UsageError(
                f"KIT_LANE is '{forced}', which is not a lane.", f"Use one of: {', '.join(LANES)}."
            )
        return Choice(LANES[forced], "KIT_LANE asks for it")
    device = pick_device()
    if device.value != "cuda":
        return Choice(LANES["tiny"], f"no NVIDIA GPU: {device.reason}")
    if not importlib.util.find_spec("gptqmodel"):
        return Choice(
            LANES["tiny"], "there is a GPU, but gptqmodel, which reads GPTQ weights, is not installed"
        )
    import torch

    gigabytes = torch.cuda.get_device_properties(0).total_memory / 1e9
    fitting = [lane for lane in LANES.values() if lane.gpu_gb <= gigabytes]
    return Choice(fitting[-1], f"the GPU has {gigabytes:.0f} GB, the lane needs {fitting[-1].gpu_gb}")


def describe() -> dict[str, Choice]:
    """What the first cell of a lesson shows: device, dtype, memory, cores and lane, each with its reason."""
    device, lane = pick_device(), pick_lane()
    (free, total), reason = measure_memory(device.value)
    return {
        "device": device,
        "dtype": pick_dtype(device.value),
        "memory": Choice(f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free", reason),
        "cores": Choice(
            psutil.cpu_count(logical=False) or os.cpu_count(), f"{platform.system()}, {platform.machine()}"
        ),
        "lane": Choice(lane.value.name, lane.reason),
    }
