"""GPTQ on a CPU: made, laid out as TheBloke's folders are, loaded to generate and to train."""

import importlib.util
import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from support.gradients import SMALL_GRADIENTS, assert_same
from support.holder import hold_elsewhere
from support.loras import change_json, read_json
from support.tiny import make_tiny_model

from helpers import adapters, loading, tasks, training, weights
from helpers.common.command import run_command
from helpers.common.errors import (
    AlreadyThereError,
    DamagedError,
    MissingPackageError,
    UnsupportedError,
    UsageError,
)
from helpers.common.presets import pick_settings
from helpers.generation.request import GenerationRequest, join_pieces
from helpers.generation.transformers_engine import TransformersEngine
from helpers.loading.kernel_trial import try_layer
from helpers.weights.__main__ import main

HAS_GPTQMODEL = importlib.util.find_spec("gptqmodel") is not None
needs_gptqmodel = pytest.mark.skipif(
    not HAS_GPTQMODEL, reason="gptqmodel is for Linux: pip install -e '.[gptq]'"
)
THEBLOKE = "TheBloke_Llama-2-7B-Chat-GPTQ_gptq-4bit-32g-actorder_True"
TEXT = "which tokens come is of no matter here"


def measure_perplexity(loaded, text):
    ids = loaded.tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        return loaded.model(input_ids=ids, labels=ids).loss.exp().item()


def assert_gradients_pass(model, ids):
    """Every matrix B of a LoRA gets a gradient through the layers behind it."""
    model(input_ids=ids, labels=ids).loss.backward()
    gradients = [parameter.grad for name, parameter in model.named_parameters() if "lora_B" in name]
    assert gradients
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


# Made, and loaded


@pytest.fixture(scope="module")
def thebloke_once(tmp_path_factory):
    """A home with models/tiny and its 4-bit form, named and laid out as TheBloke's folders are."""
    home = tmp_path_factory.mktemp("thebloke")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPEN_LLM_KIT_HOME", str(home))
        make_tiny_model(home / "models" / "tiny", hidden=128)
        made = weights.quantize("tiny", group_size=32, act_order=True)
        made.path.rename(home / "models" / THEBLOKE)
    return home


@pytest.fixture
def thebloke(thebloke_once, home):
    """The path of TheBloke's folder in a copy of the home of `thebloke_once`."""
    shutil.copytree(thebloke_once, home, dirs_exist_ok=True)
    return home / "models" / THEBLOKE


LOST = {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}}  # leaves out the text


@needs_gptqmodel
@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        (
            "config.json",
            {"num_hidden_layers": 3},
            "lacks",
        ),  # transformers fills the third with random numbers
        ("config.json", {"rope_parameters": {"rope_type": "x"}}, "KeyError: 'x'"),
        ("tokenizer.json", {"model": None}, "cannot be read"),
        ("tokenizer.json", {"post_processor": LOST}, "of a text it makes 0 tokens"),
        ("tokenizer_config.json", {"backend": "\ud83d"}, "not valid JSON"),
    ],
)
def test_damaged_folder_is_not_quantised(home, capfd, name, change, reason):
    change_json(make_tiny_model(home / "models" / "tiny", hidden=128) / name, **change)
    assert run_command(main, ["gptq", "tiny"]) == 2
    error = capfd.readouterr().err
    assert error.startswith("error: ") and reason in error and error.count("\n") == 1
    assert not (home / "models" / "tiny-GPTQ").exists()


@needs_gptqmodel
@pytest.mark.long
def test_quantisation_is_recorded_without_the_sample_texts(thebloke):
    facts = read_json(thebloke / "quantize_config.json")
    assert facts["bits"] == 4
    assert facts["group_size"] == 32
    assert facts["desc_act"] is True
    assert "dataset" not in (thebloke / "config.json").read_text()
    assert weights.ModelFolder(thebloke).find_damage() == ""


@needs_gptqmodel
@pytest.mark.long
def test_quantised_model_is_smaller_and_says_nearly_the_same(thebloke):
    loaded = loading.load_model(THEBLOKE)
    full = loading.load_model("tiny")
    assert loaded.loader.value == "gptq"
    assert loaded.bytes < full.bytes
    assert measure_perplexity(loaded, TEXT) == pytest.approx(measure_perplexity(full, TEXT), rel=0.2)


@needs_gptqmodel
@pytest.mark.long
def test_older_folder_with_the_facts_in_quantize_config_only_is_the_same_model(thebloke):
    expected = measure_perplexity(loading.load_model(THEBLOKE), TEXT)
    config = read_json(thebloke / "config.json")
    del config["quantization_config"]
    (thebloke / "config.json").write_text(json.dumps(config))
    assert measure_perplexity(loading.load_model(THEBLOKE), TEXT) == expected


@needs_gptqmodel
@pytest.mark.long
def test_a_layer_runs():
    try_layer()


@needs_gptqmodel
@pytest.mark.long
@pytest.mark.parametrize("purpose", ["inference", "training"])
def test_nothing_is_compiled_when_it_is_first_used(home, monkeypatch, purpose):
    compiled = []

    def compile_later(function, **_):
        """In place of torch.compile, which compiles when its result is first called."""

        def run(*arguments, **options):
            compiled.append(function)
            return function(*arguments, **options)

        return run

    monkeypatch.setattr(torch, "compile", compile_later)
    make_tiny_model(home / "models" / "tiny", hidden=128)
    loaded = loading.load_model(weights.quantize("tiny").name, purpose=purpose)
    for training_mode in (True, False):
        loaded.model.train(training_mode)(torch.arange(8)[None])
    assert compiled == []


@needs_gptqmodel
@pytest.mark.long
def test_loras_on_a_gptq_base_answer_beside_the_base_and_each_other(home):
    make_tiny_model(home / "models" / "tiny", hidden=128)
    name = weights.quantize("tiny").name
    config = LoraConfig(
        r=4,
        lora_alpha=16,
        target_modules=["q_proj", "down_proj"],
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    loaded = loading.load_model(name)
    for seed, lora in enumerate(("shift", "twist"), start=1):
        torch.manual_seed(seed)
        base = loading.load_model(name, purpose="training").model
        get_peft_model(base, config).save_pretrained(home / "loras" / lora)
        adapters.attach_adapter(loaded, lora)
    engine = TransformersEngine(loaded)
    requests = [
        GenerationRequest(prompt="Hello", max_new_tokens=12, adapter=lora)
        for lora in (None, "shift", "twist") * 2
    ]
    alone = [engine.generate(request).text for request in requests]
    pieces = [[] for _ in requests]
    jobs = [engine.start(request, parts.append) for request, parts in zip(requests, pieces, strict=True)]
    together = [join_pieces(job.result(60), parts).text for job, parts in zip(jobs, pieces, strict=True)]
    engine.close()
    assert len(set(alone)) == 3
    assert together == alone


# The real model


@pytest.fixture(scope="module")
def quantised(real_model_name, tmp_path_factory):
    """A home with the embedded model and its 4-bit form, made here."""
    home = tmp_path_factory.mktemp("quantised")
    shutil.copytree(weights.find_model(real_model_name).path, home / "models" / real_model_name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPEN_LLM_KIT_HOME", str(home))
        assert run_command(main, ["gptq", real_model_name, "--json"]) == 0
        yield home


REAL_TEXT = (
    "The town library opens at nine. Anyone who lives here may borrow books, and visitors may read them at "
    "the long tables by the window."
)


@needs_gptqmodel
@pytest.mark.real
def test_quantised_real_model_chats_and_is_half_as_large(real_model_name, quantised):
    loaded = loading.load_model(f"{real_model_name}-GPTQ")
    question = [{"role": "user", "content": "What color is the sky?"}]
    assert "sky" in loading.chat(loaded, question, 30).lower()
    full = loading.load_model(real_model_name)
    assert loaded.bytes < full.bytes / 2
    assert measure_perplexity(loaded, REAL_TEXT) < 1.5 * measure_perplexity(full, REAL_TEXT)


@needs_gptqmodel
@pytest.mark.real
def test_quantised_real_model_lets_gradients_through(real_model_name, quantised):
    loaded = loading.load_model(f"{real_model_name}-GPTQ", purpose="training")
    ids = loaded.tokenizer(REAL_TEXT, return_tensors="pt")["input_ids"]
    assert_gradients_pass(get_peft_model(loaded.model, LoraConfig(r=2, target_modules=["q_proj"])), ids)


@needs_gptqmodel
@pytest.mark.real
def test_gradients_on_the_quantised_real_model_are_the_stock_trainer_s(
    real_model_name, quantised, rows, template, tmp_path
):
    assert_same(f"{real_model_name}-GPTQ", rows, template, tmp_path, each=SMALL_GRADIENTS)


@needs_gptqmodel
@pytest.mark.real
def test_lora_learns_on_the_quantised_real_model(real_model_name, quantised, rows, template):
    settings = pick_settings("tiny").replace({"max_rows": 0, "epochs": 6})
    loaded = loading.load_model(f"{real_model_name}-GPTQ", purpose="training")
    data = tasks.TaskData(template, rows)
    run = training.train_lora(loaded, data, settings, quantised / "loras" / "learner", progress=False)
    # Six passes: how far two bring it depends on how the machine rounds.
    assert sum(run["loss"][-3:]) < sum(run["loss"][:3]) / 2


# What is refused


def test_tensors_that_are_missing_are_never_made_up(home):
    path = make_tiny_model(home / "models" / "tiny") / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(DamagedError, match="tiny.* 1 .*model.layers.1.mlp.up_proj.weight"):
        loading.load_model("tiny")


@needs_gptqmodel
@pytest.mark.parametrize(
    ("group_size", "config", "error", "named"),
    [
        (33, {}, UnsupportedError, "hidden_size 32.*33"),
        (0, {}, UsageError, "0"),
        (32, {"quant_method": "gptq"}, UnsupportedError, "tiny"),
        (32, {}, UnsupportedError, "k_proj.*16.*32"),
    ],
)
def test_what_cannot_be_quantised_is_refused_before_the_work(home, group_size, config, error, named):
    folder = make_tiny_model(home / "models" / "tiny")
    if config:
        change_json(folder / "config.json", quantization_config=config)
    with pytest.raises(error, match=named):
        weights.quantize("tiny", group_size)
    assert [path.name for path in (home / "models").iterdir()] == ["tiny"]


@needs_gptqmodel
def test_what_is_no_decoder_is_not_quantised(home):
    change_json(make_tiny_model(home / "models" / "tiny") / "config.json", model_type="bert")
    with pytest.raises(UnsupportedError, match="bert"):
        weights.quantize("tiny")


def test_gguf_is_not_quantised_again(home):
    (home / "models" / "x-GGUF").mkdir(parents=True)
    (home / "models" / "x-GGUF" / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(UnsupportedError if HAS_GPTQMODEL else MissingPackageError):
        weights.quantize("x-GGUF")


@pytest.fixture
def made(home):
    """models/tiny, and a folder models/tiny-GPTQ that records a group size of 64."""
    make_tiny_model(home / "models" / "tiny")
    folder = make_tiny_model(home / "models" / "tiny-GPTQ")
    (folder / "quantize_config.json").write_text(json.dumps({"group_size": 64, "desc_act": False}))
    return folder


def test_folder_that_was_made_with_the_same_settings_is_returned_at_once(made):
    before = {path: path.stat().st_mtime_ns for path in made.iterdir()}
    assert weights.quantize("tiny", 64).path == made
    assert {path: path.stat().st_mtime_ns for path in made.iterdir()} == before


@pytest.mark.parametrize(("group_size", "act_order"), [(64, True), (32, False)])
def test_folder_that_was_made_with_other_settings_is_not_taken_for_what_is_asked(made, group_size, act_order):
    with pytest.raises(AlreadyThereError, match="tiny-GPTQ.*64.*False"):
        weights.quantize("tiny", group_size, act_order=act_order)


@needs_gptqmodel
def test_second_quantisation_is_refused_in_words_before_anything_is_loaded(home):
    make_tiny_model(home / "models" / "tiny", hidden=128)
    with hold_elsewhere(home / "models" / "tiny-GPTQ", "quantising") as process:
        with pytest.raises(AlreadyThereError) as caught:
            weights.quantize("tiny")
    assert f"process {process.pid}" in caught.value.problem
