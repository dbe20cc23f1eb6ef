"""Whether a kernel of GPTQ weights runs on this machine: it is tried with one block before it is taken."""

import sys
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from helpers.common.arguments import state_reason
from helpers.common.errors import UnsupportedError
from helpers.common.machine import Choice, name_dtype, pick_device, pick_dtype
from helpers.loading._private import undo_compiling
from helpers.loading.gptq_training import let_gradients_through
from helpers.loading.kernels import KERNELS, KernelFacts, list_kernels, read_facts
from helpers.weights._private import import_gptqmodel
from helpers.weights.quiet import quiet_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedModel


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
