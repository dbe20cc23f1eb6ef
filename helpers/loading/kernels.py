"""The kernel that multiplies GPTQ weights: which one, why, and whether it runs on this machine.

gptqmodel has several. Which of them can take a folder (bits, group size, order of the columns, sizes) and
which dtypes and devices, it says itself. What is kept here is what it does not say: how fast they were, which
of them a compiler must build first, and through which of them gradients flow.
"""

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from helpers.common.arguments import state_reason
from helpers.common.errors import UnsupportedError, UsageError
from helpers.common.machine import Choice, name_dtype, pick_device, pick_dtype
from helpers.loading._private import find_kernel_class, is_built, undo_compiling
from helpers.loading.gptq_training import let_gradients_through
from helpers.weights._private import import_gptqmodel
from helpers.weights.quiet import quiet_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

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


def choose_kernel(
    facts: KernelFacts, run: "Callable[[KernelFacts, str], None] | None" = None
) -> Choice[str | None]:
    """The best kernel that runs here: on a GPU each is tried with one block first, and the next one is taken,
    and said, if that fails.

    The last one is taken untried. `run` raises an error if a kernel does not run; None tries one block.
    """
    run = run or try_once
    candidates = list(list_kernels(facts))
    failed = []
    for candidate in candidates[:-1]:
        name = str(candidate.value)
        say_compiling(name, facts.built)
        try:
            run(facts, name)
        except Exception as error:  # of any kind: a compiler's, a driver's, a library's
            failed.append(f"{name} does not run here ({state_reason(error)})")
            print(f"{failed[-1]}: another kernel is taken.", file=sys.stderr)
            continue
        return Choice(name, "; ".join([*failed, candidate.reason]))
    return Choice(candidates[-1].value, "; ".join([*failed, candidates[-1].reason]))


def say_compiling(name: str, built: frozenset[str] = frozenset()) -> None:
    """Prints, to stderr, that a kernel is compiled unless it is one of `built`, and how long that took."""
    took = next((kernel.compiled for kernel in KERNELS if kernel.name == name), "")
    if took and name not in built:
        print(f"The kernel {name} is compiled, once: {took}.", file=sys.stderr, flush=True)


@cache
def try_once(facts: KernelFacts, name: str) -> None:
    """try_kernel, once in a process for the same facts."""
    try_kernel(facts, name)


def try_layer() -> None:
    """Runs a block of GPTQ layers on this machine's device, with the kernel that the kit picks there.

    Errors as try_kernel.
    """
    device = pick_device().value
    dtype = name_dtype(pick_dtype(device).value) if device == "cuda" else "float16"
    facts = read_facts(device, dtype)
    try_kernel(facts, choose_kernel(facts).value)


def try_kernel(facts: KernelFacts, name: str | None) -> None:
    """Runs a model of one block with GPTQ layers, all zero, and for a training its backward pass too.

    Raises what gptqmodel, optimum or a kernel raises, and UnsupportedError if the result is not finite.
    """
    import torch

    training = facts.purpose == "training"
    with quiet_transformers(), torch.inference_mode(not training):
        model = build_gptq_block(facts, name)
        logits = model(torch.arange(16, device=facts.device)[None]).logits
        if training:
            logits.sum().backward()
    if not torch.isfinite(logits).all():
        raise UnsupportedError("A GPTQ layer gives no finite numbers.", "Use the lane tiny.")


def build_gptq_block(facts: KernelFacts, name: str | None) -> "PreTrainedModel":
    """A Llama of one block with GPTQ layers, all zero, quantised as the facts say."""
    import_gptqmodel()
    import torch
    from optimum.gptq import GPTQQuantizer
    from transformers import LlamaConfig, LlamaForCausalLM

    hidden = max(128, facts.group_size)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=4,
    )
    quantizer = GPTQQuantizer(
        bits=facts.bits,
        group_size=facts.group_size,
        desc_act=facts.act_order,
        act_group_aware=not facts.act_order,  # gptqmodel refuses both
        sym=facts.symmetric,
        backend=name,
    )
    model = LlamaForCausalLM(config).to(getattr(torch, facts.dtype))
    model = quantizer.convert_model(model, device_map={"": facts.device})
    model = quantizer.post_init_model(model.to(facts.device))
    undo_compiling(model)
    if facts.purpose == "training":
        let_gradients_through(model)
    return model
