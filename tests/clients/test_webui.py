import json
import os
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest

from helpers import PROJECT, KitError, clients, weights
from helpers.clients.webui import ERAS, INSTALLS, LACKS, LOADERS, Choices, build_command, find_folder

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
FLAGS = {  # what server.py takes, as far as a line built here could need it; each era ends at once, or misunderstands, at others
    "2023": """--model --model-dir --lora --lora-dir --loader --cpu --load-in-8bit --load-in-4bit --use_double_quant --compute_dtype --quant_type
        --bf16 --wbits --groupsize --model_type --pre_layer --checkpoint --desc_act --triton --n_ctx --n-gpu-layers --threads --max_seq_len
        --gpu-split --alpha_value --rope_freq_base --compress_pos_emb --api --extensions --api-blocking-port --api-streaming-port
        --public-api --public-api-id --listen --listen-host --listen-port --settings --multi-user --share --gradio-auth --ssl-keyfile
        --ssl-certfile --verbose --trust-remote-code --use_fast""",
    "today": """--user-data-dir --model --model-dir --lora --lora-dir --loader --ctx-size --n_ctx --max_seq_len --cache-type --gpu-layers
        --n-gpu-layers --cpu --cpu-memory --disk --load-in-8bit --load-in-4bit --use_double_quant --compute_dtype --quant_type --bf16
        --no_use_fast --attn-implementation --force-safetensors --trust-remote-code --gpu-split --settings --extensions --multi-user
        --idle-timeout --verbose --listen --listen-host --listen-port --share --auto-launch --gradio-auth --gradio-auth-path --ssl-keyfile
        --ssl-certfile --subpath --nowebui --portable --api --api-port --api-key --admin-key --public-api --public-api-id
        --api-enable-ipv6 --api-disable-ipv4""",
}
SPELLED = {  # each era's names, as it spells them
    "2023": "transformers exllama_hf exllamav2_hf exllama exllamav2 autogptq gptq-for-llama llama.cpp llamacpp_hf ctransformers autoawq",
    "today": "llama.cpp Transformers ExLlamav3_HF ExLlamav3 TensorRT-LLM",
}
VALUES = {  # a value for every choice
    "model": "m", "loras": ("a", "b"), "loader": "gptq", "context": 4096, "cpu": True, "api": True, "openai": True,
    "extensions": ("api", "openai", "gallery"), "raw_port": 5002, "streaming_port": 5006, "openai_port": 5003, "api_key": "k",
    "admin_key": "a", "model_dir": "../kit/models", "lora_dir": "../kit/loras",
}  # fmt: skip


@pytest.mark.parametrize("era", FLAGS)
@pytest.mark.parametrize("loader", LOADERS)
def test_every_choice_is_a_flag_that_its_era_knows_or_a_word_that_it_does_not(era, loader):
    lacking = set(LACKS[era])
    assert set(VALUES) == {field.name for field in fields(Choices)}
    line = build_command(
        era,
        Choices(
            **{name: value for name, value in VALUES.items() if name not in lacking} | {"loader": loader}
        ),
    )
    words = shlex.split(line)
    assert {word for word in words if word.startswith("--")} <= set(FLAGS[era].split())
    assert words[words.index("--loader") + 1] in SPELLED[era].split()
    for name in set(VALUES) - lacking - {"loader", "extensions"}:
        assert build_command(era, Choices(**{name: VALUES[name]})) != build_command(era, Choices()), name
    for name in lacking:
        with pytest.raises(KitError, match=f"Leave out {name}"):
            build_command(era, Choices(**{name: VALUES[name]}))


def test_extensions_start_the_apis_that_each_era_means_by_them():
    choices = Choices("m", extensions=("api", "openai", "gallery"))
    assert build_command("2023", choices) == "python server.py --model m --api --extensions openai gallery"
    assert build_command("today", choices) == "python server.py --model m --api --extensions gallery"
    assert build_command("today", Choices("m", extensions=("openai",))) == "python server.py --model m --api"


def test_context_of_a_gguf_file_has_a_flag_of_its_own_in_2023():
    choices = Choices("m", loader="llama.cpp", context=4096)
    assert build_command("2023", choices).endswith("--n_ctx 4096") and build_command(
        "today", choices
    ).endswith("--ctx-size 4096")


def test_webui_is_pointed_at_the_folders_of_the_kit(home):
    absolute = clients.use_kit_folders(Choices("m"))
    assert absolute.model == "m" and (absolute.model_dir, absolute.lora_dir) == (
        f"{home}/models",
        f"{home}/loras",
    )
    relative = clients.use_kit_folders(Choices("m"), home.parent / "text-generation-webui")
    assert (
        build_command("today", relative)
        == f"python server.py --model-dir ../{home.name}/models --lora-dir ../{home.name}/loras --model m"
    )
    assert os.path.normpath(home.parent / "text-generation-webui" / relative.lora_dir) == absolute.lora_dir


@pytest.mark.parametrize("hardware", INSTALLS)
def test_install_ends_in_the_webui_s_folder_with_torch_before_its_own_packages(hardware):
    lines = clients.list_install_lines(hardware)
    folder = re.fullmatch(r"git clone https://\S+/(\S+)", lines[0]).group(1)
    assert lines[1] == f"cd {folder}" and lines[-2].startswith("pip install ") and "torch" in lines[-2]
    assert re.fullmatch(r"pip install -r requirements/full/requirements\w*\.txt", lines[-1])
    assert [shlex.split(line)[0] for line in lines] == ["git", "cd", "python3.13", "source", "pip", "pip"]


def test_unknown_hardware_is_refused():
    with pytest.raises(KitError, match="Use one of: cpu, nvidia, apple"):
        clients.list_install_lines("tpu")


@pytest.mark.parametrize("name", LESSONS)
def test_lines_in_the_lessons_are_those_built_here(name):
    text = (PROJECT / "notebooks" / "text" / f"{name}.py").read_text(encoding="utf-8")
    printed = [line.removeprefix("# ") for line in text.splitlines() if line.startswith("# python server.py")]
    assert printed == [build_command(era, choices) for era, choices in LESSONS[name]]


def test_ports_and_folders_go_where_each_era_takes_them():
    choices = Choices(
        "m",
        ("a", "b c"),
        api=True,
        openai=True,
        openai_port=5009,
        model_dir="/kit/models",
        lora_dir="/kit/loras",
    )
    assert build_command("2023", choices) == (
        "OPENEDAI_PORT=5009 python server.py --model-dir /kit/models --lora-dir /kit/loras --model m --lora a 'b c' --api --extensions openai"
    )
    assert build_command("today", choices).endswith("--lora a 'b c' --api --api-port 5009")
    assert "--api-blocking-port 5002" in build_command("2023", Choices("m", api=True, raw_port=5002))


def test_folders_moved_below_user_data():
    assert find_folder("2023", "w", "loras") == Path("w/loras")
    assert find_folder("today", "w", "training/datasets") == Path("w/user_data/training/datasets")


def test_every_loader_of_the_kit_has_its_name_in_both_eras():
    assert set(LOADERS) == set(weights.LOADERS) and all(set(names) == set(ERAS) for names in LOADERS.values())


def test_what_an_era_lacks_is_said():
    with pytest.raises(KitError, match="no raw API"):
        build_command("today", Choices("m", raw_port=5000))
    with pytest.raises(KitError, match="no loader of the kit"):
        build_command("2023", Choices("m", loader="exl3"))
    with pytest.raises(KitError, match="no era"):
        find_folder("2024", "w", "models")


def test_data_of_2023_come_with_a_format_that_gives_the_kit_s_own_training_text(
    tiny, rows, template, tmp_path
):
    data, form = clients.write_dataset("2023", tmp_path, "colleges", rows, template, tiny.tokenizer)
    assert (
        data == tmp_path / "training/datasets/colleges.json"
        and form == tmp_path / "training/formats/colleges-format.json"
    )
    entry, ((keys, text),) = json.loads(data.read_text())[1], json.loads(form.read_text()).items()
    assert set(keys.split(",")) == set(entry)
    for key, value in entry.items():  # as the WebUI fills it
        text = text.replace(f"%{key}%", value)
    example = template.build_example(rows[1])
    assert (
        text
        == tiny.tokenizer.apply_chat_template(
            example["prompt"] + example["completion"], tokenize=False
        ).rstrip()
    )


def test_data_of_today_are_messages_and_are_read_back(tiny, rows, template, tmp_path):
    (path,) = clients.write_dataset("today", tmp_path, "colleges", rows, template, tiny.tokenizer)
    assert path == tmp_path / "user_data/training/datasets/colleges.json"
    assert clients.read_dataset(path) == [
        {key: template.build_example(row)[key] for key in ("prompt", "completion")} for row in rows
    ]


def test_alpaca_rows_are_read(home):
    (home / "a.json").write_text(
        json.dumps(
            [{"instruction": "Add.", "input": "1 1", "output": "2"}, {"instruction": "Hi", "output": "Hello"}]
        )
    )
    first, second = clients.read_dataset("a.json")
    assert first == {
        "prompt": [{"role": "user", "content": "Add.\n\n1 1"}],
        "completion": [{"role": "assistant", "content": "2"}],
    }
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
        clients.read_dataset("d.json")
