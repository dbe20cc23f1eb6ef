"""Whether a LoRA does what it was trained to do: a good one, and every way in which one can be broken."""

import dataclasses
import subprocess
import sys

import pytest
import torch
from support.loras import change_each_weight, change_json

from helpers import PROJECT, adapters
from helpers.adapters.__main__ import main
from helpers.common.command import run_command
from helpers.common.errors import DamagedError
from helpers.common.files import read_json, write_json

# In the order of the findings.
CHECKS = ("finite", "nonzero", "names", "template", "tokens", "fingerprint", "change")


def prove(loaded, name, template=None):
    """{check: whether it passed} of a LoRA that is attached."""
    findings = adapters.prove(loaded, name, template)
    return {check: finding.passed for check, finding in zip(CHECKS, findings, strict=True)}


@pytest.mark.long
def test_trained_lora_is_proved_in_a_new_process(trained):
    command = [sys.executable, "-m", "helpers.adapters", "prove", "mine"]
    command += ["--template", str(PROJECT / "templates" / "college_preferences.yaml")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert sum(line.startswith("yes ") for line in lines) == len(CHECKS)
    assert not [line for line in lines if line.startswith("NO ")]
    assert [line for line in lines if line.strip().startswith("down_proj")]
    assert [line for line in lines if line.startswith("  base: ")]
    assert [line for line in lines if line.startswith("  LoRA: ")]


ODD_PRINTS = {
    "no number": {"abc": 1.0},
    "no token of the model": {"100000000": 1.0},
    "none": {},
    "negative": {"-1": 1.0},
    "NaN": {"1": float("nan")},
}


@pytest.mark.parametrize("kind", ODD_PRINTS)
def test_fingerprint_that_is_none_of_the_model_is_refused_in_a_line(trained, load_tiny, kind):
    prints = [{"messages": [{"role": "user", "content": "y"}], "top": ODD_PRINTS[kind]}]
    change_json(trained / "run.json", fingerprint=prints)
    loaded = adapters.attach_adapter(load_tiny(), "mine")
    with pytest.raises(DamagedError, match=r"run\.json"):
        prove(loaded, "mine")


@pytest.mark.parametrize("words", [3000, 1_000_000])
def test_fingerprint_of_a_prompt_that_the_model_cannot_read_is_refused(trained, load_tiny, words):
    prints = [{"messages": [{"role": "user", "content": "w " * words}], "top": {"1": 1.0}}]
    change_json(trained / "run.json", fingerprint=prints)
    loaded = adapters.attach_adapter(load_tiny(), "mine")
    with pytest.raises(DamagedError, match=r"run\.json"):
        prove(loaded, "mine")


DAMAGES = {
    "zeros": (torch.zeros_like, ["nonzero", "fingerprint", "change"]),
    "NaN": (
        lambda tensor: torch.full_like(tensor, float("nan")),
        ["finite", "nonzero", "fingerprint", "change"],
    ),
    "another file": (lambda tensor: 3 * tensor, ["fingerprint"]),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_weights_that_are_not_the_trained_ones_fail_the_proof(trained, template, load_tiny, kind):
    change, expected = DAMAGES[kind]
    change_each_weight(trained, change)
    found = prove(adapters.attach_adapter(load_tiny(), "mine"), "mine", template)
    assert [check for check, passed in found.items() if passed is False] == expected
    assert run_command(main, ["prove", "mine"]) == 2


def test_lora_that_is_not_attached_fails_the_proof(trained, template, load_tiny):
    found = prove(load_tiny(), "mine", template)
    assert [check for check, passed in found.items() if passed is False] == ["names", "fingerprint", "change"]


def test_another_template_fails_the_proof_whatever_its_name(trained, template, load_tiny):
    loaded = adapters.attach_adapter(load_tiny(), "mine")
    renamed = dataclasses.replace(template, name="renamed")
    assert prove(loaded, "mine", renamed)["template"] is True
    other = dataclasses.replace(template, task=template.task + "?")
    finding = adapters.prove(loaded, "mine", other)[CHECKS.index("template")]
    assert finding.passed is False
    assert template.name in finding.remedy


def test_another_chat_template_fails_the_proof_and_the_tokens_that_differ_are_shown(trained, load_tiny):
    loaded = adapters.attach_adapter(load_tiny(chat_template="alpaca"), "mine")
    finding = adapters.prove(loaded, "mine")[CHECKS.index("tokens")]
    assert finding.passed is False
    assert "from token 0 on" in finding.seen and "<|im_start|>" in finding.seen and "Read a" in finding.seen
    assert "--chat-template" in finding.remedy


@pytest.fixture
def first_version(trained):
    """The folder of a LoRA as version 0.1.0 recorded it."""
    run = read_json(trained / "run.json", "")
    del run["chat_template"]
    run["fingerprint"] = [{key: entry[key] for key in ("messages", "top")} for entry in run["fingerprint"]]
    write_json(trained / "run.json", run)
    (trained / "chat_template.jinja").unlink()
    return trained


def test_lora_of_the_first_version_is_proved_where_the_tokens_stayed_the_same(first_version, load_tiny):
    assert False not in prove(adapters.attach_adapter(load_tiny(), "mine"), "mine").values()


def test_lora_of_the_first_version_is_told_where_its_tokens_differed(first_version, load_tiny):
    run = read_json(first_version / "run.json", "")
    run["fingerprint"][0]["messages"][-1]["content"] += "<|im_end|>"  # then it ended the user's turn
    write_json(first_version / "run.json", run)
    finding = adapters.prove(adapters.attach_adapter(load_tiny(), "mine"), "mine")[CHECKS.index("tokens")]
    assert finding.passed is False and "trained on '<|im_end|><|im_end|>" in finding.seen


def test_what_a_lora_from_elsewhere_does_not_record_is_unknown(made, load_tiny):
    found = prove(adapters.attach_adapter(load_tiny(), "a"), "a")
    assert [check for check, passed in found.items() if passed is None] == [
        "template",
        "tokens",
        "fingerprint",
    ]
    assert False not in found.values()
