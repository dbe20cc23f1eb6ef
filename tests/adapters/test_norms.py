"""How much a LoRA adds to each matrix, by itself and beside the matrix."""

import numpy as np
import pytest
import torch
from support.loras import change_each_weight, change_weights

from helpers import adapters
from helpers.adapters.norms import measure_weights
from helpers.common.errors import MismatchError

UP = "model.layers.1.mlp.up_proj"


class PackedLinear(torch.nn.Module):
    """A layer whose weights are packed away in a buffer, as those of GPTQ are."""

    def __init__(self, weight, bias):
        super().__init__()
        self.in_features = weight.shape[1]
        self.register_buffer("packed", weight)
        self.register_buffer("offset", bias)

    def forward(self, inputs):
        return inputs @ self.packed.T + self.offset


def compute_product(folder):
    """scale B A of the layer UP, of a LoRA whose alpha is 16 and whose rank is 4."""
    tensors = adapters.read_tensors(folder.weights)
    stem = f"base_model.model.{UP}.lora_"
    return 16 / 4 * tensors[f"{stem}B.weight"] @ tensors[f"{stem}A.weight"]


def test_norms_are_those_of_the_product(made):
    folder = adapters.AdapterFolder(made[0])
    norms = adapters.measure_norms(folder)
    assert norms.shape == (2, 7)
    assert norms.index.tolist() == [0, 1]
    assert np.isclose(norms.loc[1, "up_proj"], np.linalg.norm(compute_product(folder)), rtol=1e-5)


def put_one_number_into_each(tensors):
    """The tensors with 3 in a corner of each A and 2 in a corner of each B, else 0: B A has one number, 6."""
    made = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    for name, tensor in made.items():
        tensor[0, 0] = 3 if "lora_A" in name else 2
    return made


def test_relative_norms_of_a_hand_made_lora_are_those_worked_out_by_hand(made, load_tiny):
    change_weights(made[0], put_one_number_into_each)
    loaded = load_tiny()
    for layer in loaded.model.model.layers:
        torch.nn.init.constant_(layer.mlp.up_proj.weight, 0.5)
    norms = adapters.measure_relative_norms(loaded, adapters.AdapterFolder(made[0]))
    numbers = loaded.model.model.layers[0].mlp.up_proj.weight.numel()
    assert norms["up_proj"].tolist() == pytest.approx(2 * [16 / 4 * 6 / (0.5 * numbers**0.5)])


def test_relative_norm_is_the_norm_of_the_product_beside_that_of_the_matrix(made, load_tiny):
    folder, loaded = adapters.AdapterFolder(made[0]), load_tiny()
    weight = loaded.model.get_submodule(UP).weight
    expected = np.linalg.norm(compute_product(folder)) / weight.norm().item()
    assert adapters.measure_relative_norms(loaded, folder).loc[1, "up_proj"] == pytest.approx(
        expected, rel=1e-5
    )


def test_relative_norms_come_in_the_order_in_which_a_layer_computes(made, load_tiny):
    columns = adapters.measure_relative_norms(load_tiny(), adapters.AdapterFolder(made[0])).columns
    assert columns.tolist() == ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def test_relative_norms_are_the_same_once_the_lora_is_attached(made, load_tiny):
    folder, loaded = adapters.AdapterFolder(made[0]), load_tiny()
    before = adapters.measure_relative_norms(loaded, folder)
    after = adapters.measure_relative_norms(adapters.attach_adapter(loaded, "a"), folder)
    assert before.equals(after)


def test_relative_norms_of_a_lora_of_zeros_are_zero(made, load_tiny):
    change_each_weight(made[0], torch.zeros_like)
    norms = adapters.measure_relative_norms(load_tiny(), adapters.AdapterFolder(made[0]))
    assert norms.shape == (2, 7) and (norms == 0).all(axis=None)


def rename_last_layer(tensors):
    """The tensors, with those of layer 1 under the names of layer 9."""
    return {name.replace("layers.1.", "layers.9."): tensor for name, tensor in tensors.items()}


def test_lora_for_a_deeper_model_is_refused(made, load_tiny):
    change_weights(made[0], rename_last_layer)
    with pytest.raises(MismatchError, match=r"layers\.9\."):
        adapters.measure_relative_norms(load_tiny(), adapters.AdapterFolder(made[0]))


@pytest.mark.parametrize("inputs", [3, 700])
def test_norm_of_packed_weights_is_that_of_the_weights(inputs):
    weight, bias = torch.randn(5, inputs), torch.randn(5)
    assert measure_weights(PackedLinear(weight, bias), torch.float32) == pytest.approx(
        weight.norm().item(), rel=1e-4
    )
