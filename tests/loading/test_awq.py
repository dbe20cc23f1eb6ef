"""AWQ folders, packed here as AutoAWQ packs them, load on a CPU to answer and to train."""

import importlib.util
import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from support.loras import change_json
from support.tiny import make_tiny_model

from helpers import loading

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        not importlib.util.find_spec("gptqmodel"), reason="gptqmodel is for Linux: pip install -e '.[gptq]'"
    ),
]
# Of eight neighbouring outputs, the order in which their four bits lie in an int32.
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
GROUP = 32  # weights that share a scale and a zero point
# quant_config.json, as AutoAWQ wrote it in 2023.
BESIDE = {"zero_point": True, "q_group_size": GROUP, "w_bit": 4, "version": "GEMM"}
# quantization_config in config.json, as it is written today.
INSIDE = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"}


def pack(numbers):
    """(rows, outputs) of 0..15 to (rows, outputs / 8) of int32."""
    packed = torch.zeros(len(numbers), numbers.shape[1] // 8, dtype=torch.int64)
    for place, column in enumerate(ORDER):
        packed += numbers[:, column::8].long() << (4 * place)
    signed = torch.where(packed >= 2**31, packed - 2**32, packed)
    return signed.int()


def round_weight(weight):
    """({qweight, qzeros, scales}, the rounded weight) of a weight (outputs, inputs).

    Each group of inputs is rounded to 16 steps between its smallest and its largest number.
    """
    groups = weight.t().reshape(-1, GROUP, weight.shape[0])
    low = groups.amin(1, keepdim=True)
    high = groups.amax(1, keepdim=True)
    scales = ((high - low) / 15).half().float()
    zeros = (-low / scales).round().clamp(0, 15)
    steps = (groups / scales + zeros).round().clamp(0, 15)
    packed = {
        "qweight": pack(steps.flatten(0, 1)),
        "qzeros": pack(zeros[:, 0]),
        "scales": scales[:, 0].half(),
    }
    rounded = ((steps - zeros) * scales).flatten(0, 1).t()
    return packed, rounded


def save_tensors(tensors, folder):
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(whole, folder / "model.safetensors", {"format": "pt"})


@pytest.fixture(params=["config.json", "quant_config.json"])
def awq(request, home):
    """models/awq, whose quantisation one of two files describes; models/rounded is the same in float32."""
    folder = make_tiny_model(home / "models" / "awq", hidden=64)
    rounded = home / "models" / "rounded"
    shutil.copytree(folder, rounded)
    packed_tensors = {}
    rounded_tensors = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if name.endswith("_proj.weight"):
            parts, rounded_tensors[name] = round_weight(tensor)
            for part, value in parts.items():
                packed_tensors[name.replace("weight", part)] = value
        else:
            packed_tensors[name] = rounded_tensors[name] = tensor
    save_tensors(packed_tensors, folder)
    save_tensors(rounded_tensors, rounded)
    if request.param == "config.json":
        change_json(folder / "config.json", quantization_config=INSIDE)
    else:
        (folder / "quant_config.json").write_text(json.dumps(BESIDE))
    return "awq"


def compute_logits(loaded):
    """The logits of forty tokens, in float32 on the CPU."""
    with torch.inference_mode():
        return loaded.model(torch.arange(40, device=loaded.model.device)[None]).logits.float().cpu()


@pytest.mark.parametrize("purpose", ["inference", "training"])
def test_awq_folder_answers_as_its_rounded_weights_do(awq, purpose):
    loaded = loading.load_model(awq, purpose=purpose)
    rounded = loading.load_model("rounded", dtype="float32")
    assert loaded.loader.value == "awq"
    assert loaded.bytes < rounded.bytes / 2
    found = compute_logits(loaded).flatten()
    wanted = compute_logits(rounded).flatten()
    assert torch.nn.functional.cosine_similarity(found, wanted, dim=0) > 0.99


def test_awq_folder_that_is_loaded_to_train_lets_gradients_through(awq):
    loaded = loading.load_model(awq, purpose="training")
    model = get_peft_model(loaded.model, LoraConfig(r=2, target_modules=["q_proj"]))
    ids = torch.arange(40, device=model.device)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    gradients = [parameter.grad for name, parameter in model.named_parameters() if "lora_B" in name]
    assert gradients
    assert all(gradient.abs().sum() > 0 for gradient in gradients)
