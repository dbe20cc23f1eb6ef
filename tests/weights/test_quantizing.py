"""GPTQ on a CPU: made, laid out as TheBloke's folders are, loaded to generate and to train."""

import importlib.util
import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from support.gradients import assert_same
from support.tiny import make_tiny_model

from helpers import PROJECT, KitError, adapters, loading, training, weights
from helpers.common.command import run_command
from helpers.generation.request import GenerationRequest, join_pieces
from helpers.generation.transformers_engine import TransformersEngine
from helpers.training.settings import pick_settings
from helpers.weights.__main__ import main
from helpers.loading.kernels import try_layer

needs_gptqmodel = pytest.mark.skipif(
    not importlib.util.find_spec("gptqmodel"), reason="gptqmodel is for Linux: pip install -e '.[gptq]'"
)


def perplexity(loaded, text):
    ids = loaded.tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        return loaded.model(input_ids=ids, labels=ids).loss.exp().item()


@needs_gptqmodel
@pytest.mark.long
def test_folder_in_the_manner_of_thebloke_loads_without_special_care(home):
    make_tiny_model(home / "models" / "tiny", hidden=128)
    made = weights.quantize("tiny", group_size=32, act_order=True)
    folder = made.rename(home / "models" / "TheBloke_Llama-2-7B-Chat-GPTQ_gptq-4bit-32g-actorder_True")
    facts = json.loads((folder / "quantize_config.json").read_text())
    assert (facts["bits"], facts["group_size"], facts["desc_act"]) == (4, 32, True) and "dataset" not in (
        folder / "config.json"
    ).read_text()
    loaded, full = loading.load_model(folder.name), loading.load_model("tiny")
    assert loaded.loader.value == "gptq" and loaded.bytes < full.bytes
    text = "which tokens come is of no matter here"
    assert perplexity(loaded, text) == pytest.approx(perplexity(full, text), rel=0.2)
    whole = perplexity(loaded, text)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({key: value for key, value in config.items() if key != "quantization_config"})
    )
    assert (
        perplexity(loading.load_model(folder.name), text) == whole
    )  # older folders have the facts in quantize_config.json only


@needs_gptqmodel
@pytest.mark.long
def test_a_layer_runs():
    try_layer()


@needs_gptqmodel
@pytest.mark.long
@pytest.mark.parametrize("purpose", ["inference", "training"])
def test_nothing_is_compiled_when_it_is_first_used(home, purpose):
    make_tiny_model(home / "models" / "tiny", hidden=128)
    loaded = loading.load_model(weights.quantize("tiny").name, purpose=purpose)
    torch._dynamo.utils.counters.clear()
    for training_mode in (True, False):
        loaded.model.train(training_mode)(torch.arange(8)[None])
    assert not torch._dynamo.utils.counters["frames"]  # what torch.compile looked at


@needs_gptqmodel
@pytest.mark.long
def test_loras_on_a_gptq_base_answer_beside_the_base_and_each_other(home):
    make_tiny_model(home / "models" / "tiny", hidden=128)
    folder = weights.quantize("tiny")
    for seed, name in enumerate(("shift", "twist"), start=1):
        torch.manual_seed(seed)
        settings = LoraConfig(
            r=4,
            lora_alpha=16,
            target_modules=["q_proj", "down_proj"],
            init_lora_weights=False,
            task_type="CAUSAL_LM",
        )
        get_peft_model(loading.load_model(folder.name, purpose="training").model, settings).save_pretrained(
            home / "loras" / name
        )
    loaded = loading.load_model(folder.name)
    for name in ("shift", "twist"):
        adapters.attach_adapter(loaded, name)
    engine = TransformersEngine(loaded)
    requests = [
        GenerationRequest(prompt="Hello", max_new_tokens=12, adapter=name)
        for name in (None, "shift", "twist") * 2
    ]
    alone = [engine.generate(request).text for request in requests]
    jobs = [
        (engine.start(request, parts.append), parts)
        for request, parts in zip(requests, [[] for _ in requests], strict=True)
    ]
    together = [join_pieces(job.result(60), parts).text for job, parts in jobs]
    engine.close()
    assert together == alone and len(set(alone)) == 3


@pytest.fixture(scope="module")
def quantised(real_model_name, tmp_path_factory):
    """A home with the embedded model and its 4-bit form, made here."""
    home = tmp_path_factory.mktemp("quantised")
    shutil.copytree(PROJECT / "models" / real_model_name, home / "models" / real_model_name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPEN_LLM_KIT_HOME", str(home))
        assert run_command(main, ["gptq", real_model_name, "--json"]) == 0
    return home


@needs_gptqmodel
@pytest.mark.real
def test_quantised_real_model_chats_and_lets_gradients_through(real_model_name, quantised, monkeypatch):
    monkeypatch.setenv("OPEN_LLM_KIT_HOME", str(quantised))
    loaded = loading.load_model(f"{real_model_name}-GPTQ")
    assert "sky" in loading.chat(loaded, [{"role": "user", "content": "What color is the sky?"}], 30).lower()
    full = loading.load_model(real_model_name)
    text = "The town library opens at nine. Anyone who lives here may borrow books, and visitors may read them at the long tables by the window."
    assert loaded.bytes < full.bytes / 2 and perplexity(loaded, text) < 1.5 * perplexity(full, text)
    model = get_peft_model(
        loading.load_model(f"{real_model_name}-GPTQ", purpose="training").model,
        LoraConfig(r=2, target_modules=["q_proj"]),
    )
    ids = loaded.tokenizer(text, return_tensors="pt")["input_ids"]
    model(input_ids=ids, labels=ids).loss.backward()
    assert all(
        parameter.grad.abs().sum() > 0 for name, parameter in model.named_parameters() if "lora_B" in name
    )


@needs_gptqmodel
@pytest.mark.real
def test_a_lora_learns_on_the_quantised_real_model_with_the_stock_trainers_gradients(
    real_model_name, quantised, monkeypatch, rows, template, tmp_path
):
    monkeypatch.setenv("OPEN_LLM_KIT_HOME", str(quantised))
    assert_same(f"{real_model_name}-GPTQ", rows, template, tmp_path)
    chosen = pick_settings("tiny").replace({"max_rows": 0, "epochs": 2})
    loaded = loading.load_model(f"{real_model_name}-GPTQ", purpose="training")
    run = training.train_lora(loaded, rows, template, chosen, quantised / "loras" / "learner", progress=False)
    assert run["loss"][-1] < run["loss"][0] / 2


def test_tensors_that_are_missing_are_never_made_up(home):
    from safetensors.torch import load_file, save_file

    path = make_tiny_model(home / "models" / "tiny") / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(KitError, match="tiny lacks 1 tensors, such as model.layers.1.mlp.up_proj.weight"):
        loading.load_model("tiny")


@needs_gptqmodel
@pytest.mark.parametrize(
    ("group_size", "config", "message"),
    [
        (33, {}, "no multiple of the group size 33"),
        (32, {"quant_method": "gptq"}, "quantised already"),
        (32, {}, "k_proj has 16 outputs, no multiple of 32"),
    ],
)
def test_what_cannot_be_quantised_is_refused_before_the_work(home, group_size, config, message):
    folder = make_tiny_model(home / "models" / "tiny")
    if config:
        facts = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**facts, "quantization_config": config}))
    with pytest.raises(KitError, match=message):
        weights.quantize("tiny", group_size)
    assert [path.name for path in (home / "models").iterdir()] == ["tiny"]


def test_gguf_is_not_quantised_again(home):
    (home / "models" / "x-GGUF").mkdir(parents=True)
    (home / "models" / "x-GGUF" / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(KitError, match="GGUF file, quantised already|Quantising needs"):
        weights.quantize("x-GGUF")


@needs_gptqmodel
def test_folder_that_was_made_otherwise_is_not_taken_for_what_is_asked(home):
    make_tiny_model(home / "models" / "tiny")
    made = make_tiny_model(home / "models" / "tiny-GPTQ")
    (made / "quantize_config.json").write_text(json.dumps({"group_size": 64, "desc_act": False}))
    assert weights.quantize("tiny", 64) == made
    with pytest.raises(
        KitError, match="tiny-GPTQ is there already, made with group size 64, act order False. Rename"
    ):
        weights.quantize("tiny", 64, act_order=True)
