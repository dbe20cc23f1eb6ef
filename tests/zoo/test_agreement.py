"""A LoRA on the real model is judged by what it says: the likeliest answer is the one that it generates.

Where one answer has more than half of the probability, greedy decoding must find it: at each of its tokens,
no other token can be likelier than that.
"""

import math

import pytest
from support.zoo import TRL_TEMPLATES

from helpers import adapters, evaluation, loading, tasks, training
from helpers.common.paths import PROJECT

ROWS = 100
TEMPLATES = {
    "own": "own",
    "Qwen 3": str(TRL_TEMPLATES / "qwen3.jinja"),
    "Llama 2": "llama-2",
    "Vicuna": "vicuna",
}


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.parametrize("chat_template", TEMPLATES.values(), ids=TEMPLATES)
def test_judged_and_generated_answers_agree(home, chat_template, record_property):
    home.joinpath("models").symlink_to(PROJECT / "models")
    template = tasks.load_template(PROJECT / "templates" / "repair_notes.yaml")
    rows = tasks.load_rows(PROJECT / "data" / "repair_notes" / "dataset.csv", template)
    settings = training.pick_settings("tiny").replace({"epochs": 3, "checkpoint_steps": 0})
    loaded = loading.load_model("SmolLM2-135M-Instruct", purpose="training", chat_template=chat_template)
    training.train_lora(
        loaded, tasks.TaskData(template, rows), settings, adapters.loras_folder() / "mine", False
    )
    loaded = loading.load_model("SmolLM2-135M-Instruct", chat_template=chat_template)
    adapters.attach_adapter(loaded, "mine")
    judged = rows[:ROWS]
    scores = evaluation.score_answers(loaded, judged, template, progress=False)
    sure = found = right = said_right = 0
    for row, each in zip(judged, scores, strict=True):
        favourite = max(each, key=each.__getitem__)
        said = loading.chat(loaded, template.build_messages(row), max_new_tokens=24)
        expected = template.build_answers(row)[favourite]
        right += favourite == row["label"]
        said_right += said == template.build_answers(row)[row["label"]]
        if math.exp(each[favourite]) > 0.5:
            sure += 1
            found += said == expected
    record_property("rows judged right, generated right, sure, found", (right, said_right, sure, found))
    print(f"judged right {right}, generated right {said_right} of {ROWS} rows; sure {sure}, found {found}")
    assert sure >= 60
    assert found >= 0.95 * sure
