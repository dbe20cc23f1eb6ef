"""The baselines beside every LoRA, which cost a second.

Of labels: a bag of words, which sees which words occur and nothing of their order. Of free answers: the most
frequent one, and that of the nearest training row.
"""

import collections
from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.naive_bayes import ComplementNB
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import Pipeline, make_pipeline, make_union

from helpers.common.errors import UsageError
from helpers.common.values import check_seed, check_whole
from helpers.tasks.given import check_labelled, check_rows, list_group_columns
from helpers.tasks.sides import find_sides
from helpers.tasks.split import name_groups
from helpers.tasks.template import Label, Row, Template

PAIR = (1, 2)  # the labels of the two sides where no template says them: those of the lessons' task


def list_texts(rows: Sequence[Row]) -> list[str]:
    """What a bag of words sees of each row: all its columns but the label."""
    return [" ".join(str(cell) for column, cell in row.items() if column != "label") for row in rows]


def make_bag_of_words(fast: bool = False) -> Pipeline:
    """scikit-learn's tf-idf of words and pairs of words, with logistic regression.

    `fast`: with naive Bayes instead, whose time does not grow with the number of labels.
    """
    model = ComplementNB() if fast else LogisticRegression(max_iter=1000)
    return make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), model)


def score_bag_of_words(train: Sequence[Row], test: Sequence[Row]) -> list[dict[Label, float]]:
    """{label: log P(label), in nats} of each row of `test`, by a bag of words that is fitted on `train`.

    A label that `train` lacks has no score.
    """
    model = make_bag_of_words().fit(list_texts(train), [row["label"] for row in train])
    scores = model.predict_log_proba(list_texts(test))  # (rows, labels)
    return [dict(zip(model.classes_.tolist(), line, strict=True)) for line in scores.tolist()]


def judge_fitted_bag(train: Sequence[Row], test: Sequence[Row]) -> float:
    """The accuracy on `test` of a bag of words that is fitted on `train`."""
    scores = score_bag_of_words(train, test)
    right = [
        max(found, key=found.__getitem__) == row["label"] for found, row in zip(scores, test, strict=True)
    ]
    return float(np.mean(right))


def judge_bag_of_words(
    rows: Sequence[Row],
    folds: int = 5,
    seed: int = 0,
    template: Template | None = None,
    fast: bool = False,
) -> tuple[float, float | None]:
    """(accuracy, pairwise accuracy) of a bag of words on comments that it was not fitted on.

    Pairwise accuracy: of the rows on one of the template's two sides (labels 1 and 2 without a template), the
    share where the right one of the two scores higher; chance is 0.5, and None means that a side is missing.
    Folds are grouped as the template groups rows, or by comment without one, and stratified.
    """
    if template is not None:
        check_labelled(template, "predict_nearest and judge_baselines")
    check_rows(rows, [*list_group_columns(template), "label"])
    check_whole("folds", folds, 2, len(rows))
    check_seed(seed)
    if len({row["label"] for row in rows}) < 2:
        raise UsageError("All rows have the same label.", "Give rows of two or more.")
    labels = np.array([row["label"] for row in rows])
    comments = name_groups(rows, template)
    folding = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    model = make_bag_of_words(fast)
    texts = list_texts(rows)
    found = cross_val_predict(model, texts, labels, groups=comments, cv=folding, method="predict_proba")
    probabilities = np.asarray(found)  # (rows, labels)
    known = np.unique(labels)
    accuracy = float((known[probabilities.argmax(1)] == labels).mean())
    pair = tuple(find_sides(template)) if template else PAIR
    if not pair or not set(pair) <= set(known.tolist()):
        return accuracy, None
    first, second = (probabilities[:, known.tolist().index(label)] for label in pair)
    right = (first > second) == (labels == pair[0])
    return accuracy, float(right[np.isin(labels, pair)].mean())


def predict_most_frequent(
    train_prompts: Sequence[str], train_answers: Sequence[str], prompts: Sequence[str]
) -> list[str]:
    """The training rows' most frequent answer, for each of the `prompts`; the first of several."""
    ((answer, _),) = collections.Counter(train_answers).most_common(1)
    return [answer] * len(prompts)


def predict_nearest(
    train_prompts: Sequence[str], train_answers: Sequence[str], prompts: Sequence[str]
) -> list[str]:
    """For each of the `prompts`, the answer of the training prompt that is most like it.

    That is the one with the highest cosine of tf-idf vectors, of words and of runs of characters: these also
    see inflected words, slips, and scripts without spaces.
    """
    words = TfidfVectorizer(token_pattern=r"\w+|[^\w\s]")  # any text has one, even an emoji alone
    vectorizer = make_union(words, TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4)))
    known = vectorizer.fit_transform(train_prompts)
    search = NearestNeighbors(n_neighbors=1, metric="cosine").fit(known)
    nearest = search.kneighbors(vectorizer.transform(prompts), return_distance=False)
    return [train_answers[int(number)] for (number,) in nearest]
