"""Which GPTQ kernel is taken, and why: facts of machine and folder are given, so that no GPU is needed."""

import importlib.util
from dataclasses import replace

import pytest

from helpers.common.errors import UnsupportedError, UsageError
from helpers.loading._private import is_built
from helpers.loading.kernel_trial import choose_kernel, try_kernel
from helpers.loading.kernels import KERNELS, LAST, KernelFacts, list_kernels, pick_kernel, read_facts
from helpers.weights.config import read_quantization

needs_gptqmodel = pytest.mark.skipif(
    not importlib.util.find_spec("gptqmodel"), reason="gptqmodel is for Linux: pip install -e '.[gptq]'"
)
pytestmark = needs_gptqmodel
H200 = KernelFacts("cuda", dtype="bfloat16", capability=(9, 0), has_compiler=True)
T4 = KernelFacts("cuda", capability=(7, 5))
P100 = KernelFacts("cuda", capability=(6, 0), has_compiler=True)
OLD = replace(T4, has_triton=False)


@pytest.mark.parametrize(
    ("facts", "kernel", "reason"),
    [
        (H200, "gptq_triton", "17.4 tokens"),
        (T4, "gptq_triton", "17.4 tokens"),
        (P100, "gptq_exllama_v2", "compute capability 6.0"),
        (replace(H200, has_triton=False), "gptq_exllama_v2", "Triton is not installed"),
        (OLD, "gptq_torch", "nvcc or a C++ compiler is missing"),
        (replace(OLD, purpose="training", has_compiler=True), "gptq_torch", "no gradient"),
        (replace(H200, purpose="training"), "gptq_triton", "17.4 tokens"),
        (replace(H200, bits=3), "gptq_torch", "not gptq_triton: gptqmodel does not offer it for 3 bits"),
        (replace(P100, group_size=16), "gptq_torch", "groups of 16"),
        (replace(P100, bits=8), "gptq_torch", "8 bits"),
        (replace(H200, dtype="float32"), "gptq_torch", "float32"),
        (replace(H200, sizes=((128, 36),)), "gptq_torch", "128 x 36"),
        (KernelFacts("cpu"), None, "own choice"),
        (KernelFacts("cpu", purpose="training"), "gptq_torch", "gradients"),
    ],
)
def test_fastest_kernel_that_machine_and_folder_allow_is_taken_with_its_reason(facts, kernel, reason):
    choice = pick_kernel(facts)
    assert choice.value == kernel
    assert reason in choice.reason


@pytest.mark.parametrize("purpose", ["inference", "judging", "training"])
@pytest.mark.parametrize("facts", [H200, T4, P100, OLD])
def test_what_was_not_measured_is_never_taken_unasked_and_the_last_one_always_runs(facts, purpose):
    names = [choice.value for choice in list_kernels(replace(facts, purpose=purpose))]
    measured = [kernel.name for kernel in KERNELS if kernel.speed]
    assert names == [name for name in measured if name in names]
    assert names[-1] == LAST


@pytest.mark.parametrize("facts", [H200, T4, P100, OLD])
def test_nothing_is_compiled_without_a_compiler_nor_takes_gradients_that_do_not_flow(facts):
    kernels = {kernel.name: kernel for kernel in KERNELS}
    plain = list_kernels(replace(facts, has_compiler=False))
    assert not any(kernels[choice.value].compiled for choice in plain)
    training = list_kernels(replace(facts, purpose="training"))
    assert all(kernels[choice.value].trains for choice in training)


@pytest.mark.parametrize("facts", [H200, replace(H200, has_compiler=False, built=frozenset({"gptq_marlin"}))])
def test_kernel_that_could_be_taken_and_was_not_measured_is_named_in_the_reason(facts):
    reason = pick_kernel(facts).reason
    assert "not gptq_marlin: it was not measured" in reason and "KIT_GPTQ_KERNEL=gptq_marlin" in reason


@pytest.mark.parametrize("changes", [{"has_compiler": False}, {"purpose": "training"}, {"bits": 3}])
def test_kernel_that_could_not_be_taken_anyway_is_not_offered(changes):
    assert "marlin" not in pick_kernel(replace(H200, **changes)).reason


def test_kernel_that_is_built_already_needs_no_compiler_and_says_nothing_of_one(capsys):
    plain = replace(H200, has_compiler=False, has_triton=False)
    built = replace(plain, built=frozenset({"gptq_exllama_v2"}))
    assert (pick_kernel(plain).value, pick_kernel(built).value) == ("gptq_torch", "gptq_exllama_v2")
    assert choose_kernel(built, fail()).value == "gptq_exllama_v2"
    assert capsys.readouterr().err == ""


def test_order_of_the_kernels_follows_the_figures(monkeypatch):
    faster = [replace(kernel, speed=60.0) if kernel.extensions else kernel for kernel in KERNELS]
    monkeypatch.setattr("helpers.loading.kernels.KERNELS", tuple(faster))
    names = [choice.value for choice in list_kernels(H200)]
    assert names == ["gptq_exllama_v2", "gptq_marlin", "gptq_triton", "gptq_torch"]


def test_extension_is_built_when_gptqmodel_keeps_its_binary(tmp_path, monkeypatch):
    monkeypatch.setenv("GPTQMODEL_EXLLAMAV2_BUILD_ROOT", str(tmp_path))
    assert not is_built("exllamav2")
    from gptqmodel import extension

    found = extension._extension_for_name("exllamav2")
    found.build_root().mkdir(parents=True)
    (found.build_root() / f"{found.name}.so").touch()
    assert is_built("exllamav2")


def test_kernel_that_is_asked_for_comes_first_and_the_others_follow():
    names = [choice.value for choice in list_kernels(replace(H200, asked="gptq_marlin"))]
    assert names == ["gptq_marlin", "gptq_triton", "gptq_exllama_v2", "gptq_torch"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"has_compiler": False}, "nvcc"),
        ({"purpose": "training"}, "no gradient"),
        ({"symmetric": False}, "asymmetric"),
        ({"capability": (7, 0)}, "7.0, it needs 7.5"),
    ],
)
def test_kernel_that_is_asked_for_and_cannot_be_taken_is_refused_with_the_reason(changes, reason):
    with pytest.raises(UnsupportedError, match=f"gptq_marlin.*{reason}"):
        pick_kernel(replace(H200, asked="gptq_marlin", **changes))


def test_unknown_name_is_refused_with_those_that_there_are(monkeypatch):
    monkeypatch.setenv("KIT_GPTQ_KERNEL", "marlin")
    facts = replace(read_facts("cpu", "float32"), device="cuda")
    with pytest.raises(UsageError, match="'marlin'.*gptq_triton, gptq_exllama_v2, gptq_torch, gptq_marlin"):
        pick_kernel(facts)


def test_folder_says_how_its_weights_are_quantised():
    recorded = {"quant_method": "gptq", "bits": 8, "group_size": -1, "desc_act": True, "sym": False}
    facts = read_facts("cpu", "float16", "training", read_quantization({"quantization_config": recorded}))
    assert (facts.bits, facts.group_size, facts.act_order, facts.symmetric) == (8, -1, True, False)


# Kernels that do not run


def fail(*names):
    """What tries kernels, those of these names without success."""

    def run(facts, name):
        if name in names:
            raise RuntimeError(f"no kernel image for {name}. Please see the manual.")

    return run


def test_kernel_that_does_not_run_makes_room_for_the_next_one_which_is_said(capsys):
    choice = choose_kernel(H200, fail("gptq_triton"))
    assert choice.value == "gptq_exllama_v2"
    assert "gptq_triton does not run here (no kernel image for gptq_triton)" in choice.reason
    lines = capsys.readouterr().err.splitlines()
    assert "gptq_triton does not run here" in lines[0]
    assert "compiled" in lines[1] and "36 s" in lines[1]


def test_last_kernel_is_taken_whatever_became_of_the_others():
    choice = choose_kernel(H200, fail("gptq_triton", "gptq_exllama_v2", LAST))
    assert choice.value == LAST
    assert "gptq_exllama_v2 does not run here" in choice.reason


def test_first_kernel_that_runs_is_taken_without_a_word(capsys):
    assert choose_kernel(T4, fail()) == pick_kernel(T4)
    assert capsys.readouterr().err == ""


@pytest.mark.long
@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, None),
        ({"purpose": "training"}, "gptq_torch"),
        ({"bits": 8, "group_size": 64, "act_order": True, "purpose": "training"}, "gptq_torch"),
        ({"group_size": -1}, "gptq_torch"),
    ],
)
def test_trial_runs_a_block_that_is_quantised_as_the_folder(changes, name):
    try_kernel(replace(KernelFacts("cpu"), **changes), name)
