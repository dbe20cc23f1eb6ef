"""TRL's configuration on machines that are not this one: facts are given."""

import dataclasses

import pytest
from trl import SFTTrainer

from helpers import training
from helpers.training.configs import say_unused


@pytest.fixture
def two_gpus(monkeypatch):
    """transformers finds two GPUs, as far as the number goes."""
    find = training.configs.SFTConfig.__post_init__

    def pretend(config):
        find(config)
        config._n_gpu = 2

    monkeypatch.setattr("helpers.training.configs.SFTConfig.__post_init__", pretend)


def test_trl_refuses_two_gpus_in_one_process(two_gpus, tiny, data, settings, tmp_path):
    """If it does so no more, use_one_gpu can go."""
    config = dataclasses.replace(training.make_sft_config(tiny.model, settings, tmp_path, progress=False))
    examples = training.build_dataset(data.train, data.template, settings, tiny.tokenizer)
    with pytest.raises(ValueError, match="DataParallel"):
        SFTTrainer(model=tiny.model, args=config, train_dataset=examples, processing_class=tiny.tokenizer)


def test_of_two_gpus_one_is_used_and_what_would_use_both_is_said(
    two_gpus, tiny, data, settings, tmp_path, capsys
):
    trainer = training.make_trainer(tiny, data, settings, tmp_path, progress=False)
    assert trainer.args.n_gpu == 1 and trainer.args.train_batch_size == settings.batch_size
    [line] = [line for line in capsys.readouterr().err.splitlines() if "GPU" in line]
    assert "1 more" in line and "accelerate launch" in line


def test_nothing_is_said_where_no_gpu_is_unused_or_the_model_is_spread_over_them(capsys):
    say_unused(0, [])
    say_unused(1, ["0", "1"])
    assert capsys.readouterr().err == ""
