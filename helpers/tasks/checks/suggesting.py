"""Looks at a table and writes a first template for it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from helpers.common.errors import UnsupportedError
from helpers.common.values import check_kind
from helpers.tasks.chats import ChatForm, find_chats
from helpers.tasks.checks.columns import ANSWER_NAMES, LABEL_NAMES, Column, list_columns
from helpers.tasks.checks.template_text import write_template
from helpers.tasks.files.raw_table import name_all
from helpers.tasks.files.tables import Table, read_table
from helpers.tasks.rows import AnyTemplate
from helpers.tasks.template import PLACEHOLDER, Label, Template, as_whole_number, simplify_number
from helpers.tasks.template_file import guess_placeholder

FEW_ANSWERS = 10  # different texts up to which a column named `answer` holds labels, such as yes and no
LISTED = 100  # labels that the instruction lists
INSTRUCTIONS = {  # for answers in free text: what the name of their column asks for
    "answer": "Answer the question.",
    "answers": "Answer the question.",
    "best_answer": "Answer the question.",
    "summary": "Summarise the text.",
    "highlights": "Summarise the text.",
    "abstract": "Summarise the text.",
    "translation": "Translate the text.",
}


@dataclass(frozen=True)
class Suggestion:
    """A first template, and what it was made from. `text` is YAML; it is empty for chats."""

    kind: str  # labels, answers or chats
    text: str
    template: AnyTemplate
    label_column: str | None = None
    answer_column: str | None = None
    columns: list[str] = field(default_factory=list)  # those that the task shows
    optional: list[str] = field(default_factory=list)
    group_by: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what the reader found out, a sentence each


def suggest_template(path: str | Path) -> Suggestion:
    """A first template for a table.

    Raises what read_table raises, and UnsupportedError if no column could be the answer.
    """
    return suggest_for(read_table(path))


def suggest_for(table: Table) -> Suggestion:
    """A first template for a table that is read already."""
    check_kind("The table", table, Table, "what read_table(path) returns")
    if find_chats(table):
        return Suggestion("chats", "", ChatForm(), columns=table.columns, notes=table.notes)
    columns = list_columns(table)
    answer, is_label = choose_answer(columns, table)
    shown = choose_shown(columns, answer, is_label)
    if not shown:
        problem = f"{table.path} has no column that could be shown beside the answers in {answer.name}."
        raise UnsupportedError(
            problem, f"Its columns are {name_all(table.columns)}: write a template for it."
        )
    template = make_template(shown, answer, name_labels(answer, columns, table) if is_label else {})
    used = {name.split(".")[0] for name in (answer.name, *template.needed)} | set(template.needed)
    unused = [name for name in table.columns if name not in used]
    return Suggestion(
        template.kind,
        write_template(template, comment(table, template, unused, columns)),
        template,
        label_column=answer.name if is_label else None,
        answer_column=None if is_label else answer.name,
        columns=[column.name for column in shown],
        optional=list(template.optional),
        group_by=list(template.group_by),
        unused=unused,
        notes=table.notes,
    )


def make_template(shown: Sequence[Column], answer: Column, labels: Mapping[Label, str]) -> Template:
    """The template that shows these columns; `labels` are empty for answers in free text."""
    primary = min(shown, key=lambda column: len(column.cells) - len(column.filled))
    template = Template(
        "suggested",
        instruction=instruct(shown, answer, labels),
        task=write_task(shown),
        group_by=tuple(choose_group(shown)),
        optional=tuple(one.name for one in shown if one is not primary and "" in one.cells),
    )
    if labels:
        return replace(template, label=labels, label_column=answer.name)
    return replace(template, answer=f"{{{answer.name}}}")


# Which column is what


def choose_answer(columns: Sequence[Column], table: Table) -> tuple[Column, bool]:
    """(the column of the answers, whether they are labels). UnsupportedError if there is none."""
    few = [column for column in columns if column.has_few_values and not is_named_answer(column)]
    free = [column for column in columns if column not in few and is_free(column)]
    sure = [one for one in few if one.name in table.label_names or one.hint in ("label", "labels")]
    if sure:
        return sure[0], True
    if named := sort_by_name([one for one in free if can_fill(one)], (*ANSWER_NAMES, "label")):
        return named[0], False
    if named := sort_by_name(few, (*LABEL_NAMES, *ANSWER_NAMES)):
        return named[0], True
    short = [one for one in few if len(one.different) <= 20 and one.words <= 3]
    if short and len(columns) > 1:
        return min(reversed(short), key=lambda one: len(one.different)), True
    free = [one for one in free if can_fill(one)]
    if len(free) > 1:
        return max(free, key=lambda one: one.words), False
    problem = f"No column of {table.path} looks like labels or answers ({name_all(table.columns)})."
    raise UnsupportedError(problem, "Add one, or write a template; templates/ has examples.")


def is_named_answer(column: Column) -> bool:
    """True for a column such as `answer` with more than a few texts, even if many rows share them."""
    return column.hint in ANSWER_NAMES and len(column.different) > FEW_ANSWERS and not column.is_numeric


def sort_by_name(columns: Sequence[Column], names: Sequence[str]) -> list[Column]:
    """The columns with one of these names, the surest first."""
    found = [column for column in columns if column.hint in names]
    return sorted(found, key=lambda column: names.index(column.hint))


def is_free(column: Column) -> bool:
    """True for a column of texts that are neither ids nor numbers."""
    return bool(column.filled) and not column.is_id and not column.is_numeric


def can_fill(column: Column) -> bool:
    """True if {name} is a placeholder."""
    braces = f"{{{column.name}}}"
    return bool(PLACEHOLDER.fullmatch(braces)) and not guess_placeholder(braces)


def choose_shown(columns: Sequence[Column], answer: Column, is_label: bool) -> list[Column]:
    """The columns that the task shows: no ids, and none that give the answer away.

    Beside free answers, a column of few values says of what sort a row is; it is left out.
    """
    others = [
        one
        for one in columns
        if one is not answer and can_fill(one) and one.filled and not one.is_id and one.hint != answer.hint
        if not tells(one, answer) and not (is_label and one.name == "label")
    ]
    texts = [one for one in others if not one.is_numeric and len(one.different) > 1]
    if not is_label:
        texts = [one for one in texts if not one.has_few_values or one.words > 3] or texts
    return texts or others


def tells(column: Column, answer: Column) -> bool:
    """True if each value of a column always comes with the same answer.

    That can be chance for values that come a few times, unless each answer comes with one value too.
    """
    pairs = {
        (one.casefold(), simplify_number(other).casefold())
        for one, other in zip(column.cells, answer.cells, strict=True)
        if one and other
    }
    if not column.has_few_values or not 1 < len(pairs) == len({one for one, _ in pairs}):
        return False
    often = len(column.filled) >= 5 * len(column.different)
    return often or len(pairs) == len({other for _, other in pairs})


def choose_group(shown: Sequence[Column]) -> list[str]:
    """The column of longer texts that several rows share, in a list; [] if the split sees to it."""
    found = [one for one in shown if one.words >= 4 and one.repeated > 0.05 and "" not in one.cells]
    longest = max(found, key=lambda one: one.words, default=None)
    if longest is None or len(shown) == 1 or longest.name == "text":
        return []
    return [longest.name]


# What is written


def write_task(shown: Sequence[Column]) -> str:
    """The user message: the text alone, or a line for each column with its name."""
    if len(shown) == 1:
        return f"{{{shown[0].name}}}"
    return "\n".join(f"{title(one)}: {{{one.name}}}" for one in shown)


def title(column: Column) -> str:
    """A column's name for people: Alternative a."""
    words = " ".join(column.hint.replace("_", " ").split()) or column.name
    return words[:1].upper() + words[1:]


def instruct(shown: Sequence[Column], answer: Column, labels: Mapping[Label, str]) -> str:
    """The instruction: which labels there are, or what free answers are for; "" if each row says that."""
    if not labels:
        # A question alone says what is asked, and the LoRA can be asked it without a system message.
        asked = any(one.hint in ("instruction", "prompt") for one in shown)
        asked = asked or [one.hint for one in shown] == ["question"]
        return "" if asked else INSTRUCTIONS.get(answer.hint, "")
    what = f"the {shown[0].hint.replace('_', ' ')}" if len(shown) == 1 else "what follows"
    if len(labels) > LISTED:
        return f"Read {what} and answer with its category."
    return f"Read {what} and answer with one of these: {', '.join(labels.values())}."


def name_labels(answer: Column, columns: Sequence[Column], table: Table) -> dict[Label, str]:
    """Each label with its answer: the name that the table gives it, or the label itself."""
    names = {str(number): name for number, name in enumerate(table.label_names.get(answer.name, []))}
    spellings = Counter(simplify_number(cell) for cell in answer.filled)
    known: dict[str, str] = {}
    for text, _ in spellings.most_common():  # of several spellings, the most frequent
        known.setdefault(text.casefold(), text)
    if not names and answer.is_numeric:
        names = find_names(answer, columns)
    found = {
        text: names.get(text, text) for text in {**dict.fromkeys(names), **dict.fromkeys(known.values())}
    }
    texts = {label: text.replace("{", "(").replace("}", ")") for label, text in found.items()}
    numbers = {as_whole_number(label) for label in texts}
    if None not in numbers and len(numbers) == len(texts):  # 007 beside 7 is another label
        return {int(label): text for label, text in sorted(texts.items(), key=lambda item: int(item[0]))}
    return dict(sorted(texts.items()))


def find_names(answer: Column, columns: Sequence[Column]) -> dict[str, str]:
    """What another column calls each label, such as `label_text`; {} if there is no such column."""
    for column in columns:
        if column is answer or column.is_numeric or not tells(column, answer) or not tells(answer, column):
            continue
        pairs = zip(answer.cells, column.cells, strict=True)
        return {simplify_number(label): name for label, name in pairs if label and name}
    return {}


def comment(table: Table, template: Template, unused: Sequence[str], columns: Sequence[Column]) -> list[str]:
    """The lines above the template."""
    name = " ".join(table.path.name.split())
    lines = [
        f"A first template for {name}: change what does not fit, and look at what comes of it with",
        f"`python -m helpers.tasks preview {name} --template FILE`. {{words in braces}} are columns.",
    ]
    if template.label and all(isinstance(label, int) for label in template.label):
        lines.append("The labels are numbers: write what each of them means as its answer.")
    if unused:
        lines.append(f"Not used: {name_all(unused)}.")
    left_out = set(unused)
    for one in columns:
        if one.name in left_out and one.repeated > 0.05 and one.is_id:
            lines.append(f"If rows with the same {one.name} belong together, write `group_by: {one.name}`.")
    return lines
