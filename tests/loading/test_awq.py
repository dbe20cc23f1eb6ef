"""AWQ folders, packed here by hand as AutoAWQ packs them, load on a CPU to answer and to train."""

import importlib.util
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny import make_tiny_model

from helpers import loading

pytestmark = pytest.mark.skipif(
    not importlib.util.find_spec("gptqmodel"), reason="gptqmodel is for Linux: pip install -e '.[gptq]'"
)
COLUMNS = (
    0,
    2,
    4,
    6,
    1,
    3,
    5,
    7,
)  # of eight neighbouring outputs, in the order of their four bits within an int32
GROUP = 32
BESIDE = {
    "zero_point": True,
    "q_group_size": GROUP,
    "w_bit": 4,
    "version": "GEMM",
}  # quant_config.json, as AutoAWQ wrote it in 2023
INSIDE = {
    "quant_method": "awq",
    "bits": 4,
    "group_size": GROUP,
    "zero_point": True,
    "version": "gemm",
}  # in config.json


def pack(numbers):
    """(rows, outputs) of 0..15 to (rows, outputs / 8) of int32."""
    packed = sum(numbers[:, column::8].long() << (4 * place) for place, column in enumerate(COLUMNS))
    return torch.where(packed >= 2**31, packed - 2**32, packed).int()


def round_weight(weight):
    """({qweight, qzeros, scales}, the rounded weight) of a weight (outputs, inputs), each group of inputs rounded to 16 steps."""
    groups = weight.t().reshape(-1, GROUP, weight.shape[0])
    low, high = groups.amin(1, keepdim=True), groups.amax(1, keepdim=True)
    scales = ((high - low) / 15).half().float()
    zeros = (-low / scales).round().clamp(0, 15)
    steps = (groups / scales + zeros).round().clamp(0, 15)
    packed = {
        "qweight": pack(steps.flatten(0, 1)),
        "qzeros": pack(zeros[:, 0]),
        "scales": scales[:, 0].half(),
    }
    return packed, ((steps - zeros) * scales).flatten(0, 1).t()


def make_awq_folder(home, beside):
    """models/awq, quantised, and models/rounded, the same numbers in full precision."""
    folder, rounded = (make_tiny_model(home / "models" / name, hidden=64) for name in ("awq", "rounded"))
    tensors, plain = {}, {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if name.endswith("_proj.weight"):
            parts, plain[name] = round_weight(tensor)
            tensors |= {name.replace("weight", part): value for part, value in parts.items()}
        else:
            tensors[name] = plain[name] = tensor
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    save_file(
        {name: tensor.contiguous() for name, tensor in plain.items()},
        rounded / "model.safetensors",
        {"format": "pt"},
    )
    if beside:
        (folder / "quant_config.json").write_text(json.dumps(BESIDE))
    else:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "quantization_config": INSIDE}))


@pytest.mark.long
@pytest.mark.parametrize("beside", [False, True])
def test_awq_folder_answers_as_its_rounded_weights_do_and_lets_gradients_through(home, beside):
    from peft import LoraConfig, get_peft_model

    make_awq_folder(home, beside)
    loaded, rounded = loading.load_model("awq"), loading.load_model("rounded", dtype="float32")
    training = loading.load_model("awq", purpose="training")
    ids = torch.arange(40)[None]
    with torch.inference_mode():
        wanted = rounded.model(ids.to(rounded.model.device)).logits.float().cpu()
        for each in (loaded, training):
            logits = each.model(ids.to(each.model.device)).logits.float().cpu()
            assert torch.nn.functional.cosine_similarity(logits.flatten(), wanted.flatten(), dim=0) > 0.99
    assert loaded.loader.value == "awq" and loaded.bytes < rounded.bytes / 2
    model = get_peft_model(training.model, LoraConfig(r=2, target_modules=["q_proj"]))
    ids = ids.to(model.device)
    model(input_ids=ids, labels=ids).loss.backward()
    assert all(
        parameter.grad.abs().sum() > 0 for name, parameter in model.named_parameters() if "lora_B" in name
    )
