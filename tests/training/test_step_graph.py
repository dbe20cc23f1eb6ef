"""Which steps are recorded as CUDA graphs, with a recorder that needs no GPU."""

from types import SimpleNamespace

import pytest
import torch
from support.gradients import make_trainer

from helpers.adapters.attaching import remove_lora_layers
from helpers.common.machine import Choice
from helpers.training.prefix_trainer import SharedPrefixTrainer
from helpers.training.runs import list_choices
from helpers.training.step_graph import MAX_GRAPHS, StepGraphs, choose_recording


class Fake:
    """Stands for StepRecorder: what it records computes the step."""

    def __init__(self, error=None):
        self.error = error
        self.tried = 0
        self.replayed = 0

    def record(self, step, batch, items):
        self.tried += 1
        if self.error:
            raise self.error

        def replay(batch, items):
            self.replayed += 1
            return step(batch, items)

        return SimpleNamespace(replay=replay)


class Steps:
    """The steps of a training of three weights; `run` takes one with so many tokens."""

    def __init__(self, recorder):
        self.weights = [torch.nn.Parameter(torch.full((2, 3), 2.0)), torch.nn.Parameter(torch.ones(4))]
        self.graphs = StepGraphs(self.weights, recorder)

    def compute(self, batch, items):
        loss = batch["x"].sum() * sum(weight.sum() for weight in self.weights) / items
        loss.backward()
        return loss.detach()

    def run(self, tokens):
        return self.graphs.run(self.compute, {"x": torch.ones(tokens)}, torch.tensor(1.0)).item()

    def join_gradients(self):
        return torch.cat([weight.grad.flatten() for weight in self.weights])


def test_shape_is_computed_the_first_time_and_recorded_the_second():
    recorder = Fake()
    steps = Steps(recorder)
    assert [steps.run(tokens) for tokens in (5, 6, 5, 5, 6)] == [80, 96, 80, 80, 96]
    assert (recorder.tried, recorder.replayed, len(steps.graphs.graphs)) == (2, 3, 2)


def test_only_so_many_shapes_are_recorded_and_further_ones_are_computed():
    recorder = Fake()
    steps = Steps(recorder)
    for tokens in range(1, MAX_GRAPHS + 4):
        assert steps.run(tokens) == steps.run(tokens) == 16 * tokens
    assert recorder.tried == recorder.replayed == MAX_GRAPHS


def test_gradients_add_up_in_the_same_buffers_whether_steps_are_computed_or_replayed():
    steps = Steps(Fake())
    for tokens in (3, 3, 4):  # computed, replayed, computed
        steps.run(tokens)
    assert steps.join_gradients().tolist() == [10.0] * 10
    assert all(weight.grad is own for weight, own in zip(steps.weights, steps.graphs.buffers, strict=True))
    for weight in steps.weights:
        weight.grad = None  # as the optimizer does
    steps.run(3)
    assert steps.graphs.gradients.tolist() == [3.0] * 10


def test_gradients_that_are_there_already_are_kept():
    steps = Steps(Fake())
    steps.compute({"x": torch.ones(7)}, torch.tensor(1.0))
    steps.run(3)
    assert steps.join_gradients().tolist() == [10.0] * 10


class CompilationError(Exception):
    """As Triton has one, which is not a RuntimeError."""


@pytest.mark.parametrize(
    "error", [CompilationError("at 1:0\nno such op"), torch.OutOfMemoryError("full"), ValueError("odd")]
)
def test_whatever_a_recording_raises_is_said_once_and_the_steps_are_computed(error, recwarn):
    recorder = Fake(error)
    steps = Steps(recorder)
    assert [steps.run(tokens) for tokens in (5, 5, 5, 6, 6)] == [80, 80, 80, 96, 96]
    assert steps.join_gradients().tolist() == [27.0] * 10
    assert recorder.tried == 1 and steps.graphs.graphs == {}
    [warning] = recwarn.list
    reason = str(error).replace("\n", " ")
    assert f"({reason})" in str(warning.message) and steps.graphs.failed == reason


def test_end_that_a_user_asks_for_is_no_failed_recording():
    steps = Steps(Fake(KeyboardInterrupt()))
    steps.run(5)
    with pytest.raises(KeyboardInterrupt):
        steps.run(5)


@pytest.mark.parametrize(
    ("facts", "chosen", "named"),
    [
        (("cuda", False, 1, 1), True, "one GPU"),
        (("cpu", False, 1, 0), False, "NVIDIA"),
        (("mps", False, 1, 1), False, "NVIDIA"),
        (("cuda", True, 1, 1), False, "checkpointing"),
        (("cuda", False, 4, 1), False, "processes"),
        (("cuda", False, 1, 2), False, "several devices"),
    ],
)
def test_steps_are_recorded_where_one_gpu_does_all_of_them(facts, chosen, named):
    choice = choose_recording(*facts)
    assert choice.value is chosen and named in choice.reason


def test_trainer_records_where_that_is_chosen_and_says_why_recording_failed(
    tiny, rows, template, tmp_path, monkeypatch
):
    trainer = make_trainer(SharedPrefixTrainer, tiny, rows, template, tmp_path)
    assert trainer.graphs is None and not list_choices(tiny, trainer)["cuda_graphs"].value
    monkeypatch.setattr("helpers.training.step_graph.StepRecorder", Fake)
    monkeypatch.setattr(SharedPrefixTrainer, "choose_graphs", lambda _: Choice(True, "one GPU"))
    tiny.model = remove_lora_layers(tiny.model)
    trainer = make_trainer(SharedPrefixTrainer, tiny, rows, template, tmp_path)
    assert isinstance(trainer.graphs, StepGraphs)
    assert list_choices(tiny, trainer)["cuda_graphs"] == (True, "one GPU")
    trainer.graphs.failed = "no such op"
    choice = list_choices(tiny, trainer)["cuda_graphs"]
    assert not choice.value and "no such op" in choice.reason
