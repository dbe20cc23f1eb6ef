"""The real WebUI (oobabooga's text-generation-webui): how to install it, its command lines and its folders.

It is known here in two versions, called eras. "2023" is its snapshot of 29 October 2023, the last with the
raw API; "today" is version 4.7, named TextGen. Nothing here runs the WebUI.
"""

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from helpers.common.errors import UnsupportedError, UsageError
from helpers.common.paths import find_home
from helpers.common.values import check_choice, check_path

ERAS = ("2023", "today")
REPOSITORY = "https://github.com/oobabooga/text-generation-webui"

# {era: the folder inside the WebUI's own that holds models/, loras/ and training/}
FOLDERS = {"2023": Path(), "today": Path("user_data")}
KINDS = ("models", "loras", "training/datasets", "training/formats")

# {the kit's name of a loader: {era: the WebUI's name of the loader that reads the same folders}}
LOADERS = {
    "transformers": {"2023": "transformers", "today": "Transformers"},
    "gptq": {"2023": "exllama_hf", "today": "Transformers"},
    "awq": {"2023": "autoawq", "today": "Transformers"},
    "bitsandbytes": {"2023": "transformers", "today": "Transformers"},
    "llama.cpp": {"2023": "llama.cpp", "today": "llama.cpp"},
}

# {hardware: the WebUI's own list of packages for it}
HARDWARE = {
    "cpu": "requirements_cpu_only.txt",
    "nvidia": "requirements.txt",
    "apple": "requirements_apple_silicon.txt",
}
# {era: {hardware: what `pip install` is given for torch}}; a fixed one is that of the wheels in the list.
TORCH = {
    "2023": {
        "cpu": "torch --index-url https://download.pytorch.org/whl/cpu",
        "nvidia": '"torch~=2.1.0" --index-url https://download.pytorch.org/whl/cu121',
        "apple": "torch",
    },
    "today": {
        "cpu": "torch --index-url https://download.pytorch.org/whl/cpu",
        "nvidia": '"torch~=2.9.0" --index-url https://download.pytorch.org/whl/cu128',
        "apple": "torch",
    },
}
TAG = "snapshot-2023-10-29"
# What the lists of 2023 leave open, as it was then: its page does not start with later versions.
PERIOD = "fastapi~=0.104.1 starlette~=0.27.0 pydantic~=2.4.2 huggingface_hub~=0.17.3"

NO_KEY = "The WebUI of 2023 does not ask for a key."
NO_RAW_API = "Today's WebUI has no raw API: it was removed in November 2023."

# {era: {option that it does not have: (problem, remedy)}}
UNSUPPORTED = {
    "2023": {
        "api_key": (NO_KEY, "Omit api_key, or use today's WebUI or the kit's own server."),
        "admin_key": (NO_KEY, "Omit admin_key, or use today's WebUI."),
    },
    "today": {
        "raw_port": (NO_RAW_API, "Omit raw_port, or use the kit's own server."),
        "streaming_port": (NO_RAW_API, "Omit streaming_port, or use the kit's own server."),
    },
}


@dataclass(frozen=True)
class WebUIOptions:
    """What a user decides before starting the WebUI. None, False and () leave it to the WebUI."""

    model: str | None = None  # a folder's name in its models/
    loras: tuple[str, ...] = ()  # the name of a folder in its loras/; both eras fail with several
    loader: str | None = None  # a key of LOADERS
    context: int | None = None  # length of the context, in tokens
    cpu: bool = False  # compute on the CPU, in float32
    api: bool = False  # 2023: the raw API; today: the OpenAI-style one, which is the only one
    openai: bool = False  # the OpenAI-style API
    extensions: tuple[str, ...] = ()  # further ones; "api" and "openai" mean the two APIs above
    raw_port: int | None = None  # of the raw API (2023 only; default 5000)
    streaming_port: int | None = None  # of the raw API's websockets (2023 only; default 5005)
    openai_port: int | None = None  # of the OpenAI-style API (default: 5001 in 2023, 5000 today)
    api_key: str | None = None  # clients must send it (today only)
    admin_key: str | None = None  # for loading models and LoRAs (today only; default: the api_key)
    models_dir: str | None = None  # used in place of its own models/, such as the kit's
    loras_dir: str | None = None  # used in place of its own loras/


def build_command(era: str, options: WebUIOptions) -> str:
    """The line that starts the WebUI of `era` from its own folder, in a shell of Linux or macOS.

    Raises an UnsupportedError for an option that this era does not have, and for several LoRAs.
    """
    check_era(era)
    refuse_several(options.loras)
    for name, (problem, remedy) in UNSUPPORTED[era].items():
        if getattr(options, name):
            raise UnsupportedError(problem, remedy)
    parts = ["python", "server.py"]
    parts += list_flags(
        {"--model-dir": options.models_dir, "--lora-dir": options.loras_dir, "--model": options.model}
    )
    if options.loras:
        parts += ["--lora", *options.loras]
    if options.loader:
        parts += ["--loader", name_loader(era, options.loader)]
    parts += list_flags({name_context_flag(era, options.loader): options.context})
    if options.cpu:
        parts += ["--cpu"]
    parts += list_api_flags_2023(options) if era == "2023" else list_api_flags_today(options)
    line = shlex.join(parts)
    if era == "2023" and options.openai_port:  # that version has no flag for it
        line = f"OPENEDAI_PORT={options.openai_port} {line}"
    return line


def refuse_several(loras: Sequence[str]) -> None:
    """An UnsupportedError for more than one LoRA: the WebUI of either era fails while it merges them."""
    if len(loras) > 1:
        problem = f"The WebUI fails with several LoRAs at once ({', '.join(loras)})."
        raise UnsupportedError(problem, "Name one of them, or use the kit's own server, which takes several.")


def list_flags(values: dict[str, object]) -> list[str]:
    """Flags, each followed by its value: {"--model": "m", "--cpu": None} gives ["--model", "m"]."""
    return [part for flag, value in values.items() if value for part in (flag, str(value))]


def name_loader(era: str, loader: str) -> str:
    """What the WebUI of `era` calls one of the kit's loaders."""
    check_era(era)
    if loader not in LOADERS:
        raise UsageError(f"'{loader}' is not a loader of the kit.", f"Use one of: {', '.join(LOADERS)}.")
    return LOADERS[loader][era]


def name_context_flag(era: str, loader: str | None) -> str:
    """The flag for the length of the context."""
    if era == "today":
        return "--ctx-size"
    return "--n_ctx" if loader == "llama.cpp" else "--max_seq_len"


def list_api_flags_2023(options: WebUIOptions) -> list[str]:
    """The flags that start the APIs in 2023: the raw API has a flag, the OpenAI-style one is an extension."""
    flags, extensions = split_extensions(options)
    if options.openai or "openai" in options.extensions:
        extensions = ["openai", *extensions]
    if extensions:
        flags += ["--extensions", *extensions]
    return flags + list_flags(
        {"--api-blocking-port": options.raw_port, "--api-streaming-port": options.streaming_port}
    )


def list_api_flags_today(options: WebUIOptions) -> list[str]:
    """The flags that start the API today: there is only the OpenAI-style one, with --api."""
    flags, extensions = split_extensions(options)
    if not flags and (options.openai or "openai" in options.extensions):
        flags = ["--api"]
    if extensions:
        flags += ["--extensions", *extensions]
    return flags + list_flags(
        {
            "--api-port": options.openai_port,
            "--api-key": options.api_key,
            "--admin-key": options.admin_key,
        }
    )


def split_extensions(options: WebUIOptions) -> tuple[list[str], list[str]]:
    """(["--api"] if that flag is wanted, or else []; the extensions that are not APIs)."""
    flags = ["--api"] if options.api or "api" in options.extensions else []
    return flags, [name for name in options.extensions if name not in ("api", "openai")]


def use_kit_folders(options: WebUIOptions, webui: str | Path | None = None) -> WebUIOptions:
    """The options with the kit's models/ and loras/ in place of the WebUI's own.

    The paths are relative to `webui`, the folder that the WebUI is installed in; without it, absolute.
    """
    models, loras = find_home() / "models", find_home() / "loras"
    if webui is None:
        return replace(options, models_dir=str(models), loras_dir=str(loras))
    return replace(
        options, models_dir=os.path.relpath(models, webui), loras_dir=os.path.relpath(loras, webui)
    )


def list_install_lines(hardware: str = "cpu", era: str = "today") -> list[str]:
    """The lines that install the WebUI in a shell of Linux or macOS. The shell is then in its folder.

    They install the Transformers loader, which LoRAs need; the WebUI's portable builds have llama.cpp alone.
    It takes about 2 GB for a CPU, in an environment of its own, because it needs other versions than the kit.
    On Windows, `venv\\Scripts\\activate` replaces `source venv/bin/activate`. Source: the WebUI's README.
    """
    check_era(era)
    if hardware not in HARDWARE:
        raise UsageError(
            f"'{hardware}' is not a kind of hardware that is known here.",
            f"Use one of: {', '.join(HARDWARE)}.",
        )
    packages = HARDWARE[hardware]
    of_2023 = era == "2023"
    openai = "extensions/openai/requirements.txt"  # an extension then, with packages of its own
    lists = f"-r {packages} -r {openai} {PERIOD}" if of_2023 else f"-r requirements/full/{packages}"
    return [
        f"git clone {REPOSITORY}",
        f"cd {REPOSITORY.rsplit('/', 1)[1]}",
        *([f"git checkout {TAG}"] if of_2023 else []),
        f"python{'3.11' if of_2023 else '3.13'} -m venv venv",  # the Python that its wheels are built for
        "source venv/bin/activate",
        f"pip install {TORCH[era][hardware]}",
        f"pip install {lists}",
    ]


def find_folder(era: str, root: str | Path, kind: str) -> Path:
    """Where the WebUI of `era`, installed in `root`, looks for `kind`, one of KINDS."""
    check_era(era)
    check_path("root", root)
    check_choice("kind", kind, KINDS)
    return Path(root) / FOLDERS[era] / kind


def check_era(era: str) -> None:
    """Raises a UsageError if `era` is not one of ERAS."""
    if era not in ERAS:
        raise UsageError(f"'{era}' is not a known version of the WebUI.", f"Use one of: {', '.join(ERAS)}.")
