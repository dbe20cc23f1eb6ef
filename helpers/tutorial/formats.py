"""The same model in several number formats, measured side by side: disk, load time, memory, speed, and how well it still predicts.

Every format is measured in a process of its own, so that its memory is its own. `python -m helpers.tutorial.formats FOLDER [DTYPE]` measures one.
"""

import importlib.util
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable

import psutil

from helpers.common.command import CommandParser, run_command
from helpers.common.errors import KitError
from helpers.generation.llama_engine import LlamaEngine
from helpers.generation.request import GenerationRequest
from helpers.weights.folders import find_model, list_models

NEW_TOKENS = 64  # per timed answer


PASSAGE = (
    "The town library opens at nine, and by five past there is a small line at the desk. A boy returns a book about whales. His sister wants one "
    "about volcanoes, but the last copy is out until Thursday, so she takes the atlas instead and sits down under the window. At the long table two "
    "students compare notes for an examination. Nobody speaks above a whisper, except the clock, which has been four minutes fast since the "
    "winter, and which the librarian refuses to have repaired, because, as she says, it gets people home in time for supper."
)  # ours: no model has been trained on it


PROMPT = PASSAGE[:150]


def measure_transformers(folder: str, dtype: str) -> dict[str, float]:
    """Loads with transformers in `dtype`; tokens a second of a greedy answer, perplexity of PASSAGE."""
    import torch

    from helpers.common.machine import measure_used
    from helpers.loading.model import (
        load_model,  # here, so that llama.cpp's memory is measured without torch's
    )

    loaded = load_model(folder, dtype=dtype)
    ids = loaded.tokenizer(PASSAGE, return_tensors="pt")["input_ids"].to(loaded.model.device)
    answer = {
        "max_new_tokens": NEW_TOKENS,
        "min_new_tokens": NEW_TOKENS,
        "do_sample": False,
        "temperature": None,
        "top_p": None,
    }
    with torch.inference_mode():
        prompt = loaded.tokenizer(PROMPT, return_tensors="pt").to(loaded.model.device)
        speed = time_answer(
            lambda: loaded.model.generate(**prompt, **answer).shape[1] - prompt["input_ids"].shape[1]
        )
        memory = measure_used(loaded.device.value).value / 1e6
        loss = loaded.model(input_ids=ids, labels=ids).loss.item()
    return {
        "load_s": loaded.seconds,
        "memory_mb": memory,
        "tokens_per_s": speed,
        "perplexity": math.exp(loss),
    }


def measure_llama_cpp(folder: str, dtype: str) -> dict[str, float]:
    """The same with llama.cpp on the folder's GGUF file, which has a number format of its own."""
    start = time.monotonic()
    engine = LlamaEngine(find_model(folder), parallel=1)  # one conversation, as with transformers
    seconds, ids = time.monotonic() - start, engine.tokenize(PASSAGE)
    speed = time_answer(
        lambda: engine.generate(GenerationRequest(prompt=PROMPT, max_new_tokens=NEW_TOKENS)).completion_tokens
    )
    memory = psutil.Process().memory_info().rss / 1e6
    losses = [-engine.measure_log_probability(ids[:place], ids[place]) for place in range(1, len(ids))]
    return {
        "load_s": seconds,
        "memory_mb": memory,
        "tokens_per_s": speed,
        "perplexity": math.exp(sum(losses) / len(losses)),
    }


def time_answer(answer: Callable[[], int]) -> float:
    """Tokens a second of the faster of two answers; `answer` returns its number of tokens, and the first one also warms up."""
    speeds = []
    for _ in range(2):
        start = time.perf_counter()
        tokens = answer()
        speeds.append(tokens / (time.perf_counter() - start))
    return max(speeds)


def compare_formats(name: str) -> list[dict[str, object]]:
    """One row a format of the model `name` (a full-precision folder), as far as its folders are in models/ and the packages are here.

    Keys: format, folder, disk_mb, load_s, memory_mb (resident, the whole process, after an answer), tokens_per_s, perplexity (of PASSAGE).
    """
    here = list_models()
    cases = [("float32", name, "float32"), ("bfloat16", name, "bfloat16")]
    cases += (
        [("GPTQ 4-bit", f"{name}-GPTQ", "bfloat16")]
        if f"{name}-GPTQ" in here and importlib.util.find_spec("gptqmodel")
        else []
    )
    cases += (
        [("GGUF, llama.cpp", f"{name}-GGUF", "")]
        if f"{name}-GGUF" in here and importlib.util.find_spec("xllamacpp")
        else []
    )
    rows = []
    for label, folder, dtype in cases:
        done = subprocess.run(
            [sys.executable, "-m", "helpers.tutorial.formats", folder, dtype], capture_output=True, text=True
        )
        if done.returncode:
            raise KitError(
                f"{label} could not be measured: {(done.stderr.strip().splitlines() or ['no message'])[-1]}",
                "Mend it, or leave it out.",
            )
        weights = find_model(folder).weight_files
        rows.append(
            {
                "format": label,
                "folder": folder,
                "disk_mb": sum(p.stat().st_size for p in weights) / 1e6,
                **json.loads(done.stdout.splitlines()[-1]),
            }
        )
    return rows


def main(arguments: list[str]) -> None:
    """Measures one folder and prints JSON."""
    parser = CommandParser(
        prog="python -m helpers.tutorial.formats",
        description="Measure one format of a model in this process.",
    )
    parser.add_argument("folder", help="in models/")
    parser.add_argument(
        "dtype", nargs="?", default="bfloat16", help="float32, bfloat16 or float16; a GGUF file has its own"
    )
    options = parser.parse_args(arguments)
    is_gguf = find_model(options.folder).format == "gguf"
    print(json.dumps((measure_llama_cpp if is_gguf else measure_transformers)(options.folder, options.dtype)))


if __name__ == "__main__":
    raise SystemExit(run_command(main))
