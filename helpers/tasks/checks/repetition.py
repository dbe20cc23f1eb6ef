"""Rows that say the same, that contradict each other, or that give a test away."""

import collections
from collections.abc import Sequence
from dataclasses import dataclass, replace

from helpers.tasks.audit import pair_near_copies
from helpers.tasks.checks.findings import Finding, make_finding
from helpers.tasks.rows import AnyTemplate
from helpers.tasks.split import list_key
from helpers.tasks.template import PLACEHOLDER, Row, Template

READ_WORDS = 300  # of a text, when near copies are looked for
LONG_TEXT = 4  # words: a column of shorter texts may well repeat
MOSTLY = 0.9  # share of rows in which a column has to hold the answer


@dataclass(frozen=True)
class PlacedRows:
    """Checked rows, where each is in the file, and which of them are trained on."""

    rows: list[Row]
    places: list[str]
    train: list[int]  # numbers of rows
    test: list[int]

    def list_places(self, numbers: Sequence[int]) -> list[str]:
        """The places of these rows."""
        return [self.places[number] for number in numbers]


def find_repetition(placed: PlacedRows, template: AnyTemplate) -> list[Finding]:
    """Copies, contradictions, near copies, and what is on both sides of the split."""
    prompts = [
        "\n".join(message["content"] for message in template.build_messages(row)) for row in placed.rows
    ]
    answers = [template.build_answer(row) for row in placed.rows]
    found = find_copies(placed, prompts, answers)
    found += find_contradictions(placed, prompts, answers, template.kind == "labels")
    found += find_near_copies(placed, template)
    found += find_leaked(placed, prompts)
    if isinstance(template, Template):
        found += find_columns_on_both_sides(placed, template)
        found += find_telling_columns(placed, template, answers)
    return found


def find_copies(placed: PlacedRows, prompts: Sequence[str], answers: Sequence[str]) -> list[Finding]:
    """Rows that equal an earlier one, but for case, space and punctuation."""
    seen: dict[object, int] = {}
    keys = [(list_key(prompt), list_key(answer)) for prompt, answer in zip(prompts, answers, strict=True)]
    copies = [
        f"{placed.places[number]}, a copy of {placed.places[seen[key]]}"
        for number, key in enumerate(keys)
        if seen.setdefault(key, number) != number
    ]
    problem = "Rows that are copies of an earlier one: {count}."
    return make_finding("copies", "hints", copies, problem, "Delete them, unless they should count more.")


def find_contradictions(
    placed: PlacedRows, prompts: Sequence[str], answers: Sequence[str], labels: bool
) -> list[Finding]:
    """Rows whose prompt had another answer before. In free text that can be meant."""
    first: dict[str, int] = {}
    found = []
    for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        earlier = first.setdefault(simplify(prompt), number)
        if simplify(answers[earlier]) != simplify(answer):
            found.append(f"{placed.places[number]}, against {placed.places[earlier]}")
    problem = "Rows with the prompt of an earlier row and another answer: {count}."
    remedy = "Keep the right one of each." if labels else "Keep one of each, unless both are right."
    return make_finding("contradictions", "warns" if labels else "hints", found, problem, remedy)


def simplify(text: str) -> str:
    """A text without the differences in case and space."""
    return " ".join(text.split()).casefold()


def find_near_copies(placed: PlacedRows, template: AnyTemplate) -> list[Finding]:
    """Training texts, and test texts, that share most of their words with a training text."""
    plain = replace(template, group_by=()) if isinstance(template, Template) else template
    first: dict[tuple[str, ...], int] = {}
    for number in (*placed.train, *placed.test):
        first.setdefault(list_key(plain.find_group(placed.rows[number])), number)
    train = set(placed.train)
    numbers = list(first.values())
    texts = [" ".join(plain.find_group(placed.rows[number]).split()[:READ_WORDS]) for number in numbers]
    known = sum(number in train for number in numbers)
    pairs = list(pair_near_copies(texts, every=False, known=known))
    near, leaks = (
        [
            f"{placed.places[numbers[later]]}, like {placed.places[numbers[earlier]]}"
            for later, earlier in pairs
            if (later >= known) == is_test
        ]
        for is_test in (False, True)
    )
    found = make_finding(
        "near_copies", "hints", near,
        "Training texts that share most of their words with another one: {count}.",
        "Look at some of them: repeated texts teach less than different ones.",
    )  # fmt: skip
    return found + make_finding(
        "near_leaks", "warns", leaks,
        "Test texts that share most of their words with a training text: {count}.",
        "Scores will look better than they are: name a column that they share in `group_by`, or delete some.",
    )  # fmt: skip


def find_leaked(placed: PlacedRows, prompts: Sequence[str]) -> list[Finding]:
    """Test rows whose prompt is also trained on, which only a `group_by` can bring about."""
    known = {list_key(prompts[number]) for number in placed.train}
    leaked = [number for number in placed.test if list_key(prompts[number]) in known]
    problem = "Test rows with the prompt of a training row: {count}."
    remedy = "Group the rows by a column that they share: `group_by` in the template."
    return make_finding("leaks", "warns", placed.list_places(leaked), problem, remedy)


def find_columns_on_both_sides(placed: PlacedRows, template: Template) -> list[Finding]:
    """Columns of longer texts that training and test rows share."""
    found = []
    for column in dict.fromkeys(PLACEHOLDER.findall(template.task)):
        texts = [list_key(row[column]) for row in placed.rows]
        if sum(map(len, texts)) < LONG_TEXT * len(texts):
            continue
        known = {texts[number] for number in placed.train}
        shared = [number for number in placed.test if texts[number] in known and any(texts[number])]
        problem = f"Test rows whose {column} is also that of a training row: {{count}}."
        remedy = f"Keep them together: `group_by: {column}` in the template."
        found += make_finding("group_by", "warns", placed.list_places(shared), problem, remedy)
    return found


def find_telling_columns(placed: PlacedRows, template: Template, answers: Sequence[str]) -> list[Finding]:
    """Columns of the task that are the answer, or that always come with the same label."""
    found = []
    for column in dict.fromkeys(PLACEHOLDER.findall(template.task)):
        cells = [simplify(row[column]) for row in placed.rows]
        equal = sum(cell == simplify(answer) for cell, answer in zip(cells, answers, strict=True))
        if equal < MOSTLY * len(cells) and not (template.label and tells(cells, answers)):
            continue
        problem = f"The column {column}, which the task shows, gives the answer away."
        remedy = f"Take {{{column}}} out of the task, unless it will be there when the LoRA is used."
        found.append(Finding("answer_in_prompt", "warns", problem, remedy, len(cells)))
    return found


def tells(cells: Sequence[str], answers: Sequence[str]) -> bool:
    """True if the different cells come five times and more on average, each with one answer."""
    different = set(cells)
    pairs = collections.Counter(zip(cells, answers, strict=True))
    return 1 < len(different) == len(pairs) and len(cells) >= 5 * len(different)
