"""Training data in the WebUI's forms, written and read."""

import json

import pytest

from helpers import clients, tasks
from helpers.clients.webui import find_folder
from helpers.common.errors import AlreadyThereError, DamagedError, NotFoundError, UnsupportedError, UsageError


def test_data_of_2023_have_a_format_that_gives_the_kits_own_training_text(tiny, rows, template, tmp_path):
    data, form = clients.write_dataset("2023", tmp_path, "colleges", rows, template, tiny.tokenizer)
    assert data == tmp_path / "training/datasets/colleges.json"
    assert form == tmp_path / "training/formats/colleges-format.json"
    entry = json.loads(data.read_text())[1]
    ((keys, text),) = json.loads(form.read_text()).items()
    assert set(keys.split(",")) == set(entry)
    for key, value in entry.items():  # as the WebUI fills it
        text = text.replace(f"%{key}%", value)
    example = template.build_example(rows[1])
    messages = example["prompt"] + example["completion"]
    assert text == tiny.tokenizer.apply_chat_template(messages, tokenize=False).rstrip()


@pytest.mark.parametrize("era", ["2023", "today"])
def test_data_can_be_read_back(era, tiny, rows, template, tmp_path):
    path, *_ = clients.write_dataset(era, tmp_path, "colleges", rows, template, tiny.tokenizer)
    assert path == find_folder(era, tmp_path, "training/datasets") / "colleges.json"
    examples = [template.build_example(row) for row in rows]
    expected = [{"prompt": each["prompt"], "completion": each["completion"]} for each in examples]
    assert clients.read_dataset(path) == expected


def test_data_for_an_unknown_era_are_refused(tiny, rows, template, tmp_path):
    with pytest.raises(UsageError, match="2024"):
        clients.write_dataset("2024", tmp_path, "colleges", rows, template, tiny.tokenizer)
    assert list(tmp_path.glob("*training*")) == []


def test_alpaca_rows_are_read(home):
    rows = [
        {"instruction": "Add.", "input": "1 1", "output": "2"},
        {"instruction": "Hi", "output": "Hello"},
        {"instruction": "Hi", "input": "", "output": "Hello"},
    ]
    (home / "a.json").write_text(json.dumps(rows))
    first, second, third = clients.read_dataset("a.json")
    assert first == {
        "prompt": [{"role": "user", "content": "Add.\n\n1 1"}],
        "completion": [{"role": "assistant", "content": "2"}],
    }
    assert second["prompt"] == third["prompt"] == [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[]", b'{"messages": []}', b"[" * 100_000])
def test_file_without_a_list_of_rows_is_refused_by_name(home, content):
    (home / "d.json").write_bytes(content)
    with pytest.raises(DamagedError, match="d.json"):
        clients.read_dataset("d.json")


@pytest.mark.parametrize(
    "row",
    [
        {"text": "x"},
        {"messages": [{"role": "user", "content": "x"}]},
        {"messages": [{"role": "user", "content": "x"}, {"role": "user", "content": "y"}]},
        {"messages": [{"role": "user", "content": "x"}, {"role": "assistant"}]},
        {"messages": [{"role": "assistant", "content": "x"}]},
        {"messages": ["x", "y"]},
        {"messages": [1, 2]},
        "x",
    ],
)
def test_row_of_another_form_is_refused_by_its_number(home, row):
    good = {"instruction": "Hi", "output": "Hello"}
    (home / "d.json").write_text(json.dumps([good] * 41 + [row]))
    with pytest.raises(DamagedError, match="42 .*d.json"):
        clients.read_dataset("d.json")


def test_missing_file_is_named(home):
    with pytest.raises(NotFoundError, match="nothing.json"):
        clients.read_dataset("nothing.json")


def test_rows_without_an_instruction_have_a_format_of_their_own(tiny, tmp_path):
    template = tasks.Template("quiz", "", "{question}", answer="{answer}")
    rows = [{"question": "Q", "answer": "A"}]
    data, form = clients.write_dataset("2023", tmp_path, "quiz", rows, template, tiny.tokenizer)
    assert json.loads(data.read_text()) == [{"user": "Q", "assistant": "A"}]
    assert list(json.loads(form.read_text())) == ["user,assistant"]
    assert clients.read_dataset(data) == [template.build_example(rows[0])]


def test_chats_of_several_turns_are_written_for_today_only(tiny, tmp_path):
    turn = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    rows, form = [{"messages": turn * 2}], tasks.ChatForm()
    (path,) = clients.write_dataset("today", tmp_path, "chats", rows, form, tiny.tokenizer)
    assert json.loads(path.read_text()) == rows
    with pytest.raises(UnsupportedError, match="today"):
        clients.write_dataset("2023", tmp_path, "chats", rows, form, tiny.tokenizer)


@pytest.mark.parametrize("era", ["2023", "today"])
def test_data_replace_what_was_written_before_and_no_file_of_the_users(era, tiny, rows, template, tmp_path):
    for _ in range(2):
        written = clients.write_dataset(era, tmp_path, "colleges", rows, template, tiny.tokenizer)
    for path in written:
        kept = path.read_text(encoding="utf-8")
        path.write_text('[{"mine": "x"}]')
        with pytest.raises(AlreadyThereError, match=path.name):
            clients.write_dataset(era, tmp_path, "colleges", rows, template, tiny.tokenizer)
        assert path.read_text() == '[{"mine": "x"}]'
        path.write_text(kept, encoding="utf-8")


@pytest.mark.parametrize("name", ["../y", "{}/y", "a/b", ".", "", "\0", 5])
def test_data_are_written_into_the_folder_of_data_sets_only(name, tiny, rows, template, tmp_path):
    name = name.format(tmp_path) if isinstance(name, str) else name
    with pytest.raises(UsageError):
        clients.write_dataset("today", tmp_path / "webui", name, rows, template, tiny.tokenizer)
    assert list(tmp_path.rglob("*y.json")) == list(tmp_path.rglob("webui")) == []


@pytest.mark.parametrize("kind", ["bogus", None, "../models"])
def test_webui_has_no_other_folders(kind, tmp_path):
    with pytest.raises(UsageError, match="kind"):
        find_folder("today", tmp_path, kind)
