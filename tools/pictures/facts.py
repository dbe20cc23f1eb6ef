"""What the pictures say of the embedded model and of the lessons' data, measured and kept in facts.json.

Drawing needs no model: it reads the file. `python -m tools.pictures --measure` writes it again, from the
model's config, its tokenizer, and the rows of lesson 4.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from helpers import training
from helpers.common.paths import PROJECT
from helpers.common.training_settings import TrainingSettings
from helpers.loading.tokenizer import make_chat_tokenizer, read_padded
from helpers.tasks import Split, load_rows, load_template
from helpers.training.dataset import build_dataset
from helpers.training.packing import PackedSequences, pack_sequences
from helpers.weights.folders import find_model
from helpers.weights.shape import Shape, read_shape
from tools.files import read_source

FACTS = Path(__file__).with_name("facts.json")
MODEL = "SmolLM2-135M-Instruct"
LANE = "tiny"  # whose training settings the pictures show
DATA = PROJECT / "data" / "college_preferences" / "dataset.csv"
TEMPLATE = PROJECT / "templates" / "college_preferences.yaml"
COMMENT = "Elmsworth is good, Dunmarsh is better"  # how the comment of the tree begins
TREE_ROWS = 2  # of its rows
ASKED = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "What color is the sky?"})
ANSWER = "Blue, mostly."  # an example: in the picture of a request, an answer has to be short


def read_facts() -> dict[str, Any]:
    """The facts that were measured last."""
    return json.loads(read_source(FACTS))


def read_settings() -> TrainingSettings:
    """The settings of the LoRA in the pictures."""
    return training.pick_settings(LANE)


def read_model_shape() -> Shape:
    """The shape of the embedded model."""
    return Shape(**read_facts()["shape"])


def measure_facts() -> dict[str, Any]:
    """The facts, from the model's folder and the data; NotFoundError without the model."""
    folder = find_model(MODEL)
    tokenizer = read_padded(folder)
    return {
        "shape": dataclasses.asdict(read_shape(folder.config)),
        "request": measure_request(tokenizer),
        "judging": measure_judging(tokenizer),
        "training": measure_training(tokenizer),
    }


def measure_request(tokenizer: Any) -> dict[str, Any]:
    """The tokens of a short question, as the chat template writes it, and of an answer to it."""
    chat = make_chat_tokenizer(tokenizer)
    messages = [*ASKED, {"role": "assistant", "content": ANSWER}]
    ids, learned = chat.tokenize_conversation(messages, [len(ASKED)])[0]
    first = learned.index(1)
    return {
        "ids": ids[:first],
        "pieces": [tokenizer.decode(token) for token in ids[:first]],
        "answer": [tokenizer.decode(token) for token in ids[first:]],
    }


def measure_judging(tokenizer: Any) -> dict[str, Any]:
    """The tree of two rows about one comment, each with its four answers, as lesson 4 judges them."""
    chat = make_chat_tokenizer(tokenizer)
    template = load_template(TEMPLATE)
    rows = [row for row in load_rows(DATA, template) if str(row["text"]).startswith(COMMENT)][:TREE_ROWS]
    sequences = []
    for row in rows:
        for answer in template.build_answers(row).values():
            messages = [*template.build_messages(row), {"role": "assistant", "content": answer}]
            sequences.append(chat.tokenize_conversation(messages, [len(messages) - 1])[0][0])
    packed = pack_sequences(sequences)
    segments = [
        {"text": tokenizer.decode(segment.tokens), "tokens": len(segment.tokens), "parent": segment.parent}
        for segment in packed.tree.segments
    ]
    right = [template.build_answers(row)[row["label"]] for row in rows]
    return {**count_both_ways(sequences, packed), "right": right, "segments": segments}


def measure_training(tokenizer: Any) -> dict[str, Any]:
    """The tokens of the first batch that lesson 4 trains on."""
    template, settings = load_template(TEMPLATE), read_settings()
    rows, _ = Split(test_size=0.2, seed=0).divide(load_rows(DATA, template))
    sequences = build_dataset(rows, template, settings, tokenizer)[: settings.batch_size]["input_ids"]
    return count_both_ways(sequences, pack_sequences(sequences))


def count_both_ways(sequences: list[list[int]], packed: PackedSequences) -> dict[str, int]:
    """How many tokens are computed row by row (without padding), and with shared ones only once."""
    return {
        "rows": len(sequences),
        "tokens_row_by_row": sum(map(len, sequences)),
        "tokens_once": packed.count_tokens(),
    }
