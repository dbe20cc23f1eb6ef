"""What fits the usual GPUs, by estimates of models whose needs are known."""

import json

import pytest
from support.tiny import make_tiny_model

from helpers import weights
from helpers.common.command import run_command
from helpers.common.lanes import LANES
from helpers.common.machine import pick_dtype
from helpers.common.presets import pick_settings
from helpers.weights.__main__ import main
from helpers.weights.cards import AS_STORED, CARDS, GPTQ, estimate_gptq_bytes, list_fits
from helpers.weights.memory import estimate_training

LLAMA_7B = {
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "torch_dtype": "float16",
}
LLAMA_7B_BYTES = 13_476_839_424
LLAMA_70B_GPTQ = {
    "num_hidden_layers": 80,
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "torch_dtype": "float16",
    "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 64},
}


def find(fits, card, kind=AS_STORED):
    return next(fit for fit in fits if (fit.card, fit.weights) == (card, kind))


@pytest.fixture(scope="module")
def fits_7b():
    return list_fits(LLAMA_7B, LLAMA_7B_BYTES, 2048, r=64, batch=4, length=133)


def test_7b_runs_on_a_t4_only_as_gptq_and_trains_there_with_checkpointing(fits_7b):
    assert not find(fits_7b, "T4").runs
    small = find(fits_7b, "T4", GPTQ)
    assert small.runs and small.rows >= 4
    assert small.training_bytes < small.free_bytes
    assert find(fits_7b, "L4").runs


def test_70b_of_the_tutorial_trains_on_80_gb_and_not_on_40():
    fits = list_fits(LLAMA_70B_GPTQ, 38_500_000_000, 2048, r=64, batch=4, length=133)
    assert {fit.weights for fit in fits} == {AS_STORED}  # it is GPTQ already
    rows = {fit.card: fit.rows for fit in fits}
    assert rows["A100 40 GB"] == 0
    assert rows["A100 80 GB"] == rows["H100"] >= 32  # measured on an H200: 32 rows took 55.6 GB


def test_gptq_bytes_are_those_of_a_folder_that_is_known():
    # TheBloke/Llama-2-7B-Chat-GPTQ, branch main: 3.90 GB
    assert estimate_gptq_bytes(LLAMA_7B, LLAMA_7B_BYTES) == pytest.approx(3.9e9, rel=0.01)


def test_most_rows_fit_and_twice_as_many_do_not(fits_7b):
    for fit in (find(fits_7b, "A100 40 GB"), find(fits_7b, "L4")):
        for rows, checkpointing in ((fit.rows, True), (fit.plain_rows, False)):
            needed = [
                sum(
                    term.bytes
                    for term in estimate_training(
                        LLAMA_7B, LLAMA_7B_BYTES, fit.dtype, "cuda", r=64, length=133,
                        batch=count, checkpointing=checkpointing,
                    )
                )
                for count in (max(rows, 1), max(2 * rows, 1))
            ]  # fmt: skip
            assert rows == 256 or needed[1] > fit.free_bytes
            assert not rows or needed[0] <= fit.free_bytes


def test_checkpointing_makes_room_for_more_rows(fits_7b):
    for fit in fits_7b:
        assert fit.training_bytes < fit.plain_bytes
        assert fit.rows >= fit.plain_rows


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_dtype_of_a_card_follows_its_compute_capability(card, fits_7b):
    wanted = "float16" if card.name == "T4" else "bfloat16"
    assert find(fits_7b, card.name).dtype == wanted
    assert str(pick_dtype("cuda", card.capability).value) == f"torch.{wanted}"


def test_size_takes_auto_for_the_batch(home):
    make_tiny_model(home / "models" / "tiny")
    size = weights.measure_size("tiny", batch="auto")
    assert size.batch == 4 and "CPU" in size.batch_reason
    assert [term.bytes for term in size.training] == [
        term.bytes for term in weights.measure_size("tiny", batch=4).training
    ]


def test_command_shows_each_card_and_why_the_batch_was_chosen(home, capsys):
    make_tiny_model(home / "models" / "tiny")
    capsys.readouterr()
    assert run_command(main, ["size", "tiny", "--batch", "auto"]) == 0
    shown = capsys.readouterr().out
    assert "batch 4: " in shown
    assert all(f"  {card.name} " in shown for card in CARDS)
    assert run_command(main, ["size", "tiny", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [fit["card"] for fit in found["cards"]][::2] == [card.name for card in CARDS]
    assert found["batch"] == 4


# Lanes


def test_lane_of_a_t4_runs_and_trains_there_by_the_estimate():
    settings = pick_settings("t4")
    step = {"r": settings.lora_r, "batch": settings.batch_size, "length": 512}
    fit = find(list_fits(LLAMA_7B, LLAMA_7B_BYTES, 4096, **step), "T4", GPTQ)
    assert LANES["t4"].gpu_gb <= 15
    assert fit.runs and fit.training_bytes <= fit.free_bytes
    weights = estimate_gptq_bytes(LLAMA_7B, LLAMA_7B_BYTES)
    assert weights < 12e9 / 2  # Colab's main memory, through which the file is read
