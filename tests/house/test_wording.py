"""The English of errors, docstrings, comments and pages. Other tests ask only for the class of an error."""

import ast
import re
import socket

import pytest
from support.lessons import NOTEBOOKS, PATHS, read_markdown, read_notebook

from helpers import PROJECT, training, weights
from helpers.common.errors import KitError
from helpers.common.paths import find_file, resolve_inside
from helpers.server.ports import refuse_taken_port
from helpers.tasks.template_file import load_template

PROGRAM = (
    r"program|server|model|client|template|tokenizer|library|command|loader|WebUI|PEFT|TRL|vLLM|llama\.cpp"
)
VERBS = r"sees|has|can|must|knows|gets|needs|finds|would|reads|may|should|does|takes"

# Phrases that read like a translation, and what to write instead.
BANNED = {
    r"\banew\b": "again",
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\bwhence\b": "where ... from",
    r"\bfrom where\b": "and from there",
    r"\ban own\b": "a ... of its own",
    r"\b(is|are) no (valid|correct|longer a valid)\b": "is not a valid ...",
    r"(?<!there )\b(is|are) no (?!longer\b|better\b|more\b|different\b)[a-z]+": "is not a ...",
    r"\btold apart\b": "distinguished",
    r"\bknows no\b": "does not have",
    r"\bstands in for\b": "replaces",
    # A clock may stand in a room, a cell may run as it stands, and what stands out or for something may stay.
    r"(?<!as it )\bstands?\b(?![-,.;:]| (out|for|still|up|alone|by|side|a chance)\b)": "is",
    r"\bwhat for\b": "why",
    r"\band what not\b": "and what it is not good for",
    r"\b(shall|hitherto|thereby|thereof|therein|wherein|herein|therewith|amongst|whilst)\b": "a plainer word",
    r"(?<!, )\bbut for\b": "except for",
    r"\bin the place of\b": "in place of, instead of",
    r"\bthe very (?!same|first|last|best|end)[a-z]+": "exactly the ...",
    r"\bcalled so\b|\bso-called\b": "of that name",
    r"\bthe like\b": "similar",
    r"\bthe one of\b": "that of, ...'s",
    r"\bthe road\b": "the way, all of it",
    r"\bhere and there\b": "in some places",
    r"\bhundredths\b(?! of a)": "a percentage, or milliseconds",
    r"\bas it came\b": "as it was, unchanged",
    r"\bcomes? again\b": "repeat, come back",
    r"\bgo(es|ing)? on with\b": "continue",
    r"\btakes? over the\b": "copy, read",
    r"\b(held|holds?) (it |them |each )?against\b": "compare with",
    r"\bspeaks? (for|against)\b": "show that, be a reason to",
    r"\bmakes? one \w+( \w+)? of (a|the|all)\b": "turn ... into one ...",
    # "one" for a person. "This one has" is about a thing.
    rf"\b(what|how|there|where|if|when|and) one (only |also |often )?({VERBS})\b|\bdoes one\b": "you",
    r"\bfor who [a-z]+s\b": "for whoever ...",
    # A person wants something; a program does not.
    rf"\b({PROGRAM})s? wants?\b|\bas \w+ wants\b": "needs, expects",
    # "It is to be done" for what will or should be done; "an answer is to the point" is something else.
    r"\b(it|that|this|they|who|what|which|others?|file|folder|program|server|answer|row|2023) "
    r"(is|are) to "
    r"(?!the\b|an?\b|each\b|its\b|say\b|this\b)[a-z]+": "will, should",
    r"\bas well as\b[^.]{0,60}\btoo\b": "as well as, without too",
    r"\bhow (it|this|that|they) looks? like\b": "what it looks like",
    r"\b(allows?|suggests?|enables?) to\b": "lets you",
    r"\binformations\b|\bresp\.|\btill\b|\bup to now\b": "a plainer word",
}
# A sentence that begins with "Who does this" and is not a question. Only pages: a docstring may be a title.
BANNED_ON_PAGES = {r"(?:^|[.:] )Who [a-z]+s [^?.!|`]*\.": "Whoever ..., anyone who ..."}

ROOMS = sorted({path.parent for folder in ("helpers", "tools") for path in (PROJECT / folder).rglob("*.py")})
PAGES = [
    *(PROJECT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY")),
    *sorted(NOTEBOOKS.glob("*.md")),
    *sorted((PROJECT / "data").glob("*/README.md")),
    PROJECT / "launch" / "README.md",
    *PATHS,
    NOTEBOOKS / "your_turn.ipynb",
]
COMMENTED = sorted([*(PROJECT / "templates").glob("*.yaml"), *(PROJECT / "launch").glob("*.yaml")])


def list_texts(path):
    """The docstrings, comments and other texts of a module with the numbers of their lines."""
    source = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    for number, line in enumerate(source.splitlines(), 1):
        if "# " in line:
            yield number, line.partition("# ")[2]


def list_paragraphs(text):
    """The paragraphs of Markdown, a list's entry and a table's line each alone, as one line without code."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    text = re.sub(r"`[^`\n]*`|\]\([^)]*\)|<!--.*?-->", "`", text)
    for paragraph in re.split(r"\n\s*\n|\n(?=\s*(?:[-|#>]|\d+\.)\s?)", text):
        if words := " ".join(paragraph.split()):
            yield words


def read_page(path):
    """The Markdown of a page or of a notebook's cells."""
    return read_markdown(read_notebook(path)) if path.suffix == ".ipynb" else path.read_text(encoding="utf-8")


def find_phrases(text, banned):
    """What to write instead of what, with the words around it."""
    for phrase, better in banned.items():
        for match in re.finditer(phrase, text, re.IGNORECASE):
            around = text[max(match.start() - 30, 0) : match.end() + 30]
            yield f"write '{better}' instead of '{match[0]}' in '... {around} ...'"


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_texts_do_not_sound_translated(room):
    found = [
        f"{path.name}:{number}: {advice}"
        for path in room.glob("*.py")
        for number, text in list_texts(path)
        for advice in find_phrases(" ".join(text.split()), BANNED)
    ]
    assert not found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_pages_do_not_sound_translated(page):
    paragraphs = list_paragraphs(read_page(page))
    assert [advice for text in paragraphs for advice in find_phrases(text, BANNED | BANNED_ON_PAGES)] == []


@pytest.mark.parametrize("file", COMMENTED, ids=lambda file: file.name)
def test_comments_of_templates_do_not_sound_translated(file):
    lines = file.read_text(encoding="utf-8").splitlines()
    comments = " ".join(line.partition("#")[2].strip() for line in lines)
    assert list(find_phrases(comments, BANNED)) == []


TRANSLATED = """what one sees; and there one has to read; a program wants it; as nbconvert wants them; this
is to load; what is to be done; they are to have; Padding stands on the left; two values stand in it; it is
no model; the accuracy, the one of lesson 4; the same but for one; what for; nothing speaks against it; a
folder that is called so; an own folder; make it anew; from where it comes; the very ports; it takes two
hundredths; the draw comes again; a base model goes on with a text; makes one text of the messages; for who
holds it; what it can, and what not; the shapes are copied, it takes over the rank; held against the same
rival"""
NATIVE = """This one has ten. | the task is to classify | how close an answer is to the right one | the row
is to the left | each cell runs as it stands | 'x' stands for a home | a stand-in | in which room it stands,
and why | it stands out | there is no model | it is no longer there | good, but for a GPU it is slow | the
very same | two hundredths of a second | if you want | a reader wants to know | which one has it? | again
and again | it goes on | one of the two | that is to say | another program takes over | what it makes of
it"""


@pytest.mark.parametrize("phrase", [phrase.strip() for phrase in TRANSLATED.split(";")])
def test_search_finds_a_translated_phrase(phrase):
    assert list(find_phrases(" ".join(phrase.split()), BANNED))


@pytest.mark.parametrize("phrase", [phrase.strip() for phrase in NATIVE.split("|")])
def test_search_leaves_plain_english_alone(phrase):
    assert list(find_phrases(" ".join(phrase.split()), BANNED)) == []


def test_search_reads_lists_tables_and_wrapped_lines_but_no_code():
    text = "A program\nwants it.\n\n- first\n- `an own`\n\n| a | b |\n\n"
    text += "```\nan own\n```\nWho tries it is\nright."
    found = list(list_paragraphs(text))
    assert found[0] == "A program wants it." and found[-1] == "Who tries it is right."
    assert not any("an own" in words for words in found)
    assert list(find_phrases(found[-1], BANNED_ON_PAGES)) and list(find_phrases(found[0], BANNED))


def read_template(folder, text):
    path = folder / "quiz.yaml"
    path.write_text(text)
    return load_template(path)


def ask_for_a_taken_port(folder):
    with socket.create_server(("127.0.0.1", 0)) as other:
        refuse_taken_port(other.getsockname()[1])


CASES = {
    "a file that is not there": (
        lambda folder: find_file(folder / "rows.csv", "CSV file"),
        r"No CSV file at .*rows\.csv\. Give the path of an existing CSV file \(tried .*\)\.",
    ),
    "a name that leads out of its folder": (
        lambda folder: resolve_inside(folder, "../mine", "LoRA"),
        r"'\.\./mine' is not a valid name for a LoRA\. Use a plain folder name in .*\.",
    ),
    "a model that is not there": (
        lambda folder: weights.find_model("mine", folder),
        r"No model 'mine' in .* \(there: .*\)\. .*\.",
    ),
    "a preset that is not there": (
        lambda folder: training.pick_settings("mine"),
        r"'mine' is not a preset\. Give a YAML file, or one of: .*\.",
    ),
    "a template that is not YAML": (
        lambda folder: read_template(folder, "task: [unclosed"),
        r"Line 1 of .*quiz\.yaml: this is not valid YAML \(.*\)\. A text with .*\.",
    ),
    "a template without labels": (
        lambda folder: read_template(folder, "instruction: Judge.\ntask: '{text}'\n"),
        r"The template .*quiz\.yaml has no label \(or .*\)\. Add it; .*\.",
    ),
    "a port that is taken": (
        ask_for_a_taken_port,
        r"Port \d+ is in use by another program\. Choose another one, such as \d+, which is free\.",
    ),
}


@pytest.mark.parametrize("call, words", CASES.values(), ids=CASES)
def test_errors_say_what_is_wrong_and_what_to_do(tmp_path, call, words):
    with pytest.raises(KitError) as caught:
        call(tmp_path)
    assert re.fullmatch(words, str(caught.value))
