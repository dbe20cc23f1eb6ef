"""On a GPU the batches of an epoch have few shapes, so that nearly all steps are replayed (step_graph)."""

import random

import pytest
import torch
from support.gradients import SETTINGS, assert_same

from benchmarks.gpu.shapes import make_loaded
from benchmarks.gpu.training import read_lessons
from helpers.common.presets import pick_settings
from helpers.training.dataset import build_dataset
from helpers.training.prefix_trainer import (
    IGNORED,
    PackingCollator,
    find_longest,
    find_most_targets,
    repeat_shapes,
    round_up,
)
from helpers.training.train import make_trainer

ROWS = 1251  # that lesson 4 trains on


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """The lessons' rows as a trainer has them."""
    folder = tmp_path_factory.mktemp("shapes")
    loaded = make_loaded("1b", {"scratch": str(folder)})
    return make_trainer(loaded, read_lessons(), pick_settings("tiny"), folder, progress=False).train_dataset


def count_shapes(examples, collator, batch):
    """How many full batches of an epoch there are, and their different shapes."""
    rows = list(examples)
    random.Random(0).shuffle(rows)
    batches = [collator(rows[start : start + batch]) for start in range(0, ROWS - batch, batch)]
    shapes = {tuple(one[key].shape for key in one if key != "labels") for one in batches}
    return len(batches), len(shapes)


@pytest.mark.parametrize("batch", [32, 64])
def test_batches_of_an_epoch_have_few_shapes(examples, batch):
    collator = PackingCollator("cuda", find_longest(examples), find_most_targets(examples))
    steps, shapes = count_shapes(examples, collator, batch)
    assert shapes <= 4
    assert steps >= 4 * shapes
    assert count_shapes(examples, PackingCollator("cuda"), batch)[1] > shapes  # without bounds


def make_batch(columns, targets, lines=1000):
    """A packed batch of one path, with these sizes."""
    return {
        "input_ids": torch.zeros(1, lines, dtype=torch.long),
        "positions": torch.zeros(lines, dtype=torch.long),
        "paths": torch.zeros(1, columns, dtype=torch.long),
        "owners": torch.zeros(lines, dtype=torch.long),
        "places": torch.zeros(targets, dtype=torch.long),
        "targets": torch.zeros(targets, dtype=torch.long),
    }


@pytest.mark.parametrize(("columns", "longest", "padded"), [(130, 250, 256), (130, 300, 192), (130, 0, 192)])
def test_columns_are_those_of_the_longest_row_unless_that_more_than_doubles_them(columns, longest, padded):
    assert repeat_shapes(make_batch(columns, 10), longest)["paths"].shape == (1, padded)


@pytest.mark.parametrize(("targets", "most", "padded"), [(70, 120, 128), (300, 370, 384), (300, 500, 320)])
def test_targets_are_the_most_that_may_be_if_that_costs_little(targets, most, padded):
    batch = repeat_shapes(make_batch(64, targets), most_targets=most)
    assert len(batch["targets"]) == len(batch["places"]) == padded
    assert (batch["targets"] != IGNORED).sum() == targets


@pytest.mark.parametrize("bound", [1, 5, 64])
def test_a_bound_that_is_too_small_cuts_nothing(bound):
    batch = repeat_shapes(make_batch(100, 90), bound, bound)
    assert (batch["paths"].shape[1], len(batch["targets"])) == (round_up(100), round_up(90))


def test_padding_up_to_bounds_changes_neither_loss_nor_gradients(tiny, rows, template, tmp_path):
    lengths = [len(ids) for ids in build_dataset(rows, template, SETTINGS, tiny.tokenizer)["input_ids"]]
    collator = PackingCollator("cuda", max(lengths) + 64, 30)
    assert_same("tiny", rows, template, tmp_path, collator=collator)
