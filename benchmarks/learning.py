"""What is learned: LoRAs of several seeds, judged on comments that were not trained on, beside what needs no LoRA.

    python -m benchmarks.learning [--settings tiny-15-minutes] [--seeds 0 1 2] [--test-size 0.25] [--data CSV --template YAML]

Every seed draws the LoRA's first matrices and the order of the rows anew; the split is that of seed 0 for all, so that the base and the
bag of words, which is fitted on the rows that are trained on, are the same. For 200 of the rows answers are also generated, as a server
would, and counted when they are one of the possible answers and stop by themselves.
"""

import argparse
import random
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from helpers import find_home, write_json
from helpers.dataset import list_texts, load_rows, make_bag_of_words, split_rows
from helpers.evaluation import score_answers, summarise_scores
from helpers.loading import LoadedModel, load_model, tokenize_chat
from helpers.machine import name_device
from helpers.settings import TrainingSettings, pick_settings
from helpers.templating import Template, load_template
from helpers.trainers import make_trainer
from helpers.verdicts import Scores, bootstrap_gain, measure_told_apart
from helpers.weights import fetch

MODEL = "SmolLM2-135M-Instruct"


def describe(name: str, scores: list[Scores], rows: list, template: Template, **more: object) -> dict:
    """One line of the table."""
    result, apart = summarise_scores(scores, rows, template), measure_told_apart(scores, rows)
    low, high = result.interval
    return {"what": name, "accuracy": result.accuracy, "low": low, "high": high, "macro_f1": result.macro_f1, "told_apart": apart, **more}


def score_bag_of_words(train: list, test: list) -> list[Scores]:
    """Log-probabilities of the labels from a bag of words that is fitted on `train`."""
    model = make_bag_of_words().fit(list_texts(train), [row["label"] for row in train])
    chances = np.log(model.predict_proba(list_texts(test)))
    return [dict(zip(model.classes_.tolist(), line, strict=True)) for line in chances.tolist()]


def train(rows: list, template: Template, settings: TrainingSettings) -> tuple[LoadedModel, dict]:
    """(model with the trained LoRA on it, figures of the training)."""
    loaded = load_model(MODEL, purpose="training")
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(loaded, rows, template, settings, Path(folder), progress=False)
        seconds = trainer.train().metrics["train_runtime"]
    loaded.model = trainer.model.eval()
    return loaded, {"trained_rows": len(trainer.train_dataset), "minutes": seconds / 60}


def count_clean_answers(loaded: LoadedModel, rows: list, template: Template) -> float:
    """Share of the rows whose generated answer is one of the possible ones, word for word, and stops by itself within 24 tokens."""
    clean = 0
    for row in rows:
        inputs = tokenize_chat(loaded.tokenizer, template.build_messages(row)).to(loaded.model.device)
        with torch.inference_mode():
            output = loaded.model.generate(**inputs, max_new_tokens=24, do_sample=False, temperature=None, top_p=None)
        *answer, last = output[0, inputs["input_ids"].shape[1] :].tolist()
        clean += last == loaded.tokenizer.eos_token_id and loaded.tokenizer.decode(answer) in template.build_answers(row).values()
    return clean / len(rows)


def main() -> None:
    """Prints the table and writes it as JSON to runs/."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--settings", default="tiny-15-minutes", help="a preset or a YAML file")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--test-size", type=float, default=0.25)
    parser.add_argument("--data", default="data/college_preferences/dataset.csv")
    parser.add_argument("--template", default="templates/college_preferences.yaml")
    options = parser.parse_args()
    fetch("smollm2-135m-instruct")
    template = load_template(options.template)
    fit, test = split_rows(load_rows(options.data, template), options.test_size)
    base = score_answers(load_model(MODEL), test, template)
    lines = [describe("base", base, test, template), describe("bag of words", score_bag_of_words(fit, test), test, template)]
    for seed in options.seeds:
        loaded, figures = train(fit, template, pick_settings(options.settings).replace({"seed": seed}))
        scores = score_answers(loaded, test, template)
        low, high = bootstrap_gain(base, scores, test)
        clean = count_clean_answers(loaded, random.Random(0).sample(test, min(200, len(test))), template)
        lines.append(describe(f"LoRA, seed {seed}", scores, test, template, gain_low=low, gain_high=high, clean_answers=clean, **figures))
        print(lines[-1], flush=True)
    majority = summarise_scores(base, test, template).majority_accuracy
    table = pd.DataFrame(lines)
    print(f"{len(test)} test rows, majority class {majority:.3f}", table.to_string(index=False, float_format="{:.3f}".format), sep="\n")
    record = {"date": time.strftime("%Y-%m-%d"), "device": name_device(), **vars(options), "test_rows": len(test), "majority": majority}
    path = find_home() / "runs" / f"benchmark-learning-{time.strftime('%Y-%m-%d_%H-%M-%S')}.json"
    print(write_json(path, {**record, "table": table.to_dict("records")}))


if __name__ == "__main__":
    main()
