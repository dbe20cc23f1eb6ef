"""The same model in several number formats, measured side by side: disk, load time, memory, speed, and how well it still predicts.

Every format is measured in a process of its own, so that its memory is its own. `python -m helpers.formats FOLDER [DTYPE]` measures one.
"""

import importlib.util
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable

import psutil

from helpers import CommandParser, KitError, run_command
from helpers.folders import find_model, list_models
from helpers.llama_engine import import_xllamacpp

NEW_TOKENS = 64  # per timed answer
PASSAGE = (
    "The town library opens at nine, and by five past there is a small line at the desk. A boy returns a book about whales. His sister wants one "
    "about volcanoes, but the last copy is out until Thursday, so she takes the atlas instead and sits down under the window. At the long table two "
    "students compare notes for an examination. Nobody speaks above a whisper, except the clock, which has been four minutes fast since the "
    "winter, and which the librarian refuses to have repaired, because, as she says, it gets people home in time for supper."
)  # ours: no model has been trained on it


def measure_transformers(folder: str, dtype: str) -> dict[str, float]:
    """Loads with transformers in `dtype`; tokens a second of a greedy answer, perplexity of PASSAGE."""
    import torch

    from helpers.loading import load_model  # here, so that llama.cpp's memory is measured without torch's
    from helpers.machine import measure_used

    loaded = load_model(folder, dtype=dtype)
    ids = loaded.tokenizer(PASSAGE, return_tensors="pt")["input_ids"].to(loaded.model.device)
    answer = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False, "temperature": None, "top_p": None}
    with torch.inference_mode():
        speed = time_answer(lambda: loaded.model.generate(ids[:, :32], attention_mask=torch.ones_like(ids[:, :32]), **answer))
        memory = measure_used(loaded.device.value).value / 1e6
        loss = loaded.model(input_ids=ids, labels=ids).loss.item()
    return {"load_s": loaded.seconds, "memory_mb": memory, "tokens_per_s": speed, "perplexity": math.exp(loss)}


def measure_llama_cpp(folder: str, tokenizer_folder: str) -> dict[str, float]:
    """The same with llama.cpp on the folder's GGUF file; the tokens are those of the safetensors folder's tokenizer, which are the same."""
    from tokenizers import Tokenizer

    xllamacpp = import_xllamacpp()
    parameters, start = xllamacpp.CommonParams(), time.monotonic()
    parameters.model.path = str(next(find_model(folder).glob("*.gguf")))
    parameters.n_ctx, parameters.n_parallel, parameters.cpuparams.n_threads = 2048, 1, os.cpu_count()
    server = xllamacpp.Server(parameters)
    seconds = time.monotonic() - start
    ids = Tokenizer.from_file(str(find_model(tokenizer_folder) / "tokenizer.json")).encode(PASSAGE).ids
    answer = {"prompt": ids[:32], "max_tokens": NEW_TOKENS, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
    speed = time_answer(lambda: server.handle_completions(answer))
    memory = psutil.Process().memory_info().rss / 1e6
    losses = [-read_log_probability(server, ids[:place], ids[place]) for place in range(1, len(ids))]
    return {"load_s": seconds, "memory_mb": memory, "tokens_per_s": speed, "perplexity": math.exp(sum(losses) / len(losses))}


def read_log_probability(server, before: list[int], token: int) -> float:
    """Log-probability, in nats, of `token` after the tokens `before`. The server lists the likeliest only, so the list grows until it is in it."""
    for count in (64, 2048, 1 << 20):
        request = {"prompt": before, "max_tokens": 1, "temperature": 0, "logprobs": count, "n_probs": count, "cache_prompt": True}
        listed = server.handle_completions(request)["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        if found := [entry["logprob"] for entry in listed if entry["id"] == token]:
            return found[0]
    raise KitError(f"llama.cpp knows no token {token}.", "The GGUF file and the tokenizer are of different models.")


def time_answer(answer: Callable[[], object]) -> float:
    """Tokens a second of the faster of two answers of NEW_TOKENS tokens; the first also warms up."""
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        answer()
        seconds.append(time.perf_counter() - start)
    return NEW_TOKENS / min(seconds)


def compare_formats(name: str) -> list[dict[str, object]]:
    """One row a format of the model `name` (a full-precision folder), as far as its folders are in models/ and the packages are here.

    Keys: format, folder, disk_mb, load_s, memory_mb (resident, the whole process, after an answer), tokens_per_s, perplexity (of PASSAGE).
    """
    here = list_models()
    cases = [("float32", name, "float32"), ("bfloat16", name, "bfloat16")]
    cases += [("GPTQ 4-bit", f"{name}-GPTQ", "bfloat16")] if f"{name}-GPTQ" in here and importlib.util.find_spec("gptqmodel") else []
    cases += [("GGUF, llama.cpp", f"{name}-GGUF", name)] if f"{name}-GGUF" in here and importlib.util.find_spec("xllamacpp") else []
    rows = []
    for label, folder, setting in cases:
        done = subprocess.run([sys.executable, "-m", "helpers.formats", folder, setting], capture_output=True, text=True)
        if done.returncode:
            raise KitError(f"{label} could not be measured: {(done.stderr.strip().splitlines() or ['no message'])[-1]}", "Mend it, or leave it out.")
        weights = [path for path in find_model(folder).iterdir() if path.suffix in (".safetensors", ".gguf")]
        rows.append(
            {"format": label, "folder": folder, "disk_mb": sum(p.stat().st_size for p in weights) / 1e6, **json.loads(done.stdout.splitlines()[-1])}
        )
    return rows


def main(arguments: list[str]) -> None:
    """Measures one folder and prints JSON."""
    parser = CommandParser(prog="python -m helpers.formats", description="Measure one format of a model in this process.")
    parser.add_argument("folder", help="in models/")
    parser.add_argument("setting", nargs="?", default="bfloat16", help="dtype; for a GGUF folder the folder with the tokenizer")
    options = parser.parse_args(arguments)
    is_gguf = any(find_model(options.folder).glob("*.gguf"))
    print(json.dumps((measure_llama_cpp if is_gguf else measure_transformers)(options.folder, options.setting)))


if __name__ == "__main__":
    raise SystemExit(run_command(main))
