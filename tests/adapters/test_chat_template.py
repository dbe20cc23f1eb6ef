"""The chat template of a LoRA's training: recorded, taken again, exported, and never mixed up."""

import shutil

import pytest
from support.loras import change_json, read_json

from helpers import adapters, loading, tasks, training
from helpers.adapters.__main__ import main
from helpers.adapters.chat_template import find_changed, find_recorded, pick_for_all, set_day
from helpers.adapters.fingerprint import take_fingerprint
from helpers.adapters.proving import prove_fingerprint
from helpers.common.command import run_command
from helpers.common.errors import MismatchError
from helpers.common.files import write_json
from helpers.loading.chat_templates import ADMIT_SYSTEM
from helpers.server.service import ModelChoice, Service
from helpers.weights.folders import find_model

SETTINGS = training.TrainingSettings(lora_r=4, epochs=1, batch_size=8, checkpoint_steps=0)


@pytest.fixture
def train(trained, load_tiny, template, rows, home):
    """A function that trains loras/NAME on models/tiny with a chat template."""

    def train(name, chat_template):
        loaded = load_tiny(chat_template=chat_template)
        training.train_lora(loaded, tasks.TaskData(template, rows), SETTINGS, home / "loras" / name, False)
        return adapters.find_adapter(name)

    return train


def test_template_of_the_training_is_recorded_with_its_reason_and_its_text(train, load_tiny):
    folder = train("other", "vicuna")
    recorded = read_json(folder.path / "run.json")["chat_template"]
    assert (recorded["name"], recorded["reason"]) == ("vicuna", "it was asked for")
    loaded = load_tiny(chat_template="vicuna")
    assert (folder.path / "chat_template.jinja").read_text() == loaded.tokenizer.chat_template
    assert find_recorded(folder) == "vicuna"


def test_lora_is_proved_merged_and_served_with_the_template_of_its_training(train, load_tiny, home, capsys):
    folder = train("other", "vicuna")
    assert run_command(main, ["prove", "other"]) == 0
    assert "chat template: vicuna, because" in capsys.readouterr().err
    assert run_command(main, ["prove", "other", "--chat-template", "own"]) == 2
    merged = find_model(adapters.merge_adapter("other", "merged").name)
    assert load_tiny(merged.name).tokenizer.chat_template == (folder.path / "chat_template.jinja").read_text()
    service = Service()
    engine = service.load(ModelChoice("tiny", ("other",), dtype="float32"))
    assert engine.render([{"role": "user", "content": "Hi"}]) == "USER: Hi ASSISTANT: "
    assert engine.template.name == "vicuna"
    service.unload()


def test_template_from_a_file_is_taken_from_the_lora_s_folder(train, home, load_tiny):
    file = home / "mine.jinja"
    file.write_text("{% for m in messages %}<{{ m.role }}>{{ m.content }}<|im_end|>{% endfor %}")
    folder = train("other", str(file))
    file.unlink()
    assert find_recorded(folder) == str(folder.path / "chat_template.jinja")
    assert run_command(main, ["prove", "other"]) == 0


def test_loras_of_different_templates_are_not_served_together_unless_one_is_asked_for(train, trained):
    other, mine = train("other", "vicuna"), adapters.find_adapter("mine")
    with pytest.raises(MismatchError, match="mine: own.*--chat-template|other: vicuna.*--chat-template"):
        pick_for_all(None, [other, mine])
    assert pick_for_all("alpaca", [other, mine]) == "alpaca"
    copy = shutil.copytree(other.path, other.path.with_name("copy"))
    assert pick_for_all(None, [other, adapters.AdapterFolder(copy)]) == "vicuna"


def test_vllm_is_given_the_template_that_the_base_s_tokenizer_does_not_have(train, trained):
    train("other", "vicuna")
    assert "--chat-template loras/other/chat_template.jinja" in adapters.build_vllm_command(["other"])[0]
    assert "--chat-template" not in adapters.build_vllm_command(["mine"])[0]
    with pytest.raises(MismatchError, match="different chat templates.*one by one"):
        adapters.build_vllm_command(["other", "mine"])


def test_own_template_that_was_given_a_system_role_counts_as_changed(trained):
    folder = adapters.AdapterFolder(trained)
    assert find_changed(folder) is None
    file = trained / "chat_template.jinja"
    file.write_text(ADMIT_SYSTEM + file.read_text())
    assert find_changed(folder) == file


def test_recorded_template_whose_file_is_gone_is_said(train, load_tiny):
    folder = train("other", "vicuna")
    (folder.path / "chat_template.jinja").unlink()
    loaded = adapters.attach_adapter(load_tiny(), "other")
    finding = next(one for one in adapters.prove(loaded, "other") if "tokens" in one.claim)
    assert finding.passed is False and "vicuna" in finding.seen


def test_lora_without_a_record_of_its_template_is_asked_with_the_model_s_own(trained):
    run = read_json(trained / "run.json")
    del run["chat_template"]
    write_json(trained / "run.json", run)
    assert find_recorded(adapters.AdapterFolder(trained)) is None


def test_lora_whose_chat_template_writes_the_day_is_proved_on_another_day(train, home, load_tiny):
    file = home / "dated.jinja"
    parts = ("<{{ m.role }}>", "{{ strftime_now('%A %d %B %Y') }}", "{{ m.content }}<|im_end|>")
    file.write_text(f"{{% for m in messages %}}{''.join(parts)}{{% endfor %}}")
    folder = train("other", str(file))
    loaded = adapters.attach_adapter(load_tiny(chat_template=str(file)), "other")
    run = read_json(folder.path / "run.json")
    now = loaded.tokenizer.chat_template
    loaded.tokenizer.chat_template = set_day(now, "2024-02-01")
    messages = run["fingerprint"][0]["messages"]
    assert "Thursday 01 February 2024" in loading.render_chat(loaded.tokenizer, messages)
    then = {"fingerprint": [take_fingerprint(loaded, messages)], "date": "2024-02-01"}
    loaded.tokenizer.chat_template = now
    assert prove_fingerprint(loaded, then).passed
    assert not prove_fingerprint(loaded, {**then, "date": "2025-11-29"}).passed


@pytest.mark.parametrize("key", ["chat_template", "fingerprint", "evaluation", "base_sha256"])
def test_record_of_another_form_is_one_line(trained, key, capsys):
    change_json(trained / "run.json", **{key: "x"})
    for command in (
        ["prove", "mine"],
        ["merge", "mine", "--output", "m"],
        ["export", "mine", "--for", "vllm"],
    ):
        assert run_command(main, command) == 2
        assert key in capsys.readouterr().err
