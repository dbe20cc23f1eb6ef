"""Files as people have them: each is read as meant, or refused in one line that names the place."""

import bz2
import contextlib
import gzip
import json
import lzma
import pickle
import random
import re
import zipfile
from dataclasses import replace

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import ipc

from helpers.common.errors import DamagedError, KitError, UnsupportedError
from helpers.common.files import write_text
from helpers.tasks.files import columnar, file_text
from helpers.tasks.files.tables import read_table
from helpers.tasks.nested import add_inner_columns

NO_XLSX = "the extra xlsx is not installed"
PLAIN = "text,label\nfine,1\nbad,0\n"
ROWS = [("fine", "1"), ("bad", "0")]
GERMAN = "text,label\nGrüße aus München,1\nschön,0\n"
GERMAN_ROWS = [("Grüße aus München", "1"), ("schön", "0")]
RUSSIAN = "text,label\nЭто довольно длинный текст на русском языке,0\nВторой ряд с другим текстом,1\n"
RUSSIAN_ROWS = [("Это довольно длинный текст на русском языке", "0"), ("Второй ряд с другим текстом", "1")]
FAMILY = "\U0001f469\u200d\U0001f467"  # one emoji of three characters
JAPANESE = "これは日本語の文章です。とても良い。"
CHINESE = "这是一个中文句子，非常好。今天天气不好"
CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
LINES = '{"text": "fine", "label": 1}\n{"text": "bad", "label": 0}\n'
LIST = '[{"text": "fine", "label": 1},\n {"text": "bad", "label": 0}]'


def test_space_in_the_last_cell_of_a_sheet_costs_nothing(tmp_path):
    openpyxl = pytest.importorskip("openpyxl", reason=NO_XLSX)
    path = tmp_path / "far.xlsx"
    book = openpyxl.Workbook()
    for row in (("text", "label"), ("fine", 1), (None, None), ("bad", 0.0)):
        book.active.append(row)
    book.active["XFD1048576"] = " "
    book.save(path)
    table = read_table(path)
    assert [tuple(row.values()) for row in table.rows] == ROWS
    assert table.places == ["row 1 (row 2 of the sheet)", "row 2 (row 4 of the sheet)"]


def test_sheet_with_more_cells_than_anybody_needs_is_refused(tmp_path, monkeypatch):
    pytest.importorskip("openpyxl", reason=NO_XLSX)
    monkeypatch.setattr(columnar, "SHEET_CELLS", 5)
    pd.DataFrame({"text": ["a", "b"], "label": [1, 0]}).to_excel(tmp_path / "d.xlsx")
    with pytest.raises(UnsupportedError, match="d.xlsx.*cells"):
        read_table(tmp_path / "d.xlsx")


@pytest.mark.parametrize("name", ["d.csv.gz", "d.zip", "d.xlsx"])
def test_packed_file_that_becomes_too_large_is_refused(tmp_path, monkeypatch, name):
    pytest.importorskip("openpyxl", reason=NO_XLSX)
    monkeypatch.setattr(file_text, "LARGEST", 100_000)
    rows = pd.DataFrame({"text": [f"{number:0100d}" for number in range(2000)], "label": 1})
    rows.to_excel(tmp_path / name) if name.endswith("xlsx") else rows.to_csv(tmp_path / name, index=False)
    with pytest.raises(UnsupportedError, match="larger"):
        read_table(tmp_path / name)


def test_error_about_a_broken_sheet_ends_where_its_reason_does(tmp_path):
    pytest.importorskip("openpyxl", reason=NO_XLSX)
    path = tmp_path / "d.xlsx"
    path.write_bytes(b"PK\x03\x04")
    zip_files({"xl/workbook.xml": "<a/>", "[Content_Types].xml": "<Types/>"})(path)
    with pytest.raises(DamagedError) as caught:
        read_table(path)
    assert "Please" not in str(caught.value) and ": ." not in str(caught.value)


def test_rows_that_all_have_names_of_their_own_are_refused_at_once(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps({"text": "a", f"key {number}": 1}) + "\n" for number in range(2000)))
    with pytest.raises(UnsupportedError, match="2,000 rows and 2,001 columns"):
        read_table(path)


def test_work_on_a_table_grows_with_its_columns_and_not_with_their_square(tmp_path):
    columns = Counted(f"c{number}" for number in range(200))
    table = replace(read_table(write_text(tmp_path / "d.csv", PLAIN)), columns=columns, rows=[])
    add_inner_columns(table, list(columns))
    assert columns.searched == 0


def test_repeated_key_is_found_in_a_large_object(tmp_path):
    pairs = ", ".join(f'"k{number}": 1' for number in range(60_000))
    with pytest.raises(DamagedError, match="k59999"):
        read_table(write_text(tmp_path / "d.json", f'{{{pairs}, "k59999": 2}}'))


def test_line_with_a_repeated_key_is_not_called_a_comma(tmp_path):
    path = write_text(tmp_path / "d.jsonl", '{"a": "1", "b": "2"}\n{"a": "1", "a": "2"}\n')
    with pytest.raises(DamagedError, match="Row 2.*twice") as caught:
        read_table(path)
    assert "comma" not in caught.value.remedy
    path = write_text(tmp_path / "n.jsonl", f'{{"a": "1"}}\n{{"a": {"9" * 5000}}}\n')
    with pytest.raises(DamagedError, match="Row 2.*5000 digits") as caught:
        read_table(path)
    assert "sys." not in str(caught.value)


class Counted(list):
    """A list that counts how often something is searched in it."""

    searched = 0

    def __contains__(self, value):
        self.searched += 1
        return super().__contains__(value)


def zip_files(contents):
    def write(path):
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in contents.items():
                archive.writestr(name, content)

    return write


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip_file_with_changed_bytes_is_read_or_refused(tmp_path, compression):
    path, chance = tmp_path / "d.zip", random.Random(0)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("t\u00e4ble.csv", PLAIN)
    whole = path.read_bytes()
    for _ in range(400):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        path.write_bytes(damaged)
        with contextlib.suppress(KitError):
            read_table(path)


def write_excel(path, sheets=("Sheet1",), index=False, header=True):
    frame = pd.DataFrame({"text": ["fine", "bad"], "label": [1, 0]})
    with pd.ExcelWriter(path, engine="openpyxl") as book:
        for sheet in sheets:
            frame.to_excel(book, sheet_name=sheet, index=index, header=header)


def write_columns(path, table):
    """A table as Parquet, Feather or Arrow's stream, by the suffix."""
    if path.suffix == ".parquet":
        pq.write_table(table, path)
        return
    make = ipc.new_file if path.suffix == ".feather" else ipc.new_stream
    with make(path, table.schema) as writer:
        writer.write_table(table)


def write_twins(path):
    write_columns(path, pa.table([["a"], ["b"]], names=["text", "text"]))


def write_no_columns(path):
    write_columns(path, pa.table({}))


def write_map(path):
    facts = pa.array([[("k", "v")]], pa.map_(pa.string(), pa.string()))
    write_columns(path, pa.table({"text": ["a"], "facts": facts}))


def write_gaps(path):
    pd.DataFrame({"text": ["a", "b", None], "label": [1.0, None, 2.0]}).to_parquet(path)


READ = {
    # Separators
    "plain.csv": (PLAIN, ROWS),
    "no newline at the end.csv": (PLAIN.rstrip(), ROWS),
    "semicolons.csv": (PLAIN.replace(",", ";"), ROWS),
    "semicolons with decimal commas.csv": ("text;price\na;1,5\nb;2,5\n", [("a", "1,5"), ("b", "2,5")]),
    "tabs.tsv": (PLAIN.replace(",", "\t"), ROWS),
    "tabs in a csv.csv": ("text\tlabel\nfine, really\t1\nbad\t0\n", [("fine, really", "1"), ("bad", "0")]),
    "pipes.txt": (PLAIN.replace(",", "|"), ROWS),
    "sep line.csv": ("sep=;\n" + PLAIN.replace(",", ";"), ROWS),
    "sep line with CRLF.csv": ("sep=|\r\n" + PLAIN.replace(",", "|").replace("\n", "\r\n"), ROWS),
    "comma in a quoted name.csv": ('"text, raw";label\nfine;1\nbad;0\n', ROWS),
    "one column.csv": ("text\nfine\nbad\n", [("fine",), ("bad",)]),
    # Encodings and ends of lines
    "BOM.csv": ("\ufeff" + PLAIN, ROWS),
    "BOM before a quote.csv": ("\ufeff" + '"text","label"\n"fine","1"\n"bad","0"\n', ROWS),
    "CRLF.csv": (PLAIN.replace("\n", "\r\n"), ROWS),
    "CR.csv": (PLAIN.replace("\n", "\r"), ROWS),
    "mixed ends.csv": ("text,label\r\nfine,1\nbad,0\r", ROWS),
    "UTF-16 of Excel.txt": (PLAIN.replace(",", "\t").encode("utf-16"), ROWS),
    "UTF-16 big endian.csv": (b"\xfe\xff" + GERMAN.encode("utf-16-be"), GERMAN_ROWS),
    "UTF-16 without BOM.csv": (GERMAN.encode("utf-16-le"), GERMAN_ROWS),
    "UTF-16 big endian without BOM.csv": (GERMAN.encode("utf-16-be"), GERMAN_ROWS),
    "UTF-32.csv": (GERMAN.encode("utf-32"), GERMAN_ROWS),
    "cp1252.csv": (GERMAN.encode("cp1252"), GERMAN_ROWS),
    "cp1252 quotes.csv": ("text\nIt’s “good” – 5 €\n".encode("cp1252"), [("It’s “good” – 5 €",)]),
    "one letter in Latin-1.csv": ("text\ncafé\n".encode("latin-1"), [("café",)]),
    "cp1251.csv": (RUSSIAN.encode("cp1251"), RUSSIAN_ROWS),
    "KOI8-R.csv": (RUSSIAN.encode("koi8-r"), RUSSIAN_ROWS),
    "cp1250.csv": ("text;n\nBył dobry;1\nSłaby;0\n".encode("cp1250"), [("Był dobry", "1"), ("Słaby", "0")]),
    "Shift JIS.csv": (f"text\n{JAPANESE}\n".encode("cp932"), [(JAPANESE,)]),
    "GBK.csv": (f"text\n{CHINESE}\n".encode("gbk"), [(CHINESE,)]),
    # Cells
    "NUL.csv": ("text,label\nfi\0ne,1\nbad,0\n", [("fi\0ne", "1"), ("bad", "0")]),
    "quoted newline.csv": ('text,label\n"fi\nne",1\nbad,0\n', [("fi\nne", "1"), ("bad", "0")]),
    "quoted quotes.csv": ('text,label\n"so ""fine"", yes",1\n', [('so "fine", yes', "1")]),
    "inches.csv": ('text,label\n5" disk,1\n', [('5" disk', "1")]),
    "emoji.csv": (f"text,label\n{FAMILY} ok 🎉,1\n", [(f"{FAMILY} ok 🎉", "1")]),
    "right to left.csv": ("text,label\n\u202bשלום עולם\u202c,1\n", [("\u202bשלום עולם\u202c", "1")]),
    "NA.csv": ("text,label\nNA,null\nNone,nan\n", [("NA", "null"), ("None", "nan")]),
    "spaces in cells.csv": ("text,label\n fine , 1\n", [(" fine ", " 1")]),
    "whole floats.csv": ("text,label\nfine,1.0\n", [("fine", "1.0")]),
    "words.csv": ("text,label\nfine,yes\n", [("fine", "yes")]),
    "large cell.csv": ("text,label\n" + "x" * 200_000 + ",1\n", [("x" * 200_000, "1")]),
    "quotes of GLUE.tsv": ('text\tlabel\n"fine\t1\nso" bad\t0\n', [('"fine', "1"), ('so" bad', "0")]),
    "quotes of GLUE that close.tsv": ('text\tlabel\n"fine\t1\nbad"\t0\n', [('"fine', "1"), ('bad"', "0")]),
    "quoted newline.tsv": ('text\tlabel\n"fi\nne"\t1\n', [("fi\nne", "1")]),
    # Columns and rows that are not meant
    "index.csv": (",text,label\n0,fine,1\n1,bad,0\n", ROWS),
    "index read again by pandas.csv": ("Unnamed: 0,text,label\n0,fine,1\n1,bad,0\n", ROWS),
    "spaces in the header.csv": ("text , label\nfine,1\nbad,0\n", ROWS),
    "blank lines.csv": ("\ntext,label\n\nfine,1\n  \nbad,0\n\n", ROWS),
    "empty rows of Excel.csv": (PLAIN + ",\n,\n", ROWS),
    "empty columns of Excel.csv": ("text,label,,\nfine,1,,\nbad,0,,\n", ROWS),
    "separator at the end.csv": ("text,label\nfine,1,\nbad,0,\n", ROWS),
    "separator at the end of the header.csv": ("text,label,\nfine,1\nbad,0\n", ROWS),
    # JSON
    "lines.jsonl": (LINES, ROWS),
    "lines with CRLF.jsonl": (LINES.replace("\n", "\r\n"), ROWS),
    "lines with BOM.jsonl": ("\ufeff" + LINES, ROWS),
    "lines.json": (LINES, ROWS),
    "lines.txt": (LINES, ROWS),
    "list.json": (LIST, ROWS),
    "list.jsonl": (LIST, ROWS),
    "data.json": (json.dumps({"version": "1", "data": json.loads(LIST)}), ROWS),
    "train and test.json": (json.dumps({"test": [{"text": "x"}], "train": json.loads(LIST)}), ROWS),
    "lists.json": ('{"text": ["fine", "bad"], "label": [1, 0]}', ROWS),
    "pandas.json": (pd.DataFrame(ROWS, columns=["text", "label"]).to_json(), ROWS),
    "pandas by row.json": (pd.DataFrame(ROWS, columns=["text", "label"]).to_json(orient="index"), ROWS),
    "pandas split.json": (pd.DataFrame(ROWS, columns=["text", "label"]).to_json(orient="split"), ROWS),
    "one row.json": ('{"text": "fine",\n "label": 1}', ROWS[:1]),
    "one row of lists.jsonl": ('{"text": ["a"], "label": ["b", "c"]}\n', [(["a"], ["b", "c"])]),
    "chats.jsonl": (json.dumps(CHAT) + "\n" + json.dumps(CHAT) + "\n", [(CHAT["messages"],)] * 2),
    "one chat.json": (json.dumps(CHAT), [(CHAT["messages"],)]),
    "empty key.json": ('[{"": 1, "a": 2}, {"a": 3}]', [("2",), ("3",)]),
    "roles.json": ('{"people": [{"role": "cook", "n": 1}]}', [("cook", "1")]),
    "values.jsonl": (
        '{"a": 1.0, "b": 1.5, "c": true}\n{"a": null, "b": NaN, "d": "x"}\n',
        [("1", "1.5", "true", ""), ("", "", "", "x")],
    ),
    "line separator.jsonl": ('{"text": "a\u2028b"}\n{"text": "c"}\n', [("a\u2028b",), ("c",)]),
    "bracket.csv": ("[text],label\nfine,1\n", [("fine", "1")]),
    "a table.json": (PLAIN, ROWS),
    # Packed
    "packed.csv.gz": (gzip.compress(PLAIN.encode()), ROWS),
    "packed.csv.bz2": (bz2.compress(PLAIN.encode()), ROWS),
    "packed.jsonl.xz": (lzma.compress(LINES.encode()), ROWS),
    "packed without a suffix": (gzip.compress(GERMAN.encode("cp1252")), GERMAN_ROWS),
    "packed.zip": (zip_files({"data.csv": PLAIN}), ROWS),
    "packed by macOS.zip": (zip_files({"data.csv": PLAIN, "__MACOSX/._data.csv": "x"}), ROWS),
    # Excel and Parquet
    "book.xlsx": (write_excel, ROWS),
    "book with an index.xlsx": (lambda path: write_excel(path, index=True), ROWS),
    "two sheets.xlsx": (lambda path: write_excel(path, ("One", "Two")), ROWS),
    "gaps.parquet": (write_gaps, [("a", "1"), ("b", ""), ("", "2")]),
}  # fmt: skip

NOT_A_TABLE = (UnsupportedError, ["not a table"])
REFUSED = {
    "empty.csv": ("", DamagedError, ["empty"]),
    "blank.csv": ("\n\n \n", DamagedError, ["empty"]),
    "only a header.csv": ("text,label\n", DamagedError, ["header"]),
    "empty list.json": ("[]", DamagedError, ["empty"]),
    "too many cells.csv": (PLAIN + "yes, fine,1\n", DamagedError, ["Row 3 (line 4)", "3 cells", "comma"]),
    "too many in every row.csv": ("text,label\na, b,1\nc, d,0\n", DamagedError, ["Row 1 (line 2)", "comma"]),
    "too few cells.csv": ("text,label\n\nfine,1\nbad\n", DamagedError, ["Row 2 (line 4)", "1 cells"]),
    "too many after a newline.csv": ('text,label\n"a\nb",1\nc,d,0\n', DamagedError, ["Row 2 (line 4)"]),
    "too many.tsv": ("text\tlabel\na\tb\t1\n", DamagedError, ["Row 1 (line 2)", "tab"]),
    "too many with semicolons.csv": ("a;b\n1;2\n1;2;3\n", DamagedError, ["Row 2 (line 3)", "semicolon"]),
    "open quote.csv": ('text,label\nfine,1\n"bad,0\nx,1\n', DamagedError, ["Row 2 (line 3)", "quot"]),
    "open quote that meets another.csv": ('t,n\n"bad,0\nx,"y"\n', DamagedError, ["Row 1 (line 2)", "quot"]),
    "quotes not doubled.csv": ('text,label\n"so "fine" yes",1\n', DamagedError, ["Row 1 (line 2)", "quot"]),
    "open quote in the header.csv": ('"text,label\nfine,1\n', DamagedError, ["header", "quot"]),
    "same name twice.csv": ("text,text\na,b\n", DamagedError, ["'text'"]),
    "same name but for a space.csv": ("text,text \na,b\n", DamagedError, ["'text'"]),
    "names with line breaks.csv": ('"a\nb","a\nb"\n1,2\n', DamagedError, ["'a b'"]),
    "no name.csv": ("text,,label\na,b,c\n", DamagedError, ["Column 2"]),
    "title above.csv": ("My survey,,\ntext,n,label\na,b,c\n", DamagedError, ["Column 2", "first row"]),
    "damaged UTF-8.csv": ("text\nGrüße\n".encode() + b"\xff\n", DamagedError, ["Line 3", "UTF-8"]),
    "cut UTF-16.csv": (GERMAN.encode("utf-16")[:-1], DamagedError, ["Line", "UTF-16"]),
    "broken line.jsonl": (LINES + '\n{"text": "x"\n', DamagedError, ["Row 3 (line 4)", "column"]),
    "commas.jsonl": (LINES.replace("}\n", "},\n"), DamagedError, ["Row 1 (line 1)", "comma"]),
    "list in a line.jsonl": (LINES + '["x", 1]\n', DamagedError, ["Row 3 (line 3)", "a list"]),
    "list of texts.json": ('["a", "b"]', DamagedError, ["Row 1", "a text"]),
    "broken.json": ('[{"text": "a"},\n {"text": }]', DamagedError, ["line 2, column 11"]),
    "key twice.jsonl": (LINES + '{"text": "a", "text": "b"}\n', DamagedError, ["Row 3 (line 3)", "'text'"]),
    "number.json": ("42", DamagedError, ["Row 1", "a single value"]),
    "text.jsonl": ('"a"\n"b"\n', DamagedError, ["Row 1", "a text"]),
    "deep.json": ("[" * 100_000, DamagedError, ["deep"]),
    "uneven lists.json": ('{"a": [1, 2], "b": [1]}', DamagedError, ["a 2, b 1"]),
    "uneven split.json": ('{"columns": ["a", "b"], "data": [[1, 2], [1]]}', DamagedError, ["Row 2"]),
    "two lists.json": ('{"a": [{"x": 1}], "b": [{"x": 1}]}', DamagedError, ["a, b"]),
    "report.pdf": (b"%PDF-1.7\n%\xe2\xe3", *NOT_A_TABLE),
    "picture.csv": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", *NOT_A_TABLE),
    "frame.pkl": (pickle.dumps([1, 2]), *NOT_A_TABLE),
    "model.gguf": (b"GGUF\x03\0\0\0" + bytes(100), *NOT_A_TABLE),
    "model.safetensors": (b'\x40\0\0\0\0\0\0\0{"__metadata__":{}}', *NOT_A_TABLE),
    "unknown.bin": (bytes(range(256)) * 300, *NOT_A_TABLE),
    "zeros.csv": (bytes(100_000), *NOT_A_TABLE),
    "old.xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), UnsupportedError, [".xlsx or CSV"]),
    "page.csv": ("\n<!DOCTYPE html>\n<html></html>", UnsupportedError, ["HTML"]),
    "pointer.csv": ("version https://git-lfs.github.com/spec/v1\nx\n", UnsupportedError, ["lfs pull"]),
    "several.zip": (zip_files({"a.csv": PLAIN, "b.csv": PLAIN}), UnsupportedError, ["a.csv, b.csv"]),
    "document.odt": (zip_files({"mimetype": "", "content.xml": ""}), UnsupportedError, ["CSV"]),
    "packed twice.gz": (gzip.compress(gzip.compress(b"x")), UnsupportedError, ["Unpack"]),
    "damaged.csv.gz": (gzip.compress(PLAIN.encode() * 99)[:-20], DamagedError, ["unpacked"]),
    "damaged.zip": (b"PK\x03\x04" + bytes(50), DamagedError, ["unpacked"]),
    "damaged.parquet": (b"PAR1" + bytes(50), DamagedError, ["cannot be read"]),
    **{
        f"{name}.{suffix}": case
        for suffix in ("parquet", "feather", "arrow")
        for name, case in {
            "same name twice": (write_twins, DamagedError, ["'text'", "Rename"]),
            "no columns": (write_no_columns, DamagedError, ["no columns"]),
            "map": (write_map, UnsupportedError, ["facts", "map", "without it"]),
        }.items()
    },
    "damaged.feather": (b"ARROW1" + bytes(50), DamagedError, ["cannot be read"]),
    "damaged.arrow": (b"\xff\xff\xff\xff\x10\0\0\0" + bytes(50), DamagedError, ["cannot be read"]),
    "damaged.xlsx": (zip_files({"xl/workbook.xml": "<x"}), DamagedError, ["xlsx"]),
}  # fmt: skip


def write_case(path, content):
    if callable(content):
        content(path)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("name", READ)
def test_file_is_read_as_meant(tmp_path, name):
    content, rows = READ[name]
    if name.endswith(".xlsx"):
        pytest.importorskip("openpyxl", reason="the extra xlsx is not installed")
    table = read_table(write_case(tmp_path / name, content))
    assert [tuple(row.values()) for row in table.rows] == rows
    assert all(list(row) == table.columns for row in table.rows)
    assert len(table.places) == len(rows)


@pytest.mark.parametrize("name", REFUSED)
def test_file_is_refused_in_one_line_with_the_place(tmp_path, name):
    content, kind, parts = REFUSED[name]
    path = write_case(tmp_path / name, content)
    with pytest.raises(KitError) as caught:
        read_table(path)
    message = str(caught.value)
    assert type(caught.value) is kind and "\n" not in message and len(message) < 500 + len(str(path))
    assert name in message and [part for part in parts if part not in message] == []
    assert re.search(r"[.!] [A-Z]", message), "the remedy is missing"
