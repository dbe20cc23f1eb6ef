"""LoRAs as PEFT makes them elsewhere.

Each is attached, switched off, detached, served and merged as PEFT computes it, or refused in one line.
"""

import json
import warnings

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from support.loras import change_config, save_as_2023
from support.tiny import make_tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers import adapters
from helpers.common.errors import KitError, MismatchError, UnsupportedError
from helpers.generation.request import GenerationRequest
from helpers.generation.transformers_engine import TransformersEngine
from helpers.server.service import ModelChoice, find_choice

IDS = torch.tensor([[1, 5, 64, 200, 255, 70]])
PAIR = ["q_proj", "v_proj"]
KINDS = {
    "lm_head": {"target_modules": [*PAIR, "lm_head"]},
    "embed_tokens": {"target_modules": [*PAIR, "embed_tokens"]},
    "both ends": {"target_modules": [*PAIR, "embed_tokens", "lm_head"]},
    "whole lm_head": {"modules_to_save": ["lm_head"]},
    "whole embed_tokens": {"modules_to_save": ["embed_tokens"]},
    "whole ends": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "whole norms": {"modules_to_save": ["norm"]},
    "trained tokens": {"trainable_token_indices": [5, 64]},
    "trained tokens by layer": {"trainable_token_indices": {"embed_tokens": [5, 64]}},
    "DoRA": {"use_dora": True},
    "rsLoRA": {"use_rslora": True},
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.self_attn.v_proj": 40}},
    "one layer": {"layers_to_transform": [1]},
    "a regex": {"target_modules": r".*layers\.\d+\.(self_attn\.q_proj|mlp\.up_proj)"},
    "biases that the base has not": {"bias": "all"},
    "single parameters": {"target_modules": [], "target_parameters": ["q_proj.weight"]},
}


def save_lora(home, base="tiny", tokens=0, **settings):
    """Writes loras/mine with PEFT; what is not a factor is random, too. Returns PEFT's logits of IDS.

    `tokens`: the base is first given so many, and the tokenizer saved as well.
    """
    warnings.simplefilter("ignore")
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(home / "models" / base)
    if tokens:
        model.resize_token_embeddings(tokens)
    settings = {"target_modules": PAIR, "init_lora_weights": False, **settings}
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=4, task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad and "lora_" not in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    folder = home / "loras" / "mine"
    adapted.save_pretrained(folder)
    change_config(folder, base_model_name_or_path=f"models/{base}")
    if tokens:
        tokenizer = AutoTokenizer.from_pretrained(home / "models" / base)
        tokenizer.add_tokens(["<tool>", "<end_tool>"])
        tokenizer.save_pretrained(folder)
    return compute(adapted.eval())


def compute(model):
    """The logits of IDS."""
    with torch.no_grad():
        return model(IDS).logits[0]


def is_close(found, wanted):
    """Whether two tensors of logits are the same but for rounding."""
    return found.shape == wanted.shape and float((found - wanted).abs().max() / wanted.abs().max()) < 1e-4


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def base(home, request):
    """models/tiny, whose embed_tokens and lm_head are one matrix or two."""
    return make_tiny_model(home / "models" / "tiny", tied=request.param)


@pytest.mark.parametrize("kind", KINDS)
def test_lora_computes_what_peft_computes_and_leaves_the_base_as_it_was(home, base, load_tiny, kind):
    wanted = save_lora(home, **KINDS[kind])
    assert adapters.describe_adapter("mine").problem is None
    loaded = load_tiny()
    plain = compute(loaded.model)
    adapters.attach_adapter(loaded, "mine")
    assert is_close(compute(loaded.model), wanted)
    assert not is_close(wanted, plain)
    assert [finding.seen for finding in adapters.prove(loaded, "mine") if finding.passed is False] == []
    adapters.switch_adapter(loaded, None)
    assert torch.equal(compute(loaded.model), plain)
    adapters.detach_adapter(loaded)
    assert torch.equal(compute(loaded.model), plain)


@pytest.mark.parametrize("kind", KINDS)
def test_merged_model_computes_what_base_and_lora_compute(home, base, load_tiny, kind):
    wanted = save_lora(home, **KINDS[kind])
    adapters.merge_adapter("mine", "merged")
    assert is_close(compute(load_tiny("merged").model), wanted)


@pytest.mark.parametrize("kind", ["both ends", "whole ends", "trained tokens"])
def test_lora_on_the_ends_of_a_model_is_served_beside_its_base(home, base, load_tiny, kind):
    save_lora(home, **KINDS[kind])
    choice = find_choice(ModelChoice("tiny", ("mine",)), None, None)
    assert [lora.name for lora in choice.loras] == ["mine"]
    engine = TransformersEngine(adapters.attach_adapter(load_tiny(), "mine"))
    assert engine.vocabulary_size == 260
    prompt = [{"role": "user", "content": "Where to?"}]
    texts = {
        name: engine.generate(GenerationRequest(prompt, max_new_tokens=8, adapter=name))
        for name in ("mine", None)
    }
    engine.close()
    assert texts["mine"].completion_tokens
    assert texts[None].completion_tokens


def test_peft_itself_reads_the_merged_model_of_a_lora_on_tied_ends(home, load_tiny):
    make_tiny_model(home / "models" / "tiny")
    wanted = save_lora(home, target_modules=["lm_head"])
    made = adapters.merge_adapter("mine", "merged")
    assert is_close(compute(AutoModelForCausalLM.from_pretrained(made)), wanted)
    assert json.loads((made / "config.json").read_text())["tie_word_embeddings"] is False


# LoRAs that change the base itself

CHANGING = {  # settings, and what the error names
    "more tokens": ({"tokens": 262}, "262 tokens.*260"),
    "more tokens, and a LoRA on them": (
        {"tokens": 262, "target_modules": [*PAIR, "embed_tokens", "lm_head"]},
        "262 tokens.*260",
    ),
    "more tokens, trained whole": (
        {"tokens": 262, "modules_to_save": ["embed_tokens", "lm_head"]},
        "262 tokens.*260",
    ),
    "PiSSA": ({"init_lora_weights": "pissa"}, "pissa"),
}


@pytest.mark.parametrize("kind", CHANGING)
def test_lora_that_changes_its_base_is_merged_and_not_attached(home, base, load_tiny, kind):
    settings, named = CHANGING[kind]
    wanted = save_lora(home, **settings)
    refuse_everywhere(load_tiny, named)
    adapters.merge_adapter("mine", "merged")
    loaded = load_tiny("merged")
    assert is_close(compute(loaded.model), wanted)
    assert ("<tool>" in loaded.tokenizer.get_vocab()) is ("tokens" in settings)


def refuse_everywhere(load_tiny, named):
    """Asserts that list, server and attaching say why, and how to merge, and leave the model plain."""
    assert adapters.describe_adapter("mine").problem
    with pytest.raises(UnsupportedError, match=f"{named}.*merge mine"):
        find_choice(ModelChoice("tiny", ("mine",)), None, None)
    loaded = load_tiny()
    plain = compute(loaded.model)
    with pytest.raises(UnsupportedError, match=named):
        adapters.attach_adapter(loaded, "mine")
    with pytest.raises(KitError):
        adapters.build_vllm_command(["mine"])
    assert torch.equal(compute(loaded.model), plain)


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_lora_with_biases_of_its_base_is_merged_and_not_attached(home, load_tiny, bias):
    make_tiny_model(home / "models" / "tiny", biases=True)
    wanted = save_lora(home, bias=bias)
    refuse_everywhere(load_tiny, "biases")
    adapters.merge_adapter("mine", "merged")
    assert is_close(compute(load_tiny("merged").model), wanted)


def test_copy_of_other_embeddings_is_refused_and_does_not_replace_those_of_the_model(home, base, load_tiny):
    save_lora(home, target_modules=[*PAIR, "embed_tokens"])
    path = home / "loras" / "mine" / "adapter_model.safetensors"
    tensors = load_file(path)
    copy = next(name for name in tensors if name.endswith("embed_tokens.base_layer.weight"))
    save_file({**tensors, copy: torch.randn(260, 32)}, path, metadata={"format": "pt"})
    loaded = load_tiny()
    plain = compute(loaded.model)
    with pytest.raises(UnsupportedError, match="embed_tokens.*merge mine"):
        adapters.attach_adapter(loaded, "mine")
    assert torch.equal(compute(loaded.model), plain)


def test_repeated_layers_are_refused_by_all(home, base, load_tiny):
    save_lora(home, layer_replication=[[0, 2], [1, 2]])
    with pytest.raises(UnsupportedError, match="layer_replication"):
        adapters.attach_adapter(load_tiny(), "mine")
    with pytest.raises(UnsupportedError, match="layer_replication"):
        adapters.merge_adapter("mine", "merged")
    assert "layer_replication" in adapters.describe_adapter("mine").problem


def test_biases_of_a_lora_attach_and_cannot_be_merged_into_a_base_without_any(home, base, load_tiny):
    wanted = save_lora(home, lora_bias=True, init_lora_weights=True)
    assert is_close(compute(adapters.attach_adapter(load_tiny(), "mine").model), wanted)
    with pytest.raises(UnsupportedError, match="bias"):
        adapters.merge_adapter("mine", "merged")


# Old and odd files


def test_config_of_an_early_peft_is_read(home, base, load_tiny):
    wanted = save_lora(home)
    folder = home / "loras" / "mine"
    save_as_2023(folder)
    keep = {"r": 4, "lora_alpha": 4, "target_modules": PAIR, "base_model_name_or_path": "acme/tiny"}
    odd = {"enable_lora": None, "merge_weights": False, "setting_of_tomorrow": {"x": 1}}
    (folder / "adapter_config.json").write_text(json.dumps({**keep, **odd}))
    assert is_close(compute(adapters.attach_adapter(load_tiny(), "mine").model), wanted)
    adapters.merge_adapter("mine", "merged")
    assert is_close(compute(load_tiny("merged").model), wanted)


def test_file_without_the_whole_module_that_its_config_names_is_refused(home, base, load_tiny):
    save_lora(home)
    change_config(home / "loras" / "mine", modules_to_save=["lm_head"])
    loaded = load_tiny()
    kind = type(loaded.model)
    with pytest.raises(MismatchError, match="mine.*lm_head"):
        adapters.attach_adapter(loaded, "mine")
    assert type(loaded.model) is kind
    assert not [name for name, _ in loaded.model.named_modules() if "lora" in name]


def test_layers_that_do_not_exist_are_refused_and_leave_the_plain_base(home, base, load_tiny):
    save_lora(home)
    change_config(home / "loras" / "mine", target_modules=["query_key_value"])
    loaded = load_tiny()
    with pytest.raises(MismatchError, match="query_key_value"):
        adapters.attach_adapter(loaded, "mine")
    assert not isinstance(loaded.model, PeftModel)
    assert not hasattr(loaded.model, "peft_config")
