"""A CSV in; validated rows, an audit and leak-free splits out.

One comment can stand in several rows (one for each pair of options), so a split keeps all rows of a comment on one side.
"""

import collections
import itertools
import random
import re
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline

from helpers import KitError, find_file, write_json
from helpers.templating import Template

Row = dict[str, object]


def load_rows(path: str | Path, template: Template) -> list[Row]:
    """The rows of a CSV, as dicts: the template's columns (str) and `label` (int). KitError names the first thing that is wrong."""
    path = find_file(path, "CSV file")
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except pd.errors.EmptyDataError:
        raise KitError(f"{path} is empty.", f"Give a CSV with the columns {', '.join([*template.columns, 'label'])}.") from None
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise KitError(f"{path} is no CSV in UTF-8: {error}", "Save it as CSV, UTF-8.") from None
    missing = [column for column in [*template.columns, "label"] if column not in frame.columns]
    if missing:
        raise KitError(f"{path} lacks the column {', '.join(missing)} (it has {', '.join(frame.columns)}).", "Rename or add it.")
    if frame.empty:
        raise KitError(f"{path} has a header and no rows.", "Add rows to it.")
    known = {str(label): label for label in template.label}
    for line, row in enumerate(frame.itertuples(), start=1):
        if row.label not in known:
            remedy = f"The template knows {', '.join(known)}; mend the row or the template."
            raise KitError(f"Row {line} of {path} has the label '{row.label}'.", remedy)
        if not row.text.strip():
            raise KitError(f"Row {line} of {path} has an empty text.", "Fill it in or delete the row.")
    frame["label"] = frame["label"].map(known)
    return frame[[*template.columns, "label"]].to_dict("records")


def split_rows(rows: list[Row], test_size: float = 0.2, seed: int = 0) -> tuple[list[Row], list[Row]]:
    """(train, test), grouped by comment and stratified by label; the test part is 1/k of the comments, k = round(1 / test_size).

    Source: scikit-learn's StratifiedGroupKFold, its first fold.
    """
    if not 0 < test_size <= 0.5:
        raise KitError(f"A test size of {test_size} is out of range.", "Give a share above 0 and up to 0.5, such as 0.2.")
    folds, texts, labels = round(1 / test_size), [row["text"] for row in rows], [row["label"] for row in rows]
    if len(set(labels)) < 2:
        raise KitError(f"All rows have the label {labels[0]}: there is nothing to tell apart.", "Add rows with another label.")
    fewest = min(collections.Counter(labels).values())
    if len(set(texts)) < folds or fewest < folds:
        raise KitError(
            f"{len(set(texts))} different comments, the rarest label in {fewest} rows: too few for a test part of {test_size}.",
            "Add comments, or use a larger --test-size.",
        )
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    train, test = next(iter(splitter.split(texts, labels, groups=texts)))
    return [rows[i] for i in train], [rows[i] for i in test]


def keep_short(rows: list[Row], count: int, seed: int) -> list[Row]:
    """At most `count` of the rows, with short texts, the same number of each label, drawn at random: most rows for the computation.

    The limit of length is the same for all labels, the smallest that leaves enough of each; otherwise the length would tell the label.
    """
    groups: dict[object, list[Row]] = {}
    for row in sorted(rows, key=lambda row: len(row["text"])):
        groups.setdefault(row["label"], []).append(row)
    share = max(count // len(groups), 1)
    limit = max(len(group[min(share, len(group)) - 1]["text"]) for group in groups.values())
    draw, kept = random.Random(seed), []
    for group in groups.values():
        short = [row for row in group if len(row["text"]) <= limit]
        kept += draw.sample(short, min(share, len(short)))
    return kept


def count_labels(rows: list[Row]) -> dict[int, int]:
    """How many rows each label has, sorted by label."""
    return dict(sorted(collections.Counter(row["label"] for row in rows).items()))


def write_split(folder: Path, template: Template, train: list[Row], test: list[Row]) -> tuple[Path, Path]:
    """Writes train.json and test.json into `folder`: a list of {"prompt", "completion", "label"}, prompt and label apart."""
    return tuple(
        write_json(Path(folder) / f"{name}.json", [template.build_example(row) for row in rows]) for name, rows in (("train", train), ("test", test))
    )


@dataclass(frozen=True)
class Audit:
    """What an audit of rows found; shares lie between 0 and 1."""

    rows: int
    comments: int  # different texts
    labels: dict[int, int]  # rows of each label
    words: dict[int, float]  # median length of the texts of each label, in words
    duplicates: int  # texts that equal an earlier one but for case, space and punctuation
    near_duplicates: list[tuple[str, str]]  # pairs of other texts that share most of their words, in order
    repeated_5grams: float  # share of the different runs of five words that stand in more than one comment
    bag_of_words: float  # accuracy of a classifier that sees only which words and pairs of words occur
    bag_told_apart: float | None  # of the rows labelled 1 or 2, how many it puts on the right side; chance is 0.5


def audit_rows(rows: list[Row], folds: int = 5, seed: int = 0) -> Audit:
    """Looks for what makes a data set easier or poorer than it seems: repetition, imbalance, shortcuts."""
    texts = list(dict.fromkeys(row["text"] for row in rows))
    by_label = {label: [len(row["text"].split()) for row in rows if row["label"] == label] for label in count_labels(rows)}
    accuracy, told_apart = judge_bag_of_words(rows, folds, seed)
    return Audit(
        rows=len(rows),
        comments=len(texts),
        labels=count_labels(rows),
        words={label: statistics.median(lengths) for label, lengths in by_label.items()},
        duplicates=len(texts) - len({tuple(split_words(text)) for text in texts}),
        near_duplicates=find_near_duplicates(texts),
        repeated_5grams=measure_repetition(texts),
        bag_of_words=accuracy,
        bag_told_apart=told_apart,
    )


def split_words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    return re.findall(r"\w+", text.lower())


def list_ngrams(text: str, size: int) -> set[tuple[str, ...]]:
    """The different runs of `size` words of a text."""
    words = split_words(text)
    return set(zip(*(words[i:] for i in range(size)), strict=False))


def find_near_duplicates(texts: Iterable[str], threshold: float = 0.5) -> list[tuple[str, str]]:
    """Pairs of texts whose word triples overlap: intersection over union (Jaccard) of at least `threshold`, but not the same words.

    Source: A. Broder, On the resemblance and containment of documents, 1997.
    """
    triples = [(text, list_ngrams(text, 3)) for text in texts]
    pairs = []
    for (first, ours), (second, theirs) in itertools.combinations(triples, 2):
        if ours and len(ours & theirs) >= threshold * len(ours | theirs) and split_words(first) != split_words(second):
            pairs.append((first, second))
    return pairs


def measure_repetition(texts: Iterable[str], size: int = 5) -> float:
    """Share of the different runs of `size` words that stand in more than one text; 0 when there are none."""
    counts = collections.Counter(ngram for text in texts for ngram in list_ngrams(text, size))
    return sum(count > 1 for count in counts.values()) / max(len(counts), 1)


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
    chances = cross_val_predict(model, texts, labels, groups=[row["text"] for row in rows], cv=folding, method="predict_proba")
    known = np.unique(labels)
    accuracy = float((known[chances.argmax(1)] == labels).mean())
    preferring = np.isin(labels, (1, 2))
    if not {1, 2} <= set(known.tolist()):
        return accuracy, None
    first = chances[:, known.tolist().index(1)] > chances[:, known.tolist().index(2)]
    return accuracy, float((first == (labels == 1))[preferring].mean())


def find_leaks(train: list[Row], test: list[Row]) -> list[Row]:
    """The rows of `test` whose text, but for case, space and punctuation, is also trained on."""
    seen = {tuple(split_words(row["text"])) for row in train}
    return [row for row in test if tuple(split_words(row["text"])) in seen]
