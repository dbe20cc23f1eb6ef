"""AdapterFolder: the one that knows what a folder below loras/ is."""

import json
import pickle
import shutil
import struct

import pytest
import torch
from peft import LoraConfig
from support.loras import add_a_row, change_config, change_json, change_weights, read_json, save_as_2023
from support.tiny import make_tiny_model

from helpers import adapters
from helpers.adapters.__main__ import main
from helpers.adapters.folders import PEFT_DEFAULTS, check_name, name_output
from helpers.common.command import run_command
from helpers.common.errors import DamagedError, NotFoundError, UnsupportedError, UsageError


def list_lines(capsys):
    """The lines that `python -m helpers.adapters list` prints, without those about the kit's own LoRAs."""
    capsys.readouterr()
    assert run_command(main, ["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    own = (number for number, line in enumerate(lines) if line.startswith(tuple(adapters.list_shipped())))
    return lines[: next(own, len(lines))]


# What `adapters list` shows


def test_list_shows_base_rank_layers_size_data_and_accuracy(trained, capsys):
    accuracies = {"lora": {"accuracy": 0.625}}
    change_json(trained / "run.json", data="data/x.csv", evaluation=accuracies)
    (line,) = list_lines(capsys)
    assert line.startswith("mine ")
    for part in ("base tiny", "rank 4", " MB", "down_proj", "data/x.csv", "62.5%"):
        assert part in line


def test_list_shows_exact_match_of_free_answers(trained, capsys):
    change_json(trained / "run.json", evaluation={"lora": {"exact_match": 0.375}})
    (line,) = list_lines(capsys)
    assert "exact match 37.5%" in line


def test_list_without_loras_names_the_folder_that_is_empty(home, capsys):
    (line,) = list_lines(capsys)
    assert str(home / "loras") in line


def delete(file):
    return lambda folder: (folder / file).unlink()


def write(file, text):
    return lambda folder: (folder / file).write_text(text)


BROKEN = {  # what was done to the folder, and what the reason names
    "no weights": (delete("adapter_model.safetensors"), "adapter_model.safetensors"),
    "weights cut short": (write("adapter_model.safetensors", "123"), "adapter_model.safetensors"),
    "no config": (delete("adapter_config.json"), "adapter_config.json"),
    "config that is not JSON": (write("adapter_config.json", "{"), "adapter_config.json"),
    "config that is a list": (write("adapter_config.json", "[]"), "adapter_config.json"),
    "config that is a number": (write("adapter_config.json", "7"), "adapter_config.json"),
    "run that is not JSON": (write("run.json", "{"), "run.json"),
    "run that is a list": (write("run.json", "[]"), "run.json"),
    "run that is a number": (write("run.json", "7"), "run.json"),
    "base that is not there": (
        lambda folder: change_config(folder, base_model_name_or_path="models/elsewhere"),
        "elsewhere",
    ),
    "a row too many": (lambda folder: change_weights(folder, add_a_row), "(33, 4)"),
    "no factors": (lambda folder: change_weights(folder, lambda found: {"x": torch.zeros(1)}), ""),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_list_says_what_is_broken_below_the_name(made, kind, capsys):
    damage, named = BROKEN[kind]
    damage(made[0])
    broken, reason, whole = list_lines(capsys)
    assert broken.startswith("a ")
    assert adapters.describe_adapter("a").problem in reason
    assert named in reason
    assert whole.startswith("b ")


ODD_RUNS = [
    '{"evaluation": null}',
    '{"evaluation": 3}',
    '{"evaluation": [1]}',
    '{"evaluation": {"lora": 1}}',
    '{"evaluation": {"lora": {"accuracy": "high"}}}',
    '{"evaluation": {"lora": {"accuracy": [0.5]}}}',
    '{"data": ["x.csv"]}',
]


@pytest.mark.parametrize("content", ODD_RUNS)
def test_list_has_a_line_for_every_lora_beside_one_with_an_odd_run(made, content, capsys):
    (made[0] / "run.json").write_text(content)
    lines = list_lines(capsys)
    assert lines[0].startswith("a ")
    assert lines[-1].startswith("b ")


ODD_CONFIGS = [
    {"r": "x"},
    {"r": None},
    {"r": [4]},
    {"target_modules": 5},
    {"target_modules": [["q_proj"]]},
    {"base_model_name_or_path": 3},
    {"base_model_name_or_path": ["tiny"]},
]


@pytest.mark.parametrize("values", ODD_CONFIGS, ids=str)
def test_list_has_a_line_for_every_lora_beside_one_with_an_odd_config(made, values, capsys):
    change_config(made[0], **values)
    lines = list_lines(capsys)
    assert lines[0].startswith("a ")
    assert lines[-1].startswith("b ")


@pytest.mark.parametrize(
    "values", [{"num_attention_heads": 0, "head_dim": None}, {"hidden_size": "x"}], ids=str
)
def test_list_has_a_line_for_every_lora_beside_one_whose_base_has_an_odd_config(made, home, values, capsys):
    odd = make_tiny_model(home / "models" / "odd")
    change_json(odd / "config.json", **values)
    change_config(made[0], base_model_name_or_path="models/odd")
    lines = list_lines(capsys)
    assert lines[0].startswith("a ")
    assert lines[-1].startswith("b ")


def test_hidden_folders_are_not_listed_and_incomplete_ones_are(made, home):
    (home / "loras" / ".unfinished").mkdir()
    (home / "loras" / "empty").mkdir()
    assert adapters.list_folders() == ["a", "b", "empty"]
    assert adapters.list_adapters() == ["a", "b"]


# What is in a folder


def test_pickle_with_code_in_it_is_refused_and_not_run(made, home, load_tiny):
    class Trap:
        def __reduce__(self):
            return (open, (str(home / "ran"), "w"))

    save_as_2023(made[0])
    torch.save({"base_model.model.x": Trap()}, made[0] / "adapter_model.bin", pickle_module=pickle)
    with pytest.raises(DamagedError, match="adapter_model.bin"):
        adapters.attach_adapter(load_tiny(), "a")
    assert "adapter_model.bin" in adapters.describe_adapter("a").problem
    assert not (home / "ran").exists()


def test_damaged_pickle_that_speaks_of_several_disks_is_refused(made):
    save_as_2023(made[0])
    path = made[0] / "adapter_model.bin"
    content = path.read_bytes()
    end = content.rindex(b"PK\5\6")  # a zip file's last part; the one before can speak of several disks
    path.write_bytes(content[: end - 20] + b"PK\6\7" + struct.pack("<LQL", 0, 0, 2) + content[end:])
    assert "adapter_model.bin" in adapters.describe_adapter("a").problem


@pytest.mark.parametrize(
    ("recorded", "name"),
    [
        ("models/tiny", "tiny"),
        ("models/tiny/", "tiny"),
        ("C:\\webui\\models\\tiny", "tiny"),
        ("acme/tiny", "tiny"),
        ("/home/ann/.cache/hub/models--acme--tiny/snapshots/0a1b", "tiny"),
        ("", None),
        (None, None),
    ],
)
def test_base_is_known_by_the_last_part_of_its_path(made, recorded, name):
    change_config(made[0], base_model_name_or_path=recorded)
    assert adapters.AdapterFolder(made[0]).base_name == name


def test_layers_are_named_in_alphabetical_order_or_by_peft_s_pattern(made):
    change_config(made[0], target_modules=["v_proj", "q_proj"])
    assert adapters.AdapterFolder(made[0]).targets_in_words == "q_proj, v_proj"
    change_config(made[0], layers_to_transform=[8, 9, 10])
    assert adapters.AdapterFolder(made[0]).targets_in_words == "q_proj, v_proj (layers 8 to 10)"
    change_config(made[0], target_modules=".*attn.*", layers_to_transform=None)
    assert adapters.AdapterFolder(made[0]).targets_in_words == ".*attn.*"


def test_safetensors_are_read_before_a_pickle(made):
    (made[0] / "adapter_model.bin").write_bytes(b"")
    assert adapters.AdapterFolder(made[0]).weights == made[0] / "adapter_model.safetensors"


def test_lora_from_elsewhere_has_no_run_and_no_parameters(made):
    folder = adapters.AdapterFolder(made[0])
    assert folder.run == {}
    assert folder.parameters == {}


def test_newest_complete_checkpoint_is_named_for_a_folder_that_holds_only_checkpoints(made, home, load_tiny):
    trained = home / "loras" / "mine"
    for step in (90, 100, 110):
        shutil.copytree(made[0], trained / f"checkpoint-{step}")
    (trained / "checkpoint-110" / "adapter_model.safetensors").write_bytes(b"123")
    with pytest.raises(DamagedError, match="mine/checkpoint-100"):
        adapters.find_adapter("mine")
    assert "checkpoint-100" in adapters.describe_adapter("mine").problem
    loaded = adapters.attach_adapter(load_tiny(), "mine/checkpoint-100")
    assert adapters.list_attached(loaded) == ["checkpoint-100"]


@pytest.mark.parametrize(
    "values",
    [
        {"r": "4"},
        {"r": 0},
        {"lora_alpha": None},
        {"lora_alpha": True},
        {"lora_alpha": 1e308},
        {"alpha_pattern": {"q_proj": -1e308}},
    ],
    ids=str,
)
def test_rank_or_alpha_that_is_no_number_is_a_damaged_config(made, values):
    change_config(made[0], **values)
    (key,) = values
    with pytest.raises(DamagedError, match=f"adapter_config.json.* {key} "):
        adapters.find_adapter("a")


def test_control_characters_in_a_config_do_not_reach_the_terminal(made, capsys):
    change_config(made[0], base_model_name_or_path="models/a\x1b[31mb")
    assert run_command(main, ["list"]) == 0
    out = capsys.readouterr().out
    assert "a\\x1b[31mb" in out and "\x1b" not in out


def test_base_that_is_longer_than_any_path_is_a_damaged_config(made):
    change_config(made[0], base_model_name_or_path="a" * 5000)
    with pytest.raises(DamagedError, match="longer than any path") as caught:
        adapters.find_adapter("a")
    assert len(str(caught.value)) < 500


def test_rank_that_the_weights_do_not_have_is_a_damaged_config(made, load_tiny):
    change_config(made[0], r=8)
    with pytest.raises(DamagedError, match="rank 4.* 8.*adapter_config.json"):
        adapters.attach_adapter(load_tiny(), "a")
    assert "rank 4" in adapters.describe_adapter("a").problem


# Names


def test_unknown_lora_is_named_with_what_is_there(made):
    with pytest.raises(NotFoundError, match="mine.*a, b"):
        adapters.find_adapter("mine")


def test_incomplete_lora_is_refused_with_the_file_that_is_missing_or_damaged(home):
    folder = home / "loras" / "mine"
    folder.mkdir(parents=True)
    with pytest.raises(DamagedError, match="adapter_config.json"):
        adapters.find_adapter("mine")
    (folder / "adapter_config.json").write_text('{"r": 4}')
    with pytest.raises(DamagedError, match="adapter_model.safetensors"):
        adapters.find_adapter("mine")
    (folder / "adapter_model.safetensors").write_bytes(b"12345")
    with pytest.raises(DamagedError, match="adapter_model.safetensors"):
        adapters.find_adapter("mine")


@pytest.mark.parametrize("name", ["../a", "", "a.b"])
def test_name_that_a_lora_cannot_have_is_refused(made, name):
    with pytest.raises(UsageError):
        adapters.find_adapter(name)


def test_path_in_place_of_a_name_is_refused_with_the_name(made):
    with pytest.raises(UsageError, match="path") as caught:
        check_name("../loras/mine")
    assert caught.value.remedy.endswith("below loras/, 'mine'.")


def test_link_to_nowhere_and_a_line_break_have_one_line_each(made, home, capsys):
    (home / "loras" / "gone").symlink_to(home / "unmounted")
    (home / "loras" / "two\nlines").mkdir()
    lines = list_lines(capsys)
    assert [line for line in lines if "gone" in line and "is a link to" in line]
    assert [line for line in lines if line.startswith("two\\nlines")]


def test_output_may_be_given_with_or_without_its_parent(home):
    assert name_output("loras/mine") == home / "loras" / "mine"
    assert name_output("mine") == home / "loras" / "mine"


@pytest.mark.parametrize("name", ["../outside", "loras/../../outside", "loras/", "loras/my.lora"])
def test_output_that_a_lora_cannot_have_is_refused(home, name):
    with pytest.raises(UsageError):
        name_output(name)


# What adapter_config.json says and what it does not


def test_what_a_config_does_not_say_has_peft_s_defaults(made):
    path = made[0] / "adapter_config.json"
    kept = {key: value for key, value in read_json(path).items() if key not in PEFT_DEFAULTS}
    path.write_text(json.dumps(kept))
    config = adapters.AdapterFolder(made[0]).config
    default = LoraConfig()
    assert {key: config[key] for key in PEFT_DEFAULTS} == {
        key: getattr(default, key) for key in PEFT_DEFAULTS
    }


def test_adapter_of_another_kind_is_not_taken_for_a_lora(made, capsys):
    change_config(made[0], peft_type="IA3")
    with pytest.raises(UnsupportedError, match="IA3"):
        adapters.find_adapter("a")
    assert any("IA3" in line for line in list_lines(capsys))


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("run.json", {"evaluation": {"lora": {"accuracy": "good"}}}),
        ("run.json", {"evaluation": {"lora": []}}),
        ("run.json", {"data": [1]}),
        ("adapter_config.json", {"target_modules": [1, None]}),
        ("adapter_config.json", {"target_modules": "("}),
        ("adapter_config.json", {"rank_pattern": {"q_proj": "x"}}),
        ("adapter_config.json", {"base_model_name_or_path": 3}),
    ],
    ids=str,
)
def test_lora_with_odd_records_is_listed_with_the_problem_and_the_others_too(made, file, values, capsys):
    (made[0] / "run.json").write_text("{}")
    change_json(made[0] / file, **values)
    assert run_command(main, ["list"]) == 0
    shown = capsys.readouterr().out
    assert "cannot be attached" in shown and adapters.describe_adapter("b").problem is None
