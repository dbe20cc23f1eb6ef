"""Regular expressions for names of layers, some of which take longer than anybody waits."""

import re

import pytest
from support.loras import change_config

from helpers.adapters import patterns
from helpers.adapters.bases import find_base
from helpers.adapters.folders import find_adapter
from helpers.adapters.listing import describe_adapter
from helpers.adapters.merging import find_mergeable_base
from helpers.adapters.parts import check_attachable
from helpers.adapters.patterns import find_values, match_names, match_whole
from helpers.common.errors import DamagedError, UnsupportedError

NAMES = [f"model.layers.{layer}.{name}" for layer in range(3) for name in ("self_attn.q_proj", "mlp.up_proj")]
ENDLESS = "(a|a|q)*(o|o)*(.+)+z"


@pytest.fixture
def short(monkeypatch):
    """A shorter limit of time."""
    monkeypatch.setattr(patterns, "SECONDS", 0.3)


@pytest.mark.parametrize(
    "pattern", [r".*\.(q|v)_proj", r"model\.layers\.[01]\..*", "(?i).*Q_PROJ", ".*", "q"]
)
def test_ordinary_pattern_matches_as_fullmatch_does(pattern):
    assert match_names([match_whole(pattern)], NAMES) == [
        [re.fullmatch(pattern, name) is not None for name in NAMES]
    ]


def test_pattern_that_takes_too_long_is_refused(short):
    with pytest.raises(DamagedError, match="too long"):
        match_names([match_whole(".*"), match_whole(ENDLESS)], NAMES)


@pytest.mark.parametrize("key", ["q_proj", "layers.0.self_attn.q_proj", r".*self_attn\..*", "(q|v)_proj"])
def test_first_pattern_that_matches_gives_the_value(key):
    found = find_values({key: 3, ".*": 5}, NAMES, 8)
    assert found["model.layers.0.self_attn.q_proj"] == 3
    assert found["model.layers.2.mlp.up_proj"] == 5
    assert set(find_values({"nowhere": 3}, NAMES, 8).values()) == {8}


@pytest.mark.parametrize(
    "change", [{"rank_pattern": {ENDLESS: 4}}, {"alpha_pattern": {ENDLESS: 4}}, {"target_modules": ENDLESS}]
)
def test_lora_with_an_endless_pattern_is_listed_and_neither_attached_nor_merged(made, short, change):
    change_config(made[0], **change)
    assert describe_adapter("a").rank
    folder = find_adapter("a")
    with pytest.raises(DamagedError, match="too long"):
        check_attachable(folder, find_base(folder))
    with pytest.raises(DamagedError, match="too long"):
        find_mergeable_base(folder, None)


def test_lora_for_layers_of_megatron_is_refused_since_peft_would_import_what_it_names(made):
    change_config(made[0], megatron_config={"x": 1}, megatron_core="megatron.anything")
    with pytest.raises(UnsupportedError, match="Megatron"):
        find_adapter("a")
