"""Looks for what makes a data set easier or poorer than it seems: repetition, imbalance, shortcuts."""

import collections
import heapq
import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from helpers.tasks.baseline import judge_bag_of_words
from helpers.tasks.given import check_rows
from helpers.tasks.rows import ONLY_LABELS, count_labels
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
    check_rows(rows, ["text", "label"], ONLY_LABELS)
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
    listed = list(texts)
    pairs = sorted((first, second) for second, first in pair_near_copies(listed, threshold))
    return [(listed[first], listed[second]) for first, second in pairs]


def pair_near_copies(
    texts: Sequence[str], threshold: float = 0.5, every: bool = True, known: int | None = None
) -> Iterator[tuple[int, int]]:
    """(place of a text, place of an earlier one that it nearly copies); copies of other case do not count.

    Without `every`, each text is paired with at most one earlier text. The texts after the first `known` are
    not compared with each other. Two sets can only overlap enough if
    they share one of the few rarest members of each, so only texts that share such a triple are compared.
    Source: R. Bayardo, Y. Ma and R. Srikant, Scaling up all pairs similarity search, 2007.
    """
    words = [split_words(text) for text in texts]
    triples = [set(zip(found, found[1:], found[2:], strict=False)) for found in words]
    counts = collections.Counter(triple for found in triples for triple in found)
    places: dict[tuple[str, ...], list[int]] = collections.defaultdict(list)  # texts with this rare triple
    for place, ours in enumerate(triples):
        rare = heapq.nsmallest(
            len(ours) - math.ceil(threshold * len(ours)) + 1,
            ours,
            key=lambda triple: (counts[triple], triple),
        )
        for other in unique(other for triple in rare for other in places[triple]):
            overlap = len(ours & triples[other])
            union = len(ours) + len(triples[other]) - overlap
            if overlap >= threshold * union and words[place] != words[other]:
                yield place, other
                if not every:
                    break
        for triple in rare if known is None or place < known else ():
            places[triple].append(place)


def unique(numbers: Iterable[int]) -> Iterator[int]:
    """Each number once, in order of appearance."""
    seen: set[int] = set()
    for number in numbers:
        if number not in seen:
            seen.add(number)
            yield number


def measure_repetition(texts: Iterable[str], size: int = 5) -> float:
    """Share of the different runs of `size` words that occur in more than one text; 0 if there are none."""
    counts = collections.Counter(ngram for text in texts for ngram in list_ngrams(text, size))
    return sum(count > 1 for count in counts.values()) / max(len(counts), 1)
