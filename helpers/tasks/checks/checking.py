"""Looks at a table and its template before a training: what stops it, what spoils it, what it will take."""

import contextlib
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any

from helpers.common.arguments import cut
from helpers.common.errors import KitError
from helpers.common.progress import Report
from helpers.common.training_settings import ALL_LINEAR, UPPER_LINEAR, TrainingSettings
from helpers.common.values import check_kind
from helpers.loading.chat_tokenizer import LearnedTokens
from helpers.tasks.checks.estimate import Estimate, estimate_run
from helpers.tasks.checks.figures import (
    AnswerFigures,
    LabelFigures,
    judge_balance,
    measure_answers,
    measure_labels,
)
from helpers.tasks.checks.findings import LISTED, Finding, Level, make_finding, sort_findings
from helpers.tasks.checks.lengths import (
    Lengths,
    TokenizedRows,
    count_tokens,
    count_words,
    find_base,
    find_context,
    tokenize_within,
)
from helpers.tasks.checks.odd_texts import find_odd_texts
from helpers.tasks.checks.repetition import PlacedRows, find_repetition
from helpers.tasks.checks.reviewing import Opened, open_for_review
from helpers.tasks.rows import AnyTemplate, Fault, check_rows
from helpers.tasks.split import Split, keep_short
from helpers.tasks.template import Row, Template
from helpers.weights.folders import ModelFolder

ESTIMATED = 300  # training rows that are tokenised for the estimate
NO_TARGETS = "The settings name no targets."
OTHER_LAYERS = ("lm_head", "embed_out", "embed_tokens", "wte", "wpe", "word_embeddings")  # outside the blocks
# From the first quote or bracket of a sentence to its last: where errors show what a cell holds.
QUOTED = re.compile(r"""['"{].*['"}]""", re.DOTALL)


@dataclass(frozen=True)
class ListedFault:
    """A row that cannot be trained on, and what to do."""

    place: str
    problem: str
    remedy: str


@dataclass(frozen=True)
class Check:
    """All that a check found. `python -m helpers.tasks check --json` writes it under these names."""

    data: str
    template: str  # the template's name, "suggested" or "chats"
    kind: str  # labels, answers or chats
    notes: list[str]  # what the reader found out about the file
    columns: list[str]
    rows: int
    train_rows: int
    test_rows: int
    faults: list[ListedFault]  # all of them
    findings: list[Finding]  # the most urgent first
    labels: LabelFigures | None = None
    answers: AnswerFigures | None = None
    model: str | None = None
    lengths: Lengths | None = None
    estimate: Estimate | None = None
    trainable: bool = field(default=False)  # as it is


def check_data(
    data: str | Path,
    template: str | Path | None = None,
    model: str | None = None,
    settings: TrainingSettings | None = None,
    split: Split | None = None,
    show_rows: bool = False,
    progress: bool | Report = False,
) -> Check:
    """Checks a table with a template, or with the suggested one, for a training with these settings.

    The model is the named one, or the lane's if it is in models/. Without `show_rows`, nothing of a row's
    text is in the result. Raises a KitError for a table, a template or a model that cannot be read.
    """
    check_kind("settings", settings, (TrainingSettings, NoneType), "what pick_settings(name) returns")
    check_kind("split", split, (Split, NoneType), "a Split, such as Split(seed=1)")
    check_kind("model", model, (str, NoneType), "the name of a folder below models/")
    opened = open_for_review(data, template)
    folder = find_base(model)
    rows, faults = check_rows(opened.table, opened.template)
    placed, findings = split_rows(rows, keep_places(opened, faults), opened.template, split or Split())
    listed = list_faults(opened, faults, show_rows)
    settings = settings or TrainingSettings()
    facts, more = look_at_rows(opened, placed, settings, folder, progress) if rows else ({}, [])
    findings += find_stoppers(opened, listed, str(data)) + more
    return Check(
        data=str(data),
        template=opened.template.name,
        kind=opened.template.kind,
        notes=opened.table.notes,
        columns=opened.table.columns,
        rows=len(opened.table.rows),
        train_rows=len(placed.train),
        test_rows=len(placed.test),
        faults=listed,
        findings=sort_findings(findings),
        model=folder.name if folder else None,
        trainable=not any(finding.level == "stops" for finding in findings),
        **facts,
    )


def keep_places(opened: Opened, faults: Sequence[Fault]) -> list[str]:
    """The places of the rows without faults."""
    faulty = {fault.place for fault in faults}
    return [place for place in opened.table.places if place not in faulty]


def list_faults(opened: Opened, faults: Sequence[Fault], show_rows: bool) -> list[ListedFault]:
    """The faults in words; what a cell holds is hidden unless rows may be shown."""
    cells = dict(zip(opened.table.places, opened.table.rows, strict=True))
    return [
        ListedFault(
            fault.place,
            fault.error.problem if show_rows else hide_cells(fault.error.problem, cells[fault.place]),
            fault.error.remedy,
        )
        for fault in faults
    ]


def hide_cells(problem: str, cells: Mapping[str, Any]) -> str:
    """A sentence without what it quotes, if that holds the text of a cell."""
    quoted = QUOTED.search(problem)
    texts = (cell.strip() for cell in cells.values() if isinstance(cell, str))
    if quoted and any(text and text in quoted[0] for text in texts):
        return QUOTED.sub("'...'", problem)
    return problem


def find_stoppers(opened: Opened, faults: Sequence[ListedFault], data: str) -> list[Finding]:
    """What a training would refuse before it begins: rows with faults, and no template."""
    found = []
    if faults:
        problem = f"Rows that cannot be trained on: {len(faults):,} of {len(opened.table.rows):,}."
        remedy = "Correct or delete them; each is listed with what is wrong."
        places = [fault.place for fault in faults[:LISTED]]
        found.append(Finding("faults", "stops", problem, remedy, len(faults), places))
    if opened.suggested:
        problem = "No template was given, so this check used the one that `suggest` writes."
        remedy = f"python -m helpers.tasks suggest {data} --output FILE"
        found.append(Finding("no_template", "stops", problem, remedy))
    return found


def split_rows(
    rows: Sequence[Row], places: Sequence[str], template: AnyTemplate, split: Split
) -> tuple[PlacedRows, list[Finding]]:
    """The rows as a training will split them; if it cannot, all of them are trained on."""
    everything = list(range(len(rows)))
    try:
        train, test = split.divide(list(rows), template)
        numbers = {id(row): number for number, row in enumerate(rows)}
        parts = [sorted(numbers[id(row)] for row in part) for part in (train, test)]
        return PlacedRows(list(rows), list(places), *parts), []
    except KitError as error:
        placed = PlacedRows(list(rows), list(places), everything, [])
        return placed, [Finding("split", "stops", error.problem, error.remedy)] if rows else []


def look_at_rows(
    opened: Opened,
    placed: PlacedRows,
    settings: TrainingSettings,
    folder: ModelFolder | None,
    progress: bool | Report,
) -> tuple[dict[str, Any], list[Finding]]:
    """({name: part of the Check}, findings) of the rows that are right."""
    template = opened.template
    findings = find_repetition(placed, template)
    findings += find_odd_texts(opened.table, placed.rows, placed.places, template)
    labels = answers = estimate = None
    if isinstance(template, Template) and template.kind == "labels":
        labels = measure_labels(placed.rows, template)
    else:
        answers = measure_answers(placed.rows, template)
    findings += judge_balance(labels, answers)
    if folder is None:
        lengths = count_words(placed.rows, template)
    else:
        lengths, estimate = measure_model(folder, placed, template, settings, progress)
        findings += judge_lengths(lengths) + judge_memory(estimate) + judge_targets(folder, settings)
    return {"labels": labels, "answers": answers, "lengths": lengths, "estimate": estimate}, findings


def measure_model(
    folder: ModelFolder,
    placed: PlacedRows,
    template: AnyTemplate,
    settings: TrainingSettings,
    progress: bool | Report,
) -> tuple[Lengths, Estimate]:
    """The lengths in the model's tokens, and the estimate of a training."""
    from helpers.loading.tokenizer import load_both, make_chat_tokenizer  # transformers, which takes seconds

    chat = make_chat_tokenizer(load_both(folder, need_examples=True)[0])
    context = find_context(folder)
    name = "the model's context" if context <= settings.max_length else "max_length"
    limit = (min(context, settings.max_length), name)
    lengths = count_tokens(chat, placed.rows, placed.places, template, settings.turns, limit, progress)
    rows = [placed.rows[number] for number in placed.train]
    if settings.max_rows:
        rows = keep_short(rows, settings.max_rows, settings.seed, template)
    refused = set(lengths.refused)
    kept = {id(row) for row, place in zip(placed.rows, placed.places, strict=True) if place not in refused}
    sample = random.Random(0).sample(rows, min(ESTIMATED, len(rows)))
    tokens: list[LearnedTokens] = []
    with contextlib.suppress(KitError):  # a row that was not counted may be rejected as well
        for row in sample:
            if id(row) in kept:
                tokens += tokenize_within(chat, row, template, settings.turns, limit[0])[0]
    if not tokens:
        return lengths, Estimate(rows=len(rows), reason="the chat template rejects the rows")
    sequences = round(len(rows) * len(tokens) / len(sample))
    return lengths, estimate_run(folder, TokenizedRows(tokens), sequences, settings)


def judge_lengths(lengths: Lengths) -> list[Finding]:
    """Findings about rows that the chat template rejects, or that are too long."""
    found = make_finding(
        "refused", "stops", lengths.refused, "Rows that the model's chat template rejects: {count}.",
        "Change the roles of their messages or the order, or give them another model.",
    )  # fmt: skip
    if not lengths.cut:
        return found
    level: Level = "stops" if lengths.lost == lengths.rows else "warns"
    problem = f"Rows longer than {lengths.limit_name} ({lengths.limit:,} tokens): {lengths.cut:,}"
    if lengths.lost:
        problem += f"; with nothing left to learn: {lengths.lost:,}"
    raise_it = "" if "context" in lengths.limit_name else "Raise max_length, or shorten them."
    remedy = raise_it or "Shorten them, or take a model with a longer context."
    return found + [Finding("too_long", level, f"{problem}.", remedy, lengths.cut, lengths.places)]


def judge_targets(folder: ModelFolder, settings: TrainingSettings) -> list[Finding]:
    """A finding if the settings name layers that the model does not have."""
    try:
        linears = folder.shape.list_linears()
    except (KitError, KeyError):  # an architecture whose layers are not known here
        return []
    names = [name for name in settings.targets.split(",") if name]
    if settings.targets in (ALL_LINEAR, UPPER_LINEAR) or (names and any(map(is_pattern, names))):
        return []
    known = [*linears, *OTHER_LAYERS]
    unknown = [name for name in names if not any(f".{layer}".endswith(f".{name}") for layer in known)]
    if names and not unknown:
        return []
    problem = f"'{cut(unknown[0], 60)}' in targets is not a layer of the model." if unknown else NO_TARGETS
    return [
        Finding(
            "targets", "stops", problem, f"Use all-linear, upper-linear, or some of: {', '.join(linears)}."
        )
    ]


def is_pattern(name: str) -> bool:
    """Whether it is a regular expression, or a path, which this check does not follow."""
    return not name.replace("_", "").isalnum()


def judge_memory(estimate: Estimate) -> list[Finding]:
    """A finding if the training will not fit into the memory that is free now."""
    if not estimate.memory_bytes or not estimate.free_bytes or estimate.memory_bytes <= estimate.free_bytes:
        return []
    needed, free = estimate.memory_bytes / 1e9, estimate.free_bytes / 1e9
    problem = f"A training will take about {needed:.1f} GB, and {free:.1f} GB are free."
    remedy = "Lower batch_size or max_length, shorten the longest rows, or take a smaller model."
    return [Finding("memory", "warns", problem, remedy)]
