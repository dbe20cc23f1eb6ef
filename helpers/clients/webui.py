"""The real WebUI (oobabooga's text-generation-webui), 2023 and today: installing it, its command lines, folders and training data.

"2023" is its snapshot of 29 October 2023, the last with the raw API; "today" is version 4.7 (TextGen). Nothing here runs the WebUI.
"""

import os
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from helpers.common.errors import KitError
from helpers.common.paths import find_home

ERAS = ("2023", "today")


LOADERS = {  # the kit's name: each era's name for what loads such a folder
    "transformers": {"2023": "transformers", "today": "Transformers"},
    "gptq": {"2023": "exllama_hf", "today": "Transformers"},
    "awq": {"2023": "autoawq", "today": "Transformers"},
    "bitsandbytes": {"2023": "transformers", "today": "Transformers"},
    "llama.cpp": {"2023": "llama.cpp", "today": "llama.cpp"},
}


FOLDERS = {
    "2023": Path(),
    "today": Path("user_data"),
}  # what models/, loras/ and training/ lie in, inside the WebUI's folder


REPOSITORY = "https://github.com/oobabooga/text-generation-webui"


INSTALLS = {  # hardware: what comes after `pip install` for torch, and the WebUI's own list of packages
    "cpu": ("torch --index-url https://download.pytorch.org/whl/cpu", "requirements_cpu_only.txt"),
    "nvidia": (
        '"torch~=2.9.0" --index-url https://download.pytorch.org/whl/cu128',
        "requirements.txt",
    ),  # its other wheels are built for 2.9
    "apple": ("torch", "requirements_apple_silicon.txt"),
}


LACKS = {  # what an era does not have, by the choice that asks for it
    "2023": {
        "api_key": (
            "The WebUI of 2023 asks for no key.",
            "Leave out api_key, or take today's WebUI or the kit's own server.",
        ),
        "admin_key": ("The WebUI of 2023 asks for no key.", "Leave out admin_key, or take today's WebUI."),
    },
    "today": {
        name: (
            "Today's WebUI has no raw API: it was removed in November 2023.",
            f"Leave out {name}, or take the kit's own server.",
        )
        for name in ("raw_port", "streaming_port")
    },
}


@dataclass(frozen=True)
class Choices:
    """What a user decides before starting the WebUI; None and empty leave it to the WebUI."""

    model: str | None = None  # folder name below its models/
    loras: tuple[str, ...] = ()  # folder names below its loras/
    loader: str | None = None  # as the kit names them: a key of LOADERS
    context: int | None = None  # tokens
    cpu: bool = False  # compute on the CPU, in float32
    api: bool = False  # 2023: the raw API; today: the OpenAI-style one, the only one
    openai: bool = False  # the OpenAI-style API
    extensions: tuple[str, ...] = ()  # further ones; "api" and "openai" mean the two above
    raw_port: int | None = None  # of the raw API (2023 only; default 5000)
    streaming_port: int | None = None  # of the raw API's websocket (2023 only; default 5005)
    openai_port: int | None = None  # of the OpenAI-style API (defaults: 5001 in 2023, 5000 today)
    api_key: str | None = None  # that clients must send (today only)
    admin_key: str | None = None  # for loading models and LoRAs (today only; default: the api_key)
    model_dir: str | None = None  # such as the kit's models/, in place of its own folder
    lora_dir: str | None = None


def build_command(era: str, choices: Choices) -> str:
    """The line that starts the WebUI of `era`, as a shell on Linux or macOS takes it, typed in the WebUI's folder.

    Raises KitError for what that era does not have.
    """
    check_era(era)
    for name, (problem, remedy) in LACKS[era].items():
        if getattr(choices, name):
            raise KitError(problem, remedy)
    parts = ["python", "server.py"]
    parts += list_flags(
        {"--model-dir": choices.model_dir, "--lora-dir": choices.lora_dir, "--model": choices.model}
    )
    parts += ["--lora", *choices.loras] if choices.loras else []
    parts += ["--loader", name_loader(era, choices.loader)] if choices.loader else []
    context_flag = (
        "--ctx-size" if era == "today" else "--n_ctx" if choices.loader == "llama.cpp" else "--max_seq_len"
    )
    parts += list_flags({context_flag: choices.context})
    parts += ["--cpu"] if choices.cpu else []
    variables, api = list_api_flags(era, choices)
    return " ".join([*variables, shlex.join([*parts, *api])])


def list_flags(values: dict[str, object]) -> list[str]:
    """Flags with their values, without those that have none."""
    return [part for flag, value in values.items() if value for part in (flag, str(value))]


def name_loader(era: str, loader: str) -> str:
    """What the WebUI of `era` calls one of the kit's loaders."""
    check_era(era)
    if loader not in LOADERS:
        raise KitError(f"'{loader}' is no loader of the kit.", f"Use one of: {', '.join(LOADERS)}.")
    return LOADERS[loader][era]


def list_api_flags(era: str, choices: Choices) -> tuple[list[str], list[str]]:
    """(environment variables, flags) that start the wanted APIs."""
    openai = choices.openai or "openai" in choices.extensions
    extensions = [name for name in choices.extensions if name not in ("api", "openai")]
    flags = ["--api"] if choices.api or "api" in choices.extensions or (era == "today" and openai) else []
    if era == "2023":
        extensions = [*(["openai"] if openai else []), *extensions]
    flags += ["--extensions", *extensions] if extensions else []
    if era == "today":
        return [], flags + list_flags(
            {
                "--api-port": choices.openai_port,
                "--api-key": choices.api_key,
                "--admin-key": choices.admin_key,
            }
        )
    flags += list_flags(
        {"--api-blocking-port": choices.raw_port, "--api-streaming-port": choices.streaming_port}
    )
    return [f"OPENEDAI_PORT={choices.openai_port}"] if choices.openai_port else [], flags


def use_kit_folders(choices: Choices, webui: str | Path | None = None) -> Choices:
    """The choices with the kit's models/ and loras/ in place of the WebUI's: relative to the folder `webui` it is in, else absolute."""
    folders = [
        str(find_home() / kind if webui is None else os.path.relpath(find_home() / kind, webui))
        for kind in ("models", "loras")
    ]
    return replace(choices, model_dir=folders[0], lora_dir=folders[1])


def list_install_lines(hardware: str = "cpu") -> list[str]:
    """The lines that install today's WebUI, for a shell on Linux or macOS: they end in its folder, ready for server.py.

    With the Transformers loader, which LoRAs need; its ready-made portable builds have llama.cpp alone. About 2 GB for a CPU, in an
    environment of its own, since it wants other versions than the kit. In Windows it is venv\\Scripts\\activate in place of
    source. Source: the WebUI's README.
    """
    if hardware not in INSTALLS:
        raise KitError(
            f"'{hardware}' is no hardware that is known here.", f"Use one of: {', '.join(INSTALLS)}."
        )
    torch, packages = INSTALLS[hardware]
    return [
        f"git clone {REPOSITORY}",
        f"cd {REPOSITORY.rsplit('/', 1)[1]}",
        "python3.13 -m venv venv",  # the Python that its wheels are built for
        "source venv/bin/activate",
        f"pip install {torch}",
        f"pip install -r requirements/full/{packages}",
    ]


def find_folder(era: str, root: str | Path, kind: str) -> Path:
    """Where the WebUI of `era`, installed in `root`, looks for `kind`: models, loras or training/datasets."""
    check_era(era)
    return Path(root) / FOLDERS[era] / kind


def check_era(era: str) -> None:
    """Raises KitError for a name that is no era."""
    if era not in ERAS:
        raise KitError(f"'{era}' is no era of the WebUI.", f"Use one of: {', '.join(ERAS)}.")
