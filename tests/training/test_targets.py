"""Which layers get a LoRA: those that were meant, on every architecture, or an error before the training."""

import warnings

import pytest
import torch
import transformers
from peft import get_peft_model
from peft.tuners.lora import LoraLayer
from support.tiny import make_tiny_model

from helpers import adapters, loading, training
from helpers.common.errors import UnsupportedError, UsageError
from helpers.common.training_settings import TrainingSettings
from helpers.training.targets import check_targets, find_blocks

DENSE = ["dense", "dense_4h_to_h", "dense_h_to_4h", "query_key_value"]
SIZES = {"vocab_size": 260, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA = {**SIZES, "hidden_size": 32, "intermediate_size": 64, "num_key_value_heads": 2}
# Name of the config class: (its settings, the linear layers of its blocks)
ARCHITECTURES = {
    "GPT2Config": ({**SIZES, "hidden_size": 32}, ["c_attn", "c_fc", "c_proj"]),
    "FalconConfig": ({**SIZES, "hidden_size": 32}, DENSE),
    "BloomConfig": ({**SIZES, "hidden_size": 32}, DENSE),
    "GPTNeoXConfig": ({**SIZES, "hidden_size": 32, "intermediate_size": 64}, DENSE),
    "OPTConfig": (
        {**SIZES, "hidden_size": 32, "ffn_dim": 64, "word_embed_proj_dim": 32},
        ["fc1", "fc2", "k_proj", "out_proj", "q_proj", "v_proj"],
    ),
    "MptConfig": (
        {"vocab_size": 260, "d_model": 32, "n_layers": 2, "n_heads": 4},
        ["Wqkv", "down_proj", "out_proj", "up_proj"],
    ),
    "MixtralConfig": ({**LLAMA, "num_local_experts": 2}, ["k_proj", "o_proj", "q_proj", "v_proj"]),
}


def make_model(name, layers=2):
    """A random model of two layers."""
    config = getattr(transformers, name)(**ARCHITECTURES[name][0])
    config.num_hidden_layers = layers
    return transformers.AutoModelForCausalLM.from_config(config)


def list_adapted(model, settings):
    """The paths of the layers that got a LoRA."""
    adapted = get_peft_model(model, training.make_lora_config(model, settings)).get_base_model()
    return [path for path, module in adapted.named_modules() if isinstance(module, LoraLayer)]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_all_linear_is_every_linear_layer_of_the_blocks_and_nothing_else(name, recwarn):
    model = make_model(name)
    expected = ARCHITECTURES[name][1]
    assert training.list_targets(model) == expected
    adapted = list_adapted(model, TrainingSettings())
    assert {path.rpartition(".")[2] for path in adapted} == set(expected)
    assert not [path for path in adapted if "head" in path or "embed" in path]
    assert not [warning for warning in recwarn if "fan_in_fan_out" in str(warning.message)]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_upper_linear_leaves_out_the_lowest_quarter_of_the_blocks(name):
    model = make_model(name, layers=4)
    every, upper = (list_adapted(make_model(name, layers=4), TrainingSettings(targets=f"{which}-linear"))
                    for which in ("all", "upper"))  # fmt: skip
    blocks = find_blocks(model)
    assert blocks and upper == [path for path in every if not path.startswith(f"{blocks}0.")]
    assert len(upper) * 4 == len(every) * 3


def test_lower_blocks_of_upper_linear_need_no_gradient():
    model = make_model("GPT2Config", layers=4)
    adapted = get_peft_model(
        model, training.make_lora_config(model, TrainingSettings(targets="upper-linear"))
    )
    states = adapted(input_ids=torch.tensor([[1, 2, 3]]), output_hidden_states=True).hidden_states
    assert [state.requires_grad for state in states] == [False, False, True, True, True]


def make_seeing_model(layers=2):
    """A model with a vision tower, whose layers have the names of the decoder's."""
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": 28,
        "patch_size": 14,
    }
    config = transformers.Gemma3Config(
        text_config={**LLAMA, "head_dim": 8, "num_hidden_layers": layers},
        vision_config=vision,
        mm_tokens_per_image=4,
    )
    return transformers.Gemma3ForConditionalGeneration(config)


@pytest.mark.parametrize("targets", ["all-linear", "q_proj, v_proj"])
def test_vision_tower_gets_no_lora(targets):
    model = make_seeing_model()
    adapted = list_adapted(model, TrainingSettings(targets=targets))
    assert len(adapted) == 2 * (7 if targets == "all-linear" else 2)
    assert all(path.startswith("model.language_model.layers.") for path in adapted)


def test_vision_tower_leaves_upper_linear_to_the_decoder():
    adapted = list_adapted(make_seeing_model(layers=3), TrainingSettings(targets="upper-linear"))
    places = {path.removeprefix("model.language_model.layers.")[0] for path in adapted}
    assert len(adapted) == 2 * 7 and places == {"1", "2"}


def test_named_layers_may_be_separated_by_spaces_and_may_be_outside_of_the_blocks(tiny):
    settings = TrainingSettings().replace({"targets": " q_proj, embed_tokens ,lm_head"})
    assert settings.targets == "q_proj,embed_tokens,lm_head"
    assert training.make_lora_config(tiny.model, settings).target_modules == {
        "q_proj",
        "embed_tokens",
        "lm_head",
    }


def test_targets_may_be_the_regular_expression_of_another_lora(tiny):
    adapted = list_adapted(tiny.model, TrainingSettings(targets=r".*layers\.1\..*(q|v)_proj"))
    assert len(adapted) == 2
    assert all("layers.1" in path for path in adapted)


@pytest.mark.parametrize(
    ("targets", "named"),
    [
        ("q_proj,v_prj", "'v_prj'.*v_proj"),
        ("q_prj", "'q_prj'.*q_proj"),
        ("attention", "all-linear.*q_proj"),
        ("proj", "'proj'"),
        (", ", "no targets"),
        (r".*query(1|2)", "query"),
        ("((q_proj", "not a regular expression"),
    ],
)
def test_name_that_no_layer_has_is_refused_with_the_nearest_before_the_training(
    tiny, home, data, targets, named
):
    settings = TrainingSettings(targets=targets)
    with pytest.raises(UsageError, match=named):
        training.train_lora(tiny, data, settings, home / "loras" / "mine", progress=False)
    assert not (home / "loras" / "mine").exists()


@pytest.mark.parametrize("targets", ["lm_head", "q_proj,lm_head", ".*(q_proj|head)"])
def test_layer_that_trl_does_not_train_is_refused_before_the_model_is_loaded(tiny, home, data, targets):
    settings, output = TrainingSettings(targets=targets), home / "loras" / "mine"
    with pytest.raises(UnsupportedError, match="tiny cannot be trained.*lm_head"):
        check_targets(tiny.folder, settings)
    with warnings.catch_warnings(), pytest.raises(UnsupportedError, match="tiny cannot be trained.*lm_head"):
        warnings.simplefilter("error")  # PEFT's would come before the error
        training.train_lora(tiny, data, settings, output, progress=False)
    check_targets(tiny.folder, TrainingSettings(targets="q_proj,embed_tokens"))


def test_model_whose_blocks_have_no_linear_layers_is_refused_with_what_there_is():
    model = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([torch.nn.Conv1d(1, 1, 1)])})
    model["score"] = torch.nn.Linear(2, 2)
    with pytest.raises(UnsupportedError, match="targets.*score"):
        training.list_targets(model)


def test_gpt_2_trains_and_its_lora_is_attached_and_merged(home, data, settings):
    folder = make_tiny_model(home / "models" / "gpt2")
    make_model("GPT2Config").save_pretrained(folder)
    loaded = loading.load_model("gpt2", dtype="float32")
    settings = settings.replace({"epochs": 0.5})
    training.train_lora(loaded, data, settings, home / "loras" / "mine", progress=False)
    assert adapters.describe_adapter("mine").problem is None
    loaded = adapters.attach_adapter(loading.load_model("gpt2", dtype="float32"), "mine")
    assert all(finding.passed is not False for finding in adapters.prove(loaded, "mine"))
    assert adapters.merge_adapter("mine", "merged").is_dir()


@pytest.mark.parametrize("tied", [True, False])
def test_lora_that_the_kit_trained_on_embeddings_is_taken_by_the_kit(home, data, settings, tied):
    make_tiny_model(home / "models" / "tiny", tied=tied)
    loaded = loading.load_model("tiny", dtype="float32")
    settings = settings.replace({"targets": "q_proj,embed_tokens", "epochs": 0.5})
    training.train_lora(loaded, data, settings, home / "loras" / "mine", progress=False)
    assert adapters.describe_adapter("mine").problem is None
    loaded = adapters.attach_adapter(loading.load_model("tiny", dtype="float32"), "mine")
    assert all(finding.passed is not False for finding in adapters.prove(loaded, "mine"))
    assert adapters.merge_adapter("mine", "merged").is_dir()
