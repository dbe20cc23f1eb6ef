import json
from pathlib import Path

import pytest

from helpers import PROJECT, KitError, webui, weights
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


def test_every_loader_of_the_kit_has_its_name_in_both_eras():
    assert set(webui.LOADERS) == set(weights.LOADERS) and all(set(names) == set(webui.ERAS) for names in webui.LOADERS.values())


def test_what_an_era_lacks_is_said():
    with pytest.raises(KitError, match="no raw API"):
        build_command("today", Choices("m", raw_port=5000))
    with pytest.raises(KitError, match="no loader of the kit"):
        build_command("2023", Choices("m", loader="exl3"))
    with pytest.raises(KitError, match="no era"):
        find_folder("2024", "w", "models")


def test_data_of_2023_come_with_a_format_that_gives_the_kit_s_own_training_text(tiny, rows, template, tmp_path):
    data, form = webui.write_dataset("2023", tmp_path, "colleges", rows, template, tiny.tokenizer)
    assert data == tmp_path / "training/datasets/colleges.json" and form == tmp_path / "training/formats/colleges-format.json"
    entry, ((keys, text),) = json.loads(data.read_text())[1], json.loads(form.read_text()).items()
    assert set(keys.split(",")) == set(entry)
    for key, value in entry.items():  # as the WebUI fills it
        text = text.replace(f"%{key}%", value)
    example = template.build_example(rows[1])
    assert text == tiny.tokenizer.apply_chat_template(example["prompt"] + example["completion"], tokenize=False).rstrip()


def test_data_of_today_are_messages_and_are_read_back(tiny, rows, template, tmp_path):
    (path,) = webui.write_dataset("today", tmp_path, "colleges", rows, template, tiny.tokenizer)
    assert path == tmp_path / "user_data/training/datasets/colleges.json"
    assert webui.read_dataset(path) == [{key: template.build_example(row)[key] for key in ("prompt", "completion")} for row in rows]


def test_alpaca_rows_are_read(home):
    (home / "a.json").write_text(json.dumps([{"instruction": "Add.", "input": "1 1", "output": "2"}, {"instruction": "Hi", "output": "Hello"}]))
    first, second = webui.read_dataset("a.json")
    assert first == {"prompt": [{"role": "user", "content": "Add.\n\n1 1"}], "completion": [{"role": "assistant", "content": "2"}]}
    assert second["prompt"][0]["content"] == "Hi"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "holds no list"),
        ('[{"text": "x"}]', "Row 1 .* neither messages"),
        ('[{"messages": [{"role": "user", "content": "x"}]}]', "Row 1 .* does not end with an answer"),
    ],
)
def test_other_data_are_refused(home, text, message):
    (home / "d.json").write_text(text)
    with pytest.raises(KitError, match=message):
        webui.read_dataset("d.json")
