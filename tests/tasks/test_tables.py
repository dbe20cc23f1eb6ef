"""What `read_table` finds out and says about a table, and the forms that are folders."""

import glob
import json
import os
import socket
import subprocess
import sys

import datasets
import pandas as pd
import pytest

from helpers import PROJECT
from helpers.common.errors import (
    DamagedError,
    KitError,
    MissingPackageError,
    NotFoundError,
    UnsupportedError,
)
from helpers.tasks.files.raw_table import as_text
from helpers.tasks.files.tables import read_table

PLAIN = "text,label\nfine,1\nbad,0\n"
FEATURES = datasets.Features(
    {
        "text": datasets.Value("string"),
        "label": datasets.ClassLabel(names=["negative", "positive"]),
        "score": datasets.Value("float32"),
        "messages": [{"role": datasets.Value("string"), "content": datasets.Value("string")}],
        "raw": datasets.Value("binary"),
    }
)
CHAT = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def write(tmp_path):
    def write(content, name="d.csv"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.fixture
def dataset():
    columns = {
        "text": ["fine", "NA", None],
        "label": [1, 0, None],
        "score": [0.1, 2.0, None],
        "messages": [CHAT, [], None],
        "raw": [b"\xff", b"", None],
    }
    return datasets.Dataset.from_dict(columns, features=FEATURES)


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """Name look-ups fail, and the environment does not say that the hub is offline."""
    asked = []

    def refuse(*address, **options):
        asked.append(address)
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return asked


def read_texts(path):
    return [row["text"] for row in read_table(path).rows]


# Places and notes


def test_place_names_the_row_and_the_line_on_which_it_begins(write):
    table = read_table(write('text,label\n\n"a\nb",1\n\nc,0\n'))
    assert table.places == ["row 1 (line 3)", "row 2 (line 6)"]


def test_place_counts_the_line_that_declares_the_separator(write):
    assert read_table(write("sep=;\ntext;label\na;1\n")).places == ["row 1 (line 3)"]


def test_place_in_a_workbook_is_the_row_of_the_sheet(tmp_path):
    pytest.importorskip("openpyxl", reason="the extra xlsx is not installed")
    frame = pd.DataFrame([[None, None], ["text", "label"], [None, None], ["fine", 1]])
    frame.to_excel(tmp_path / "d.xlsx", index=False, header=False)
    table = read_table(tmp_path / "d.xlsx")
    assert table.rows == [{"text": "fine", "label": "1"}] and "row 4" in table.places[0]


def test_plain_file_has_no_notes(write):
    assert read_table(write(PLAIN)).notes == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (PLAIN.replace(",", ";"), ["semicolon"]),
        (PLAIN.replace(",", "\t"), ["tab"]),
        ("sep=:\n" + PLAIN.replace(",", ":"), ["':'"]),
        (PLAIN.encode("utf-16"), ["utf-16"]),
        ("text\ncafé\n".encode("cp1252"), ["cp1252", "UTF-8"]),
        (",text\n0,fine\n", ["first column"]),
        ("text ,label\nfine,1\n", ["text"]),
        (PLAIN + ",\n", ["1"]),
        ('text\tlabel\n"fine\t1\n', ["tab", "ordinary"]),
        ('{"data": [{"text": "fine"}]}', ["'data'"]),
    ],
)
def test_notes_say_what_was_found_out(write, content, words):
    notes = " ".join(read_table(write(content)).notes)
    assert [word for word in words if word not in notes] == []


def test_note_names_the_sheet_that_was_read(tmp_path):
    pytest.importorskip("openpyxl", reason="the extra xlsx is not installed")
    with pd.ExcelWriter(tmp_path / "d.xlsx") as book:
        for name in ("Reviews", "Other"):
            pd.DataFrame({"text": [name], "n": [2.0]}).to_excel(book, sheet_name=name, index=False)
    table = read_table(tmp_path / "d.xlsx")
    assert table.rows == [{"text": "Reviews", "n": "2"}] and "Reviews" in table.notes[0]


# Columns


def test_separator_is_the_one_whose_header_holds_the_wanted_columns(write):
    path = write("text,really;label;c,d,e\nx,y;1;z,z,z\n")
    assert read_table(path).columns == ["text", "really;label;c", "d", "e"]
    assert read_table(path, ["text,really", "label"]).columns == ["text,really", "label", "c,d,e"]


def test_error_about_an_empty_file_names_the_wanted_columns(write):
    with pytest.raises(DamagedError, match="question, answer"):
        read_table(write(""), ["question", "answer"])


def test_reading_a_large_cell_never_lowers_the_limit_of_the_csv_module(write):
    import csv

    before = csv.field_size_limit()
    read_table(write(PLAIN))
    assert csv.field_size_limit() >= before


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1"),
        (1.0, "1"),
        (-0.5, "-0.5"),
        (1e300, "1e+300"),
        (True, "true"),
        (None, ""),
        (float("nan"), ""),
        (float("inf"), "inf"),
        (pd.NaT, ""),
        (pd.Timestamp("2026-01-31"), "2026-01-31"),
        (pd.Timestamp("2026-01-31 10:00"), "2026-01-31 10:00:00"),
        (" a ", " a "),
    ],
)
def test_cell_as_text(value, text):
    assert as_text(value) == text


# Parquet, Arrow and folders


def test_parquet_keeps_chats_and_names_of_labels(dataset, tmp_path, no_network):
    path = tmp_path / "a [1]*.parquet"
    dataset.to_parquet(path)
    table = read_table(path)
    assert table.rows[0] == {"text": "fine", "label": "1", "score": "0.1", "messages": CHAT}
    assert table.rows[1] == {"text": "NA", "label": "0", "score": "2", "messages": []}
    assert set(table.rows[2].values()) == {""}
    assert table.label_names == {"label": ["negative", "positive"]} and "raw" in table.notes[0]
    assert no_network == [] and not (tmp_path / "cache").exists()


def test_objects_and_dates_of_parquet_stay_or_become_text(tmp_path):
    rows = {"meta": [{"n": 1}], "day": [pd.Timestamp("2026-01-31")], "tags": [["a", "b"]]}
    pd.DataFrame(rows).to_parquet(tmp_path / "d.parquet")
    rows = read_table(tmp_path / "d.parquet").rows
    assert rows == [{"meta": {"n": 1}, "day": "2026-01-31", "tags": ["a", "b"]}]


def test_large_whole_numbers_of_parquet_stay_exact(tmp_path):
    frame = pd.DataFrame({"text": ["a", "b"], "number": pd.array([2**60 + 1, None], dtype="Int64")})
    frame.to_parquet(tmp_path / "d.parquet")
    assert read_table(tmp_path / "d.parquet").rows[0]["number"] == str(2**60 + 1)


def test_index_of_pandas_in_parquet_is_not_a_column(tmp_path):
    pd.DataFrame({"text": ["a"]}, index=[7]).to_parquet(tmp_path / "d.parquet")
    assert read_table(tmp_path / "d.parquet").columns == ["text"]


def test_feather_is_read(tmp_path):
    pd.DataFrame({"text": ["a", None], "n": [1, 2]}).to_feather(tmp_path / "d.feather")
    assert read_table(tmp_path / "d.feather").rows == [{"text": "a", "n": "1"}, {"text": "", "n": "2"}]


def test_saved_dataset_is_read(dataset, tmp_path, no_network):
    dataset.save_to_disk(tmp_path / "saved")
    table = read_table(tmp_path / "saved")
    assert table.rows[0]["messages"] == CHAT and table.label_names["label"] == ["negative", "positive"]
    (shard,) = glob.glob(str(tmp_path / "saved" / "*.arrow"))
    assert read_table(shard).rows == table.rows and no_network == []


def test_saved_splits_are_read_by_name_or_as_train(dataset, tmp_path):
    splits = {"test": dataset.select([1]), "train": dataset.select([0])}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    assert read_texts(tmp_path / "saved") == ["fine"]
    assert "'train'" in read_table(tmp_path / "saved").notes[-1]
    assert read_texts(tmp_path / "saved" / "test") == ["NA"]


def test_saved_splits_without_train_are_refused(dataset, tmp_path):
    datasets.DatasetDict({"one": dataset, "two": dataset}).save_to_disk(tmp_path / "saved")
    with pytest.raises(UnsupportedError, match="one, two"):
        read_table(tmp_path / "saved")


@pytest.mark.parametrize("name", ["damaged.parquet", "cut.arrow"])
def test_libraries_print_nothing_about_a_damaged_file(dataset, tmp_path, name):
    if name == "cut.arrow":
        dataset.save_to_disk(tmp_path / "saved")
        (shard,) = glob.glob(str(tmp_path / "saved" / "*.arrow"))
        with open(shard, "rb") as file:
            (tmp_path / name).write_bytes(file.read()[:-300])
    else:
        (tmp_path / name).write_bytes(b"PAR1" + bytes(50))
    code = (
        "import sys; from helpers.tasks.files.tables import read_table\n"
        "try: read_table(sys.argv[1])\n"
        "except Exception as error: print(type(error).__name__)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / name)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == (DamagedError.__name__, "")


def test_saved_dataset_that_lacks_a_file_is_refused(dataset, tmp_path):
    dataset.save_to_disk(tmp_path / "saved")
    (shard,) = glob.glob(str(tmp_path / "saved" / "*.arrow"))
    os.remove(shard)
    with pytest.raises(DamagedError, match="saved"):
        read_table(tmp_path / "saved")


def test_clone_of_a_hub_repository_is_read(dataset, tmp_path, write, no_network):
    write("---\nlicense: mit\n---\n# Reviews\n", "clone/README.md")
    for split, row in (("train", 0), ("test", 1)):
        (tmp_path / "clone" / "data").mkdir(exist_ok=True)
        dataset.select([row]).to_parquet(tmp_path / "clone" / "data" / f"{split}-00000-of-00001.parquet")
    table = read_table(tmp_path / "clone")
    assert [row["text"] for row in table.rows] == ["fine"] and table.label_names
    assert "'train'" in table.notes[-1]
    assert no_network == [] and not (tmp_path / "cache").exists()


def test_folder_of_csv_files_keeps_text_such_as_na_and_names_the_file(write):
    write("text,label\nNA,1\n", "folder/train-1.csv")
    path = write("text,label\nfine,0\n", "folder/train-2.csv")
    table = read_table(path.parent)
    assert [row["text"] for row in table.rows] == ["NA", "fine"]
    assert table.places == ["row 1 (line 2) of train-1.csv", "row 1 (line 2) of train-2.csv"]


def test_folder_of_files_with_different_columns_is_refused(write):
    write("text,label\nNA,1\n", "folder/train-1.csv")
    path = write("question,answer\nfine,0\n", "folder/train-2.csv")
    with pytest.raises(UnsupportedError, match="train-2.csv"):
        read_table(path.parent)


def test_folder_with_several_tables_is_refused_with_their_names(write):
    entry = "- config_name: {}\n  data_files: {}.csv\n"
    card = "---\nconfigs:\n" + entry.format("one", "a") + entry.format("two", "b") + "---\n"
    write(PLAIN, "folder/a.csv")
    write(PLAIN, "folder/b.csv")
    with pytest.raises(UnsupportedError, match="one.*two"):
        read_table(write(card, "folder/README.md").parent)


@pytest.mark.parametrize("facts", ["- [x", "configs: 3", "configs:\n- config_name: a\n  data_files: no.csv"])
def test_folder_with_a_broken_card_is_refused(write, facts):
    write(PLAIN, "folder/a.csv")
    with pytest.raises(KitError, match="folder"):
        read_table(write(f"---\n{facts}\n---\n", "folder/README.md").parent)


@pytest.mark.parametrize(
    "facts",
    [
        "configs:\n- config_name: a\n  data_files: https://example.com/a.csv",
        'configs: [{config_name: a, data_files: "hf://datasets/x/y/a.csv"}]',
        "configs: \n- config_name: a\n\n  data_files:\n"
        "  - split: train\n    path: [a.csv, 'hf://datasets/x/y']",
        '"configs":\n- config_name: a\n  data_files: "https\\x3a//example.com/a.csv"',
        "configs:\n- config_name: a\n  data_files: ../secret.csv",
        "configs:\n- config_name: a\n  data_dir: ..\n  data_files: '*.csv'",
        "configs:\n- config_name: a\n  data_files: /secret.csv",
        "configs:\n- config_name: a\n  data_files: 'zip://a.csv::a.zip'",
    ],
)
def test_folder_whose_card_names_files_elsewhere_is_refused_without_asking_for_them(write, no_network, facts):
    write(PLAIN, "secret.csv")
    write(PLAIN, "folder/a.csv")
    for name, text in (("README.md", f"---\n{facts}\n---\n"), (".huggingface.yaml", facts)):
        path = write(text, f"folder/{name}")
        with pytest.raises(UnsupportedError, match="folder.* names files"):
            read_table(path.parent)
        path.unlink()
    assert no_network == []


def test_card_chooses_the_files_of_its_default_table(write):
    card = (
        "---\nconfigs:\n- config_name: other\n  data_files: b.csv\n- config_name: main\n  default: true\n"
        "  data_dir: data\n  data_files:\n  - split: train\n    path: a*.csv\n---\n"
    )
    write(PLAIN, "folder/b.csv")
    write("text,label\nmine,1\n", "folder/data/a1.csv")
    table = read_table(write(card, "folder/README.md").parent)
    assert [row["text"] for row in table.rows] == ["mine"]


def test_aliases_in_a_card_are_not_followed(write):
    write(PLAIN, "folder/a.csv")
    with pytest.raises(DamagedError, match="README.md.*alias"):
        read_table(write("---\na: &a [x]\nb: *a\n---\n", "folder/README.md").parent)


def test_folder_with_a_name_that_libraries_take_for_an_address_is_refused(write):
    with pytest.raises(UnsupportedError, match="::"):
        read_table(write(PLAIN, "folder/a.csv::b.csv").parent)


def test_folder_says_which_tables_of_another_format_it_leaves_out(write):
    write(PLAIN, "folder/a.csv")
    folder = write('{"text": "fine"}\n', "folder/b.jsonl").parent
    table = read_table(folder)
    (note,) = [note for note in table.notes if "left out" in note]
    assert ("a.csv" in note) != ("b.jsonl" in note)
    assert len(table.rows) == (1 if "a.csv" in note else len(PLAIN.splitlines()) - 1)


def test_folder_with_a_line_break_in_its_name_is_read(dataset, tmp_path):
    (tmp_path / "my\nfolder").mkdir()
    dataset.to_parquet(tmp_path / "my\nfolder" / "train.parquet")
    assert len(read_table(tmp_path / "my\nfolder").rows) == len(dataset)


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret.arrow", ".."])
def test_saved_data_set_that_names_files_elsewhere_is_refused(dataset, tmp_path, name):
    dataset.save_to_disk(tmp_path / "saved")
    state = json.loads((tmp_path / "saved" / "state.json").read_text())
    state["_data_files"] = [{"filename": name}]
    (tmp_path / "saved" / "state.json").write_text(json.dumps(state))
    with pytest.raises(DamagedError, match="saved.*not in it"):
        read_table(tmp_path / "saved")
    (tmp_path / "saved" / "dataset_dict.json").write_text(json.dumps({"splits": [name]}))
    with pytest.raises(DamagedError, match="saved.*not in it"):
        read_table(tmp_path / "saved")


@pytest.mark.parametrize("name", ["nothing", "notes.md", "model.safetensors", "picture.png"])
def test_folder_that_is_no_data_set_is_refused(write, tmp_path, name):
    (tmp_path / "folder").mkdir()
    if name != "nothing":
        write("x", f"folder/{name}")
    with pytest.raises(UnsupportedError, match="folder"):
        read_table(tmp_path / "folder")


# What cannot be read at all


def test_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(NotFoundError, match="gone.csv"):
        read_table(tmp_path / "gone.csv")


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs the permissions of POSIX")
def test_file_without_permission_is_refused(write):
    path = write(PLAIN, "closed/d.csv")
    path.parent.chmod(0)
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(65534)  # root may read everything
        with pytest.raises(DamagedError, match="ermission"):
            read_table(path)
    finally:
        if root:
            os.seteuid(0)
        path.parent.chmod(0o700)


def test_huge_file_of_another_kind_is_refused_after_its_start(tmp_path):
    with (tmp_path / "disk.img").open("wb") as file:
        file.truncate(2**40)  # a terabyte of nothing: it takes no space, and no memory could hold it
    with pytest.raises(UnsupportedError, match="disk.img"):
        read_table(tmp_path / "disk.img")


def test_workbook_without_openpyxl_names_the_extra(tmp_path):
    pytest.importorskip("openpyxl", reason="the extra xlsx is not installed")
    pd.DataFrame({"text": ["a"]}).to_excel(tmp_path / "d.xlsx", index=False)
    code = (
        "import sys; sys.modules['openpyxl'] = None\n"
        "from helpers.tasks.files.tables import read_table\n"
        "try: read_table(sys.argv[1])\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "d.xlsx")]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(MissingPackageError.__name__) and "[xlsx]" in done.stdout


def test_every_fault_of_a_table_is_a_kit_error(write):
    for start in range(0, len(PLAIN), 3):
        for odd in (
            b"\0",
            b'"',
            b"\xff",
            b"\r",
            b"{",
            b"[",
            b"\x80\x04",
            b"PK\x03\x04",
            b"BZh91AY&",
            b"\x1f\x8b",
        ):
            try:
                read_table(write(PLAIN[:start].encode() + odd + PLAIN[start:].encode()))
            except KitError as error:
                assert "\n" not in str(error)
