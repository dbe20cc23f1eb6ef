"""Rows to tokens, in the form in which TRL's trainers take them."""

import dataclasses
import warnings
from collections.abc import Callable
from typing import cast

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from helpers.common.errors import KitError, UsageError
from helpers.common.training_settings import TrainingSettings
from helpers.loading.tokenizer import make_chat_tokenizer
from helpers.tasks.data import TaskData
from helpers.tasks.rows import AnyTemplate
from helpers.tasks.split import keep_short
from helpers.tasks.template import Row

FindPlace = Callable[[Row], str]  # where a row is in the user's table, such as "Row 7 (line 9) of a.csv"


def build_datasets(
    data: TaskData, settings: TrainingSettings, tokenizer: PreTrainedTokenizerBase
) -> tuple[Dataset, Dataset | None]:
    """(build_dataset of the training rows, tokenize_rows of all validation rows or None without any)."""
    how = (data.template, settings, tokenizer, data.find_place)
    return build_dataset(data.train, *how), tokenize_rows(data.validation, *how) if data.validation else None


def build_dataset(
    rows: list[Row],
    template: AnyTemplate,
    settings: TrainingSettings,
    tokenizer: PreTrainedTokenizerBase,
    find_place: FindPlace | None = None,
) -> Dataset:
    """At most settings.max_rows rows, as tokenize_rows gives them, but shuffled and without `row`."""
    kept = keep_short(rows, settings.max_rows, settings.seed, template) if settings.max_rows else rows
    examples = tokenize_rows(kept, template, settings, tokenizer, find_place).remove_columns("row")
    return examples.shuffle(seed=settings.seed)


def tokenize_rows(
    rows: list[Row],
    template: AnyTemplate,
    settings: TrainingSettings,
    tokenizer: PreTrainedTokenizerBase,
    find_place: FindPlace | None = None,
) -> Dataset:
    """The rows, in their order, with the columns `input_ids`, `completion_mask` and `row`.

    The mask is 1 for what is learned: the tokens of the answer, or of a chat's turns (settings.turns), with
    the end of each. `row` counts the rows from 0; a chat can be several sequences. Raises what the chat
    template rejects as a UsageError that names the row.
    """
    chat = make_chat_tokenizer(tokenizer)
    columns = []
    for number, row in enumerate(rows):
        learned = template.list_learned(row, settings.turns)
        try:
            sequences = chat.tokenize_conversation(template.build_conversation(row), learned)
        except KitError as error:
            place = find_place(row) if find_place else f"Row {number + 1}"
            raise type(error)(f"{place}: {error.problem}", error.remedy) from None
        columns += [{"input_ids": ids, "completion_mask": mask, "row": number} for ids, mask in sequences]
    return Dataset.from_list(columns)


def limit_length(settings: TrainingSettings, context: int) -> TrainingSettings:
    """The settings with a max_length that the model takes; `context` is the most."""
    return dataclasses.replace(settings, max_length=min(settings.max_length, context))


def report_long_rows(
    kept: object, examples: Dataset, settings: TrainingSettings, context: int, use: str = "trained on"
) -> None:
    """Warns of rows that TRL left out because max_length cuts off their answers; UsageError if all are.

    `context` is the most that the model takes, and `use` what the rows are not used for.
    """
    total = len(examples)
    dropped = total - len(cast(Dataset, kept))
    limited = settings.max_length == context
    limit = f"{'the context of the model' if limited else 'max_length'} ({settings.max_length} tokens)"
    problem = f"{dropped} of {total} rows are so long that {limit} leaves nothing of their answers"
    if dropped == total:
        remedy = "Shorten the texts." if limited else "Raise max_length, or shorten the texts."
        raise UsageError(f"{problem}.", remedy)
    if dropped:
        warnings.warn(f"{problem}: they are not {use}.", stacklevel=2)
