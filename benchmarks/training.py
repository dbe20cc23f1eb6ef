"""How fast a LoRA is trained on the same rows: the recipe of 2023, TRL's SFTTrainer and the kit's trainer.

    python -m benchmarks.training [--rounds 3] [--rows 48] [--data FILE [--template YAML]]

FILE is any table that training reads, for labels or free answers; chats need no template. Every measurement
is a process of its own, so that its peak memory is its own, and the contestants take turns, so that what else
the machine does falls on all of them. All train the same LoRA from the same base; they differ in how they
compute. On a computer without CUDA the base is the embedded model; with CUDA a random Llama of a billion
parameters, and MFU is reported.
"""

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig
from trl import SFTTrainer

from benchmarks.contestants import pick_lora_settings
from benchmarks.records import keep_record, name_record
from helpers.common import arguments as types
from helpers.common.command import CommandParser, run_command
from helpers.common.errors import TrainingError
from helpers.common.machine import Choice, measure_peak_mb, name_device, pick_device, pick_dtype
from helpers.loading.model import LoadedModel, load_model
from helpers.tasks.rows import open_data, read_rows
from helpers.training.configs import make_sft_config
from helpers.training.dataset import build_dataset
from helpers.training.prefix_trainer import SharedPrefixTrainer
from helpers.training.targets import make_lora_config
from helpers.weights.fetching import fetch
from helpers.weights.folders import find_model

LESSONS = ("data/college_preferences/dataset.csv", "templates/college_preferences.yaml")
# name: (trainer, dtype or None for the machine's best, loss on the completion only, batch sizes on CPU, GPU)
CONTESTANTS = {
    "2023 recipe": (SFTTrainer, "float32", False, (4,), (4,)),
    "SFTTrainer": (SFTTrainer, None, True, (1, 2, 4), (16, 64)),
    "kit": (SharedPrefixTrainer, None, True, (8, 16), (16, 64)),
}
PEAK_FLOPS = {
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "T4": 65e12,
}  # dense, 16 bits, from NVIDIA's data sheets
BILLION = LlamaConfig(
    vocab_size=49152,
    hidden_size=2048,
    intermediate_size=8192,
    num_hidden_layers=16,
    num_attention_heads=32,
    num_key_value_heads=8,
)


def load_base(dtype: str | None) -> LoadedModel:
    """The embedded model; with CUDA its tokenizer and a random Llama of 1.1 billion parameters."""
    if not torch.cuda.is_available():
        return load_model("SmolLM2-135M-Instruct", dtype=dtype)
    folder = find_model("SmolLM2-135M-Instruct")
    wanted = getattr(torch, dtype) if dtype else pick_dtype().value
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(BILLION, dtype=wanted)
    made = Choice("transformers", "made on the spot")
    return LoadedModel(
        "random-llama-1b",
        folder,
        made,
        model,
        AutoTokenizer.from_pretrained(folder.path, trust_remote_code=False),
        pick_device(),
        Choice(wanted, "asked for"),
    )


def measure(contestant: str, batch_size: int, options: argparse.Namespace) -> dict:
    """Trains one pass over the first rows; rows a second, peak memory in MB, mean loss of the last rows."""
    kind, dtype, completion_only, *_ = CONTESTANTS[contestant]
    table, template = open_data(options.data, options.template)
    settings = pick_lora_settings().replace({"batch_size": batch_size, "max_rows": 0})
    loaded = load_base(dtype)
    rows = read_rows(table, template)
    examples = build_dataset(rows, template, settings, loaded.tokenizer).select(range(options.rows))
    # What pads is given rows of one length, which is best for it.
    order = "random" if kind is SharedPrefixTrainer else "group_by_length"
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = kind(
            model=loaded.model,
            args=dataclasses.replace(
                make_sft_config(loaded.model, settings, Path(folder), progress=False),
                train_sampling_strategy=order,
                completion_only_loss=completion_only,  # if not, the loss is on every token
            ),
            train_dataset=examples,
            processing_class=loaded.tokenizer,
            peft_config=make_lora_config(loaded.model, settings),
        )
        metrics = trainer.train().metrics
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    tokens = sum(len(ids) for ids in trainer.train_dataset["input_ids"])
    return {
        "rows_per_second": options.rows / metrics["train_runtime"],
        "peak_mb": measure_peak_mb(),
        "loss": statistics.mean(losses[-max(1, 16 // batch_size) :]),
        "mfu": estimate_mfu(loaded.model, tokens / metrics["train_runtime"]),
    }


def estimate_mfu(model: torch.nn.Module, tokens_per_second: float) -> float | None:
    """Model FLOPs utilisation: FLOPs a second over the GPU's peak.

    4 FLOPs for each weight and token: forward, and backward to the inputs (W itself is frozen).

    Tokens are counted as the rows have them, shared ones in every row. None without CUDA or for an unknown
    GPU.
    """
    peak = next((value for name, value in PEAK_FLOPS.items() if name in name_device()), None)
    if not torch.cuda.is_available() or not peak:
        return None
    return 4 * sum(p.numel() for p in model.parameters()) * tokens_per_second / peak


def run_rounds(options: argparse.Namespace) -> pd.DataFrame:
    """One line a contestant and batch size: medians over the rounds."""
    found: dict[tuple[str, int], list[dict]] = {}
    for number in range(options.rounds):
        for contestant, (*_, on_cpu, on_gpu) in CONTESTANTS.items():
            for size in on_gpu if torch.cuda.is_available() else on_cpu:
                command = [
                    sys.executable,
                    "-m",
                    "benchmarks.training",
                    "--one",
                    contestant,
                    str(size),
                    "--rows",
                    str(options.rows),
                ]
                command += ["--data", options.data]
                command += ["--template", options.template] if options.template else []
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
                if done.returncode:
                    problem = f"{contestant} with the batch {size} ended with {done.returncode}."
                    raise TrainingError(problem, "The reason is above.")
                found.setdefault((contestant, size), []).append(json.loads(done.stdout.splitlines()[-1]))
                print(
                    f"round {number + 1}: {contestant}, batch {size}: {found[contestant, size][-1]}",
                    file=sys.stderr,
                )
    lines = [
        {"contestant": name, "batch": size, **summarise(results)} for (name, size), results in found.items()
    ]
    return pd.DataFrame(lines)


def summarise(results: list[dict]) -> dict:
    """Medians of the rounds."""
    return {
        key: statistics.median(result[key] for result in results) if results[0][key] is not None else None
        for key in results[0]
    }


def main(arguments: list[str]) -> None:
    """Prints the table with the speed-ups of the best batch sizes, and writes it as JSON to runs/."""
    parser = CommandParser(prog="python -m benchmarks.training", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=types.count, default=3)
    parser.add_argument("--rows", type=types.count, default=48)
    parser.add_argument("--data", metavar="FILE", help="default: the lessons' data, with their template")
    parser.add_argument("--template", metavar="YAML", help="chats need none")
    parser.add_argument(
        "--one",
        nargs=2,
        metavar=("CONTESTANT", "BATCH"),
        help="measure one in this process (used by the rounds)",
    )
    options = parser.parse_args(arguments)
    if not options.data:
        options.data, options.template = LESSONS
    if options.one:
        print(json.dumps(measure(options.one[0], int(options.one[1]), options)))
        return
    read_rows(*open_data(options.data, options.template))  # what is wrong with them is said once
    path = name_record("training")
    fetch("smollm2-135m-instruct")
    table = run_rounds(options)
    best = table.groupby("contestant")["rows_per_second"].max()
    print(table.to_string(index=False, float_format="{:.3g}".format))
    print(
        f"kit over 2023 recipe: {best['kit'] / best['2023 recipe']:.2f}x, "
        f"kit over SFTTrainer: {best['kit'] / best['SFTTrainer']:.2f}x"
    )
    keep_record(path, options, table=table.to_dict("records"))


if __name__ == "__main__":
    raise SystemExit(run_command(main))
