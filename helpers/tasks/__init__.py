"""A table or chats in, prompts and answers out.

Tables of any form (`files`), templates (`template`, `template_file`), chats, which need none (`chats`),
checked rows (`rows`), splits without leaks (`split`), all together with where they came from (`data`:
TaskData), an audit of the rows (`audit`), the baselines that every LoRA is compared with (`baseline`), and
the two sides of a task (`sides`). For people who bring their own data (`checks`): a check before the
training, a first template, and rows as the model sees them.
"""

from typing import TYPE_CHECKING

from helpers.common.lazy import export_lazily

if TYPE_CHECKING:
    from helpers.tasks.audit import Audit as Audit
    from helpers.tasks.audit import audit_rows as audit_rows
    from helpers.tasks.baseline import judge_bag_of_words as judge_bag_of_words
    from helpers.tasks.baseline import list_texts as list_texts
    from helpers.tasks.baseline import make_bag_of_words as make_bag_of_words
    from helpers.tasks.baseline import score_bag_of_words as score_bag_of_words
    from helpers.tasks.chats import ChatForm as ChatForm
    from helpers.tasks.checks.checking import Check as Check
    from helpers.tasks.checks.checking import check_data as check_data
    from helpers.tasks.checks.previewing import Preview as Preview
    from helpers.tasks.checks.previewing import preview_rows as preview_rows
    from helpers.tasks.checks.showing import describe_check as describe_check
    from helpers.tasks.checks.suggesting import Suggestion as Suggestion
    from helpers.tasks.checks.suggesting import suggest_for as suggest_for
    from helpers.tasks.checks.suggesting import suggest_template as suggest_template
    from helpers.tasks.data import TaskData as TaskData
    from helpers.tasks.data import hash_rows as hash_rows
    from helpers.tasks.data import load_task_data as load_task_data
    from helpers.tasks.files.raw_table import as_text as as_text
    from helpers.tasks.files.tables import Table as Table
    from helpers.tasks.files.tables import read_table as read_table
    from helpers.tasks.rows import AnyTemplate as AnyTemplate
    from helpers.tasks.rows import count_labels as count_labels
    from helpers.tasks.rows import load_rows as load_rows
    from helpers.tasks.split import Split as Split
    from helpers.tasks.split import find_leaks as find_leaks
    from helpers.tasks.split import keep_short as keep_short
    from helpers.tasks.split import split_rows as split_rows
    from helpers.tasks.split import write_split as write_split
    from helpers.tasks.template import Label as Label
    from helpers.tasks.template import Row as Row
    from helpers.tasks.template import Template as Template
    from helpers.tasks.template_file import load_template as load_template

__getattr__, __dir__, __all__ = export_lazily(__name__)
