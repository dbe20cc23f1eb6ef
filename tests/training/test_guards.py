"""What ends a training early: a loss that goes wrong, a request to stop, memory that runs out."""

import threading

import pytest
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState

from helpers import training
from helpers.common.errors import ResourceError, TrainingError, UsageError
from helpers.training.guards import LossGuard, StopOnRequest, explain_memory


def show_losses(losses):
    """Gives these losses to a LossGuard, as a trainer does after each step."""
    history = []
    for step, loss in enumerate(losses, start=1):
        history.append({"loss": loss})
        state = TrainerState(log_history=list(history), global_step=step)
        LossGuard().on_log(None, state, TrainerControl())


def test_noisy_loss_does_not_end_the_training():
    show_losses([2.0, 1.0] * 15)


def test_loss_that_diverges_ends_the_training_with_the_setting_to_change():
    rising = [1.0] * 15 + [1.0 + step for step in range(15)]
    with pytest.raises(TrainingError, match="learning_rate"):
        show_losses(rising)


def test_steep_rise_within_the_first_steps_does_not_end_the_training():
    show_losses([1.0] * 5 + [10.0] * 14)


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_loss_that_is_not_a_number_ends_the_training_at_once(loss):
    with pytest.raises(TrainingError, match="2.*learning_rate"):
        show_losses([1.0, loss, 1.0])


class AskAfter(TrainerCallback):
    """Asks for the end after a step."""

    def __init__(self, asked, step):
        self.asked = asked
        self.step = step

    def on_step_begin(self, args, state, control, **_):
        if state.global_step == self.step:
            self.asked.set()


def test_training_that_is_asked_to_stop_is_saved_as_far_as_it_came(tiny, data, settings, home):
    asked = threading.Event()
    callbacks = [AskAfter(asked, 3), StopOnRequest(asked)]
    folder = home / "loras" / "mine"
    run = training.train_lora(tiny, data, settings, folder, progress=False, callbacks=callbacks)
    assert run["steps"] == len(run["loss"]) == 4
    assert run["planned_steps"] == 12
    assert (folder / "adapter_model.safetensors").is_file()
    assert "4 of 12" in (folder / "README.md").read_text()


def test_lack_of_memory_is_explained_with_the_settings_to_change(settings):
    with pytest.raises(ResourceError, match="2048.*batch_size.*1.*accumulation.*2"):
        with explain_memory(settings):
            torch.empty(2**60)


def test_lack_of_memory_with_one_row_is_explained_without_a_smaller_batch(settings):
    with pytest.raises(ResourceError, match="max_length") as caught:
        with explain_memory(settings.replace({"batch_size": 1})):
            torch.empty(2**60)
    assert "batch_size" not in caught.value.remedy


def test_lack_of_memory_with_a_chosen_batch_is_explained_with_the_learning_rate_too(settings):
    asked = settings.replace({"batch_size": "auto", "learning_rate": 1e-4})
    with pytest.raises(ResourceError) as caught, explain_memory(asked.take_batch(8), asked):
        torch.empty(2**60)
    assert "batch_size to 4, learning_rate to 0.0002 and accumulation to 2" in caught.value.remedy


def test_lack_of_gpu_memory_is_explained_too(settings):
    with pytest.raises(ResourceError, match="batch_size"), explain_memory(settings):
        raise torch.OutOfMemoryError("CUDA out of memory.")


def test_other_errors_are_left_as_they_are(settings):
    with pytest.raises(RuntimeError) as caught, explain_memory(settings):
        torch.ones(2, 3) @ torch.ones(2, 3)
    assert type(caught.value) is RuntimeError


@pytest.fixture
def train(tiny, data, settings, home):
    """A function that trains loras/NAME with a progress bar."""

    def train(name="mine", callbacks=(), **changes):
        changed = settings.replace({"checkpoint_steps": 0, **changes})
        return training.train_lora(tiny, data, changed, home / "loras" / name, callbacks=callbacks)

    return train


class Diverge(TrainerCallback):
    """Ends the training in its third step, as LossGuard does."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3:
            raise TrainingError("The loss is not a number.", "Lower learning_rate.")


def test_training_that_went_wrong_leaves_nothing_and_ends_its_bar_with_a_line(train, home, capfd):
    with pytest.raises(TrainingError):
        train(callbacks=[Diverge()])
    assert not (home / "runs" / "checkpoints" / "mine").exists()
    assert not (home / "loras" / "mine").exists()
    assert capfd.readouterr().err.endswith("\n")


@pytest.mark.parametrize("name", ["keys", "items", "train", "forward", "__class__", "copy", "training"])
def test_name_that_no_lora_can_be_attached_under_is_refused_before_the_training(train, home, name):
    with pytest.raises(UsageError, match="another name"):
        train(name)
    assert not (home / "runs").exists()
