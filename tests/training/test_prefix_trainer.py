import importlib.util

import peft
import pytest
import torch
from support.gradients import SETTINGS, SMALL_GRADIENTS, assert_same, make_trainer
from support.tiny import make_tiny_model
from transformers import AutoModelForCausalLM, MistralConfig, OlmoConfig, Qwen2Config, Qwen3Config
from trl import SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from helpers import loading, training, weights
from helpers.adapters._private import LeanLoraLinear
from helpers.common.errors import UnsupportedError
from helpers.training._private import read_attention
from helpers.training.prefix_trainer import PackingCollator, SharedPrefixTrainer

SHAPE = {
    "vocab_size": 260,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
CONFIGS = {
    "mistral": MistralConfig(**SHAPE, sliding_window=None),
    "mistral, rows within its window": MistralConfig(**SHAPE, sliding_window=2000),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE, head_dim=8),
}


@pytest.fixture(autouse=True)
def many_branches(monkeypatch):
    monkeypatch.setattr(
        "helpers.training.token_tree.BRANCH_TOKENS", 40
    )  # so that four rows have more than one


def make_random_model(folder, config):
    """A model folder with the tiny tokenizer and random weights of this architecture."""
    make_tiny_model(folder)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


@pytest.mark.parametrize("accumulation", [1, 3])
def test_loss_and_gradients_are_those_of_the_stock_trainer(tiny, rows, template, tmp_path, accumulation):
    assert_same("tiny", rows, template, tmp_path, accumulation)


def test_checkpointed_layers_see_the_same_attention_when_they_are_computed_again(
    tiny, rows, template, tmp_path
):
    assert_same("tiny", rows, template, tmp_path, checkpointing=True)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_batches_for_a_gpu_have_the_same_loss_and_gradients(tiny, rows, template, tmp_path, checkpointing):
    collator = PackingCollator("cuda")
    batch = collator([{"input_ids": [5, 6, 7]}, {"input_ids": [5, 6, 8, 9]}])
    assert batch["input_ids"].shape == (1, 64) and batch["paths"].shape == (2, 64)
    assert_same("tiny", rows, template, tmp_path, 3, checkpointing, collator=collator)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_other_architectures_get_the_same_gradients(home, rows, template, tmp_path, architecture):
    make_random_model(home / "models" / architecture, CONFIGS[architecture])
    assert_same(architecture, rows, template, tmp_path)


@pytest.mark.skipif(
    not importlib.util.find_spec("gptqmodel"), reason="gptqmodel is for Linux: pip install -e '.[gptq]'"
)
@pytest.mark.long
def test_a_quantised_base_gets_the_same_gradients(home, rows, template, tmp_path):
    make_tiny_model(home / "models" / "tiny", hidden=128)
    assert_same(weights.quantize("tiny", group_size=32).name, rows, template, tmp_path)


@pytest.mark.real
def test_loss_and_gradients_are_those_of_the_stock_trainer_on_the_real_model(
    real_model_name, rows, template, tmp_path
):
    assert_same(real_model_name, rows, template, tmp_path, each=SMALL_GRADIENTS)


def test_an_unknown_architecture_is_trained_as_by_the_stock_trainer_with_a_warning(
    home, rows, template, tmp_path
):
    make_random_model(home / "models" / "olmo", OlmoConfig(**SHAPE))
    with pytest.warns(UserWarning, match="'olmo'"):
        assert_same("olmo", rows, template, tmp_path)


def test_rows_beyond_a_sliding_window_are_trained_as_by_the_stock_trainer_with_a_warning(
    home, rows, template, tmp_path
):
    make_random_model(home / "models" / "mistral", MistralConfig(**SHAPE, sliding_window=100))
    with pytest.warns(UserWarning, match="sees 100 tokens"):
        assert_same("mistral", rows, template, tmp_path)


def test_attention_is_what_it_was_after_training(tiny, rows, template, tmp_path):
    trainer = make_trainer(SharedPrefixTrainer, tiny, rows, template, tmp_path, max_steps=2)
    trainer.train()
    assert trainer.state.global_step == 2 and read_attention(tiny.model) == "sdpa"


def test_evaluation_gives_the_loss_of_the_stock_trainer(tiny, rows, template, tmp_path):
    losses = []
    for trainer_class in (SharedPrefixTrainer, SFTTrainer):
        loaded = loading.load_model("tiny", dtype="float32")
        # Seven rows make a full batch and an incomplete one, which counts for fewer rows.
        some = training.build_dataset(rows[:7], template, SETTINGS, loaded.tokenizer)
        trainer = make_trainer(
            trainer_class, loaded, rows, template, tmp_path, some, per_device_eval_batch_size=4
        )
        losses.append(trainer.evaluate()["eval_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_packed_batch_has_no_logits_to_return(tiny, rows, template, tmp_path):
    trainer = make_trainer(SharedPrefixTrainer, tiny, rows, template, tmp_path)
    batch = next(iter(trainer.get_train_dataloader()))
    with pytest.raises(UnsupportedError):
        trainer.compute_loss(trainer.model, batch, return_outputs=True)


@pytest.mark.parametrize(
    "arguments",
    [{"loss_type": "dft"}, {"label_smoothing_factor": 0.1}, {"padding_free": True, "max_length": None}],
)
def test_arguments_that_packing_would_not_honour_leave_the_batches_to_trl(
    tiny, rows, template, tmp_path, arguments
):
    with pytest.warns(UserWarning):
        trainer = make_trainer(SharedPrefixTrainer, tiny, rows, template, tmp_path, **arguments)
    assert isinstance(trainer.data_collator, DataCollatorForLanguageModeling)


def test_lora_layers_are_lean_and_give_what_peft_s_own_give(tiny, rows, template, tmp_path):
    trainer = make_trainer(SharedPrefixTrainer, tiny, rows, template, tmp_path)
    layer = trainer.model.base_model.model.model.layers[0].mlp.up_proj
    assert isinstance(layer, LeanLoraLinear)
    x = torch.randn(3, layer.in_features)
    lean = layer(x)
    theirs = peft.tuners.lora.Linear.forward(layer, x)
    assert torch.allclose(lean, theirs, atol=1e-6)
    assert not torch.allclose(lean, layer.base_layer(x), atol=1e-3)
    with trainer.model.disable_adapter():
        assert torch.equal(layer(x), layer.base_layer(x))
    trainer.model.save_pretrained(tmp_path / "saved")
    assert "custom" not in (tmp_path / "saved" / "adapter_config.json").read_text()


def test_packed_batch_has_the_shared_tokens_once_and_no_padding():
    batch = PackingCollator()(
        [
            {"input_ids": [1, 2, 3, 4, 5, 6], "labels": [-100, -100, -100, -100, 5, 6]},
            {"input_ids": [1, 2, 7, 8], "labels": [-100, -100, -100, 8]},
        ]
    )
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5, 6, 7, 8]]
    assert batch["positions"].tolist() == [0, 1, 2, 3, 4, 5, 2, 3]
    assert batch["places"].tolist() == [3, 4, 6] and batch["targets"].tolist() == [5, 6, 8]


def test_rows_may_share_a_place_that_predicts():
    batch = PackingCollator()(
        [
            {"input_ids": [1, 2, 3, 4], "labels": [-100, -100, 3, 4]},
            {"input_ids": [1, 2, 3, 9], "labels": [-100, -100, -100, 9]},
        ]
    )
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 9]]
    assert batch["places"].tolist() == [1, 2, 2] and batch["targets"].tolist() == [3, 4, 9]


def test_all_tokens_of_rows_without_labels_are_learned_but_the_first():
    batch = PackingCollator()([{"input_ids": [1, 2, 3]}, {"input_ids": [1, 4]}])
    assert batch["places"].tolist() == [0, 1, 0] and batch["targets"].tolist() == [2, 3, 4]


def test_labels_of_a_packed_batch_are_those_of_trl_s_collator(tiny, rows, template, tmp_path):
    examples = list(make_trainer(SharedPrefixTrainer, tiny, rows, template, tmp_path).train_dataset)
    stock = DataCollatorForLanguageModeling(pad_token_id=0)(examples)
    assert torch.equal(PackingCollator()(examples)["labels"], stock["labels"])
