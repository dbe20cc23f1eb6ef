"""How close an answer comes to the right one: exact match, token F1 and chrF, each from 0 to 1.

Two sentences can say the same in other words, so none of the three alone is the truth. Exact match asks for
the same words, token F1 for the same words in any order, and chrF for the same runs of characters, which is
fair to inflected languages and to small slips.
"""

import re
import string
import unicodedata
from collections import Counter
from typing import NamedTuple

from sacrebleu.metrics.chrf import CHRF

from helpers.common.values import check_kind

LONGEST = 20_000  # characters: what is beyond them only makes an answer worse, and takes long
ARTICLES = re.compile(r"\b(a|an|the)\b")
# Scripts that put no spaces between words: Thai to Lao, Burmese, Khmer, Japanese, Chinese. Each character
# counts as a token.
UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff]"
)


class Closeness(NamedTuple):
    """How close an answer is to the right one."""

    exact_match: float  # 1 or 0
    token_f1: float
    chrf: float


def compare_answers(right: str, said: str) -> Closeness:
    """All three figures of one answer. What it is compared with comes first.

    Of an answer that is far longer than the right one, only the beginning is compared.
    """
    check_kind("The right answer", right, str, "a text")
    check_kind("The answer", said, str, "a text")
    said = said[: max(LONGEST, 4 * len(right))]
    return Closeness(
        float(normalise_answer(right) == normalise_answer(said)),
        measure_token_f1(right, said),
        measure_chrf(right, said),
    )


def normalise_answer(text: str) -> str:
    """The text in lower case, without punctuation and English articles, with single spaces.

    Source: P. Rajpurkar et al., SQuAD, 2016; here for all scripts. A text of which nothing would be left,
    such as "A" or "?", keeps its characters.
    """
    lowered = unicodedata.normalize("NFKC", text).casefold()
    plain = "".join(character for character in lowered if not is_ignored(character))
    return " ".join(ARTICLES.sub(" ", plain).split()) or " ".join(lowered.split())


def is_ignored(character: str) -> bool:
    """Whether a character is punctuation, or cannot be seen, such as a mark of the writing direction."""
    category = unicodedata.category(character)
    return character in string.punctuation or category.startswith("P") or category == "Cf"


def list_tokens(text: str) -> list[str]:
    """The words of the normalised text; the characters, where a script has no spaces between words."""
    return UNSPACED.sub(lambda found: f" {found[0]} ", normalise_answer(text)).split()


def measure_token_f1(right: str, said: str) -> float:
    """Harmonic mean of precision and recall of the words, however they are ordered (SQuAD's F1)."""
    expected, found = Counter(list_tokens(right)), Counter(list_tokens(said))
    if not expected or not found:
        return float(expected == found)
    shared = (expected & found).total()
    return 2 * shared / (expected.total() + found.total())


def measure_chrf(right: str, said: str) -> float:
    """chrF2: F score of the runs of one to six characters; recall counts double.

    Source: M. Popović, chrF: character n-gram F-score, 2015. Computed by sacrebleu, with its defaults.
    """
    if right == said:  # also if both are empty, which sacrebleu counts as 0
        return 1.0
    return CHRF().sentence_score(said, [right]).score / 100
