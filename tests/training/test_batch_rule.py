"""After as many rows, larger batches have learned as much, because the learning rate grows with them."""

import random
import statistics

import pytest
from support.tiny import make_tiny_model

from helpers import loading, tasks, training
from helpers.common.training_settings import TrainingSettings

WORDS = "red green blue cold warm big old new far near".split()
# The rate is about the best one for batches of 4.
FOUR = TrainingSettings(
    lora_r=16,
    lora_alpha=32,
    lora_dropout=0.0,
    epochs=1,
    learning_rate=0.003,
    max_grad_norm=1.0,
    checkpoint_steps=0,
)


@pytest.fixture
def data():
    """768 chats: a number and three words, of which the answer is the one of that number."""
    draw = random.Random(0)
    rows = []
    for _ in range(768):
        words, number = draw.sample(WORDS, 3), draw.randrange(3)
        texts = {"user": f"{number} {' '.join(words)}", "assistant": words[number]}
        rows.append({"messages": [{"role": role, "content": text} for role, text in texts.items()]})
    return tasks.TaskData(tasks.ChatForm(), rows)


@pytest.fixture
def learn(home, data):
    """A function that trains on all rows once, and returns the mean loss of the last 128."""
    make_tiny_model(home / "models" / "tiny", hidden=64)

    def learn(settings):
        loaded = loading.load_model("tiny", dtype="float32")
        trainer = training.make_trainer(loaded, data, settings, home / "runs", progress=False)
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        return statistics.mean(losses[-128 // settings.batch_size :])

    return learn


@pytest.mark.long
def test_eight_times_the_rows_with_their_learning_rate_learn_nearly_as_much(learn):
    scaled = FOUR.take_batch(32)
    unscaled = scaled.replace({"learning_rate": FOUR.learning_rate})
    of_scaled = learn(scaled)
    assert of_scaled < 1.2 * learn(FOUR)
    assert of_scaled < 0.9 * learn(unscaled)
