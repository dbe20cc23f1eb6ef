"""The kernel that multiplies GPTQ weights: which one, and why (`kernel_trial`: whether it runs here).

gptqmodel has several. Which of them can take a folder (bits, group size, order of the columns, sizes) and
which dtypes and devices, it says itself. What is kept here is what it does not say: how fast they were, which
of them a compiler must build first, and through which of them gradients flow.
"""

import importlib.util
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from helpers.common.errors import UnsupportedError, UsageError
from helpers.common.machine import Choice, name_dtype
from helpers.loading._private import find_kernel_class, is_built

if TYPE_CHECKING:
    from helpers.weights.config import Quantization

ASKED = "KIT_GPTQ_KERNEL"  # environment variable: the name of the kernel to take if it can be taken
# Where tokens a second were measured, on 2026-11-27. Starting kernels took most of that time, so that CUDA
# graphs may change the order.
WHERE = "a 7B shape on one H200, one client, without CUDA graphs"


@dataclass(frozen=True)
class Kernel:
    """One of gptqmodel's kernels for CUDA."""

    name: str  # gptqmodel's backend
    speed: float | None  # tokens a second (WHERE); None: not measured, so that it is taken on request only
    trains: bool  # whether gradients flow through it
    capability: tuple[int, int] = (0, 0)  # the oldest GPU that it runs on
    compiled: str = ""  # nvcc builds it when it is first used, and how long that took
    extensions: tuple[str, ...] = ()  # what is built, by gptqmodel's names
    needs_triton: bool = False


KERNELS = (
    # The function that unpacks weights is all that training needs (helpers.loading.gptq_training). Compute
    # capability 7.0 is what torch asks of a GPU for Triton.
    Kernel("gptq_triton", 17.4, True, (7, 0), needs_triton=True),
    Kernel(
        "gptq_exllama_v2", 14.6, False, compiled="36 s on the machine of an H200", extensions=("exllamav2",)
    ),
    Kernel("gptq_torch", 7.9, True),
    Kernel(
        "gptq_marlin", None, False, (7, 5), "minutes; not measured", extensions=("marlin_fp16", "marlin_bf16")
    ),
)
LAST = "gptq_torch"  # it runs wherever torch does


@dataclass(frozen=True)
class KernelFacts:
    """What the choice follows from: the machine, the folder, and the use."""

    device: str  # "cuda" or "cpu"
    purpose: str = "inference"  # or "judging" or "training"
    dtype: str = "float16"
    bits: int = 4
    group_size: int = 128
    act_order: bool = False
    symmetric: bool = True
    capability: tuple[int, int] = (8, 0)  # of the GPU
    has_triton: bool = True
    has_compiler: bool = False  # nvcc and a C++ compiler
    built: frozenset[str] = frozenset()  # the kernels that gptqmodel keeps compiled from an earlier time
    asked: str = ""  # the name that a user asks for
    sizes: tuple[tuple[int, int], ...] = ()  # (inputs, outputs) of the layers, as far as they are known


def read_facts(
    device: str,
    dtype: str,
    purpose: str = "inference",
    quantization: "Quantization | None" = None,
    sizes: tuple[tuple[int, int], ...] = (),
) -> KernelFacts:
    """The facts of this machine, and of a folder whose weights are quantised so."""
    recorded = quantization.settings if quantization else {}
    facts = KernelFacts(
        device=device,
        purpose=purpose,
        dtype=dtype,
        bits=(quantization and quantization.bits) or 4,
        group_size=(quantization and quantization.group_size) or 128,
        act_order=bool(quantization and quantization.act_order),
        symmetric=recorded.get("sym") is not False,
        asked=os.environ.get(ASKED, ""),
        sizes=sizes,
    )
    return replace(facts, **measure_machine()) if device == "cuda" else facts


def measure_machine() -> dict[str, Any]:
    """What KernelFacts says of the machine, which has a GPU."""
    import torch
    from torch.utils.cpp_extension import CUDA_HOME

    nvcc = shutil.which("nvcc") or (CUDA_HOME and shutil.which("nvcc", path=os.path.join(CUDA_HOME, "bin")))
    return {
        "capability": torch.cuda.get_device_capability(),
        "has_triton": bool(importlib.util.find_spec("triton")),
        "has_compiler": bool(nvcc and shutil.which(os.environ.get("CXX", "c++"))),
        "built": frozenset(
            kernel.name for kernel in KERNELS if kernel.compiled and all(map(is_built, kernel.extensions))
        ),
    }


def pick_kernel(facts: KernelFacts) -> Choice[str | None]:
    """gptqmodel's name of the kernel to take, with the reason; None leaves the choice to gptqmodel."""
    return next(list_kernels(facts))


def list_kernels(facts: KernelFacts) -> Iterator[Choice[str | None]]:
    """The kernels that can be taken, the best first: if one of them does not run here, the next one is taken.

    Raises UsageError for a name that is asked for and not known, UnsupportedError if it cannot be taken.
    """
    if facts.device != "cuda":
        training = facts.purpose == "training"
        words = "gradients flow through it" if training else "gptqmodel's own choice is the fastest on a CPU"
        yield Choice(LAST if training else None, words)
        return
    unmeasured = [
        describe_unmeasured(kernel) for kernel in KERNELS if not kernel.speed and not why_not(kernel, facts)
    ]
    passed = []
    for kernel in order_kernels(facts.asked):
        reason = why_not(kernel, facts)
        if reason and kernel.name == facts.asked:
            problem = f"{ASKED} asks for {kernel.name}, which cannot be taken: {reason}."
            raise UnsupportedError(problem, f"Unset {ASKED}, and the kit chooses one.")
        if not reason:
            measured = [describe_speed(kernel), *passed, *unmeasured]
            why = ["asked for"] if kernel.name == facts.asked else measured
            yield Choice(kernel.name, "; ".join(why))
        passed += [f"not {kernel.name}: {reason}"] if reason and kernel.speed else []


def order_kernels(asked: str) -> list[Kernel]:
    """The kernel that is asked for, then those that were measured, the fastest first and LAST at the end."""
    names = [kernel.name for kernel in KERNELS]
    if asked and asked not in names:
        raise UsageError(f"{ASKED} is '{asked}', which is not a kernel.", f"Use one of: {', '.join(names)}.")
    measured = [kernel for kernel in KERNELS if kernel.speed and kernel.name != asked]
    measured.sort(key=lambda kernel: (kernel.name == LAST, -(kernel.speed or 0)))
    return [*(kernel for kernel in KERNELS if kernel.name == asked), *measured]


def why_not(kernel: Kernel, facts: KernelFacts) -> str:
    """Why a kernel cannot be taken, in words; empty if it can."""
    if kernel.name == LAST and not facts.asked:
        return ""
    if facts.purpose == "training" and not kernel.trains:
        return "no gradient flows through it"
    if kernel.needs_triton and not facts.has_triton:
        return "Triton is not installed"
    if kernel.compiled and not facts.has_compiler and kernel.name not in facts.built:
        return "it must be compiled, and nvcc or a C++ compiler is missing"
    if facts.capability < kernel.capability:
        return f"the GPU has compute capability {show(facts.capability)}, it needs {show(kernel.capability)}"
    return why_outside(find_kernel_class(kernel.name), facts)


def why_outside(limits: Any, facts: KernelFacts) -> str:
    """Why gptqmodel does not offer the kernel of this class for a folder, in words; empty if it does."""
    offered = [
        (facts.bits, limits.SUPPORTS_BITS, f"{facts.bits} bits"),
        (facts.group_size, limits.SUPPORTS_GROUP_SIZE, f"groups of {facts.group_size}"),
        (facts.act_order, limits.SUPPORTS_DESC_ACT, f"act-order {facts.act_order}"),
        (facts.symmetric, limits.SUPPORTS_SYM, "asymmetric weights"),
        (facts.dtype, [name_dtype(one) for one in limits.SUPPORTS_DTYPES], facts.dtype),
    ]
    for inputs, outputs in facts.sizes:
        divided = all(inputs % step == 0 for step in limits.SUPPORTS_IN_FEATURES_DIVISIBLE_BY)
        divided &= all(outputs % step == 0 for step in limits.SUPPORTS_OUT_FEATURES_DIVISIBLE_BY)
        offered.append((divided, [True], f"layers of {inputs} x {outputs}"))
    missing = [words for value, known, words in offered if value not in known]
    return f"gptqmodel does not offer it for {missing[0]}" if missing else ""


def show(capability: tuple[int, int]) -> str:
    """A compute capability as NVIDIA writes it, such as 7.5."""
    return ".".join(map(str, capability))


def describe_speed(kernel: Kernel) -> str:
    """How fast a kernel was."""
    return f"{kernel.speed} tokens a second ({WHERE})"


def describe_unmeasured(kernel: Kernel) -> str:
    """Why a kernel that can be taken is not."""
    return f"not {kernel.name}: it was not measured; {ASKED}={kernel.name} asks for it"
