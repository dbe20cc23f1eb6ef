"""What the benchmark of a GPU trains, and how it times the steps; on tiny models, without a GPU."""

import statistics
import time
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerControl

from benchmarks.contestants import RANK, pick_lora_settings
from benchmarks.gpu import memory, shapes, steps, training
from benchmarks.gpu.plan import PARTS
from benchmarks.gpu.steps import StepTimer

FAR = 1000.0  # seconds
LAYERS = 4  # as few as have an upper three quarters


class FakeGraphs:
    """What StepGraphs shows, for steps that come with these shapes; as there, the second one is recorded."""

    def __init__(self):
        self.seen = Counter()
        self.graphs = {}
        self.failed = ""

    def take(self, shape):
        self.seen[shape] += 1
        if self.seen[shape] > 1 and not self.failed:
            self.graphs[shape] = object()


def run_steps(timer, graphs, shapes):
    """The kinds of the steps that come before the timer ends the training."""
    control = TrainerControl()
    timer.on_train_begin(None, None, control)
    for shape in shapes:
        if graphs:
            graphs.take(shape)
        timer.on_step_end(None, None, control)
        if control.should_training_stop:
            break
    return [kind for kind, _ in timer.steps]


def test_steps_are_told_apart_and_timed_from_the_first_replay_on():
    graphs = FakeGraphs()
    timer = StepTimer(warm=1, timed=2, seconds=FAR, graphs=graphs)
    kinds = run_steps(timer, graphs, "abcabacaaaaaa")
    assert kinds == [
        "computed", "computed", "computed", "recorded", "recorded", "replayed", "recorded", "replayed",
    ]  # fmt: skip
    assert timer.list_timed() == [seconds for _, seconds in timer.steps[6:]]
    found = timer.describe()
    assert (found["computed_steps"], found["recorded_steps"], found["replayed_steps"]) == (2, 3, 2)
    assert found["replayed_s"] == statistics.median(
        seconds for kind, seconds in timer.steps if kind == "replayed"
    )
    assert (found["graphs"], found["graphs_failed"]) == (3, "")


def test_a_replay_is_awaited_for_half_of_the_time_only():
    graphs = FakeGraphs()
    timer = StepTimer(warm=1, timed=2, seconds=FAR, graphs=graphs)
    timer.patience = time.monotonic()
    assert run_steps(timer, graphs, "abcdefgh") == ["computed"] * 3
    assert "replayed_s" not in timer.describe()


def test_no_replay_is_awaited_where_none_can_come():
    failed = FakeGraphs()
    failed.failed = "no room"
    for graphs in (None, failed):
        timer = StepTimer(warm=2, timed=3, seconds=FAR, graphs=graphs)
        assert run_steps(timer, graphs, "abababababab") == ["computed"] * 5
        assert len(timer.list_timed()) == 3


def test_one_step_is_timed_however_little_time_there_is():
    timer = StepTimer(warm=1, timed=5, seconds=0)
    assert len(run_steps(timer, None, "aaaaa")) == 2
    assert len(timer.list_timed()) == 1


def test_the_lora_of_all_benchmarks_is_on_all_linear_layers_whatever_the_presets_have():
    assert (pick_lora_settings().targets, pick_lora_settings().lora_r) == ("all-linear", RANK)
    large = pick_lora_settings("large")
    assert (large.targets, large.lora_r, large.batch) == ("all-linear", 64, "auto")


@pytest.fixture
def job(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return {"shape": "1b", "scratch": str(tmp_path), "data": "random"}


@pytest.mark.parametrize("kind", ["kit", "sft", "knowing", "2023"])
def test_contestants_train_the_same_lora(job, monkeypatch, kind):
    monkeypatch.setattr(shapes, "TINY", (LAYERS, *shapes.TINY[1:]))
    loaded = training.Base(job).make(kind)
    plan = training.StepPlan(kind, 4, 1, 1, time.monotonic() + FAR)
    data = training.take_rows(training.make_random_data(), plan)
    trainer = training.build_trainer(plan, loaded, data, training.Path(job["scratch"]) / "training")
    config = trainer.model.peft_config["default"]
    assert (config.r, config.layers_to_transform) == (RANK, None)
    learned = {name for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    assert len(learned) == 2 * 7 * LAYERS  # A and B of seven linear layers in each block
    assert trainer.args.dataloader_drop_last


def test_a_contestant_is_trained_and_says_what_it_did(job):
    found = training.measure(
        training.Base(job), "kit", "auto", 1, 1, training.make_random_data(), seconds=FAR
    )
    assert found["rows_per_second"] == pytest.approx(found["batch"] / found["step_s"])
    assert found["timed_steps"] == 1
    assert found["dtype"] == "float32"


def test_a_knowing_user_computes_layers_again_only_if_memory_does_not_suffice(job, monkeypatch):
    tried = []

    def train(base, plan, data):
        tried.append(plan.checkpointing)
        if not plan.checkpointing:
            raise torch.cuda.OutOfMemoryError("full")
        return {}

    monkeypatch.setattr(training, "train", train)
    training.measure(None, "knowing", 4, 1, 1, None, FAR)
    assert tried == [False, True]
    with pytest.raises(torch.cuda.OutOfMemoryError):
        training.measure(None, "kit", 4, 1, 1, None, FAR)


def test_memory_is_estimated_for_the_lora_that_is_trained(job, monkeypatch):
    asked = []

    def estimate(*facts, **step):
        asked.append(step)
        return []

    monkeypatch.setattr(memory, "estimate_training", estimate)
    monkeypatch.setattr(
        memory, "pick_lora_settings", lambda: pick_lora_settings().replace({"targets": "q_proj", "lora_r": 3})
    )
    memory.measure_training(job, "1b", True, FAR)
    assert {key: asked[0][key] for key in ("r", "targets", "checkpointing", "batch")} == {
        "r": 3, "targets": "q_proj", "checkpointing": True, "batch": 4,
    }  # fmt: skip


def test_who_patches_the_libraries_comes_last_in_its_process_and_only_the_kit_takes_auto():
    for job in (job for part in PARTS for job in part.jobs if job.task == "train"):
        kinds = [kind for kind, *_ in job.settings["contestants"]]
        assert kinds == sorted(kinds, key=lambda kind: kind == "knowing"), kinds
        assert all(kind == "kit" for kind, batch, *_ in job.settings["contestants"] if batch == "auto")


def test_every_shape_has_the_kit_and_both_forms_of_the_stock_trainer():
    jobs = [job for part in PARTS for job in part.jobs if job.task == "train"]
    for shape in ("1b", "8b", "7b-gptq", "70b-gptq"):
        kinds = {
            kind for job in jobs if job.settings["shape"] == shape for kind, *_ in job.settings["contestants"]
        }
        assert {"kit", "sft", "knowing"} <= kinds, shape


def test_graphs_of_the_trainer_are_what_the_timer_reads():
    recorded = SimpleNamespace(replay=lambda batch, items: 0)
    recorder = SimpleNamespace(record=lambda step, batch, items: recorded)
    graphs = steps.StepGraphs([torch.nn.Parameter(torch.zeros(2))], recorder)
    timer = StepTimer(1, 1, FAR, graphs)
    control = TrainerControl()
    timer.on_train_begin(None, None, control)
    for _ in range(4):
        graphs.run(lambda batch, items: 0, {"input_ids": torch.zeros(1, 4)}, torch.tensor(1))
        timer.on_step_end(None, None, control)
    assert [kind for kind, _ in timer.steps] == ["computed", "recorded", "replayed", "replayed"]
