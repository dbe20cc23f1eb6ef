"""A CSV in; validated rows, an audit and leak-free splits out.

One comment can stand in several rows (one for each pair of options), so a split keeps all rows of a comment on one side.
"""

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline

from helpers.tasks.rows import Row


def list_texts(rows: list[Row]) -> list[str]:
    """What a bag of words sees of each row: the names of both options and the text."""
    return [f"{row.get('alternative_a', '')} {row.get('alternative_b', '')} {row['text']}" for row in rows]


def make_bag_of_words() -> Pipeline:
    """scikit-learn's tf-idf of words and pairs of words with logistic regression; it knows nothing of the order of words."""
    return make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(max_iter=1000))


def judge_bag_of_words(rows: list[Row], folds: int = 5, seed: int = 0) -> tuple[float, float | None]:
    """(accuracy, share of the rows labelled 1 or 2 told apart) of a bag of words, judged on comments it was not fitted on.

    Folds are grouped and stratified. None where no row is labelled 1 or none 2. What such a model gets right needs no reading.
    """
    texts, labels = list_texts(rows), np.array([row["label"] for row in rows])
    model = make_bag_of_words()
    folding = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    chances = cross_val_predict(
        model, texts, labels, groups=[row["text"] for row in rows], cv=folding, method="predict_proba"
    )
    known = np.unique(labels)
    accuracy = float((known[chances.argmax(1)] == labels).mean())
    preferring = np.isin(labels, (1, 2))
    if not {1, 2} <= set(known.tolist()):
        return accuracy, None
    first = chances[:, known.tolist().index(1)] > chances[:, known.tolist().index(2)]
    return accuracy, float((first == (labels == 1))[preferring].mean())
