"""Checkpoints: what an interrupted training leaves, and how it continues."""

import dataclasses
import os
import shutil
import subprocess
import sys
import time

import pytest
from support.loras import read_json
from support.tiny import make_tiny_model
from transformers import TrainerCallback

from helpers import loading, training
from helpers.common.errors import AlreadyThereError, DamagedError, MismatchError, NotFoundError
from helpers.common.files import write_json
from helpers.tasks import TaskData
from helpers.training.checkpoints import (
    drop_older,
    find_last_checkpoint,
    open_checkpoints,
    remove_checkpoints,
)


@pytest.fixture
def checkpoints(home):
    """Where the checkpoints of the LoRA `mine` are."""
    return home / "runs" / "checkpoints" / "mine"


@pytest.fixture
def train(tiny, data, home):
    """A function that trains loras/mine on a base that was just loaded, and returns its run.json."""

    def train(settings, name="mine", data=data, model=tiny.name, **options):
        loaded = loading.load_model(model, dtype="float32")
        return training.train_lora(loaded, data, settings, home / "loras" / name, progress=False, **options)

    return train


class Interruption(Exception):
    """Ends a training in these tests, as a power cut would."""


class Watch(TrainerCallback):
    """Notes which checkpoints there are after each save; interrupts after the step `last`."""

    def __init__(self, folder, last=None):
        self.folder = folder
        self.last = last
        self.seen = []

    def on_save(self, *_, **__):
        self.seen.append(sorted(path.name for path in self.folder.glob("checkpoint-*")))

    def on_step_begin(self, args, state, control, **_):
        if self.last is not None and state.global_step == self.last:
            raise Interruption


def interrupt(train, settings, checkpoints, last):
    """Trains until the step `last` has ended."""
    with pytest.raises(Interruption):
        train(settings, callbacks=[Watch(checkpoints, last)])


def test_last_two_checkpoints_are_kept_and_removed_at_the_end(train, settings, checkpoints):
    watch = Watch(checkpoints)
    train(settings.replace({"checkpoint_steps": 5}), callbacks=[watch])
    assert watch.seen[:2] == [["checkpoint-5"], ["checkpoint-10", "checkpoint-5"]]
    assert all(len(names) <= 2 for names in watch.seen)
    assert not checkpoints.exists()


def test_no_checkpoint_is_written_with_0_steps(train, settings, checkpoints):
    watch = Watch(checkpoints)
    train(settings.replace({"checkpoint_steps": 0}), callbacks=[watch])
    assert watch.seen == []
    assert not checkpoints.exists()


def test_interrupted_training_continues_with_the_same_losses(train, settings, checkpoints):
    settings = settings.replace({"checkpoint_steps": 5})
    interrupt(train, settings, checkpoints, last=7)
    assert training.list_unfinished() == {"mine": 5}
    resumed = train(settings, resume=True)
    whole = train(settings, name="whole")
    assert resumed["loss"] == pytest.approx(whole["loss"], rel=1e-5, abs=1e-4)
    assert not checkpoints.exists()
    assert training.list_unfinished() == {}


def test_interrupted_training_is_not_overwritten(train, settings, checkpoints):
    settings = settings.replace({"checkpoint_steps": 5})
    interrupt(train, settings, checkpoints, last=7)
    with pytest.raises(AlreadyThereError, match="--resume"):
        train(settings)
    assert find_last_checkpoint(checkpoints) == checkpoints / "checkpoint-5"


def test_other_rows_or_settings_do_not_continue_an_interrupted_training(train, settings, data, checkpoints):
    settings = settings.replace({"checkpoint_steps": 5})
    interrupt(train, settings, checkpoints, last=7)
    fewer = TaskData(data.template, data.train[:8])
    with pytest.raises(MismatchError, match="mine"):
        train(settings, data=fewer, resume=True)
    with pytest.raises(MismatchError, match="mine"):
        train(settings.replace({"learning_rate": 0.02}), resume=True)


def test_another_template_or_base_does_not_continue_an_interrupted_training(
    train, settings, data, home, checkpoints
):
    settings = settings.replace({"checkpoint_steps": 5})
    interrupt(train, settings, checkpoints, last=7)
    other = dataclasses.replace(data.template, task=data.template.task + "?")
    with pytest.raises(MismatchError, match="mine had another template"):
        train(settings, data=TaskData(other, data.train), resume=True)
    make_tiny_model(home / "models" / "other", seed=5)
    with pytest.raises(MismatchError, match="mine had the base tiny"):
        train(settings, model="other", resume=True)
    shutil.rmtree(home / "models" / "tiny")
    (home / "models" / "other").rename(home / "models" / "tiny")
    with pytest.raises(MismatchError, match="other weights in tiny"):
        train(settings, resume=True)


def test_error_about_another_setting_names_it_with_the_value_of_then(train, settings, checkpoints):
    interrupt(train, settings.replace({"checkpoint_steps": 5}), checkpoints, last=7)
    changed = settings.replace({"checkpoint_steps": 5, "targets": "q_proj"})
    with pytest.raises(MismatchError, match="had targets all-linear"):
        train(changed, resume=True)


def test_same_base_under_another_name_continues(train, settings, home, checkpoints):
    settings = settings.replace({"checkpoint_steps": 5})
    interrupt(train, settings, checkpoints, last=7)
    (home / "models" / "tiny").rename(home / "models" / "renamed")
    assert len(train(settings, model="renamed", resume=True)["loss"]) == 12


def test_training_that_was_interrupted_before_its_first_checkpoint_starts_again(train, settings, checkpoints):
    settings = settings.replace({"checkpoint_steps": 5})
    interrupt(train, settings, checkpoints, last=3)
    assert training.list_unfinished() == {"mine": 0}
    assert len(train(settings)["loss"]) == 12


def test_nothing_to_resume_is_refused(train, settings):
    with pytest.raises(NotFoundError, match="mine"):
        train(settings, resume=True)


def make_checkpoint(folder, step, state=None):
    """A checkpoint of which only the file is there that transformers writes last."""
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    if state is not None:
        (checkpoint / "trainer_state.json").write_text(state)


def test_half_written_checkpoints_are_passed_over(tmp_path):
    make_checkpoint(tmp_path, 9, '{"global_step": 9}')
    make_checkpoint(tmp_path, 10, '{"global_step": 10}')
    make_checkpoint(tmp_path, 20, '{"global_st')
    make_checkpoint(tmp_path, 30)
    assert find_last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"


@pytest.mark.parametrize("state", ["[]", "{}"])
def test_checkpoint_with_an_odd_state_is_passed_over(tmp_path, state):
    make_checkpoint(tmp_path, 10, '{"global_step": 10}')
    make_checkpoint(tmp_path, 20, state)
    assert find_last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"


def test_folder_without_checkpoints_has_no_last_one(tmp_path):
    assert find_last_checkpoint(tmp_path) is None


@pytest.mark.parametrize("plan", [None, "{", "[]"])
def test_checkpoints_without_a_readable_plan_are_damaged(tiny, checkpoints, data, settings, plan):
    make_checkpoint(checkpoints, 10, '{"global_step": 10}')
    if plan is not None:
        (checkpoints / "plan.json").write_text(plan)
    with pytest.raises(DamagedError, match="plan.json"):
        open_checkpoints("mine", data, settings, resume=True, loaded=tiny)


@pytest.mark.long
def test_killed_process_leaves_checkpoints_to_continue_from(
    train, settings, data, home, checkpoints, write_program
):
    settings = settings.replace({"epochs": 10, "checkpoint_steps": 5})
    program = write_program(data.train, settings)
    child = subprocess.Popen([sys.executable, program], cwd=home, stderr=subprocess.DEVNULL)
    while not (checkpoints / "checkpoint-10" / "trainer_state.json").exists():
        assert child.poll() is None, "the training ended before it could be killed"
        time.sleep(0.01)
    child.kill()
    child.wait()
    assert not (home / "loras" / "mine").exists()
    resumed = train(settings, resume=True)
    whole = train(settings, name="whole")
    assert resumed["loss"] == pytest.approx(whole["loss"], rel=1e-5, abs=1e-4)
    assert not checkpoints.exists()
    assert not list((home / "loras").glob(".*"))


def test_config_of_a_trainer_that_a_user_builds_writes_no_checkpoints(tiny, settings, tmp_path):
    """Only train_lora can resume: a lesson would fill the disk with checkpoints that nobody reads."""
    settings = settings.replace({"checkpoint_steps": 5})
    assert training.make_sft_config(tiny.model, settings, tmp_path).save_strategy == "no"


def test_folder_of_somebody_else_is_refused_before_the_training(train, settings, checkpoints):
    (checkpoints / "sub").mkdir(parents=True)
    (checkpoints / "sub" / "thesis.txt").write_text("precious")
    with pytest.raises(AlreadyThereError, match="did not make"):
        train(settings)
    assert (checkpoints / "sub" / "thesis.txt").read_text() == "precious"


def test_own_files_beside_checkpoints_stay(train, settings, checkpoints):
    settings = settings.replace({"checkpoint_steps": 5})
    interrupt(train, settings, checkpoints, last=7)
    own = ["README.md", "checkpoint-1-mine/thesis.txt", "checkpoint-5-backup/thesis.txt", "checkpoint-x/a"]
    for name in own:
        (checkpoints / name).parent.mkdir(exist_ok=True)
        (checkpoints / name).write_text("precious")
    train(settings, resume=True)
    assert sorted(str(path.relative_to(checkpoints)) for path in checkpoints.rglob("*.*")) == own[:3]
    assert all((checkpoints / name).read_text() == "precious" for name in own)


@pytest.mark.parametrize("kind", ["link", "folder", "pipe inside"])
def test_what_only_has_the_name_of_a_checkpoint_is_refused_and_stays(train, settings, checkpoints, kind):
    settings = settings.replace({"checkpoint_steps": 5})
    interrupt(train, settings, checkpoints, last=7)
    own, place = checkpoints.parent / "own", checkpoints / "checkpoint-10"
    (own if kind == "link" else place).mkdir()
    if kind == "link":
        place.symlink_to(own)
    (place / "README.md").write_text("precious")
    if kind == "pipe inside":
        os.mkfifo(place / "trainer_state.json")
    with pytest.raises(AlreadyThereError, match="no training wrote it"):
        train(settings, resume=True)
    assert (place / "README.md").read_text() == "precious" and len(list(place.iterdir())) <= 2


@pytest.mark.parametrize("card", ["---\nbase_model: x\n", ""], ids=["card", "empty"])
def test_checkpoint_that_was_cut_short_after_its_card_stands_in_nobody_s_way(
    train, settings, checkpoints, card
):
    settings = settings.replace({"checkpoint_steps": 5})
    interrupt(train, settings, checkpoints, last=7)
    (checkpoints / "checkpoint-10").mkdir()
    (checkpoints / "checkpoint-10/README.md").write_text(card)
    train(settings, resume=True)
    assert not checkpoints.exists()


@pytest.mark.parametrize(
    ("best", "count", "kept"),
    [
        (None, 2, [30, 40]),
        (10, 3, [10, 30, 40]),
        (10, 1, [10]),
        (40, 3, [20, 30, 40]),
        (None, 9, [10, 20, 30, 40, 50]),
    ],
)
def test_best_and_newest_checkpoints_are_kept(tmp_path, best, count, kept):
    for step in (10, 20, 30, 40, 50):
        make_checkpoint(tmp_path, step)
    drop_older(tmp_path, 40, best, count)  # 50 is damaged: the training went on from an older one
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"checkpoint-{step}" for step in kept]


@pytest.mark.parametrize("prefix_sharing", ["auto", "off"])
def test_trainings_own_card_is_not_written_beside_checkpoints(train, settings, checkpoints, prefix_sharing):
    settings = settings.replace({"checkpoint_steps": 5})
    with pytest.raises(Interruption):
        train(settings, callbacks=[Watch(checkpoints, 7)], prefix_sharing=prefix_sharing)
    assert sorted(path.name for path in checkpoints.iterdir()) == ["checkpoint-5", "plan.json"]


def test_link_to_a_folder_takes_checkpoints_and_stays(train, settings, home, checkpoints):
    (home / "large disk").mkdir()
    checkpoints.parent.mkdir(parents=True)
    checkpoints.symlink_to(home / "large disk")
    watch = Watch(checkpoints)
    train(settings.replace({"checkpoint_steps": 5}), callbacks=[watch])
    assert watch.seen
    assert checkpoints.is_symlink()
    assert list((home / "large disk").iterdir()) == []


def test_note_inside_a_checkpoint_stays(tmp_path):
    for step in (10, 20, 30):
        make_checkpoint(tmp_path, step)
    note = tmp_path / "checkpoint-10" / "why.txt"
    note.write_text("precious")
    drop_older(tmp_path, 30, None, 1)
    remove_checkpoints(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [note]


def test_all_that_a_training_writes_into_a_checkpoint_is_removed_with_it(train, settings, checkpoints):
    interrupt(train, settings.replace({"checkpoint_steps": 5}), checkpoints, last=7)
    assert len(list((checkpoints / "checkpoint-5").iterdir())) > 4
    remove_checkpoints(checkpoints)
    assert not checkpoints.exists()


def test_checkpoints_that_are_gone_already_are_no_error(tmp_path):
    remove_checkpoints(tmp_path / "nothing")


def test_training_that_resumes_keeps_the_batch_that_it_began_with(train, settings, checkpoints):
    auto = settings.replace({"batch_size": "auto", "checkpoint_steps": 5})
    interrupt(train, auto, checkpoints, last=7)
    plan = read_json(checkpoints / "plan.json")
    assert plan["taken"] == {"batch_size": 2, "learning_rate": settings.learning_rate}
    # As if memory had allowed more when it began.
    write_json(checkpoints / "plan.json", {**plan, "taken": {"batch_size": 3, "learning_rate": 0.012}})
    run = train(auto, resume=True)
    assert (run["settings"]["batch_size"], run["settings"]["learning_rate"]) == (3, 0.012)


def test_number_does_not_continue_a_training_with_a_chosen_batch(train, settings, checkpoints):
    settings = settings.replace({"checkpoint_steps": 5})
    interrupt(train, settings.replace({"batch_size": "auto"}), checkpoints, last=7)
    with pytest.raises(MismatchError, match="had batch auto"):
        train(settings, resume=True)
