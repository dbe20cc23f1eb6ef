"""Command lines and settings made at random, and a home in which no command can do much work.

The model in it, models/hollow, is complete by its files and has no weights: every command comes as far as
loading it, and no further.
"""

import contextlib
import importlib
import io
import json
import re
from functools import cache
from pathlib import Path

import pandas as pd
import yaml
from hypothesis import strategies as st
from safetensors.torch import save_file

from helpers.common.command import run_command
from helpers.common.training_settings import LIMITS, TrainingSettings
from support.tiny import make_tiny_adapter, make_tiny_model

DATA = ["--data", "rows.csv", "--template", "template.yaml"]
# Of each module, command lines that are right as far as the model.
COMMANDS = {
    "helpers.tasks": [
        ["check", "rows.csv", "--template", "template.yaml", "--model", "hollow"],
        ["suggest", "rows.csv"],
        ["preview", "chats.json", "--model", "hollow"],
    ],
    "helpers.weights": [
        ["list"],
        ["size", "hollow"],
        ["branches", "someone/something"],
        ["fetch", "someone/something"],
        ["gptq", "hollow"],
        ["export", "hollow", "--for", "webui-2023"],
    ],
    "helpers.adapters": [
        ["list"],
        ["prove", "mine"],
        ["merge", "mine", "--output", "merged"],
        ["export", "mine", "--for", "vllm"],
    ],
    "helpers.server": [["--model", "hollow", "--extensions", "openai", "--openai-port", "0"]],
    "helpers.training": [
        ["--model", "hollow", *DATA, "--output", "loras/new", "--settings", "settings.yaml"]
    ],
    "helpers.evaluation": [["--model", "hollow", *DATA], ["--model", "hollow", "--lora", "mine", *DATA]],
    "helpers.tutorial.formats": [["hollow"]],
    "helpers.tutorial": [["--only", "99"]],
    "benchmarks.gpu": [["--part", "nothing"]],
    "benchmarks.learning": [["--settings", "nothing", "--seeds", "x"]],
    "tools.slides": [["--output", "slides.html", "more"]],
    "tools.rooms": [[], ["more"]],
}
# Ends whatever line is made for these, which would otherwise do their work, and for a server the process.
ENDS = {
    "helpers.tutorial": ["--only", "99"],
    "benchmarks.gpu": ["--part", "nothing"],
    "benchmarks.learning": ["--seeds", "x"],
    "tools.slides": ["more"],
}
LEFT_OUT = {"--stop-with-parent", "--in-place"}
CODES = {"helpers.tasks": {0, 1, 2}}  # `check` returns 1 for data that cannot be trained on
ODD = [
    "", " ", "0", "-1", "-0", "1", "2", "0.5", "1.5", "1e-400", "1e400", "nan", "NaN", "inf", "-inf",
    "1_000", "٣", "0x10", "9" * 5000, *(str(2**bits) for bits in (31, 32, 63, 64)), "a" * 300, "ä" * 200,
    "a/" * 200 + "b", "a\0b", "a\udcff", "\ud800", "null", "true", "[]", "{}", "--", "-", "=", "%s",
    "{text}", "\n", "a\nb", "\x1b[31m", "\u202e", "日本", "🙂", "-h", "--help", ".hidden", "*", "hollow",
    "mine", "loras/mine", "models/hollow", "rows.csv", "chats.json", "template.yaml", "settings.yaml",
    "bad.yaml", "all-linear", "auto", "vicuna", "own", "vllm", "test", "api", "openai", "transformers",
    "llama.cpp", "float32", "tiny", "large", "http://127.0.0.1:9/v1", "http://", "a:b",
]  # fmt: skip


def make_home(home: Path) -> Path:
    """Fills a home with models/hollow, loras/mine, a table, chats, a template and settings; returns it."""
    model = make_tiny_model(home / "models" / "hollow")
    make_tiny_adapter(home / "loras" / "mine", model)
    save_file({}, model / "model.safetensors")
    rows = [{"question": f"What is {n}?", "label": f"{n % 2}"} for n in range(20)]
    pd.DataFrame(rows).to_csv(home / "rows.csv", index=False)
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    (home / "chats.json").write_text(json.dumps([{"messages": turns}] * 8))
    (home / "template.yaml").write_text("task: '{question}'\nlabel:\n  0: even\n  1: odd\n")
    (home / "settings.yaml").write_text("epochs: 1\n")
    (home / "bad.yaml").write_bytes(b"\xff\xfe[")
    return home


def is_harmless(value: str) -> bool:
    """Whether a value, taken for a path, stays below the working directory."""
    return not value.startswith(("/", "~", "\\")) and ".." not in value and value.strip("./ ") != ""


def values() -> st.SearchStrategy[str]:
    """Values of arguments: those that are known to be odd, names that are there, numbers, and any text."""
    numbers = st.integers().map(str) | st.floats().map(str)
    known = st.sampled_from(ODD).filter(lambda value: not value.strip() or is_harmless(value))
    return known | numbers | st.text(st.characters(), max_size=20).filter(is_harmless)


@cache
def list_options(module: str) -> list[str]:
    """The options of a command, and of its subcommands, as --help shows them."""
    found = set(re.findall(r"--[a-z][a-z-]+", run(module, ["--help"])[1]))
    for line in COMMANDS[module]:
        if line and not line[0].startswith("-"):
            found |= set(re.findall(r"--[a-z][a-z-]+", run(module, [line[0], "--help"])[1]))
    return sorted(found - LEFT_OUT)


def command_lines(module: str) -> st.SearchStrategy[list[str]]:
    """Command lines of a module."""
    return make_line(module, list_options(module))


@st.composite
def make_line(draw, module: str, options: list[str]) -> list[str]:
    """A command line that is right as far as the model, with up to three changes."""
    line = list(draw(st.sampled_from(COMMANDS[module])))
    for _ in range(draw(st.integers(1, 3))):
        change = draw(st.sampled_from(["option", "flag", "replace", "insert", "drop"]))
        place = draw(st.integers(0, max(len(line) - 1, 0)))
        if change == "option":
            option, value = draw(st.sampled_from(options)), draw(values())
            line += draw(st.sampled_from([[option, value], [f"{option}={value}"]]))
        elif change == "flag":
            line.append(draw(st.sampled_from(options)))
        elif change == "insert":
            line.insert(place, draw(values()))
        elif line:
            line[place : place + 1] = [draw(values())] if change == "replace" else []
    return line + ENDS.get(module, [])


def run(module: str, line: list[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command that is run in this process."""
    name = module if module.endswith(("formats", "learning", "slides", "rooms")) else f"{module}.__main__"
    main = importlib.import_module(name).main
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = run_command(main, line)
        except SystemExit as end:  # --help
            code = end.code if isinstance(end.code, int) else 0
    return code, out.getvalue(), err.getvalue()


def find_fault(module: str, code: int, err: str) -> str:
    """What is wrong with the end of a command; empty if it is right: a known code, one line."""
    if "Traceback" in err:
        return f"a traceback: {err}"
    if code not in CODES.get(module, {0, 2}):
        return f"exit code {code}: {err}"
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    if code == 2 and len(errors) != 1:
        return f"{len(errors)} lines of errors: {err}"
    return f"a line of {len(errors[0])} characters" if errors and len(errors[0]) > 2000 else ""


# Settings


def setting_values() -> st.SearchStrategy:
    """What a value of a YAML file can be."""
    numbers = st.integers() | st.floats() | st.sampled_from([10**400, 2**32, 1e-300, 1e300, 0.5, 1])
    texts = st.text(max_size=20) | st.sampled_from(
        ["all-linear", "q_proj", "cosine", "sgd", "last", "lomo", "(("]
    )
    plain = st.none() | st.booleans() | numbers | texts | st.dates() | st.binary(max_size=5)
    return plain | st.lists(plain, max_size=3) | st.dictionaries(texts, plain, max_size=3)


def settings_values() -> st.SearchStrategy[dict]:
    """Settings: most keys are known, and numbers are often near the limits."""
    known = [field for field in TrainingSettings.__dataclass_fields__]
    near = st.sampled_from(sorted({end for ends in LIMITS.values() for end in ends})).flatmap(
        lambda end: st.sampled_from([end, end - 1, end + 1, -end, float(end)])
    )
    keys = st.sampled_from(known) | st.text(max_size=10) | st.integers() | st.none() | st.booleans()
    return st.dictionaries(keys, setting_values() | near, max_size=4)


def yaml_texts() -> st.SearchStrategy[bytes]:
    """Files that should be YAML: settings, pieces of YAML in a row, and any bytes."""
    pieces = st.sampled_from(
        [
            *(
                "a",
                "task",
                "label",
                "epochs",
                "0",
                "1",
                "x",
                ": ",
                ":",
                "- ",
                "\n",
                "  ",
                "\t",
                "[",
                "]",
                "{",
                "}",
                ",",
            ),
            *(
                "&a ",
                "*a",
                "!!int ",
                "!!float ",
                "!!python/object:os.system ",
                "!!timestamp ",
                "<<",
                "? ",
                "|-\n",
                ">",
            ),
            *(
                "'",
                '"',
                "#",
                "%YAML 9.9\n",
                "---\n",
                "...\n",
                "2001-99-99",
                "0b",
                "1:99",
                "0x",
                "{text}",
                "~",
                "\0",
            ),
            *("\ufeff", "\ud7ff", '"\\ud800"', "9" * 5000, "0x" + "f" * 5000, "[" * 400, "{a: " * 400, "é"),
        ]
    )
    rows = st.lists(pieces, max_size=12).map(lambda parts: "".join(parts).encode())
    template = st.lists(st.sampled_from(TEMPLATE_LINES), max_size=8).map("\n".join).map(str.encode)
    dumped = settings_values().map(lambda settings: yaml.safe_dump(settings, allow_unicode=True).encode())
    return dumped | rows | template | st.binary(max_size=40)


TEMPLATE_LINES = [
    "task: '{question}'", "task: 1", "task: [1, 2]", "task: {text}", "task: ~",
    'task: "{question} \\ud800"', "instruction: 2001-01-01", "instruction: {a: b}", "label:", "  0: even",
    "  1: odd", "  +1: odd", "  01: odd", f"  {'9' * 5000}: many", "label: {0: a, 1: b}",
    "label: {'': a, 1: b}", "label: [a, b]", "answer: '{answer}'", "answer: 5", "examples: 3",
    "examples: [{user: a, assistant: b}]", "examples: [[a]]", "group_by: question", "group_by: [[a]]",
    "optional: [question]", "label_column: label", "label_column: {}", "1: 2", "? [a]", "taks: x",
    "&x a: *x", "label: &x {a: *x, b: c}", "optional: &x [*x]", "<<: {task: a}",
]  # fmt: skip
