from helpers.common.choices import describe_choices, record_choices, say_choices
from helpers.common.machine import Choice

CHOICES = {
    "kernel": Choice("gptq_triton", "17.4 tokens a second"),
    "cuda_graphs": Choice(True, "one GPU"),
    "gradient_checkpointing": Choice(False, "it fits"),
    "other": Choice(None, "its own\x1b[2J choice"),
}


def test_each_choice_is_a_line_with_its_reason_on_stderr(capsys):
    say_choices(CHOICES)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "kernel gptq_triton: 17.4 tokens a second",
        "cuda_graphs on: one GPU",
        "gradient_checkpointing off: it fits",
        "other left open: its own\\x1b[2J choice",
    ]


def test_record_has_values_and_reasons():
    assert record_choices(CHOICES)["cuda_graphs"] == {"value": True, "reason": "one GPU"}
    assert describe_choices({}) == [] and record_choices({}) == {}
