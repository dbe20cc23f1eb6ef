"""LoRAs on a loaded model: attached, switched, turned up and down, detached; misfits are refused."""

import shutil
import subprocess
import sys

import pytest
import torch
from support.loras import add_a_row, change_config, change_each_weight, change_weights, save_as_2023
from support.tiny import make_tiny_model

from helpers import adapters
from helpers.adapters.fingerprint import compute_logits
from helpers.common.errors import MismatchError, NotFoundError, UsageError

PROMPT = [{"role": "user", "content": "Where to?"}]


def list_places(model):
    """Where the base's numbers are in memory: the same places mean that nothing was loaded again."""
    return {tensor.data_ptr() for name, tensor in model.named_parameters() if "lora_" not in name}


def test_adapters_are_switched_without_loading_the_base_again(made, load_tiny):
    loaded = load_tiny()
    places = list_places(loaded.model)
    base = compute_logits(loaded, PROMPT)
    seen = {}
    for name in ("a", "b"):
        adapters.attach_adapter(loaded, name)
        seen[name] = compute_logits(loaded, PROMPT)
    assert not torch.allclose(seen["a"], seen["b"], atol=1e-2)
    assert adapters.list_attached(loaded) == ["a", "b"]
    adapters.switch_adapter(loaded, "a")
    assert torch.equal(compute_logits(loaded, PROMPT), seen["a"])
    adapters.switch_adapter(loaded, None)
    assert torch.equal(compute_logits(loaded, PROMPT), base)
    adapters.switch_adapter(loaded, "b")
    assert torch.equal(compute_logits(loaded, PROMPT), seen["b"])
    assert list_places(loaded.model) == places


def test_switch_to_a_lora_that_is_not_attached_is_refused_with_those_that_are(made, load_tiny):
    loaded = load_tiny()
    for name in ("a", "b"):
        adapters.attach_adapter(loaded, name)
    with pytest.raises(NotFoundError, match="'c'.*a, b"):
        adapters.switch_adapter(loaded, "c")


def test_detached_adapters_leave_the_plain_base(made, load_tiny):
    loaded = load_tiny()
    kind = type(loaded.model)
    places = list_places(loaded.model)
    base = compute_logits(loaded, PROMPT)
    for name in ("a", "b"):
        adapters.attach_adapter(loaded, name)
    adapters.detach_adapter(loaded, "a")
    assert adapters.list_attached(loaded) == ["b"]
    adapters.attach_adapter(loaded, "a")
    adapters.detach_adapter(loaded)
    assert adapters.list_attached(loaded) == []
    assert type(loaded.model) is kind
    assert list_places(loaded.model) == places
    assert torch.equal(compute_logits(loaded, PROMPT), base)


def test_attaching_again_reads_the_file_again(made, load_tiny):
    loaded = adapters.attach_adapter(load_tiny(), "a")
    assert adapters.measure_change(loaded, PROMPT) > 0
    change_each_weight(made[0], torch.zeros_like)
    adapters.attach_adapter(loaded, "a")
    assert adapters.measure_change(loaded, PROMPT) == 0


def test_name_that_is_part_of_peft_s_own_prefix_attaches_whole(made, home, load_tiny):
    wanted = compute_logits(adapters.attach_adapter(load_tiny(), "b"), PROMPT)
    shutil.copytree(made[1], home / "loras" / "lora")
    loaded = adapters.attach_adapter(load_tiny(), "lora")
    assert torch.equal(compute_logits(loaded, PROMPT), wanted)
    adapters.attach_adapter(loaded, "a")
    adapters.switch_adapter(loaded, "lora")
    assert torch.equal(compute_logits(loaded, PROMPT), wanted)


def test_strength_scales_what_the_lora_adds_and_is_restored(made, load_tiny):
    loaded = adapters.attach_adapter(load_tiny(), "a")
    whole = adapters.measure_change(loaded, PROMPT)
    changes = []
    for strength in (0, 0.5, 1, 2):
        with adapters.set_strength(loaded, strength):
            changes.append(adapters.measure_change(loaded, PROMPT))
    assert changes[0] == 0
    assert 0 < changes[1] < changes[2]
    assert changes[2] == whole
    assert changes[3] != whole
    assert adapters.measure_change(loaded, PROMPT) == whole


def test_strength_does_nothing_on_a_model_without_loras(made, load_tiny):
    loaded = load_tiny()
    base = compute_logits(loaded, PROMPT)
    with adapters.set_strength(loaded, 2):
        assert torch.equal(compute_logits(loaded, PROMPT), base)


def test_folder_as_peft_of_2023_wrote_it_attaches(made, load_tiny):
    wanted = compute_logits(adapters.attach_adapter(load_tiny(), "a"), PROMPT)
    save_as_2023(made[0])
    assert not (made[0] / "adapter_model.safetensors").exists()
    assert torch.equal(compute_logits(adapters.attach_adapter(load_tiny(), "a"), PROMPT), wanted)


def rename_a_layer(tensors):
    return {name.replace("layers.1", "layers.7"): tensor for name, tensor in tensors.items()}


def drop_a_layer(tensors):
    return {name: tensor for name, tensor in tensors.items() if "layers.1" not in name}


MISFITS = {  # what was done to the weights, and what the error names
    "other names": (rename_a_layer, "layers.7"),
    "too few": (drop_a_layer, "layers.1"),
    "other shapes": (add_a_row, "tiny"),
}


@pytest.mark.parametrize("kind", MISFITS)
def test_misfit_is_refused_and_leaves_the_model_as_it_was(made, load_tiny, kind):
    change, named = MISFITS[kind]
    loaded = adapters.attach_adapter(load_tiny(), "b")
    wanted = compute_logits(loaded, PROMPT)
    change_weights(made[0], change)
    with pytest.raises(MismatchError, match=named):
        adapters.attach_adapter(loaded, "a")
    assert adapters.list_attached(loaded) == ["b"]
    assert torch.equal(compute_logits(loaded, PROMPT), wanted)


@pytest.mark.parametrize("kind", MISFITS)
def test_misfit_is_refused_and_leaves_a_plain_base_plain(made, load_tiny, kind):
    change, named = MISFITS[kind]
    loaded = load_tiny()
    wanted = compute_logits(loaded, PROMPT)
    change_weights(made[0], change)
    with pytest.raises(MismatchError, match=named):
        adapters.attach_adapter(loaded, "a")
    assert adapters.list_attached(loaded) == []
    assert torch.equal(compute_logits(loaded, PROMPT), wanted)


def test_lora_of_another_base_is_refused_with_both_names_unless_any_model_will_do(made, home, load_tiny):
    make_tiny_model(home / "models" / "other", seed=5)
    loaded = load_tiny("other")
    with pytest.raises(MismatchError, match="tiny.*other"):
        adapters.attach_adapter(loaded, "a")
    adapters.attach_adapter(loaded, "a", any_model=True)
    assert adapters.list_attached(loaded) == ["a"]


def test_lora_without_a_recorded_base_attaches(made, load_tiny):
    change_config(made[0], base_model_name_or_path=None)
    loaded = adapters.attach_adapter(load_tiny(), "a")
    assert adapters.list_attached(loaded) == ["a"]


def test_name_that_peft_takes_for_a_module_of_the_lora_is_refused_with_what_to_rename(made, load_tiny):
    folder = made[0].rename(made[0].with_name("my-norm"))
    change_config(folder, modules_to_save=["norm"])
    with pytest.raises(UsageError, match="my-norm.*Rename its folder"):
        adapters.attach_adapter(load_tiny(), "my-norm")


SWAPPER = """
import shutil, sys
from pathlib import Path
loras = Path(sys.argv[1])
for line in sys.stdin:
    shutil.copytree(loras / line.strip(), loras / ".next")
    (loras / "mine").rename(loras / ".older")  # as a training renames: there is none for a moment
    (loras / ".next").rename(loras / "mine")
    shutil.rmtree(loras / ".older")
"""


def test_lora_that_is_replaced_meanwhile_is_attached_whole(made, load_tiny, home):
    shutil.copytree(made[0], home / "loras" / "mine")
    wanted = [compute_logits(adapters.attach_adapter(load_tiny(), name), PROMPT) for name in "ab"]
    command = [sys.executable, "-c", SWAPPER, str(home / "loras")]
    servers = [load_tiny(), load_tiny()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True, bufsize=1) as swapper:
        assert swapper.stdin is not None
        for number in range(10):
            print("ab"[number % 2], file=swapper.stdin)
            for loaded in servers:
                found = compute_logits(adapters.attach_adapter(loaded, "mine"), PROMPT)
                assert any(torch.allclose(found, logits) for logits in wanted)
