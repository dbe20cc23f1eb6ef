"""Command lines, folders and installation of the real WebUI, in both eras."""

import os
import re
import shlex
from dataclasses import fields, replace
from pathlib import Path

import pytest

from helpers import PROJECT, clients, loading
from helpers.clients.webui import (
    ERAS,
    HARDWARE,
    LOADERS,
    UNSUPPORTED,
    WebUIOptions,
    build_command,
    find_folder,
    name_loader,
)
from helpers.common.errors import UnsupportedError, UsageError

LLAMA_7B = "TheBloke_Llama-2-7B-Chat-GPTQ"
LLAMA_70B = "TheBloke_Llama-2-70B-chat-GPTQ_gptq-4bit-64g-actorder_True"
SMALL = WebUIOptions("SmolLM2-135M-Instruct", ("college-preferences",), api=True)
LESSONS = {  # what the lessons print, as options
    "02_loading": [
        ("2023", WebUIOptions(LLAMA_70B, loader="gptq", context=4096)),
        ("today", WebUIOptions("llama-2-70b-chat.Q4_K_M.gguf", context=4096)),
    ],
    "03_api": [
        ("today", WebUIOptions("llama-2-7b-chat.Q4_K_M.gguf", api=True)),
        ("2023", WebUIOptions(LLAMA_7B, api=True, openai=True)),
    ],
    "05_lora_loading": [("2023", replace(SMALL, cpu=True, openai=True)), ("today", SMALL)],
}
# What server.py accepts, as far as a line built here could need it. Each era fails at other flags.
FLAGS = {
    "2023": """
        --model --model-dir --lora --lora-dir --loader --cpu --load-in-8bit --load-in-4bit
        --use_double_quant --compute_dtype --quant_type --bf16 --wbits --groupsize --model_type
        --pre_layer --checkpoint --desc_act --triton --n_ctx --n-gpu-layers --threads --max_seq_len
        --gpu-split --alpha_value --rope_freq_base --compress_pos_emb --api --extensions
        --api-blocking-port --api-streaming-port --public-api --public-api-id --listen --listen-host
        --listen-port --settings --multi-user --share --gradio-auth --ssl-keyfile --ssl-certfile
        --verbose --trust-remote-code --use_fast
    """,
    "today": """
        --user-data-dir --model --model-dir --lora --lora-dir --loader --ctx-size --n_ctx --max_seq_len
        --cache-type --gpu-layers --n-gpu-layers --cpu --cpu-memory --disk --load-in-8bit --load-in-4bit
        --use_double_quant --compute_dtype --quant_type --bf16 --no_use_fast --attn-implementation
        --force-safetensors --trust-remote-code --gpu-split --settings --extensions --multi-user
        --idle-timeout --verbose --listen --listen-host --listen-port --share --auto-launch
        --gradio-auth --gradio-auth-path --ssl-keyfile --ssl-certfile --subpath --nowebui --portable
        --api --api-port --api-key --admin-key --public-api --public-api-id --api-enable-ipv6
        --api-disable-ipv4
    """,
}
LOADER_NAMES = {  # as each era spells them
    "2023": """
        transformers exllama_hf exllamav2_hf exllama exllamav2 autogptq gptq-for-llama llama.cpp llamacpp_hf
        ctransformers autoawq
    """,
    "today": "llama.cpp Transformers ExLlamav3_HF ExLlamav3 TensorRT-LLM",
}
VALUES = {  # a value for every option
    "model": "m",
    "loras": ("a",),
    "loader": "gptq",
    "context": 4096,
    "cpu": True,
    "api": True,
    "openai": True,
    "extensions": ("api", "openai", "gallery"),
    "raw_port": 5002,
    "streaming_port": 5006,
    "openai_port": 5003,
    "api_key": "k",
    "admin_key": "a",
    "models_dir": "../kit/models",
    "loras_dir": "../kit/loras",
}
every_era = pytest.mark.parametrize("era", ERAS)


def test_there_is_a_value_for_every_option():
    assert set(VALUES) == {field.name for field in fields(WebUIOptions)}


@every_era
@pytest.mark.parametrize("loader", LOADERS)
def test_command_has_only_flags_and_loaders_that_its_era_knows(era, loader):
    values = {name: value for name, value in VALUES.items() if name not in UNSUPPORTED[era]}
    words = shlex.split(build_command(era, WebUIOptions(**{**values, "loader": loader})))
    assert {word for word in words if word.startswith("--")} <= set(FLAGS[era].split())
    assert words[words.index("--loader") + 1] in LOADER_NAMES[era].split()


@every_era
def test_every_option_of_an_era_changes_its_command(era):
    for name in set(VALUES) - set(UNSUPPORTED[era]):
        options = WebUIOptions(**{name: VALUES[name]})
        assert build_command(era, options) != build_command(era, WebUIOptions()), name


@pytest.mark.parametrize(("era", "name"), [(era, name) for era in ERAS for name in UNSUPPORTED[era]])
def test_option_that_an_era_lacks_is_refused_by_name(era, name):
    with pytest.raises(UnsupportedError, match=name):
        build_command(era, WebUIOptions(**{name: VALUES[name]}))


@every_era
def test_several_loras_are_refused_by_name(era):
    with pytest.raises(UnsupportedError, match="a, b"):
        build_command(era, WebUIOptions("m", ("a", "b")))


def test_unknown_loaders_and_eras_are_refused_by_name():
    with pytest.raises(UsageError, match="exl3"):
        build_command("2023", WebUIOptions("m", loader="exl3"))
    for call in (
        lambda: find_folder("2024", "w", "models"),
        lambda: build_command("2024", WebUIOptions()),
        lambda: name_loader("2024", "gptq"),
    ):
        with pytest.raises(UsageError, match="2024"):
            call()


def test_extensions_start_the_apis_that_each_era_means_by_them():
    options = WebUIOptions("m", extensions=("api", "openai", "gallery"))
    assert build_command("2023", options) == "python server.py --model m --api --extensions openai gallery"
    assert build_command("today", options) == "python server.py --model m --api --extensions gallery"
    openai = WebUIOptions("m", extensions=("openai",))
    assert build_command("today", openai) == "python server.py --model m --api"


def test_context_of_a_gguf_file_has_its_own_flag_in_2023():
    options = WebUIOptions("m", loader="llama.cpp", context=4096)
    assert build_command("2023", options).endswith("--n_ctx 4096")
    assert build_command("today", options).endswith("--ctx-size 4096")


def test_webui_is_pointed_at_the_folders_of_the_kit(home):
    absolute = clients.use_kit_folders(WebUIOptions("m"))
    assert absolute == WebUIOptions("m", models_dir=f"{home}/models", loras_dir=f"{home}/loras")
    webui = home.parent / "text-generation-webui"
    relative = clients.use_kit_folders(WebUIOptions("m"), webui)
    line = f"python server.py --model-dir ../{home.name}/models --lora-dir ../{home.name}/loras --model m"
    assert build_command("today", relative) == line
    assert os.path.normpath(webui / relative.loras_dir) == absolute.loras_dir


@pytest.mark.parametrize("name", LESSONS)
def test_lines_in_the_lessons_are_those_built_here(name):
    text = (PROJECT / "notebooks" / "text" / f"{name}.py").read_text(encoding="utf-8")
    printed = [line.removeprefix("# ") for line in text.splitlines() if line.startswith("# python server.py")]
    assert printed == [build_command(era, options) for era, options in LESSONS[name]]


def test_ports_and_folders_are_given_in_the_way_of_each_era():
    options = WebUIOptions(
        "m",
        ("b c",),
        api=True,
        openai=True,
        openai_port=5009,
        models_dir="/kit/models",
        loras_dir="/kit/loras",
    )
    start = "python server.py --model-dir /kit/models --lora-dir /kit/loras --model m --lora 'b c' --api"
    assert build_command("2023", options) == f"OPENEDAI_PORT=5009 {start} --extensions openai"
    assert build_command("today", options) == f"{start} --api-port 5009"
    raw = WebUIOptions("m", api=True, raw_port=5002, streaming_port=5006)
    assert build_command("2023", raw).endswith("--api --api-blocking-port 5002 --api-streaming-port 5006")


def test_keys_are_given_to_todays_webui():
    options = WebUIOptions("m", api=True, api_key="k", admin_key="a")
    assert build_command("today", options).endswith("--api --api-key k --admin-key a")


def test_folders_are_below_user_data_today():
    assert find_folder("2023", "w", "loras") == Path("w/loras")
    assert find_folder("today", "w", "training/datasets") == Path("w/user_data/training/datasets")


def test_every_loader_of_the_kit_has_a_name_in_both_eras():
    assert set(LOADERS) == set(loading.LOADERS)
    assert all(set(names) == set(ERAS) for names in LOADERS.values())


@pytest.mark.parametrize("hardware", HARDWARE)
def test_installation_ends_in_the_webuis_folder_with_torch_before_its_own_packages(hardware):
    lines = clients.list_install_lines(hardware)
    folder = re.fullmatch(r"git clone https://\S+/(\S+)", lines[0])[1]
    assert lines[1] == f"cd {folder}"
    assert lines[-2].startswith("pip install ") and "torch" in lines[-2]
    assert re.fullmatch(r"pip install -r requirements/full/requirements\w*\.txt", lines[-1])
    assert [shlex.split(line)[0] for line in lines] == ["git", "cd", "python3.13", "source", "pip", "pip"]


@pytest.mark.parametrize("hardware", HARDWARE)
def test_webui_of_2023_is_installed_from_its_tag_with_the_packages_of_its_openai_api(hardware):
    lines = clients.list_install_lines(hardware, "2023")
    assert lines[2] == "git checkout snapshot-2023-10-29"
    assert [shlex.split(line)[0] for line in lines] == "git cd git python3.11 source pip pip".split()
    assert f"-r {HARDWARE[hardware]} -r extensions/openai/requirements.txt" in lines[-1]


def test_lesson_3_installs_the_webui_of_2023_as_it_is_built_here():
    text = (PROJECT / "notebooks" / "text" / "03_api.py").read_text(encoding="utf-8")
    lines = clients.list_install_lines("nvidia", "2023")
    assert "# ```bash\n" + "".join(f"# {line}\n" for line in lines) in text


def test_unknown_hardware_is_refused_with_the_known_kinds():
    with pytest.raises(UsageError, match="tpu") as caught:
        clients.list_install_lines("tpu")
    assert all(name in caught.value.remedy for name in HARDWARE)
