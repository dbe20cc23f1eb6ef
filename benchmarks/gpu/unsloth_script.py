"""Unsloth's contestant, run by the Python of an environment that has it; it imports nothing of the kit.

    PYTHON unsloth_script.py FOLDER LAYERS HIDDEN INTERMEDIATE HEADS KV_HEADS VOCABULARY BATCH STEPS

FOLDER has a tokenizer and gets a random model; rows are 133 random tokens, as many as a row of the lessons'
data has. Prints one line of JSON.
"""

import json
import statistics
import sys
import time
from importlib import import_module
from pathlib import Path

LIBRARY = "unsloth"
ROW = 133  # tokens
WARM = 2


def make_folder(folder: Path, sizes: list[int]) -> str:
    """Writes a random model in bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    names = (
        "num_hidden_layers hidden_size intermediate_size num_attention_heads num_key_value_heads vocab_size"
    )
    config = LlamaConfig(**dict(zip(names.split(), sizes, strict=True)))

    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    return str(folder)


def main() -> None:
    """Trains a LoRA of rank 16 in 4 bits and prints the median step."""
    folder, *numbers = sys.argv[1:]
    *sizes, batch, steps = map(int, numbers)
    fast = import_module(LIBRARY).FastLanguageModel  # first: it patches the libraries that follow
    import torch

    path = make_folder(Path(folder), sizes)
    model, _ = fast.from_pretrained(
        path, max_seq_length=2048, load_in_4bit=True, dtype=torch.bfloat16, trust_remote_code=False
    )
    model = fast.get_peft_model(
        model, r=16, lora_alpha=32, lora_dropout=0, use_gradient_checkpointing="unsloth"
    )
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], fused=True)
    torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(steps):
        ids = torch.randint(0, sizes[-1], (batch, ROW), device="cuda")
        torch.cuda.synchronize()
        start = time.perf_counter()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    step = statistics.median(seconds[WARM:])
    peak = torch.cuda.max_memory_allocated() / 1e9
    print(
        json.dumps(
            {"rows_per_second": batch / step, "step_s": step, "first_step_s": seconds[0], "own_gb": peak}
        )
    )


if __name__ == "__main__":
    main()
