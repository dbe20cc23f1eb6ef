"""The baseline beside every LoRA: a bag of words, which sees which words occur and nothing of their order."""

from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline

from helpers.tasks.template import Row

PAIR = (1, 2)  # the labels of the lessons' task that say whose side a comment is on


def list_texts(rows: Sequence[Row]) -> list[str]:
    """What a bag of words sees of each row: all its columns but the label."""
    return [" ".join(str(cell) for column, cell in row.items() if column != "label") for row in rows]


def make_bag_of_words() -> Pipeline:
    """scikit-learn's tf-idf of words and pairs of words, with logistic regression."""
    return make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(max_iter=1000))


def judge_bag_of_words(rows: Sequence[Row], folds: int = 5, seed: int = 0) -> tuple[float, float | None]:
    """(accuracy, pairwise accuracy) of a bag of words on comments that it was not fitted on.

    Pairwise accuracy: of the rows labelled 1 or 2, the share where the right one of the two scores higher;
    chance is 0.5, and None means that one of the labels is missing. Folds are grouped by comment and
    stratified.
    """
    labels = np.array([row["label"] for row in rows])
    comments = [row["text"] for row in rows]
    folding = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    model = make_bag_of_words()
    texts = list_texts(rows)
    found = cross_val_predict(model, texts, labels, groups=comments, cv=folding, method="predict_proba")
    probabilities = np.asarray(found)  # (rows, labels)
    known = np.unique(labels)
    accuracy = float((known[probabilities.argmax(1)] == labels).mean())
    if not set(PAIR) <= set(known.tolist()):
        return accuracy, None
    first, second = (probabilities[:, known.tolist().index(label)] for label in PAIR)
    right = (first > second) == (labels == PAIR[0])
    return accuracy, float(right[np.isin(labels, PAIR)].mean())
