"""A LoRA's B A added to the weights of its base, and what refuses to be merged."""

import shutil
import subprocess
import sys

import pytest
import torch
from support.holder import hold_elsewhere
from support.loras import change_config, change_each_weight, change_json, read_json

from helpers import adapters, weights
from helpers.adapters.__main__ import main
from helpers.adapters.fingerprint import compute_logits
from helpers.adapters.merging import refuse_lost_update
from helpers.common.command import run_command
from helpers.common.errors import AlreadyThereError, DamagedError, MismatchError, UnsupportedError, UsageError

PROMPT = [{"role": "user", "content": "Where to?"}]


def test_merged_model_gives_the_logits_of_base_and_lora(trained, load_tiny):
    wanted = compute_logits(adapters.attach_adapter(load_tiny(), "mine"), PROMPT)
    assert run_command(main, ["merge", "mine", "--output", "merged"]) == 0
    off = (compute_logits(load_tiny("merged"), PROMPT) - wanted).abs().max()
    assert off < 1e-4 * wanted.abs().max()


def test_merged_folder_is_complete_and_records_what_it_was_made_of(trained, load_tiny):
    adapters.merge_adapter("mine", "merged")
    folder = weights.find_model("merged")
    assert folder.find_damage() == ""
    assert set(folder.hashes) == {"model.safetensors"}
    assert "tiny" in folder.record["source"]
    assert "mine" in folder.record["source"]
    assert load_tiny("merged").tokenizer.chat_template == load_tiny().tokenizer.chat_template


@pytest.mark.parametrize(
    "advice",
    [
        {"temperature": 0.9, "top_p": 0.6, "max_length": 4096},  # without sampling
        {"pad_token_id": -1},
        {"output_scores": True},
    ],
)
def test_merged_folder_advises_what_its_base_does(trained, home, advice, capfd):
    change_json(home / "models" / "tiny" / "generation_config.json", **advice)
    merged = adapters.merge_adapter("mine", "merged")
    assert advice.items() <= read_json(merged / "generation_config.json").items()
    assert capfd.readouterr().err == ""


def test_merge_of_a_base_without_advice_whose_pad_token_is_minus_1(trained, home, load_tiny):
    (home / "models" / "tiny" / "generation_config.json").unlink()
    change_json(home / "models" / "tiny" / "config.json", pad_token_id=-1)
    merged = adapters.merge_adapter("mine", "merged")
    assert load_tiny(merged.name).model


def test_merged_weights_are_saved_in_the_dtype_that_was_asked_for(trained):
    made = adapters.merge_adapter("mine", "merged", dtype="bfloat16")
    assert read_json(made / "config.json")["dtype"] == "bfloat16"


def test_model_that_is_there_already_is_not_overwritten(trained, home):
    (home / "models" / "merged").mkdir()
    with pytest.raises(AlreadyThereError, match="merged"):
        adapters.merge_adapter("mine", "merged")
    assert list((home / "models" / "merged").iterdir()) == []


def test_nothing_is_merged_into_quantised_weights_and_both_ways_out_are_named(trained, home, capsys):
    quantised = home / "models" / "tiny-GPTQ"
    shutil.copytree(home / "models" / "tiny", quantised)
    settings = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True}
    change_json(quantised / "config.json", quantization_config=settings)
    change_config(trained, base_model_name_or_path="models/tiny-GPTQ")
    with pytest.raises(UnsupportedError, match="tiny-GPTQ"):
        adapters.merge_adapter("mine", "merged")
    assert run_command(main, ["merge", "mine", "--output", "merged"]) == 2
    error = capsys.readouterr().err
    assert "helpers.server" in error
    assert "--base" in error
    assert not (home / "models" / "merged").exists()


def test_lora_of_a_quantised_base_is_merged_into_a_full_precision_base(trained, home):
    change_config(trained, base_model_name_or_path="models/tiny-GPTQ")
    assert run_command(main, ["merge", "mine", "--output", "merged", "--base", "tiny"]) == 0
    assert (home / "models" / "merged" / "model.safetensors").is_file()


def test_lora_without_a_recorded_base_needs_one_to_be_named(trained):
    change_config(trained, base_model_name_or_path=None)
    with pytest.raises(MismatchError, match="--base"):
        adapters.merge_adapter("mine", "merged")


def test_base_that_cannot_be_loaded_is_one_line(trained, home):
    change_json(home / "models" / "tiny" / "config.json", vocab_size=0)
    command = [sys.executable, "-m", "helpers.adapters", "merge", "mine", "--output", "merged"]
    done = subprocess.run(command, capture_output=True, text=True)  # its stderr is transformers', too
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("error: tiny cannot be loaded")


def test_base_that_is_no_decoder_is_refused(made, home):
    change_json(home / "models" / "tiny" / "config.json", model_type="bert")
    with pytest.raises(UnsupportedError, match="bert"):
        adapters.merge_adapter("a", "merged")


def test_lora_that_holds_nan_is_refused_and_leaves_nothing(made, home):
    change_each_weight(made[0], lambda tensor: torch.full_like(tensor, float("nan")))
    with pytest.raises(DamagedError):
        adapters.merge_adapter("a", "merged")
    assert [path.name for path in (home / "models").iterdir()] == ["tiny"]


def test_update_that_rounding_loses_is_refused_with_the_option_that_keeps_it(tiny):
    wanted = compute_logits(tiny, PROMPT)
    largest = wanted.abs().max()
    refuse_lost_update(tiny, "a", [PROMPT], [wanted + 0.0005 * largest])
    with pytest.raises(UnsupportedError, match="--dtype float32"):
        refuse_lost_update(tiny, "a", [PROMPT], [wanted + 0.01 * largest])


def test_merge_in_16_bits_may_move_the_logits_by_2_percent(tiny):
    tiny.model = tiny.model.bfloat16().float()  # the rounded weights, computed with exactly
    wanted = compute_logits(tiny, PROMPT)
    largest = wanted.abs().max()
    tiny.model = tiny.model.bfloat16()
    refuse_lost_update(tiny, "a", [PROMPT], [wanted + 0.01 * largest])
    with pytest.raises(UnsupportedError):
        refuse_lost_update(tiny, "a", [PROMPT], [wanted + 0.05 * largest])
    assert tiny.model.dtype == torch.bfloat16


# Two at once


def test_merge_waits_for_nobody_and_says_who_makes_the_folder(trained, home):
    with hold_elsewhere(home / "models" / "merged", "a merge") as process:
        with pytest.raises(AlreadyThereError) as caught:
            adapters.merge_adapter("mine", "merged")
    assert f"process {process.pid}" in caught.value.problem
    adapters.merge_adapter("mine", "merged")  # the process was killed


def test_lora_is_merged_as_it_is_while_a_training_of_that_name_runs(trained, home):
    with hold_elsewhere(trained):
        assert adapters.merge_adapter("mine", "merged") == home / "models" / "merged"


def test_lora_that_was_replaced_while_it_was_read_is_noticed(trained):
    folder = adapters.find_adapter("mine")
    folder.refuse_replaced()
    trained.rename(trained.with_name("mine-previous"))
    shutil.copytree(trained.with_name("mine-previous"), trained)
    with pytest.raises(AlreadyThereError, match="mine"):
        folder.refuse_replaced()


@pytest.mark.parametrize("name", ["a/b", ".hidden", "", "x" * 256, "a\0"])
def test_name_of_a_merged_model_that_lists_would_not_show_is_refused(trained, home, name):
    with pytest.raises(UsageError):
        adapters.merge_adapter("mine", name)
    assert [path.name for path in (home / "models").iterdir()] == ["tiny"]
