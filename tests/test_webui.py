from pathlib import Path

import pytest

from helpers import PROJECT, KitError
from helpers.webui import Choices, build_command, find_folder

LLAMA_7B = "TheBloke_Llama-2-7B-Chat-GPTQ"
LLAMA_70B = "TheBloke_Llama-2-70B-chat-GPTQ_gptq-4bit-64g-actorder_True"
LESSONS = {  # what the lessons print, by the choices that it stands for
    "02_loading": [
        ("2023", Choices(LLAMA_70B, loader="gptq", context=4096)),
        ("today", Choices(LLAMA_70B, loader="gptq", context=4096)),
    ],
    "03_api": [("2023", Choices(LLAMA_7B, api=True, openai=True)), ("today", Choices(LLAMA_7B, api=True))],
    "05_lora_loading": [
        ("2023", Choices("SmolLM2-135M-Instruct", ("college-preferences",), api=True, openai=True)),
        ("today", Choices("SmolLM2-135M-Instruct", ("college-preferences",), api=True)),
    ],
}


@pytest.mark.parametrize("name", LESSONS)
def test_lines_in_the_lessons_are_those_built_here(name):
    text = (PROJECT / "notebooks" / "text" / f"{name}.py").read_text(encoding="utf-8")
    printed = [line.removeprefix("# ") for line in text.splitlines() if line.startswith("# python server.py")]
    assert printed == [build_command(era, choices) for era, choices in LESSONS[name]]


def test_ports_and_folders_go_where_each_era_takes_them():
    choices = Choices("m", ("a", "b c"), api=True, openai=True, openai_port=5009, model_dir="/kit/models", lora_dir="/kit/loras")
    assert build_command("2023", choices) == (
        "OPENEDAI_PORT=5009 python server.py --model-dir /kit/models --lora-dir /kit/loras --model m --lora a 'b c' --api --extensions openai"
    )
    assert build_command("today", choices).endswith("--lora a 'b c' --api --api-port 5009")
    assert "--api-blocking-port 5002" in build_command("2023", Choices("m", api=True, raw_port=5002))


def test_folders_moved_below_user_data():
    assert find_folder("2023", "w", "loras") == Path("w/loras")
    assert find_folder("today", "w", "training/datasets") == Path("w/user_data/training/datasets")


def test_what_an_era_lacks_is_said():
    with pytest.raises(KitError, match="no raw API"):
        build_command("today", Choices("m", raw_port=5000))
    with pytest.raises(KitError, match="no loader of the kit"):
        build_command("2023", Choices("m", loader="awq"))
    with pytest.raises(KitError, match="no era"):
        find_folder("2024", "w", "models")
