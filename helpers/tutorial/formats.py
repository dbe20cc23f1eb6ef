"""One model in several number formats: disk, load time, memory, speed, and how well it predicts.

Every format is measured in a process of its own, so that its memory is its own.
`python -m helpers.tutorial.formats FOLDER [DTYPE]` measures one.
"""

import importlib.util
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import psutil

from helpers.common.command import CommandParser, run_command
from helpers.common.errors import UnsupportedError
from helpers.generation.llama_engine import LlamaEngine
from helpers.generation.request import GenerationRequest
from helpers.weights.folders import find_model, list_models

NEW_TOKENS = 64  # in each timed answer

# Written for this kit: no model has been trained on it.
PASSAGE = (
    "The town library opens at nine, and by five past there is a small line at the desk. A boy returns a "
    "book about whales. His sister wants one about volcanoes, but the last copy is out until Thursday, so "
    "she takes the atlas instead and sits down under the window. At the long table two students compare "
    "notes for an examination. Nobody speaks above a whisper, except the clock, which has been four minutes "
    "fast since the winter, and which the librarian refuses to have repaired, because, as she says, it gets "
    "people home in time for supper."
)
PROMPT = PASSAGE[:150]

Measures = dict[str, float]  # load_s, memory_mb, tokens_per_s, perplexity


class Format(NamedTuple):
    """A folder of the model in one number format."""

    label: str
    folder: str  # in models/
    dtype: str  # what transformers computes in; a GGUF file has a number format of its own


def compare_formats(name: str) -> list[dict[str, Any]]:
    """Measures the full-precision folder `name` in models/ and its GPTQ and GGUF versions; one row each.

    A version is left out if its folder is not in models/ or the package that reads it is not installed. Keys
    of a row: format, folder, disk_mb, load_s, memory_mb (resident, of the whole process, after an answer),
    tokens_per_s, perplexity (of PASSAGE). Raises UnsupportedError if a format cannot be measured.
    """
    rows = []
    for variant in list_formats(name):
        measures = measure_in_process(variant)
        disk_mb = find_model(variant.folder).weight_bytes / 1e6
        rows.append({"format": variant.label, "folder": variant.folder, "disk_mb": disk_mb, **measures})
    return rows


def list_formats(name: str) -> list[Format]:
    """The formats of the model `name` that can be measured here."""
    formats = [Format("float32", name, "float32"), Format("bfloat16", name, "bfloat16")]
    there = list_models()
    if f"{name}-GPTQ" in there and importlib.util.find_spec("gptqmodel"):
        formats.append(Format("GPTQ 4-bit", f"{name}-GPTQ", "bfloat16"))
    if f"{name}-GGUF" in there and importlib.util.find_spec("xllamacpp"):
        formats.append(Format("GGUF, llama.cpp", f"{name}-GGUF", ""))
    return formats


def measure_in_process(variant: Format) -> Measures:
    """Measures one format in a new process. Raises UnsupportedError if that fails."""
    command = [sys.executable, "-m", "helpers.tutorial.formats", variant.folder]
    command += [variant.dtype] if variant.dtype else []  # llama.cpp takes the file as it is
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise UnsupportedError(
            f"The format {variant.label} could not be measured: {lines[-1]}",
            f"Fix that, or remove the folder {variant.folder} from models/ to leave the format out.",
        )
    return json.loads(done.stdout.splitlines()[-1])


def measure_transformers(folder: str, dtype: str) -> Measures:
    """Loads a folder with transformers in `dtype`, and measures the speed of an answer and the perplexity."""
    import torch  # here and not above, so that the memory measured for llama.cpp does not include torch

    from helpers.common.machine import measure_used
    from helpers.loading.model import load_model

    loaded = load_model(folder, dtype=dtype)
    model: Any = loaded.model  # the declared class, PreTrainedModel, has no generate()
    settings = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}
    settings |= {"temperature": None, "top_p": None}
    with torch.inference_mode():
        prompt = loaded.tokenizer(PROMPT, return_tensors="pt").to(model.device)

        def answer() -> int:
            output = model.generate(**prompt, **settings)
            return output.shape[1] - prompt["input_ids"].shape[1]

        speed = measure_speed(answer)
        memory = measure_used(loaded.device.value).value
        ids = loaded.tokenizer(PASSAGE, return_tensors="pt")["input_ids"].to(model.device)
        loss = model(input_ids=ids, labels=ids).loss.item()  # the mean over the tokens, in nats
    return {
        "load_s": loaded.seconds,
        "memory_mb": memory / 1e6,
        "tokens_per_s": speed,
        "perplexity": math.exp(loss),
    }


def measure_llama_cpp(folder: str) -> Measures:
    """The same with llama.cpp, on the folder's GGUF file."""
    started = time.monotonic()
    engine = LlamaEngine(find_model(folder), parallel=1)  # one conversation, as with transformers
    load_s = time.monotonic() - started
    request = GenerationRequest(prompt=PROMPT, max_new_tokens=NEW_TOKENS)
    speed = measure_speed(lambda: engine.generate(request).completion_tokens)
    memory = psutil.Process().memory_info().rss
    ids = engine.tokenize(PASSAGE)
    losses = [-engine.measure_log_probability(ids[:place], ids[place]) for place in range(1, len(ids))]
    return {
        "load_s": load_s,
        "memory_mb": memory / 1e6,
        "tokens_per_s": speed,
        "perplexity": math.exp(sum(losses) / len(losses)),
    }


def measure_speed(answer: Callable[[], int]) -> float:
    """Tokens per second of the faster of two answers; `answer` returns its number of tokens.

    The first answer also warms up caches and memory.
    """
    speeds = []
    for _ in range(2):
        started = time.perf_counter()
        tokens = answer()
        speeds.append(tokens / (time.perf_counter() - started))
    return max(speeds)


def main(arguments: list[str]) -> None:
    """Measures one folder and prints the result as JSON."""
    parser = CommandParser(
        prog="python -m helpers.tutorial.formats",
        description="Measures one number format of a model, in this process.",
    )
    parser.add_argument("folder", help="in models/")
    choices = ("float32", "bfloat16", "float16")
    words = "a GGUF file has a number format of its own"
    parser.add_argument("dtype", nargs="?", default="bfloat16", choices=choices, help=words)
    options = parser.parse_args(arguments)
    if find_model(options.folder).format == "gguf":
        measures = measure_llama_cpp(options.folder)
    else:
        measures = measure_transformers(options.folder, options.dtype)
    print(json.dumps(measures))


if __name__ == "__main__":
    raise SystemExit(run_command(main))
