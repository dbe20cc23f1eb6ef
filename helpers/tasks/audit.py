"""Looks for what makes a data set easier or poorer than it seems: repetition, imbalance, shortcuts."""

import collections
import itertools
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from helpers.tasks.baseline import judge_bag_of_words
from helpers.tasks.rows import count_labels
from helpers.tasks.template import Label, Row
from helpers.tasks.words import list_ngrams, split_words


@dataclass(frozen=True)
class Audit:
    """What an audit of rows found; shares are between 0 and 1."""

    rows: int
    comments: int  # different texts
    labels: dict[Label, int]  # rows of each label
    words: dict[Label, float]  # median length of the texts of each label, in words
    duplicates: int  # texts that equal an earlier one, ignoring case, space and punctuation
    near_duplicates: list[tuple[str, str]]  # pairs of other texts that share most of their words, in order
    repeated_5grams: float  # share of the different runs of five words that occur in more than one comment
    bag_of_words: float  # accuracy of a classifier that sees only which words and pairs of words occur
    bag_pairwise: float | None  # its pairwise accuracy on the rows labelled 1 or 2; chance is 0.5


def audit_rows(rows: list[Row], folds: int = 5, seed: int = 0) -> Audit:
    """Audits the rows; the bag of words is judged with `folds` grouped folds."""
    texts = list(dict.fromkeys(row["text"] for row in rows))
    lengths: dict[Label, list[int]] = {label: [] for label in count_labels(rows)}
    for row in rows:
        lengths[row["label"]].append(len(row["text"].split()))
    accuracy, pairwise = judge_bag_of_words(rows, folds, seed)
    return Audit(
        rows=len(rows),
        comments=len(texts),
        labels=count_labels(rows),
        words={label: statistics.median(found) for label, found in lengths.items()},
        duplicates=len(texts) - len({tuple(split_words(text)) for text in texts}),
        near_duplicates=find_near_duplicates(texts),
        repeated_5grams=measure_repetition(texts),
        bag_of_words=accuracy,
        bag_pairwise=pairwise,
    )


def find_near_duplicates(texts: Iterable[str], threshold: float = 0.5) -> list[tuple[str, str]]:
    """Pairs of different texts whose word triples overlap: intersection over union >= `threshold`.

    Source: A. Broder, On the resemblance and containment of documents, 1997 (the Jaccard index of shingles).
    """
    triples = [(text, list_ngrams(text, 3)) for text in texts]
    pairs = []
    for (first, ours), (second, theirs) in itertools.combinations(triples, 2):
        overlap = len(ours & theirs)
        if ours and overlap >= threshold * len(ours | theirs) and split_words(first) != split_words(second):
            pairs.append((first, second))
    return pairs


def measure_repetition(texts: Iterable[str], size: int = 5) -> float:
    """Share of the different runs of `size` words that occur in more than one text; 0 if there are none."""
    counts = collections.Counter(ngram for text in texts for ngram in list_ngrams(text, size))
    return sum(count > 1 for count in counts.values()) / max(len(counts), 1)
