"""Checkpoints that a full disk, a kill or anybody else has damaged."""

import json
import os
import pickle
import shutil

import pytest
import torch
from support.loras import change_json
from transformers import TrainerCallback

from helpers import loading, training
from helpers.common.errors import DamagedError
from helpers.training.intact import find_damage


class Interruption(Exception):
    """Ends a training in these tests, as a power cut would."""


class Interrupt(TrainerCallback):
    """Interrupts after the step 11."""

    def on_step_begin(self, args, state, control, **_):
        if state.global_step == 11:
            raise Interruption


class Code:
    """What runs code when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Where the first test leaves a copy of checkpoints for the others."""
    return tmp_path_factory.mktemp("once") / "saved"


@pytest.fixture
def train(tiny, data, settings, home):
    """A function that trains loras/mine with checkpoints after every five steps."""
    settings = settings.replace({"checkpoint_steps": 5})

    def train(**options):
        loaded = loading.load_model("tiny", dtype="float32")
        return training.train_lora(loaded, data, settings, home / "loras" / "mine", progress=False, **options)

    return train


@pytest.fixture
def folder(train, saved, home):
    """The checkpoints of a training that was interrupted: checkpoint-5 and checkpoint-10."""
    folder = home / "runs" / "checkpoints" / "mine"
    if saved.exists():
        shutil.copytree(saved, folder)
    else:
        with pytest.raises(Interruption):
            train(callbacks=[Interrupt()])
        shutil.copytree(folder, saved)
    return folder


def truncate(name, size=0):
    return lambda path: os.truncate(path / name, size)


def save(name, value):
    return lambda path: torch.save(value, path / name)


def state(**changes):
    return lambda path: change_json(path / "trainer_state.json", **changes)


DAMAGES = {
    "optimizer cut": truncate("optimizer.pt", 2000),
    "optimizer empty": truncate("optimizer.pt"),
    "optimizer is code": save("optimizer.pt", {"state": Code()}),
    "optimizer is a plain pickle": lambda path: (path / "optimizer.pt").write_bytes(pickle.dumps(Code())),
    "optimizer is missing": lambda path: (path / "optimizer.pt").unlink(),
    "optimizer is something else": save("optimizer.pt", {"a": 1}),
    "scheduler cut": truncate("scheduler.pt", 300),
    "scheduler is code": save("scheduler.pt", Code()),
    "random state is empty": truncate("rng_state.pth"),
    "random state is odd": save("rng_state.pth", {"python": 1}),
    "random state is missing": lambda path: (path / "rng_state.pth").unlink(),
    "weights cut": truncate("adapter_model.safetensors", 5000),
    "weights are missing": lambda path: (path / "adapter_model.safetensors").unlink(),
    "config is broken": lambda path: (path / "adapter_config.json").write_text("{"),
    "state has nothing else": lambda path: (path / "trainer_state.json").write_text('{"global_step": 10}'),
    "state has an unknown key": state(odd=1),
    "state is of another step": state(global_step=10**9),
    "state is negative": state(global_step=-5),
    "log is a text": state(log_history="abc"),
    "loss is a text": state(log_history=[{"loss": "x"}]),
    "steps are null": state(max_steps=None, num_train_epochs=None),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_and_no_code_runs(folder, tmp_path, monkeypatch, damage):
    monkeypatch.chdir(tmp_path)
    assert find_damage(folder / "checkpoint-10") == ""
    DAMAGES[damage](folder / "checkpoint-10")
    assert find_damage(folder / "checkpoint-10")
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such pipes")
def test_pipe_in_the_place_of_the_state_is_not_read(folder):
    (folder / "checkpoint-10" / "trainer_state.json").unlink()
    os.mkfifo(folder / "checkpoint-10" / "trainer_state.json")
    assert training.list_unfinished() == {"mine": 5}
    assert "trainer_state.json" in find_damage(folder / "checkpoint-10")


def test_training_continues_from_the_older_checkpoint_and_says_so(folder, train, capsys):
    truncate("optimizer.pt", 2000)(folder / "checkpoint-10")
    assert len(train(resume=True)["loss"]) == 12
    assert "checkpoint-10 is damaged" in capsys.readouterr().err


def test_training_without_a_whole_checkpoint_is_refused(folder, train):
    for step in (5, 10):
        truncate("adapter_model.safetensors", 500)(folder / f"checkpoint-{step}")
    with pytest.raises(DamagedError, match=r"checkpoint-10: .*adapter_model"):
        train(resume=True)


def test_what_only_transformers_finds_is_said_of_the_checkpoint(folder, train):
    for step in (5, 10):
        save("optimizer.pt", {"state": {}, "param_groups": [{"params": [0]}]})(folder / f"checkpoint-{step}")
    with pytest.raises(DamagedError, match="cannot continue from .*checkpoint-10"):
        train(resume=True)
    assert json.loads((folder / "plan.json").read_text())
