"""A home with all that the commands read: each kind of model folder, two LoRAs, data, templates, settings."""

import shutil
from importlib import import_module
from pathlib import Path

from helpers import PROJECT
from helpers.common.command import run_command
from helpers.server.service import ModelChoice, Service
from helpers.weights.folders import ModelFolder
from support.gguf import make_tiny_gguf
from support.loras import change_config, change_json, save_as_2023
from support.tiny import make_tiny_adapter, make_tiny_model

DATA, CHATS, YAML = "data/rows.csv", "data/chats.jsonl", "templates/task.yaml"
TRAINED = f"--data {DATA} --template {YAML}"
CHECK, JUDGE = f"tasks check {DATA} --template {YAML} --model tiny", f"evaluation --model tiny {TRAINED}"
SETTINGS = "--settings templates/settings.yaml"
TRAIN = f"training --model tiny {TRAINED} {SETTINGS} --output loras/"


def make_models(home: Path) -> None:
    """Writes the folders in models/, and loras/old."""
    tiny = make_tiny_model(home / "models" / "tiny")
    ModelFolder(tiny).write_record(source="somebody/tiny", revision="main")
    make_tiny_model(home / "models" / "wide", hidden=128)  # which can be quantised
    make_tiny_gguf(home / "models" / "tiny-GGUF", tiny)
    ModelFolder(home / "models" / "tiny-GGUF").write_record(source="somebody/tiny-GGUF", revision="main")
    gptq = shutil.copytree(tiny, home / "models" / "gptq")
    quantization = {"bits": 4, "group_size": 32, "desc_act": False, "quant_method": "gptq"}
    change_json(gptq / "config.json", quantization_config=quantization)
    (gptq / "quantize_config.json").write_text('{"bits": 4, "group_size": 32, "desc_act": false}')
    parts = shutil.copytree(tiny, home / "models" / "parts")
    (parts / "model.safetensors").rename(parts / "model-1-of-1.safetensors")
    (parts / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1-of-1.safetensors"}}')
    old = make_tiny_adapter(home / "loras" / "old", tiny)
    change_config(old, base_model_name_or_path="models/tiny")
    save_as_2023(old)


def write_data(home: Path) -> None:
    """A table, chats, a template and settings of a short training."""
    for folder in ("data", "templates", "models", "loras", "runs"):
        (home / folder).mkdir(parents=True)
    lines = (PROJECT / "data" / "college_preferences" / "dataset.csv").read_text(encoding="utf-8")
    (home / DATA).write_text("".join(lines.splitlines(keepends=True)[:25]), encoding="utf-8")
    chat = (
        '{"messages": [{"role": "user", "content": "Größe %d?"}, {"role": "assistant", "content": "%d m"}]}\n'
    )
    (home / CHATS).write_text("".join(chat % (n, n) for n in range(8)), encoding="utf-8")
    template = (PROJECT / "templates" / "college_preferences.yaml").read_text(encoding="utf-8")
    (home / YAML).write_text(template, encoding="utf-8")
    settings = "lora_r: 4\nepochs: 1\nbatch_size: 16\nlearning_rate: 0.01\nmax_length: 2048\n"
    (home / "templates" / "settings.yaml").write_text(settings, encoding="utf-8")


def run(command: str) -> int:
    """Runs a command in this process; returns its exit code. "load MODEL [LORA]" is a server's beginning."""
    room, *arguments = command.split()
    main = load if room == "load" else import_module(f"helpers.{room}.__main__").main
    return run_command(main, arguments)


def load(names: list[str]) -> None:
    """What a server does before it answers."""
    service = Service()
    try:
        service.load(ModelChoice(names[0], tuple(names[1:])))
    finally:
        service.unload()
